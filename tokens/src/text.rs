//! The tokens of one text.

use std::sync::{LazyLock, OnceLock};

use bpe_openai::Tokenizer;

use crate::Family;
use crate::cache::Cache;

/// Texts whose counts are remembered, over the process: about 400 kB.
const MOST_REMEMBERED: usize = 10_000;
/// Bytes from which on a text's count is remembered: a shorter one is counted nearly as fast as it is found.
const WORTH_REMEMBERING: usize = 512;
/// Bytes of the pieces in which a long text is counted and remembered, at least.
const PIECE: usize = 1024;

static CACHE: LazyLock<Cache> = LazyLock::new(|| Cache::new(MOST_REMEMBERED));
static O200K: OnceLock<&Tokenizer> = OnceLock::new();
static CL100K: OnceLock<&Tokenizer> = OnceLock::new();

/// Counts the tokens of a text, as the model reads it without its control tokens.
///
/// The first call for a family builds its tables, which takes about 0.1 s. Long texts are remembered by pieces, so that texts
/// with a common beginning are counted once up to where they differ.
pub fn count(family: Family, text: &str) -> usize {
    let tokenizer = tokenizer(family);
    let counted = |piece: &str| {
        if piece.len() < WORTH_REMEMBERING {
            return tokenizer.count(piece);
        }
        CACHE.get_or(family, piece, || tokenizer.count(piece))
    };
    pieces(text).map(counted).sum()
}

/// Tells whether a family's tables are built.
pub(crate) fn is_ready(family: Family) -> bool {
    match family {
        Family::O200k => O200K.get().is_some(),
        Family::Cl100k => CL100K.get().is_some(),
    }
}

fn tokenizer(family: Family) -> &'static Tokenizer {
    let (place, build): (_, fn() -> &'static Tokenizer) = match family {
        Family::O200k => (&O200K, bpe_openai::o200k_base),
        Family::Cl100k => (&CL100K, bpe_openai::cl100k_base),
    };
    // The vocabulary is loaded at the latest here, before others see that it is.
    place.get_or_init(build)
}

/// Cuts a text where it does not change the count: behind a line's end, before what is neither space nor a slash. No token
/// goes over such a place, since both vocabularies first split texts by a pattern in which a line's end is followed only by
/// space, and in `o200k_base` by slashes.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = cut(rest)?;
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// Returns where the first piece of a text ends; none of an empty one.
fn cut(text: &str) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    let ends = text.bytes().enumerate().skip(PIECE).filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
    let is_safe = |end: &usize| text[*end..].starts_with(|next: char| !next.is_whitespace() && next != '/');
    Some(ends.into_iter().find(is_safe).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The counts are those of OpenAI's `tiktoken` 0.14.
    #[test]
    fn known_texts_have_known_counts() {
        for (text, cl100k, o200k) in [
            ("", 0, 0),
            ("hello world", 2, 2),
            ("Hello, world!", 4, 4),
            ("tiktoken is great!", 6, 6),
            ("antidisestablishmentarianism", 6, 6),
            ("2 + 2 = 4", 7, 7),
            ("naïve café", 4, 4),
            ("Привет, мир", 6, 4),
            ("你好，世界", 6, 3),
            ("お誕生日おめでとう", 9, 8),
            ("👩\u{200d}👩\u{200d}👧\u{200d}👦🎉", 21, 13),
            ("   \n\n  x", 3, 3),
        ] {
            let counts = (count(Family::Cl100k, text), count(Family::O200k, text));
            assert_eq!(counts, (cl100k, o200k), "{text}");
        }
    }

    #[test]
    fn control_tokens_in_a_text_are_text() {
        assert!(count(Family::O200k, "<|endoftext|>") > 1);
    }

    #[test]
    fn tables_are_ready_once_they_were_used() {
        count(Family::O200k, "a");
        assert!(is_ready(Family::O200k));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn pieces_count_as_the_whole_does(
            words in proptest::collection::vec("[a-zA-Z0-9'éñ你好🎉/.,;:!?(){}\t\u{a0}\u{3000}\u{301} \r\n]{0,12}|\r?\n[/ ]?|\n\n|\\PC{0,4}", 0..800),
        ) {
            let text = words.concat();
            prop_assert_eq!(pieces(&text).collect::<String>(), text.as_str());
            for family in [Family::O200k, Family::Cl100k] {
                prop_assert_eq!(count(family, &text), tokenizer(family).count(text.as_str()));
            }
        }
    }
}
