//! What a call asks for, read from its body in one pass and mostly borrowed from it.
//!
//! Owns the reading of the four request shapes and the errors for bodies that no provider would take. Unknown fields
//! are skipped without being kept.

use serde::Deserialize;

use super::fault;
use super::prompt::{Prompt, Text};

/// Characters of a prompt that stand for the job when the call carries no better marker.
const MARKER_CHARS: usize = 64;

/// Characters that make a token, about.
const CHARS_PER_TOKEN: u64 = 4;

/// The endpoints that cost money at a real provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Responses,
}

impl Endpoint {
    /// Finds the endpoint of a path, with or without `/v1`.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/v1").unwrap_or(path) {
            "/chat/completions" => Some(Self::Chat),
            "/completions" => Some(Self::Completions),
            "/embeddings" => Some(Self::Embeddings),
            "/responses" => Some(Self::Responses),
            _ => None,
        }
    }

    /// Returns the path as the OpenAI Batch format names it.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
        }
    }

    /// Returns the field that holds the prompt.
    const fn prompt_field(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completions => "prompt",
            Self::Embeddings | Self::Responses => "input",
        }
    }
}

/// The body of a call, as far as the simulator cares.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(super) struct Request<'a> {
    #[serde(default)]
    model: Text<'a>,
    messages: Option<Prompt<'a>>,
    prompt: Option<Prompt<'a>>,
    input: Option<Prompt<'a>>,
    #[serde(default)]
    user: Text<'a>,
    metadata: Option<Metadata<'a>>,
    #[serde(alias = "max_completion_tokens", alias = "max_output_tokens")]
    max_tokens: Option<u64>,
    /// Choices wanted for each prompt.
    pub(super) n: Option<u64>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    response_format: Option<Format<'a>>,
    text: Option<TextOptions<'a>>,
    /// Length of an embedding.
    pub(super) dimensions: Option<u64>,
    #[serde(default)]
    encoding_format: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Metadata<'a> {
    #[serde(default)]
    gristmill_job: Text<'a>,
    #[serde(default)]
    simulate: Text<'a>,
}

/// Options of an answer that comes as server-sent events.
#[derive(Debug, Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct TextOptions<'a> {
    format: Option<Format<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Format<'a> {
    #[serde(default, rename = "type")]
    kind: Text<'a>,
}

/// Why a body is refused with status 400.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
    pub(super) code: Option<&'static str>,
}

