//! Which requests ask for the same answer: the key of the response cache.
//!
//! Owns what counts and what does not, and which requests may be cached at all. Pure; the store keeps the answers. `docs/cache.md`
//! tells users the rules, and must be changed with them. A change of what goes into a key must change `VERSION`: answers
//! of other versions are then never found, and go as the oldest do.

use std::borrow::Cow;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::job::{CachePolicy, Job, JobOptions};

#[cfg(test)]
mod tests;

/// The version of the keys' rules.
const VERSION: u8 = 1;

/// Values within values that are read; `serde_json` reads as many.
const MOST_DEEP: usize = 128;

/// Fields of a body that do not change what a model answers.
///
/// | field | what it does instead |
/// |---|---|
/// | `model` | names the model group, which is part of the key by itself |
/// | `user`, `safety_identifier` | tell the provider who asks, for its abuse checks |
/// | `metadata` | is kept beside the request, for lists at the provider |
/// | `store` | has the provider keep the answer |
/// | `stream`, `stream_options` | say how the answer travels |
/// | `prompt_cache_key`, `prompt_cache_retention` | say where and how long the provider keeps the prompt's beginning |
/// | `service_tier` | says how soon and at what price |
///
/// <https://platform.openai.com/docs/api-reference/chat/create>, read 2026-11.
const WITHOUT_EFFECT: [&str; 10] = [
    "metadata",
    "model",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream",
    "stream_options",
    "user",
];

/// Who shares answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheScope {
    /// The batches of one project; those without a project are one project.
    #[default]
    Project,
    /// All batches of the database.
    Shared,
}

/// How answers are kept; all workers of a fleet should have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRules {
    /// Who shares answers.
    pub scope: CacheScope,
    /// How long an answer is kept. Default 30 days.
    pub ttl: Duration,
    /// How large all answers together may be, in bytes. Default 1 GiB.
    pub max_bytes: u64,
    /// How large one answer may be, in bytes. Default 1 MiB.
    pub max_answer_bytes: usize,
}

impl Default for CacheRules {
    fn default() -> Self {
        Self {
            scope: CacheScope::Project,
            ttl: Duration::from_secs(30 * 86_400),
            max_bytes: 1 << 30,
            max_answer_bytes: 1 << 20,
        }
    }
}

/// Names what is asked: requests of one key have one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(pub [u8; 32]);

/// A request as the key sees it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The project of its batch.
    pub project: Option<&'a str>,
    /// Whether the simulator answers.
    pub simulated: bool,
    /// The path of the API.
    pub endpoint: &'a str,
    /// The model group.
    pub group: &'a str,
    /// The request's JSON text.
    pub body: &'a [u8],
    /// What the producer said beside it.
    pub options: &'a JobOptions,
}

impl<'a> Asked<'a> {
    /// Makes it of a job.
    pub fn of(job: &'a Job, project: Option<&'a str>, simulated: bool) -> Self {
        let Job { endpoint, body, options, lane, .. } = job;
        Self { project, simulated, endpoint, group: &lane.group, body, options }
    }

    /// Computes the key; `None` where the response cache has no part in the request.
    pub fn key(&self, scope: CacheScope) -> Option<CacheKey> {
        let policy = self.options.cache;
        if policy.is_off() {
            return None;
        }
        let body = Body::read(self.body)?;
        (policy.sampled || body.is_deterministic(self.endpoint)).then(|| self.hash(scope, &body))
    }

    fn hash(&self, scope: CacheScope, body: &Body) -> CacheKey {
        let shared_by = match scope {
            CacheScope::Shared => [0, 0],
            CacheScope::Project => [1, u8::from(self.project.is_some())],
        };
        let project = match scope {
            CacheScope::Shared => "",
            CacheScope::Project => self.project.unwrap_or_default(),
        };
        let mut hasher = Sha256::new();
        hasher.update([VERSION, shared_by[0], shared_by[1], u8::from(self.simulated)]);
        hasher.update(self.options.sample.to_be_bytes());
        for part in [project.as_bytes(), self.endpoint.as_bytes(), self.group.as_bytes()] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        for (name, value) in &body.0 {
            hasher.update((name.len() as u64).to_be_bytes());
            hasher.update(name.as_bytes());
            hasher.update((value.len() as u64).to_be_bytes());
            hasher.update(value);
        }
        CacheKey(hasher.finalize().into())
    }
}

/// Tells whether the cache has a part in a request by its policy, and leaves it out only since it asks for a random answer.
pub fn is_left_out(endpoint: &str, body: &[u8], policy: CachePolicy) -> bool {
    !policy.is_off() && !policy.sampled && Body::read(body).is_none_or(|body| !body.is_deterministic(endpoint))
}

