//! Embeddings: unit vectors, as numbers or as base64.

use serde::{Serialize, Serializer};

use super::random::Random;

/// A vector as it is written: a JSON array, or a string of little-endian single precision in base64.
#[derive(Debug)]
pub(super) struct Written<'a> {
    pub(super) vector: &'a [f32],
    pub(super) as_base64: bool,
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.as_base64 {
            return serializer.collect_seq(self.vector);
        }
        let bytes: Vec<u8> = self.vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        serializer.serialize_str(&base64(&bytes))
    }
}

/// Draws a vector of length one; its values have about six decimals.
#[expect(clippy::cast_possible_truncation, reason = "embeddings are single precision on the wire")]
pub(super) fn unit_vector(random: &mut Random, dimensions: u64) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..dimensions).map(|_| random.unit() as f32 - 0.5).collect();
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        // Fewer digits make a body of realistic size.
        vector.iter_mut().for_each(|value| *value = (*value / length * 1e6).round() / 1e6);
    }
    vector
}

/// Encodes bytes as standard base64 with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit > group.len() { '=' } else { char::from(ALPHABET[index as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
