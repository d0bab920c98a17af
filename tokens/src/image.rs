//! The tokens of an image, by its size in pixels and its model's rule.
//!
//! OpenAI's rules: <https://developers.openai.com/api/docs/guides/images-vision>; Anthropic's:
//! <https://platform.claude.com/docs/en/build-with-claude/vision>; both read 2026-11.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::family;

/// Tokens of an image or of another file, where the rule or the size is not known.
pub(crate) const USUAL: u64 = 1_000;
/// Pixels of an image of unknown size, either way.
const USUAL_SIDE: u32 = 1_024;
/// Characters of base64 that are read for the size: photographs may have a preview before it.
const MOST_READ: usize = 256 * 1024;

/// How a model counts images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A price for the image, all of it in low detail, and one for each tile of 512 pixels.
    Tiles { base: u64, tile: u64 },
    /// Patches of 32 pixels, `most` of them in an image of at most `side` pixels, and hundredths of a token for each.
    Patches { most: u64, side: u32, hundredths: u64 },
    /// Patches of 28 pixels, a token each, `most` of them in an image of at most `side` pixels.
    Claude { most: u64, side: u32 },
    /// Nothing is known.
    Usual,
}

const GPT_4O: Rule = Rule::Tiles { base: 85, tile: 170 };
const GPT_5: Rule = Rule::Tiles { base: 70, tile: 140 };
const O_SERIES: Rule = Rule::Tiles { base: 75, tile: 150 };

const fn patches(most: u64, hundredths: u64) -> Rule {
    Rule::Patches { most, side: 2048, hundredths }
}

/// The first name that fits counts. Factors of patches differ between sources; these are OpenAI's where it states one, else
/// those of LiteLLM 1.109 (<https://github.com/BerriAI/litellm>).
const RULES: [(&str, Rule); 22] = [
    ("gpt-4o-mini", Rule::Tiles { base: 2833, tile: 5667 }),
    ("gpt-4.1-mini", patches(1536, 162)),
    ("gpt-4.1-nano", patches(1536, 246)),
    ("gpt-5-mini", patches(1536, 162)),
    ("gpt-5-nano", patches(1536, 246)),
    ("gpt-5.1", GPT_5),
    ("gpt-5.2", patches(1536, 120)),
    ("gpt-5.4-mini", patches(2500, 162)),
    ("gpt-5.4-nano", patches(2500, 246)),
    ("gpt-5.4", patches(2500, 120)),
    ("gpt-5.", patches(2500, 120)),
    ("gpt-6", patches(2500, 120)),
    ("gpt-6.", patches(2500, 120)),
    ("gpt-5", GPT_5),
    ("o4-mini", patches(1536, 172)),
    ("o1", O_SERIES),
    ("o3", O_SERIES),
    ("gpt-4o", GPT_4O),
    ("gpt-4.1", GPT_4O),
    ("gpt-4.5", GPT_4O),
    ("chatgpt-4o", GPT_4O),
    ("gpt-4", GPT_4O),
];

impl Rule {
    /// Returns the rule of a provider's model.
    pub(crate) fn of(provider: &str, model: &str) -> Self {
        if provider == "anthropic" || model.contains("claude") {
            return Self::Claude { most: 1568, side: 1568 };
        }
        family::find(provider, model, &RULES).unwrap_or(Self::Usual)
    }

    /// Returns the tokens of an image of so many pixels, if these are known.
    pub(crate) fn tokens(self, size: Option<(u32, u32)>, is_low: bool) -> u64 {
        let (width, height) = size.unwrap_or((USUAL_SIDE, USUAL_SIDE));
        let size = (f64::from(width.max(1)), f64::from(height.max(1)));
        match self {
            Self::Usual => USUAL,
            Self::Tiles { base, .. } if is_low => base,
            Self::Tiles { base, tile } => {
                let (width, height) = within(size, 2048.0);
                let shrink = (768.0 / width.min(height)).min(1.0);
                base + tile * cells((width * shrink, height * shrink), 512.0)
            }
            Self::Patches { most, side, hundredths } => {
                let size = within(size, f64::from(side));
                (patched(size, most) * hundredths).div_ceil(100)
            }
            Self::Claude { most, side } => {
                let (width, height) = within(size, f64::from(side));
                let shrink = (real(most) * 28.0 * 28.0 / (width * height)).sqrt().min(1.0);
                cells((width * shrink, height * shrink), 28.0).min(most)
            }
        }
    }
}

/// Counts patches of 32 pixels; an image that has too many is shrunk so that whole patches fill one of its sides.
fn patched(size: (f64, f64), most: u64) -> u64 {
    let count = cells(size, 32.0);
    if count <= most {
        return count;
    }
    let (width, height) = size;
    let shrink = (32.0 * 32.0 * real(most) / (width * height)).sqrt();
    let (across, down) = (width * shrink / 32.0, height * shrink / 32.0);
    let shrink = shrink * (across.floor() / across).min(down.floor() / down);
    // A hair less would lose a row of patches to the rounding of the square root.
    cells(((width * shrink + 1e-6).floor(), (height * shrink + 1e-6).floor()), 32.0).clamp(1, most)
}