/// The fields of a body that count, by name, each as canonical JSON.
struct Body(Vec<(String, Vec<u8>)>);

impl Body {
    /// Reads a body; `None` where it is no JSON object, or nested too deep.
    fn read(text: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: std::str::from_utf8(text).ok()?, depth: 0 };
        let mut fields = reader.members()?;
        reader.end()?;
        fields.retain(|(name, _)| !WITHOUT_EFFECT.contains(&name.as_str()));
        Some(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(field, _)| field == name)?;
        std::str::from_utf8(value).ok()
    }

    /// Tells whether the same answer is to be expected each time: nothing is drawn, or it is drawn with a seed.
    fn is_deterministic(&self, endpoint: &str) -> bool {
        let draws_nothing = ["/embeddings", "/moderations"].iter().any(|path| endpoint.ends_with(path));
        let number = |name| self.get(name).and_then(|text| text.parse::<f64>().ok());
        // Without one it is the provider's default: 1 at OpenAI, https://platform.openai.com/docs/api-reference/chat/create.
        draws_nothing || number("temperature") == Some(0.0) || number("seed").is_some()
    }
}

/// Reads JSON and writes it canonically: names in order, no white space, numbers as they are written, strings with the same
/// escapes. A name that stands twice counts twice, in the order of the text.
struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Takes one of the characters that JSON is made of.
    fn take(&mut self, expected: char) -> Option<()> {
        self.skip_space();
        self.rest = self.rest.strip_prefix(expected)?;
        Some(())
    }

    fn next_is(&mut self, expected: char) -> bool {
        self.skip_space();
        self.rest.starts_with(expected)
    }

    fn end(&mut self) -> Option<()> {
        self.skip_space();
        self.rest.is_empty().then_some(())
    }

    fn value(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.skip_space();
        match self.rest.as_bytes().first()? {
            b'{' => {
                let members = self.members()?;
                out.push(b'{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(serde_json::to_string(name).ok()?.as_bytes());
                    out.push(b':');
                    out.extend_from_slice(value);
                }
                out.push(b'}');
            }
            b'[' => self.array(out)?,
            b'"' => {
                let raw = self.raw_string()?;
                match decode(raw) {
                    Some(Cow::Owned(text)) => out.extend_from_slice(serde_json::to_string(&text).ok()?.as_bytes()),
                    // Half a surrogate pair is no text, and stays as it is written.
                    Some(Cow::Borrowed(_)) | None => out.extend_from_slice(raw.as_bytes()),
                }
            }
            _ => {
                let length = self.rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(self.rest.len());
                let (token, rest) = self.rest.split_at(length);
                serde_json::from_str::<serde::de::IgnoredAny>(token).ok()?;
                out.extend_from_slice(token.as_bytes());
                self.rest = rest;
            }
        }
        Some(())
    }

    fn array(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.enter()?;
        self.take('[')?;
        out.push(b'[');
        if !self.next_is(']') {
            loop {
                self.value(out)?;
                if !self.next_is(',') {
                    break;
                }
                self.take(',')?;
                out.push(b',');
            }
        }
        self.take(']')?;
        out.push(b']');
        self.depth -= 1;
        Some(())
    }

    /// Reads an object; returns its members in order of name.
    fn members(&mut self) -> Option<Vec<(String, Vec<u8>)>> {
        self.enter()?;
        self.take('{')?;
        let mut members = Vec::new();
        if !self.next_is('}') {
            loop {
                self.skip_space();
                let raw = self.raw_string()?;
                let name = decode(raw).map_or_else(|| raw.to_owned(), Cow::into_owned);
                self.take(':')?;
                let mut value = Vec::new();
                self.value(&mut value)?;
                members.push((name, value));
                if !self.next_is(',') {
                    break;
                }
                self.take(',')?;
            }
        }
        self.take('}')?;
        self.depth -= 1;
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(members)
    }

    fn enter(&mut self) -> Option<()> {
        self.depth += 1;
        (self.depth <= MOST_DEEP).then_some(())
    }
}

impl<'a> Reader<'a> {
    /// Takes a string with its quotes.
    fn raw_string(&mut self) -> Option<&'a str> {
        let bytes = self.rest.as_bytes();
        if bytes.first() != Some(&b'"') {
            return None;
        }
        let mut at = 1;
        loop {
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        let (raw, rest) = self.rest.split_at_checked(at + 1)?;
        serde_json::from_str::<serde::de::IgnoredAny>(raw).ok()?;
        self.rest = rest;
        Some(raw)
    }
}

/// Returns the text of a string, borrowed where it is written as itself; `None` if it is no text.
fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('\\') {
        return Some(Cow::Borrowed(&raw[1..raw.len() - 1]));
    }
    serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
}
