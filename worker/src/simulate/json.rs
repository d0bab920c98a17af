//! A writer of JSON text into one buffer, for answers whose shape is known when the code is written.

/// The buffer. What is written raw must already be JSON.
#[derive(Debug)]
pub(super) struct Json(Vec<u8>);

impl Json {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Appends text as it is.
    pub(super) fn raw(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Appends a number in decimal.
    pub(super) fn number(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b"0123456789"[usize::try_from(number % 10).unwrap_or_default()];
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[first..]);
        self
    }

    /// Appends a number as 16 hexadecimal digits.
    pub(super) fn hex(&mut self, number: u64) -> &mut Self {
        for byte in number.to_be_bytes() {
            for digit in [byte >> 4, byte & 15] {
                self.0.push(b"0123456789abcdef"[usize::from(digit)]);
            }
        }
        self
    }

    /// Appends a fraction with six decimals.
    pub(super) fn fraction(&mut self, fraction: f32) -> &mut Self {
        self.raw(&format!("{fraction:.6}"))
    }

    /// Appends a string with its quotes, escaped.
    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        serde_json::to_writer(&mut self.0, text).expect("a Vec takes every write, and every str is JSON");
        self
    }

    /// Drops a last byte that is one of these.
    pub(super) fn trim_end(&mut self, bytes: &[u8]) {
        if self.0.last().is_some_and(|last| bytes.contains(last)) {
            self.0.pop();
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_json() {
        let mut json = Json::with_capacity(0);
        json.raw("[").number(0).raw(",").number(u64::MAX).raw(",").string("a\"\n\u{e9}").raw(",");
        json.fraction(-0.5).raw(",\"").hex(0xab).raw("\"]");
        let text = String::from_utf8(json.into_bytes()).unwrap();
        assert_eq!(text, "[0,18446744073709551615,\"a\\\"\\n\u{e9}\",-0.500000,\"00000000000000ab\"]");
    }
}
