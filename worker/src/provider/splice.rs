//! Fits a request's JSON text to its deployment by cutting and pasting: every byte that need not change stays as it was.

use std::ops::Range;

use bytes::Bytes;
use gristmill_common::splice::{Edit, Members, NotAnObject, apply, insertion, quoted};
use memchr::memmem;

/// Whether an answer is asked for as a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streaming {
    /// Never: what the request says of it is turned off.
    Never,
    /// Where the request says so.
    AsAsked {
        /// Whether to ask for usage at the end of the stream.
        with_usage: bool,
    },
    /// Always.
    Always {
        /// Whether to ask for usage at the end of the stream.
        with_usage: bool,
    },
}

/// Asks for usage at the end of a stream.
const WITH_USAGE: &str = r#"{"include_usage":true}"#;

/// Sets the top-level `model`, `service_tier` and `stream`.
///
/// Returns the same bytes, uncopied, where nothing has to change. Without a stream there are no `stream_options`, which
/// providers refuse then: they become `null`. Nested keys are never touched; of a repeated key every value is set.
pub(super) fn fit(
    body: &Bytes,
    model: &str,
    service_tier: Option<&str>,
    streaming: Streaming,
) -> Result<Bytes, NotAnObject> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnObject)?;
    let mut members = Members::new(text)?;
    let mut edits: Vec<Edit<'_>> = Vec::new();
    let (mut has_model, mut has_tier, mut is_empty) = (false, false, true);
    let (mut stream, mut stream_options) = (None, None);
    while let Some((key, value)) = members.next_member()? {
        is_empty = false;
        match &*key {
            "model" => {
                has_model = true;
                edits.extend(set(text, value, model));
            }
            "service_tier" => {
                has_tier = true;
                edits.extend(service_tier.and_then(|tier| set(text, value, tier)));
            }
            "stream" => stream = Some(value),
            "stream_options" => stream_options = Some(value),
            _ => {}
        }
    }
    let is_asked = stream.as_ref().is_some_and(|value| &text[value.clone()] == "true");
    let (streams, with_usage) = match streaming {
        Streaming::Never => (false, false),
        Streaming::AsAsked { with_usage } => (is_asked, with_usage),
        Streaming::Always { with_usage } => (true, with_usage),
    };
    let mut missing = Vec::new();
    match stream {
        Some(value) if is_asked != streams => edits.push((value, if streams { "true" } else { "false" }.into())),
        None if streams => missing.push(("stream", "true".to_owned())),
        _ => {}
    }
    match stream_options {
        Some(value) if streams && with_usage => {
            let options = with_include_usage(&text[value.clone()]);
            edits.extend((options != text[value.clone()]).then(|| (value, options.into())));
        }
        // Others have options of their own.
        Some(value) if is_asked && !streams => {
            edits.extend((&text[value.clone()] != "null").then(|| (value, "null".into())));
        }
        None if streams && with_usage => missing.push(("stream_options", WITH_USAGE.to_owned())),
        _ => {}
    }
    missing.extend((!has_model).then(|| ("model", quoted(model))));
    missing.extend(service_tier.filter(|_| !has_tier).map(|tier| ("service_tier", quoted(tier))));
    edits.extend(insertion(&members, is_empty, missing.iter().map(|(name, value)| (*name, value.as_str()))));
    Ok(if edits.is_empty() { body.clone() } else { apply(text, edits) })
}

/// Sets top-level members that are not there; of those in `one_of` none, where any of them is there.
pub(super) fn with_defaults(body: &Bytes, defaults: &[(&str, &str)], one_of: &[&str]) -> Result<Bytes, NotAnObject> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnObject)?;
    let mut members = Members::new(text)?;
    let mut missing = defaults.to_vec();
    let mut is_empty = true;
    while let Some((key, _)) = members.next_member()? {
        is_empty = false;
        let is_one = one_of.contains(&&*key);
        missing.retain(|(name, _)| *name != key && !(is_one && one_of.contains(name)));
    }
    let edits: Vec<Edit<'_>> = insertion(&members, is_empty, missing.into_iter()).into_iter().collect();
    Ok(if edits.is_empty() { body.clone() } else { apply(text, edits) })
}