fn within((width, height): (f64, f64), side: f64) -> (f64, f64) {
    let shrink = (side / width.max(height)).min(1.0);
    (width * shrink, height * shrink)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand cells, never below zero")]
fn cells((width, height): (f64, f64), side: f64) -> u64 {
    // What is over by less than a thousandth of a pixel is rounding.
    let along = |length: f64| (((length - 1e-3) / side).ceil().max(1.0)) as u64;
    along(width) * along(height)
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
const fn real(count: u64) -> f64 {
    count as f64
}

/// Reads width and height out of the base64 of a PNG, JPEG, GIF or WebP.
pub(crate) fn size_of(base64: &str) -> Option<(u32, u32)> {
    let length = base64.len().min(MOST_READ) & !3;
    let image = STANDARD.decode(base64.get(..length)?).ok()?;
    let size = match &image[..] {
        [0x89, b'P', b'N', b'G', ..] => (big(&image, 16, 4)?, big(&image, 20, 4)?),
        [b'G', b'I', b'F', ..] => (little(&image, 6, 2)?, little(&image, 8, 2)?),
        [b'R', b'I', b'F', b'F', ..] => webp(&image)?,
        [0xFF, 0xD8, ..] => jpeg(&image)?,
        _ => return None,
    };
    Some(size).filter(|(width, height)| *width > 0 && *height > 0)
}

fn webp(image: &[u8]) -> Option<(u32, u32)> {
    match image.get(12..16)? {
        b"VP8X" => Some((little(image, 24, 3)? + 1, little(image, 27, 3)? + 1)),
        b"VP8L" => {
            let bits = little(image, 21, 4)?;
            Some(((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1))
        }
        b"VP8 " => Some((little(image, 26, 2)? & 0x3FFF, little(image, 28, 2)? & 0x3FFF)),
        _ => None,
    }
}

/// Goes from segment to segment until the frame's own.
fn jpeg(image: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        let marker = big(image, at, 2)?;
        match marker {
            // Any number of these may stand before a marker.
            0xFFFF => at += 1,
            0xFFC0..=0xFFC3 | 0xFFC5..=0xFFC7 | 0xFFC9..=0xFFCB | 0xFFCD..=0xFFCF => {
                return Some((big(image, at + 7, 2)?, big(image, at + 5, 2)?));
            }
            0xFF01 | 0xFFD0..=0xFFD8 => at += 2,
            0xFF00.. => at += 2 + big(image, at + 2, 2)? as usize,
            _ => return None,
        }
    }
}

fn big(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    Some(bytes.get(at..at + length)?.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte)))
}

fn little(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    Some(bytes.get(at..at + length)?.iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_model_counts_images_by_its_rule() {
        for (provider, model, size, is_low, wanted) in [
            ("openai", "gpt-4o", Some((1024, 1024)), false, 765),
            ("openai", "gpt-4o", Some((2048, 4096)), false, 1105),
            ("openai", "gpt-4o", Some((4096, 8192)), true, 85),
            ("openai", "gpt-4o", Some((512, 512)), false, 255),
            ("openai", "gpt-4o", None, false, 765),
            ("openai", "gpt-4o-mini", Some((512, 512)), false, 8_500),
            ("openai", "gpt-5", Some((1024, 1024)), false, 630),
            ("openai", "o3", Some((1024, 1024)), true, 75),
            ("azure", "prod-gpt-4.1-mini", Some((1024, 1024)), false, 1_659),
            ("openai", "gpt-4.1-mini", Some((1800, 2400)), false, 2_353),
            ("openai", "gpt-5.2", Some((320, 320)), false, 120),
            ("anthropic", "claude-sonnet-4-5", Some((1000, 1000)), false, 1_296),
            ("openrouter", "anthropic/claude-opus-4", Some((8000, 8000)), false, 1_568),
            ("groq", "llama-4", Some((10, 10)), true, USUAL),
        ] {
            assert_eq!(Rule::of(provider, model).tokens(size, is_low), wanted, "{model} {size:?}");
        }
    }

    #[test]
    fn sizes_are_read_from_the_first_bytes() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x04\0\0\0\x03\0\x08\x02\0\0\0".to_vec();
        let gif = b"GIF89a\x40\x01\xf0\0\0\0".to_vec();
        let mut jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0".to_vec();
        jpeg.extend(b"\xff\xff\xc2\0\x11\x08\x02\x58\x03\x20\x03\0\0\0\0\0\0\0");
        let webp = |chunk: &[u8]| [b"RIFF\0\0\0\0WEBP".as_slice(), chunk].concat();
        for (image, wanted) in [
            (png, (1024, 768)),
            (gif, (320, 240)),
            (jpeg, (800, 600)),
            (webp(b"VP8X\x0a\0\0\0\0\0\0\0\x1f\x03\0\x57\x02\0"), (800, 600)),
            (webp(b"VP8L\0\0\0\0\x2f\x1f\xc3\x95\0\0\0"), (800, 600)),
            (webp(b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x20\x03\x58\x02"), (800, 600)),
        ] {
            assert_eq!(size_of(&STANDARD.encode(&image)), Some(wanted), "{image:?}");
        }
        assert_eq!(size_of("bm8gaW1hZ2UgYXQgYWxs"), None);
        assert_eq!(size_of("é"), None);
    }

    proptest! {
        #[test]
        fn no_image_is_free_or_beyond_its_bound(width in any::<u32>(), height in any::<u32>(), is_low in any::<bool>()) {
            for (_, rule) in RULES.iter().chain(&[("", Rule::of("anthropic", "")), ("", Rule::Usual)]) {
                let tokens = rule.tokens(Some((width, height)), is_low);
                prop_assert!((1..60_000).contains(&tokens), "{rule:?} {tokens}");
            }
        }

        #[test]
        fn no_bytes_are_a_panic(mut image in proptest::collection::vec(any::<u8>(), 0..64), kind in 0..5) {
            let kind: &[u8] =
                [b"\x89PNG".as_slice(), b"\xff\xd8", b"GIF", b"RIFF\0\0\0\0WEBPVP8L", b""][usize::try_from(kind).unwrap()];
            image.splice(..0, kind.iter().copied());
            let _ = size_of(&STANDARD.encode(&image));
        }
    }
}
