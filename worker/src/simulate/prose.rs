//! The words of answers: sentences that look written, made once per process from a fixed seed.
//!
//! Everything is ASCII without quotes or backslashes. A word is a token.

use std::sync::LazyLock;

use super::random::Random;

const ADJECTIVES: [&str; 24] = [
    "careful", "recent", "simple", "steady", "distant", "narrow", "common", "quiet", "modern", "gradual", "partial",
    "local", "plain", "likely", "robust", "early", "subtle", "shared", "broad", "typical", "measured", "original",
    "minor", "useful",
];
const NOUNS: [&str; 32] = [
    "result", "method", "river", "sample", "market", "question", "engine", "village", "pattern", "reader", "signal",
    "history", "garden", "argument", "budget", "harvest", "teacher", "model", "bridge", "summary", "season", "table",
    "letter", "measure", "station", "claim", "record", "process", "witness", "answer", "estimate", "mill",
];
const VERBS: [&str; 16] = [
    "explains",
    "supports",
    "follows",
    "changes",
    "confirms",
    "limits",
    "describes",
    "resembles",
    "improves",
    "replaces",
    "reveals",
    "shapes",
    "precedes",
    "balances",
    "repeats",
    "covers",
];
const LINKS: [&str; 8] = ["near", "beyond", "without", "under", "against", "before", "despite", "among"];
const OPENINGS: [&str; 8] = [
    "In practice,",
    "As a rule,",
    "By contrast,",
    "For example,",
    "In short,",
    "Over time,",
    "On balance,",
    "At first,",
];

/// Sentences in the table, about 3,400 words.
const SENTENCES: usize = 320;

static PROSE: LazyLock<Prose> = LazyLock::new(Prose::compose);

struct Prose {
    text: String,
    /// Where each word starts, and one entry past the end.
    words: Vec<usize>,
    /// The first word of each sentence.
    sentences: Vec<usize>,
}

impl Prose {
    fn compose() -> Self {
        let mut random = Random::from_seed(1_856);
        let mut prose = Self { text: String::new(), words: Vec::new(), sentences: Vec::new() };
        for _ in 0..SENTENCES {
            prose.sentences.push(prose.words.len());
            let form = random.below(3);
            let mut any = |words: &[&'static str]| words[random.below(words.len())];
            let (n1, n2, n3) = (any(&NOUNS), any(&NOUNS), any(&NOUNS));
            let (a1, a2) = (any(&ADJECTIVES), any(&ADJECTIVES));
            let (v1, v2, link) = (any(&VERBS), any(&VERBS), any(&LINKS));
            let sentence = match form {
                0 => format!("The {a1} {n1} {v1} the {n2} {link} the {a2} {n3}."),
                1 => format!("{} the {n1} {v1} the {a1} {n2}, and the {a2} {n3} {v2} it.", any(&OPENINGS)),
                _ => {
                    format!("What the {n1} {v1} is the {a1} {n2} {link} the {n3}, which {v2} the {a2} {}.", any(&NOUNS))
                }
            };
            for word in sentence.split(' ') {
                prose.words.push(prose.text.len());
                prose.text.push_str(word);
                prose.text.push(' ');
            }
        }
        prose.words.push(prose.text.len());
        prose
    }

    /// Returns some words from the `first` on, without a space after the last.
    fn slice(&self, first: usize, count: usize) -> &str {
        &self.text[self.words[first]..self.words[first + count] - 1]
    }
}

/// Makes `tokens` words that start a sentence; `finished` text ends in a full stop.
pub(super) fn text(random: &mut Random, tokens: usize, finished: bool) -> String {
    let prose = &*PROSE;
    let total = prose.words.len() - 1;
    let mut word = prose.sentences[random.below(prose.sentences.len())];
    let mut text = String::with_capacity((tokens * 9).min(1 << 20));
    let mut left = tokens;
    while left > 0 {
        let count = left.min(total - word);
        text.push_str(prose.slice(word, count));
        left -= count;
        word = 0;
        if left > 0 {
            text.push(' ');
        }
    }
    if finished && tokens > 0 {
        if text.ends_with(['.', ',']) {
            text.pop();
        }
        text.push('.');
    }
    text
}

/// Makes a name of two words, such as `steady bridge`.
pub(super) fn name(random: &mut Random) -> String {
    format!("{} {}", ADJECTIVES[random.below(ADJECTIVES.len())], NOUNS[random.below(NOUNS.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(seed: u64, tokens: usize, finished: bool) -> String {
        text(&mut Random::from_seed(seed), tokens, finished)
    }

    #[test]
    fn the_number_of_words_is_exact() {
        for tokens in [0, 1, 2, 17, 100, 10_000] {
            for seed in 0..20 {
                let text = words(seed, tokens, true);
                assert_eq!(text.split_whitespace().count(), tokens, "{text}");
                assert!(tokens == 0 || text.ends_with('.') && !text.ends_with(",."), "{text}");
            }
        }
    }

    #[test]
    fn words_need_no_escape_in_json() {
        let text = words(0, 10_000, true);
        assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\'));
    }

    #[test]
    fn the_same_seed_writes_the_same_text() {
        assert_eq!(words(4, 50, false), words(4, 50, false));
        assert_ne!(words(4, 50, false), words(5, 50, false));
    }
}
