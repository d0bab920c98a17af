//! Takes the key and the endpoint out of texts that others wrote: providers and proxies echo what they were sent.

use std::borrow::Cow;
use std::fmt;

use gristmill_common::failure::ErrorRecord;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};

use super::{Answer, splice};

/// A key shorter than this is a placeholder of a local server, such as `EMPTY`, and may be a word of the text.
const SHORTEST_KEY: usize = 7;

/// Knows what must not be shown, and does not show it.
pub(super) struct Redactor {
    key: Option<SecretString>,
    /// Values of headers of the deployment's own.
    others: Vec<SecretString>,
    /// The host and, where one is given, its port behind it: the longer first.
    endpoint: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor(..)")
    }
}

impl Redactor {
    pub(super) fn new(key: Option<&SecretString>, others: &[SecretString], base: &Url) -> Self {
        let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let mut endpoint = Vec::new();
        if let Some(port) = base.port() {
            endpoint.push(format!("{host}:{port}"));
        }
        // A host without a dot, such as `vllm`, may be a word of any text.
        if host.contains(['.', ':']) || host == "localhost" {
            endpoint.push(host);
        } else if !host.is_empty() {
            endpoint.push(format!("//{host}"));
        }
        // A path of the endpoint's own, such as a tenant's, is echoed by pages that say "not found".
        let path = base.path().trim_end_matches('/');
        if path.split('/').any(|segment| !matches!(segment, "" | "v1" | "v1beta" | "api" | "openai")) {
            endpoint.push(path.to_owned());
        }
        let is_long = |secret: &&SecretString| secret.expose_secret().len() >= SHORTEST_KEY;
        let others = others.iter().filter(is_long).cloned().collect();
        Self { key: key.filter(is_long).cloned(), others, endpoint }
    }

    /// Returns what nothing may show, each with the word that stands for it.
    fn secrets(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let others = self.others.iter().map(|other| (other.expose_secret(), "[header]"));
        self.key.iter().map(|key| (key.expose_secret(), "[key]")).chain(others)
    }

    /// Tells whether bytes hold the key, or a header's value.
    fn is_in(&self, bytes: &[u8]) -> bool {
        self.secrets().any(|(secret, _)| splice::mentions(bytes, secret.as_bytes()))
    }

    /// Takes the key out of an answer of success, which something on the way may have written into it; the endpoint's host may be a
    /// word of the answer, and stays.
    pub(super) fn answer(&self, answer: &mut Answer) {
        let without =
            |text: &str| self.secrets().fold(text.to_owned(), |text, (secret, shown)| text.replace(secret, shown));
        if self.is_in(&answer.body) {
            answer.body = without(&String::from_utf8_lossy(&answer.body)).into();
        }
        if let Some(text) = answer.output_text.as_mut().filter(|text| self.is_in(text.as_bytes())) {
            *text = without(text);
        }
    }

    /// Returns the text with `[key]` for the key and `[endpoint]` for the endpoint's host.
    pub(super) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for (secret, shown) in self.secrets() {
            if text.contains(secret) {
                text = text.replace(secret, shown).into();
            }
        }
        for part in &self.endpoint {
            if let Some(replaced) = replace_word(&text, part) {
                text = replaced.into();
            }
        }
        text
    }

    /// Takes the key out of text that comes in pieces; `held` keeps what may be the beginning of one from piece to piece.
    pub(super) fn as_it_comes(&self, held: &mut String, piece: &str) -> Option<String> {
        held.push_str(piece);
        for (secret, shown) in self.secrets() {
            if held.contains(secret) {
                *held = held.replace(secret, shown);
            }
        }
        let begun = |secret: &str| {
            let ends = secret.char_indices().map(|(at, _)| at).skip(1);
            ends.filter(|end| held.ends_with(&secret[..*end])).max().unwrap_or(0)
        };
        let keep = self.secrets().map(|(secret, _)| begun(secret)).max().unwrap_or(0);
        let rest = held.split_off(held.len() - keep);
        let ready = std::mem::replace(held, rest);
        (!ready.is_empty()).then_some(ready)
    }

    /// Redacts every text of a record in place.
    pub(super) fn record(&self, record: &mut ErrorRecord) {
        let texts = [
            &mut record.code,
            &mut record.kind,
            &mut record.param,
            &mut record.request_id,
            &mut record.body,
            &mut record.partial_output,
        ];
        let texts = texts.into_iter().flatten().chain([&mut record.message]);
        let texts =
            texts.chain(record.headers.values_mut()).chain(record.causes.iter_mut().map(|cause| &mut cause.message));
        for text in texts {
            if let Cow::Owned(redacted) = self.text(text) {
                *text = redacted;
            }
        }
    }
}