/// Adds `include_usage` to the options of a stream.
fn with_include_usage(options: &str) -> String {
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(options) {
        Ok(options) if options.get("include_usage") == Some(&serde_json::Value::Bool(true)) => {
            serde_json::Value::Object(options).to_string()
        }
        Ok(mut options) => {
            options.insert("include_usage".to_owned(), true.into());
            serde_json::Value::Object(options).to_string()
        }
        Err(_) => WITH_USAGE.to_owned(),
    }
}

/// Tells whether a text holds another; in whole bodies, so many bytes at a time.
pub(super) fn mentions(text: &[u8], wanted: &[u8]) -> bool {
    memmem::find(text, wanted).is_some()
}

/// What a request asks for beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asks {
    /// Whether it asks for a stream.
    pub(super) stream: bool,
    /// The most tokens of output, if it names a limit.
    pub(super) max_tokens: Option<u32>,
    /// How many choices it asks for.
    pub(super) choices: usize,
}

/// Reads what a request asks for; what is no JSON object asks for nothing.
pub(super) fn asks(body: &[u8]) -> Asks {
    let mut asks = Asks { stream: false, max_tokens: None, choices: 1 };
    let Ok(text) = std::str::from_utf8(body) else { return asks };
    let Ok(mut members) = Members::new(text) else { return asks };
    while let Ok(Some((key, value))) = members.next_member() {
        match &*key {
            "stream" => asks.stream = &text[value] == "true",
            "n" => asks.choices = text[value].parse().unwrap_or(1),
            "max_completion_tokens" => asks.max_tokens = text[value].parse().ok().or(asks.max_tokens),
            "max_tokens" => asks.max_tokens = asks.max_tokens.or_else(|| text[value].parse().ok()),
            _ => {}
        }
    }
    asks
}

/// Gives a top-level member another name; the body is written anew only if it has that member.
pub(super) fn rename(body: &Bytes, from: &str, to: &str) -> Result<Bytes, NotAnObject> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnObject)?;
    if !text.contains(from) {
        return Ok(body.clone());
    }
    let mut members = Members::new(text)?;
    let mut out = String::with_capacity(text.len() + to.len());
    let mut found = false;
    while let Some((key, value)) = members.next_member()? {
        let name = if key == from { to } else { &*key };
        found |= key == from;
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&quoted(name));
        out.push(':');
        out.push_str(&text[value]);
    }
    out.push('}');
    Ok(if found { out.into() } else { body.clone() })
}

