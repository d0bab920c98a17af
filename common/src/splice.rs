//! Changes JSON text by cutting and pasting: every byte that need not change stays as it was.
//!
//! Owns the walk over the members of an object, and the setting of some of them. Does not check what it passes over, so the
//! text must have been parsed before, or be parsed by whoever gets it.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

/// The text is no JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is not a JSON object")]
pub struct NotAnObject;

/// A key and where its value stands.
pub type Member<'a> = (Cow<'a, str>, Range<usize>);

/// A replacement of a part of the text; an empty range inserts.
pub type Edit<'a> = (Range<usize>, Cow<'a, str>);

/// Sets top-level members to JSON texts; those that are missing are put in front, in the order given.
///
/// Returns the same bytes, uncopied, where nothing has to change. Of a repeated key every value is set.
///
/// # Errors
///
/// [`NotAnObject`] for any other text.
pub fn set(body: &Bytes, values: &[(&str, &str)]) -> Result<Bytes, NotAnObject> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnObject)?;
    let mut members = Members::new(text)?;
    let mut edits: Vec<Edit<'_>> = Vec::new();
    let mut missing: Vec<&(&str, &str)> = values.iter().collect();
    let mut is_empty = true;
    while let Some((key, place)) = members.next_member()? {
        is_empty = false;
        missing.retain(|(name, _)| *name != key);
        let wanted = values.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        edits.extend(wanted.filter(|value| *value != &text[place.clone()]).map(|value| (place, value.into())));
    }
    edits.extend(insertion(&members, is_empty, missing.into_iter().copied()));
    if edits.is_empty() { Ok(body.clone()) } else { Ok(apply(text, edits)) }
}

/// Returns the edit that puts members in front of all others.
pub fn insertion<'a>(
    members: &Members<'_>,
    is_empty: bool,
    values: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<Edit<'static>> {
    let mut text: String = values.map(|(name, value)| format!("{}:{value},", quoted(name))).collect();
    if is_empty {
        text.pop();
    }
    (!text.is_empty()).then(|| (members.inside..members.inside, text.into()))
}

/// Writes a text as a JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Makes the changed text; the edits must not overlap.
pub fn apply(text: &str, mut edits: Vec<Edit<'_>>) -> Bytes {
    edits.sort_by_key(|(range, _)| range.start);
    let added: usize = edits.iter().map(|(_, with)| with.len()).sum();
    let mut out = String::with_capacity(text.len() + added);
    let mut from = 0;
    for (range, with) in edits {
        out.push_str(&text[from..range.start]);
        out.push_str(&with);
        from = range.end;
    }
    out.push_str(&text[from..]);
    out.into()
}

/// Walks the members of a JSON object without building anything.
#[derive(Debug)]
pub struct Members<'a> {
    text: &'a str,
    at: usize,
    /// The place behind the opening brace.
    pub inside: usize,
    first: bool,
}

impl<'a> Members<'a> {
    /// Starts at the opening brace.
    ///
    /// # Errors
    ///
    /// [`NotAnObject`] where there is none.
    pub fn new(text: &'a str) -> Result<Self, NotAnObject> {
        let mut members = Self { text, at: 0, inside: 0, first: true };
        members.expect(b'{')?;
        members.inside = members.at;
        Ok(members)
    }

    /// Returns the next key and where its value stands; `None` at the closing brace.
    ///
    /// # Errors
    ///
    /// [`NotAnObject`] where the text is no member of an object.
    pub fn next_member(&mut self) -> Result<Option<Member<'a>>, NotAnObject> {
        self.skip_blanks();
        if self.peek() == Some(b'}') {
            return Ok(None);
        }
        if !std::mem::take(&mut self.first) {
            self.expect(b',')?;
            self.skip_blanks();
        }
        let start = self.at;
        self.skip_string()?;
        let key = &self.text[start + 1..self.at - 1];
        let key = if key.contains('\\') {
            serde_json::from_str::<String>(&self.text[start..self.at]).map_err(|_| NotAnObject)?.into()
        } else {
            key.into()
        };
        self.skip_blanks();
        self.expect(b':')?;
        self.skip_blanks();
        let start = self.at;
        self.skip_value()?;
        if self.at == start {
            return Err(NotAnObject);
        }
        Ok(Some((key, start..self.at)))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotAnObject> {
        self.skip_blanks();
        if self.peek() != Some(byte) {
            return Err(NotAnObject);
        }
        self.at += 1;
        Ok(())
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Skips a string by looking for quotes only: most of a request is one long prompt.
    fn skip_string(&mut self) -> Result<(), NotAnObject> {
        if self.peek() != Some(b'"') {
            return Err(NotAnObject);
        }
        let inside = self.at + 1;
        let mut from = inside;
        loop {
            let quote = from + self.text[from..].find('"').ok_or(NotAnObject)?;
            let escapes = self.text.as_bytes()[inside..quote].iter().rev().take_while(|byte| **byte == b'\\').count();
            from = quote + 1;
            if escapes % 2 == 0 {
                self.at = from;
                return Ok(());
            }
        }
    }

    fn skip_value(&mut self) -> Result<(), NotAnObject> {
        let mut depth = 0usize;
        loop {
            match self.peek().ok_or(NotAnObject)? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return Ok(()),
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(body: &str, values: &[(&str, &str)]) -> Result<String, NotAnObject> {
        let bytes = set(&Bytes::copy_from_slice(body.as_bytes()), values)?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn members_are_set_where_they_stand_or_put_in_front() {
        for (body, wanted) in [
            (r#"{"t":0,"x":[1.50]}"#, r#"{"s":[1],"t":0.7,"x":[1.50]}"#),
            (r#" { "s" : "\u0061}" , "in":{"t":1} } "#, r#" {"t":0.7, "s" : [1] , "in":{"t":1} } "#),
            (r#"{"t":1,"s":2,"t":3}"#, r#"{"t":0.7,"s":[1],"t":0.7}"#),
            (r#"{"\u0074":1,"s":[1]}"#, r#"{"\u0074":0.7,"s":[1]}"#),
            ("{ }", r#"{"t":0.7,"s":[1] }"#),
        ] {
            assert_eq!(changed(body, &[("t", "0.7"), ("s", "[1]")]).as_deref(), Ok(wanted), "{body}");
        }
        assert_eq!(changed("[1]", &[("t", "1")]), Err(NotAnObject));
    }

    #[test]
    fn what_is_set_already_is_not_copied() {
        let body = Bytes::from_static(br#"{"t":0.7}"#);
        assert_eq!(set(&body, &[("t", "0.7")]).unwrap().as_ptr(), body.as_ptr());
        assert_eq!(set(&body, &[]).unwrap().as_ptr(), body.as_ptr());
    }
}