/// Replaces a part, in any case, where no letter or digit touches it: `api.openai.com` is no part of `xapi.openai.com`.
fn replace_word(text: &str, part: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let part = part.to_ascii_lowercase();
    let touches = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '-');
    let mut out = String::new();
    let mut kept = 0;
    for (at, found) in lower.match_indices(&part) {
        let end = at + found.len();
        let is_prefixed = !part.starts_with('/') && touches(lower[..at].chars().next_back());
        if at < kept || is_prefixed || touches(lower[end..].chars().next()) {
            continue;
        }
        out.push_str(&text[kept..at]);
        out.push_str("[endpoint]");
        kept = end;
    }
    if kept == 0 {
        return None;
    }
    out.push_str(&text[kept..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(key: &str, base: &str) -> Redactor {
        Redactor::new(Some(&key.to_owned().into()), &["header-canary".to_owned().into()], &base.parse().unwrap())
    }

    #[test]
    fn keys_and_hosts_are_taken_out_and_nothing_else() {
        let secret = redactor("sk-canary-1", "https://canary.internal:8443/v1");
        for (text, wanted) in [
            ("key sk-canary-1, again sk-canary-1.", "key [key], again [key]."),
            ("at https://canary.internal:8443/v1/x", "at https://[endpoint]/v1/x"),
            ("Server at Canary.Internal Port 80", "Server at [endpoint] Port 80"),
            ("xcanary.internal and canary.internals", "xcanary.internal and canary.internals"),
            ("x-tenant: header-canary", "x-tenant: [header]"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(secret.text(text), wanted);
        }
        assert!(!format!("{secret:?}").contains("canary"));
    }

    #[test]
    fn a_key_that_comes_in_pieces_is_taken_out_and_nothing_else_waits() {
        let secret = redactor("sk-canary-1", "https://canary.internal/v1");
        let mut held = String::new();
        let mut shown = String::new();
        for piece in ["a sk", "-can", "ary-", "1 b", " sk-c", "at s"] {
            shown.extend(secret.as_it_comes(&mut held, piece));
        }
        assert_eq!((shown.as_str(), held.as_str()), ("a [key] b sk-cat ", "s"));
    }

    #[test]
    fn words_that_are_also_hosts_or_placeholders_stay() {
        let local = redactor("EMPTY", "http://vllm:8000/v1");
        assert_eq!(local.text("vllm: the prompt is EMPTY"), "vllm: the prompt is EMPTY");
        assert_eq!(local.text("http://vllm:8000/v1 or http://vllm/"), "http://[endpoint]/v1 or http:[endpoint]/");
        assert_eq!(redactor("", "http://127.0.0.1:9/").text("refused by 127.0.0.1:9"), "refused by [endpoint]");
    }

    #[test]
    fn a_path_of_the_endpoint_is_taken_out_unless_it_is_everyones() {
        let tenant = redactor("", "https://h.example/tenant-7/v1");
        assert_eq!(tenant.text("Cannot POST /tenant-7/v1/responses"), "Cannot POST [endpoint]/responses");
        assert_eq!(redactor("", "https://h.example/v1").text("Cannot POST /v1/responses"), "Cannot POST /v1/responses");
    }

    #[test]
    fn every_text_of_a_record_is_redacted() {
        let secret = redactor("sk-canary-1", "https://canary.internal/v1");
        let mut record = ErrorRecord::new(gristmill_common::failure::ErrorClass::Api, "sk-canary-1")
            .caused_by("tls", "not valid for canary.internal")
            .with_body(b"{\"host\":\"canary.internal\"}");
        record.code = Some("sk-canary-1".to_owned());
        record.headers.insert("via".to_owned(), "canary.internal".to_owned());
        secret.record(&mut record);
        assert!(!format!("{record:?}").contains("canary"), "{record:?}");
    }
}
