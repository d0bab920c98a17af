//! An estimate of tokens from characters, for models whose vocabulary is not known.

/// Estimates the tokens of a text: about one for four ASCII characters, for two of another alphabet, for one Chinese, Japanese
/// or Korean one; two for an emoji.
pub fn estimate(text: &str) -> usize {
    let quarters: usize = if text.is_ascii() { text.len() } else { text.chars().map(quarters).sum() };
    quarters.div_ceil(4)
}

/// Returns the quarters of a token that a character is.
const fn quarters(c: char) -> usize {
    match c as u32 {
        0..0x80 => 1,
        0x80..0x2E80 => 2,
        0x2E80..0x1_0000 | 0x2_0000..0x4_0000 => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_weigh_by_their_script() {
        for (text, wanted) in
            [("", 0), ("a", 1), ("abcdefgh", 2), ("Привет", 3), ("你好世界", 4), ("한국어", 3), ("🎉", 2)]
        {
            assert_eq!(estimate(text), wanted, "{text}");
        }
    }
}
