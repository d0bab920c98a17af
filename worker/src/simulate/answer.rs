//! What the model answers, before any dialect puts it into words.
//!
//! Owns the parts of an answer and how they are counted and cut: a word of prose is a token, and so are four characters
//! of anything else.

use super::random::Random;

/// Characters that make a token, about.
pub(super) const CHARS_PER_TOKEN: u64 = 4;

/// Words of prose in one event of a stream.
const EVENT_WORDS: usize = 4;

/// Characters of anything else in one event of a stream.
const EVENT_CHARS: usize = 16;

/// An answer that succeeds.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// Makes the ids of the answer and of what it holds.
    pub(super) id: u64,
    /// Unix time in seconds.
    pub(super) created: u64,
    /// The model that answers.
    pub(super) model: &'a str,
    pub(super) content: Content,
    pub(super) usage: Usage,
}

/// What was asked for.
#[derive(Debug)]
pub(super) enum Content {
    /// Never empty.
    Choices(Vec<Choice>),
    /// One unit vector for each input.
    Vectors(Vec<Vec<f32>>),
    /// The size of the prompt alone, as the usage has it.
    Count,
}

/// One of the answers to one prompt.
#[derive(Debug)]
pub(super) struct Choice {
    /// In the order in which they were produced.
    pub(super) parts: Vec<Part>,
    pub(super) finish: Finish,
}

/// A part of a choice.
#[derive(Debug)]
pub(super) enum Part {
    /// What the model thought before it spoke.
    Thinking(Text),
    Text(Text),
    /// Why the model does not answer.
    Refusal(Text),
    Call(ToolCall),
}

/// A call of a function of the caller.
#[derive(Debug)]
pub(super) struct ToolCall {
    /// Makes the id of the call.
    pub(super) id: u64,
    pub(super) name: String,
    /// JSON, unless it was to be broken.
    pub(super) arguments: Text,
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finish {
    Stop,
    /// This text of the caller's would have come next.
    StopSequence(String),
    Length,
    ToolCalls,
    /// A filter ended the text.
    Filtered,
    /// The model would not answer.
    Refused,
}

/// Tokens of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// The whole prompt, cached parts included.
    pub(super) input: u64,
    /// Read from the cache.
    pub(super) cache_read: u64,
    /// Written to the cache for five minutes.
    pub(super) cache_write_5m: u64,
    /// Written to the cache for an hour.
    pub(super) cache_write_1h: u64,
    /// Everything produced, thinking included.
    pub(super) output: u64,
    pub(super) thinking: u64,
}

/// A text with the way in which it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) text: String,
    is_prose: bool,
}

impl Choice {
    /// Returns the tokens of all parts.
    pub(super) fn tokens(&self) -> u64 {
        self.parts.iter().map(|part| part.text().tokens()).sum()
    }

    /// Returns the text; `None` where there is none.
    pub(super) fn text(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| if let Part::Text(text) = part { Some(text.text.as_str()) } else { None })
    }

    /// Returns why the model would not answer.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| if let Part::Refusal(text) = part { Some(text.text.as_str()) } else { None })
    }

    /// Returns the calls of functions.
    pub(super) fn calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.parts.iter().filter_map(|part| if let Part::Call(call) = part { Some(call) } else { None })
    }
}

impl Part {
    fn text(&self) -> &Text {
        match self {
            Self::Thinking(text) | Self::Text(text) | Self::Refusal(text) => text,
            Self::Call(call) => &call.arguments,
        }
    }
}

impl Answer<'_> {
    /// Returns the choices; none for what is no text.
    pub(super) fn choices(&self) -> &[Choice] {
        if let Content::Choices(choices) = &self.content { choices } else { &[] }
    }

    /// Makes the id of one of the things in the answer.
    pub(super) fn part_id(&self, number: u64) -> u64 {
        part_id(self.id, number)
    }
}

/// Makes the id of one of the things in an answer.
pub(super) fn part_id(id: u64, number: u64) -> u64 {
    Random::from_seed(id ^ number.rotate_left(32)).bits()
}

impl Text {
    /// Takes words that the simulator made up.
    pub(super) fn prose(text: String) -> Self {
        Self { text, is_prose: true }
    }