/// Returns the edit that makes a value the string `wanted`, unless it is that already.
fn set<'a>(text: &str, value: Range<usize>, wanted: &str) -> Option<Edit<'a>> {
    let written = &text[value.clone()];
    let is_same = match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) if inside.contains('\\') => {
            serde_json::from_str::<String>(written).is_ok_and(|text| text == wanted)
        }
        Some(inside) => inside == wanted,
        None => false,
    };
    (!is_same).then(|| (value, quoted(wanted).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn fitted(body: &str, model: &str, tier: Option<&str>) -> Result<String, NotAnObject> {
        streamed(body, model, tier, Streaming::Never)
    }

    fn streamed(body: &str, model: &str, tier: Option<&str>, how: Streaming) -> Result<String, NotAnObject> {
        fit(&Bytes::copy_from_slice(body.as_bytes()), model, tier, how)
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn defaults_fill_in_what_is_not_there_and_change_nothing_else() {
        let defaults = [("temperature", "0.5"), ("max_tokens", "9")];
        for (body, wanted) in [
            (r#"{"model":"m"}"#, r#"{"temperature":0.5,"max_tokens":9,"model":"m"}"#),
            (r#"{"temperature":null,"model":"m"}"#, r#"{"max_tokens":9,"temperature":null,"model":"m"}"#),
            (r#"{"max_completion_tokens":3}"#, r#"{"temperature":0.5,"max_completion_tokens":3}"#),
            (
                r#"{"a":{"temperature":1},"max_tokens":1}"#,
                r#"{"temperature":0.5,"a":{"temperature":1},"max_tokens":1}"#,
            ),
            ("{}", r#"{"temperature":0.5,"max_tokens":9}"#),
        ] {
            let body = Bytes::from(body);
            let filled = with_defaults(&body, &defaults, &["max_tokens", "max_completion_tokens"]).unwrap();
            assert_eq!(filled, wanted, "{body:?}");
        }
    }

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        let far = [" ".repeat(100_000), "json_".to_owned(), " ".repeat(3)].concat();
        for (text, is_found) in
            [("json_", true), ("json_object", true), (&far, true), ("jsonjson_", true), ("json", false), ("", false)]
        {
            assert_eq!(mentions(text.as_bytes(), b"json_"), is_found);
        }
    }

    #[test]
    fn a_stream_is_asked_for_with_its_usage() {
        let (asked, always) = (Streaming::AsAsked { with_usage: true }, Streaming::Always { with_usage: true });
        for (body, how, wanted) in [
            (
                r#"{"model":"m","stream":true}"#,
                asked,
                r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
            ),
            (r#"{"model":"m"}"#, asked, r#"{"model":"m"}"#),
            (r#"{"model":"m","stream":false}"#, asked, r#"{"model":"m","stream":false}"#),
            (
                r#"{"model":"m","stream":false}"#,
                always,
                r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
                asked,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"x":1}}"#,
                asked,
                r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1}}"#,
            ),
            (
                r#"{"model":"m","stream":true,"stream_options":{"x":1}}"#,
                Streaming::AsAsked { with_usage: false },
                r#"{"model":"m","stream":true,"stream_options":{"x":1}}"#,
            ),
            (r#"{"model":"m"}"#, Streaming::Always { with_usage: false }, r#"{"stream":true,"model":"m"}"#),
        ] {
            assert_eq!(streamed(body, "m", None, how), Ok(wanted.to_owned()), "{body}");
        }
    }

    #[test]
    fn a_member_gets_another_name() {
        let renamed = |body: &'static str| rename(&Bytes::from_static(body.as_bytes()), "seed", "random_seed").unwrap();
        assert_eq!(renamed(r#"{"a":"seed", "seed" : 7,"b":[1.50]}"#), r#"{"a":"seed","random_seed":7,"b":[1.50]}"#);
        assert_eq!(renamed(r#"{"a":"seed"}"#), r#"{"a":"seed"}"#);
    }

    #[test]
    fn only_what_must_change_changes() {
        for (body, wanted) in [
            (r#"{"model":"m","x":1}"#, r#"{"model":"m","x":1}"#),
            (r#"{"model":"old","x":1}"#, r#"{"model":"m","x":1}"#),
            (
                r#" { "x" : [ {"model":"in"} ] , "model" : "old" } "#,
                r#" { "x" : [ {"model":"in"} ] , "model" : "m" } "#,
            ),
            (r#"{"x":1}"#, r#"{"model":"m","x":1}"#),
            (r#"{ }"#, r#"{"model":"m" }"#),
            (r#"{"model":null}"#, r#"{"model":"m"}"#),
            (r#"{"model":"a","model":"b"}"#, r#"{"model":"m","model":"m"}"#),
            (r#"{"mod\u0065l":"a"}"#, r#"{"mod\u0065l":"m"}"#),
            (r#"{"model":"\u006d"}"#, r#"{"model":"\u006d"}"#),
            (r#"{"model":"m","s":"\"model\":\"no\" \\"}"#, r#"{"model":"m","s":"\"model\":\"no\" \\"}"#),
            (r#"{"model":"m","stream":true}"#, r#"{"model":"m","stream":false}"#),
            (
                r#"{"model":"m","stream":false,"stream_options":{}}"#,
                r#"{"model":"m","stream":false,"stream_options":{}}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
                r#"{"stream_options":null,"model":"m","stream":false}"#,
            ),
        ] {
            assert_eq!(fitted(body, "m", None).as_deref(), Ok(wanted), "{body}");
        }
    }

    #[test]
    fn the_service_tier_is_set_where_one_is_asked_for() {
        for (body, wanted) in [
            (r#"{"model":"m"}"#, r#"{"service_tier":"flex","model":"m"}"#),
            (r#"{"model":"m","service_tier":"auto"}"#, r#"{"model":"m","service_tier":"flex"}"#),
            ("{}", r#"{"model":"m","service_tier":"flex"}"#),
        ] {
            assert_eq!(fitted(body, "m", Some("flex")).as_deref(), Ok(wanted), "{body}");
        }
        assert_eq!(
            fitted(r#"{"model":"m","service_tier":"auto"}"#, "m", None).as_deref(),
            Ok(r#"{"model":"m","service_tier":"auto"}"#)
        );
    }

    #[test]
    fn bytes_that_need_no_change_are_not_copied() {
        let body = Bytes::from_static(br#"{"model":"m","messages":[]}"#);
        assert_eq!(fit(&body, "m", None, Streaming::Never).unwrap().as_ptr(), body.as_ptr());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in [
            "",
            "[]",
            "\"x\"",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":\"x",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
        ] {
            assert_eq!(fitted(body, "m", None), Err(NotAnObject), "{body}");
        }
        assert_eq!(fit(&Bytes::from_static(b"{\"a\":\"\xff\"}"), "m", None, Streaming::Never), Err(NotAnObject));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\"\\\\{}\\[\\]:,\u{e9}\u{1f600}\n]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"\\\\ ]{0,6}|model|stream", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    fn text_of(value: &Value, pretty: bool) -> String {
        if pretty { serde_json::to_string_pretty(value).unwrap() } else { value.to_string() }
    }

    proptest! {
        #[test]
        fn everything_but_the_model_stays_byte_for_byte(
            before in proptest::collection::btree_map("[a-l\"\\\\]{0,6}", any_json(), 0..4),
            after in proptest::collection::btree_map("[n-r\"\\\\]{1,6}", any_json(), 0..4),
            old in any_json(),
            new in "[ -~\u{e9}]{1,12}",
            pretty: bool,
            blank in "[ \n\t]{0,3}",
        ) {
            let member = |(key, value): (&String, &Value)| format!("{}{blank}:{blank}{}", json!(key), text_of(value, pretty));
            let join = |map: &std::collections::BTreeMap<String, Value>| map.iter().map(member).collect::<Vec<_>>();
            let mut members = join(&before);
            members.push(format!("\"model\"{blank}:{blank}\u{0}"));
            members.extend(join(&after));
            let template = format!("{blank}{{{blank}{}{blank}}}{blank}", members.join(&format!("{blank},{blank}")));
            let body = template.replacen('\u{0}', &text_of(&old, pretty), 1);
            let wanted = template.replacen('\u{0}', &json!(new).to_string(), 1);
            let out = fitted(&body, &new, None).unwrap();
            if old == json!(new) {
                prop_assert_eq!(&out, &body);
            } else {
                prop_assert_eq!(&out, &wanted);
            }
            prop_assert_eq!(&serde_json::from_str::<Value>(&out).unwrap()["model"], &json!(new));
        }

        #[test]
        fn a_missing_model_is_put_in_and_nothing_else(
            members in proptest::collection::btree_map("[a-l\"\\\\]{0,6}", any_json(), 0..5),
            pretty: bool,
        ) {
            let body = text_of(&json!(members), pretty);
            let out = fitted(&body, "m", None).unwrap();
            let mut wanted = json!(members);
            wanted["model"] = json!("m");
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), wanted);
            let rest = if members.is_empty() { "\"model\":\"m\"" } else { "\"model\":\"m\"," };
            prop_assert_eq!(out.replacen(rest, "", 1), body);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[{}\\[\\]\"\\\\:,a \u{e9}]{0,40}") {
            let _ = fitted(&text, "m", Some("flex"));
        }
    }
}
