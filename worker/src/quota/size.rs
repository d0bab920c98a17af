//! How large a request is, before any provider has seen it.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use gristmill_tokens::{Model, Request};
use tokio::sync::Semaphore;

/// Bytes of a request for one token, where nothing better is known.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes of a body up to which it is counted where it is: at most a few milliseconds of a thread that others wait for.
const SHORT: usize = 50_000;

/// Bodies that are counted at once away from the async threads: more than there are cores would only take turns.
static COUNTING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
});

/// Tokens of output beyond which no request means what it says.
const MOST_OUTPUT: u64 = 1_000_000_000;

/// What a request seems to be, before any provider has seen it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Tokens of input.
    pub(crate) input: u64,
    /// Tokens of input as OpenAI's admission guesses them, by length alone; none where the body was not read.
    pub(crate) by_length: Option<u64>,
    /// Most tokens of output, over all choices, where the request says.
    pub(crate) most_output: Option<u64>,
    /// Answers that it asks for, where it says.
    pub(crate) choices: Option<u64>,
    /// Whether a deployment's `max_tokens` are set in it.
    pub(crate) is_open: bool,
}

impl Size {
    /// Guesses from the bytes of a body alone, where tokens are not limited.
    pub(crate) const fn of_bytes(bytes: usize) -> Self {
        Self {
            input: (bytes as u64) / BYTES_PER_TOKEN + 1,
            by_length: None,
            most_output: None,
            choices: None,
            is_open: false,
        }
    }

    /// Counts a body's tokens as a model does: what it says, and how long its answer may be.
    pub(crate) fn of_body(body: &[u8], model: &Model) -> Self {
        let Some(read) = Request::read(body, model) else { return Self::of_bytes(body.len()) };
        Self {
            input: read.input_tokens,
            by_length: Some(read.input_bytes.div_ceil(BYTES_PER_TOKEN)),
            most_output: read.most_output_tokens.map(|most| most.min(MOST_OUTPUT)),
            choices: read.choices,
            is_open: read.is_open,
        }
    }

    /// Counts a body's tokens, away from the async threads if that takes long. Cancel safe.
    pub(crate) async fn count(body: &Bytes, model: Model) -> Self {
        if body.len() <= SHORT && model.is_ready() {
            return Self::of_body(body, &model);
        }
        let guess = Self::of_bytes(body.len());
        let Ok(turn) = Arc::clone(&COUNTING).acquire_owned().await else { return guess };
        let body = body.clone();
        let counting = tokio::task::spawn_blocking(move || {
            // Goes with the work, also when nobody waits for it any more.
            let _turn = turn;
            Self::of_body(&body, &model)
        });
        counting.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request was not counted, its length is taken");
            guess
        })
    }

    /// Tells whether it is longer than a window of so many tokens, whatever an estimate may be off by.
    pub(crate) const fn surely_exceeds(self, window: u64) -> bool {
        self.input / 2 > window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_for_its_texts_and_its_bounds() {
        let body =
            br#"{"model":"m","messages":[{"role":"user","content":"abcdefghijklmnopqrstuvwx"}],"max_tokens":50,"n":2}"#;
        let model = Model::of("groq", "llama");
        let size = Size::of_body(body, &model);
        let wanted = Size {
            input: 3 + 1 + 6 + 3,
            by_length: Some(13),
            most_output: Some(100),
            choices: Some(2),
            is_open: false,
        };
        assert_eq!(size, wanted);
        assert_eq!(Size::of_body(b"no json", &model), Size { input: 2, ..Size::default() });
        assert!(Size::of_body(br#"{"messages":[]}"#, &model).is_open);
    }

    #[tokio::test]
    async fn a_long_body_counts_as_a_short_one_does() {
        let content = "The quick brown fox.\n".repeat(10_000);
        let body = Bytes::from(serde_json::json!({"messages": [{"role": "user", "content": content}]}).to_string());
        for model in [Model::of("openai", "gpt-4o"), Model::of("groq", "llama")] {
            assert!(body.len() > SHORT);
            assert_eq!(Size::count(&body, model).await, Size::of_body(&body, &model));
        }
    }
}