    /// Takes JSON, or what the caller wrote.
    pub(super) fn other(text: String) -> Self {
        Self { text, is_prose: false }
    }

    /// Counts the tokens; a text that is not empty has at least one.
    pub(super) fn tokens(&self) -> u64 {
        count(&self.text, self.is_prose)
    }

    /// Cuts it to some tokens.
    pub(super) fn cut(&mut self, tokens: u64) {
        let end = if self.is_prose {
            let words = usize::try_from(tokens).unwrap_or(usize::MAX);
            words.checked_sub(1).map(|last| self.text.match_indices(' ').nth(last).map(|(at, _)| at))
        } else {
            let chars = usize::try_from(tokens.saturating_mul(CHARS_PER_TOKEN)).unwrap_or(usize::MAX);
            Some(self.text.char_indices().nth(chars).map(|(at, _)| at))
        };
        match end {
            None => self.text.clear(),
            Some(None) => {}
            Some(Some(end)) => self.text.truncate(end),
        }
    }

    /// Ends it before the first of these that it holds; returns the one that ended it.
    pub(super) fn stop_at(&mut self, stops: &[String]) -> Option<String> {
        let found = stops.iter().filter(|stop| !stop.is_empty());
        let (at, stop) = found.filter_map(|stop| Some((self.text.find(stop.as_str())?, stop))).min()?;
        self.text.truncate(at);
        Some(stop.clone())
    }

    /// Cuts it into what the events of a stream carry, each with its tokens; the pieces together are the text.
    pub(super) fn pieces(&self) -> Vec<(&str, u64)> {
        let cuts: Vec<usize> = if self.is_prose {
            let spaces = self.text.match_indices(' ').map(|(at, _)| at);
            spaces.skip(EVENT_WORDS - 1).step_by(EVENT_WORDS).collect()
        } else {
            self.text.char_indices().map(|(at, _)| at).skip(EVENT_CHARS).step_by(EVENT_CHARS).collect()
        };
        let mut pieces = Vec::with_capacity(cuts.len() + 1);
        let mut start = 0;
        for end in cuts.into_iter().chain([self.text.len()]) {
            let piece = &self.text[start..end];
            if !piece.is_empty() {
                pieces.push((piece, count(piece, self.is_prose)));
            }
            start = end;
        }
        pieces
    }
}

fn count(text: &str, is_prose: bool) -> u64 {
    if is_prose {
        text.split_ascii_whitespace().count() as u64
    } else {
        (text.chars().count() as u64).div_ceil(CHARS_PER_TOKEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_in_text_and_tokens() {
        let texts = [
            "",
            "one",
            "one two three four five six seven eight nine",
            "{\"a\":\"\u{e9}\u{1f600}\u{e9}\u{0} and more\"}",
        ];
        for text in texts {
            for text in [Text::prose(text.to_owned()), Text::other(text.to_owned())] {
                let pieces = text.pieces();
                let (joined, tokens): (String, Vec<u64>) = pieces.iter().copied().unzip();
                assert_eq!(joined, text.text);
                assert_eq!(tokens.iter().sum::<u64>(), text.tokens(), "{text:?}");
            }
        }
        assert_eq!(Text::prose("a b c d e".to_owned()).pieces(), [("a b c d", 4), (" e", 1)]);
    }

    #[test]
    fn a_cut_text_has_as_many_tokens_as_asked() {
        for tokens in 0..5 {
            let mut prose = Text::prose("one two three four five".to_owned());
            prose.cut(tokens);
            assert_eq!(prose.tokens(), tokens, "{prose:?}");
            let mut json = Text::other("\u{e9}".repeat(20));
            json.cut(tokens);
            assert_eq!(json.tokens(), tokens, "{json:?}");
        }
        let mut short = Text::prose("one two".to_owned());
        short.cut(7);
        assert_eq!(short.text, "one two");
    }

    #[test]
    fn the_first_stop_ends_the_text() {
        let stops = ["four", "", "three", " "].map(str::to_owned);
        let mut text = Text::prose("one-two-three-four".to_owned());
        assert_eq!(text.stop_at(&stops), Some("three".to_owned()));
        assert_eq!(text.text, "one-two-");
        assert_eq!(text.stop_at(&stops), None);
    }
}