impl<'a> Request<'a> {
    /// Reads a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        serde_json::from_slice(body).map_err(|cause| match cause.classify() {
            serde_json::error::Category::Data => Malformed {
                message: format!("Invalid type for a parameter: {cause}."),
                param: None,
                code: Some("invalid_type"),
            },
            _ => Malformed {
                message: format!("We could not parse the JSON body of your request: {cause}."),
                param: None,
                code: None,
            },
        })
    }

    /// Checks what every provider insists on.
    pub(super) fn check(&self, endpoint: Endpoint) -> Result<(), Malformed> {
        let missing = |param| Malformed {
            message: format!("Missing required parameter: '{param}'."),
            param: Some(param),
            code: Some("missing_required_parameter"),
        };
        if self.model.as_str().is_none_or(str::is_empty) {
            return Err(missing("model"));
        }
        let field = endpoint.prompt_field();
        let prompt = match endpoint {
            Endpoint::Chat => &self.messages,
            Endpoint::Completions => &self.prompt,
            Endpoint::Embeddings | Endpoint::Responses => &self.input,
        };
        let Some(prompt) = prompt else {
            return Err(missing(field));
        };
        if prompt.items == 0 {
            return Err(Malformed {
                message: format!("Invalid '{field}': empty array. Expected an array with minimum length 1."),
                param: Some(field),
                code: Some("empty_array"),
            });
        }
        if self.stream == Some(true) && endpoint != Endpoint::Chat {
            return Err(Malformed {
                message: format!("The simulator does not stream {}.", endpoint.path()),
                param: Some("stream"),
                code: Some("unsupported_value"),
            });
        }
        for (param, value, max) in [("n", self.n, 128), ("dimensions", self.dimensions, 65_536)] {
            if value.is_some_and(|value| value == 0 || value > max) {
                return Err(Malformed {
                    message: format!("Invalid '{param}': expected a number from 1 to {max}."),
                    param: Some(param),
                    code: Some("integer_out_of_range"),
                });
            }
        }
        Ok(())
    }

    /// Returns the model that was asked for.
    pub(super) fn model(&self) -> &str {
        self.model.as_str().unwrap_or_default()
    }

    /// Returns what the call is counted by: the job, the user, or how the prompt begins.
    pub(super) fn marker(&self) -> &str {
        let named = self.metadata.as_ref().and_then(|metadata| metadata.gristmill_job.as_str());
        named.or_else(|| self.user.as_str()).unwrap_or_else(|| {
            let prompt = self.last_prompt();
            let end = prompt.char_indices().nth(MARKER_CHARS).map_or(prompt.len(), |(at, _)| at);
            &prompt[..end]
        })
    }

    /// Returns the script that the call carries, in `metadata.simulate`, `user` or its prompt.
    pub(super) fn script(&self) -> Option<&str> {
        if let Some(text) = self.metadata.as_ref().and_then(|metadata| metadata.simulate.as_str()) {
            return fault::find_script(text).or(Some(text));
        }
        self.user.as_str().and_then(fault::find_script).or_else(|| fault::find_script(self.last_prompt()))
    }

    fn prompt(&self) -> Option<&Prompt<'a>> {
        self.messages.as_ref().or(self.prompt.as_ref()).or(self.input.as_ref())
    }

    /// Returns the last user message, or the last prompt.
    fn last_prompt(&self) -> &str {
        self.prompt().map_or("", |prompt| prompt.last.as_ref())
    }

    /// Returns how many prompts or inputs the call holds.
    pub(super) fn prompts(&self) -> u64 {
        self.prompt().map_or(0, |prompt| prompt.items)
    }

    /// Estimates the tokens of the prompt: four characters make one.
    pub(super) fn prompt_tokens(&self) -> u64 {
        let Some(prompt) = self.prompt() else {
            return 0;
        };
        prompt.tokens + prompt.chars.div_ceil(CHARS_PER_TOKEN)
    }

    /// Returns the longest answer that the caller takes, in tokens.
    pub(super) fn max_tokens(&self) -> Option<u64> {
        self.max_tokens
    }

    /// Counts the tokens that the rate limit charges at arrival.
    ///
    /// The larger of the answer's maximum and the prompt's estimate, as
    /// <https://developers.openai.com/api/docs/guides/rate-limits> (read 2026-11-23) says.
    pub(super) fn charged_tokens(&self) -> u64 {
        self.prompt_tokens().max(self.max_tokens.unwrap_or(0)).max(1)
    }

    /// Tells whether the answer must be JSON.
    pub(super) fn wants_json(&self) -> bool {
        let format = self.response_format.as_ref().or_else(|| self.text.as_ref().and_then(|text| text.format.as_ref()));
        matches!(format.and_then(|format| format.kind.as_str()), Some("json_object" | "json_schema"))
    }

    /// Tells whether embeddings are wanted as base64.
    pub(super) fn wants_base64(&self) -> bool {
        self.encoding_format.as_str() == Some("base64")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Request<'_> {
        Request::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_marker_is_the_job_then_the_user_then_the_prompt() {
        let table = [
            (r#"{"metadata":{"gristmill_job":"j1"},"user":"u","messages":[{"role":"user","content":"p"}]}"#, "j1"),
            (r#"{"metadata":{"gristmill_job":7},"user":"u","messages":[{"role":"user","content":"p"}]}"#, "u"),
            (r#"{"metadata":null,"messages":[{"role":"user","content":"p"}]}"#, "p"),
            (r#"{"input":["a","b"]}"#, "b"),
            ("{}", ""),
        ];
        for (json, marker) in table {
            assert_eq!(read(json).marker(), marker, "{json}");
        }
        let long = format!(r#"{{"prompt":"{}"}}"#, "\u{e9}".repeat(100));
        assert_eq!(read(&long).marker(), "\u{e9}".repeat(64));
    }

    #[test]
    fn a_script_may_stand_in_three_places() {
        let table = [
            (r#"{"metadata":{"simulate":"500,ok"},"user":"simulate:429"}"#, Some("500,ok")),
            (r#"{"metadata":{"simulate":"simulate:500"}}"#, Some("500")),
            (r#"{"user":"u simulate:429,ok","prompt":"simulate:500"}"#, Some("429,ok")),
            (r#"{"messages":[{"role":"user","content":"Say hi. simulate:reset"}]}"#, Some("reset")),
            (r#"{"messages":[{"role":"user","content":"Say hi."}]}"#, None),
        ];
        for (json, script) in table {
            assert_eq!(read(json).script(), script, "{json}");
        }
    }

    #[test]
    fn tokens_are_estimated_and_charged() {
        let request = read(r#"{"max_completion_tokens":50,"messages":[{"role":"user","content":"123456789"}]}"#);
        assert_eq!((request.prompt_tokens(), request.max_tokens(), request.charged_tokens()), (3, Some(50), 50));
        assert_eq!(read(r#"{"input":[1,2,3,4]}"#).charged_tokens(), 4);
        assert_eq!(read("{}").charged_tokens(), 1);
    }

    #[test]
    fn what_no_provider_takes_is_refused_with_the_parameter() {
        let message = r#""messages":[{"role":"user","content":"hi"}]"#;
        let table = [
            (format!("{{{message}}}"), Some("model"), Some("missing_required_parameter")),
            (r#"{"model":"m"}"#.to_owned(), Some("messages"), Some("missing_required_parameter")),
            (r#"{"model":"m","prompt":"hi"}"#.to_owned(), Some("messages"), Some("missing_required_parameter")),
            (r#"{"model":"m","messages":[]}"#.to_owned(), Some("messages"), Some("empty_array")),
            (format!(r#"{{"model":"m","n":0,{message}}}"#), Some("n"), Some("integer_out_of_range")),
        ];
        for (json, param, code) in table {
            let refusal = read(&json).check(Endpoint::Chat).unwrap_err();
            assert_eq!((refusal.param, refusal.code), (param, code), "{json}");
        }
        let fine = format!(r#"{{"model":"m","temperature":0.5,"tools":[{{"type":"function"}}],{message}}}"#);
        assert_eq!(read(&fine).check(Endpoint::Chat), Ok(()));
        assert_eq!(Request::parse(b"{\"model\":").unwrap_err().code, None);
        assert_eq!(Request::parse(b"[1]").unwrap_err().code, Some("invalid_type"));
    }

    #[test]
    fn a_json_answer_is_asked_for_in_two_ways() {
        assert!(read(r#"{"response_format":{"type":"json_object"}}"#).wants_json());
        assert!(read(r#"{"text":{"format":{"type":"json_schema","name":"x"}}}"#).wants_json());
        assert!(!read(r#"{"response_format":{"type":"text"}}"#).wants_json());
    }
}
