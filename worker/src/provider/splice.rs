//! Fits a request's JSON text to its deployment by cutting and pasting: every byte that need not change stays as it was.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

/// The text is no JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAnObject;

/// A key and where its value stands.
type Member<'a> = (Cow<'a, str>, Range<usize>);

/// A replacement of a part of the text; an empty range inserts.
type Edit<'a> = (Range<usize>, Cow<'a, str>);

/// Sets the top-level `model` and `service_tier`, and turns streaming off.
///
/// Returns the same bytes, uncopied, where nothing has to change. With `"stream": true` come `stream_options`, which
/// providers refuse without it: they become `null`. Nested keys are never touched; of a repeated key every value is set.
pub(super) fn fit(body: &Bytes, model: &str, service_tier: Option<&str>) -> Result<Bytes, NotAnObject> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnObject)?;
    let mut members = Members::new(text)?;
    let mut edits: Vec<Edit<'_>> = Vec::new();
    let (mut has_model, mut has_tier, mut streams, mut is_empty) = (false, false, false, true);
    let mut stream_options = None;
    while let Some((key, value)) = members.next()? {
        is_empty = false;
        match &*key {
            "model" => {
                has_model = true;
                edits.extend(set(text, value, model));
            }
            "service_tier" => {
                has_tier = true;
                edits.extend(service_tier.and_then(|tier| set(text, value, tier)));
            }
            "stream" if &text[value.clone()] == "true" => {
                streams = true;
                edits.push((value, "false".into()));
            }
            "stream_options" => stream_options = Some(value),
            _ => {}
        }
    }
    if streams {
        edits.extend(stream_options.map(|value| (value, "null".into())));
    }
    let mut missing = String::new();
    for (name, value) in [
        (!has_model).then_some(("model", model)),
        service_tier.filter(|_| !has_tier).map(|tier| ("service_tier", tier)),
    ]
    .into_iter()
    .flatten()
    {
        missing.push_str(&format!("{}:{},", quoted(name), quoted(value)));
    }
    if !missing.is_empty() {
        if is_empty {
            missing.pop();
        }
        edits.push((members.inside..members.inside, missing.into()));
    }
    if edits.is_empty() { Ok(body.clone()) } else { Ok(apply(text, edits)) }
}

/// Returns the edit that makes a value the string `wanted`, unless it is that already.
fn set<'a>(text: &str, value: Range<usize>, wanted: &str) -> Option<Edit<'a>> {
    let written = &text[value.clone()];
    let is_same = match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) if inside.contains('\\') => {
            serde_json::from_str::<String>(written).is_ok_and(|text| text == wanted)
        }
        Some(inside) => inside == wanted,
        None => false,
    };
    (!is_same).then(|| (value, quoted(wanted).into()))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn apply(text: &str, mut edits: Vec<Edit<'_>>) -> Bytes {
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
struct Members<'a> {
    text: &'a str,
    at: usize,
    /// The place behind the opening brace.
    inside: usize,
    first: bool,
}

impl<'a> Members<'a> {
    fn new(text: &'a str) -> Result<Self, NotAnObject> {
        let mut members = Self { text, at: 0, inside: 0, first: true };
        members.expect(b'{')?;
        members.inside = members.at;
        Ok(members)
    }

    /// Returns the next key and where its value stands.
    fn next(&mut self) -> Result<Option<Member<'a>>, NotAnObject> {
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
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn fitted(body: &str, model: &str, tier: Option<&str>) -> Result<String, NotAnObject> {
        fit(&Bytes::copy_from_slice(body.as_bytes()), model, tier)
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn only_what_must_change_changes() {
        for (body, wanted) in [
            (r#"{"model":"m","x":1}"#, r#"{"model":"m","x":1}"#),
            (r#"{"model":"old","x":1}"#, r#"{"model":"m","x":1}"#),
            (
                r#" { "x" : [ {"model":"in"} ] , "model" : "old" } "#,
                r#" { "x" : [ {"model":"in"} ] , "model" : "m" } "#,
            ),
            (r#"{"x":1}"#, r#"{"model":"m","x":1}"#),
            (r#"{ }"#, r#"{"model":"m" }"#),
            (r#"{"model":null}"#, r#"{"model":"m"}"#),
            (r#"{"model":"a","model":"b"}"#, r#"{"model":"m","model":"m"}"#),
            (r#"{"mod\u0065l":"a"}"#, r#"{"mod\u0065l":"m"}"#),
            (r#"{"model":"\u006d"}"#, r#"{"model":"\u006d"}"#),
            (r#"{"model":"m","s":"\"model\":\"no\" \\"}"#, r#"{"model":"m","s":"\"model\":\"no\" \\"}"#),
            (r#"{"model":"m","stream":true}"#, r#"{"model":"m","stream":false}"#),
            (
                r#"{"model":"m","stream":false,"stream_options":{}}"#,
                r#"{"model":"m","stream":false,"stream_options":{}}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
                r#"{"stream_options":null,"model":"m","stream":false}"#,
            ),
        ] {
            assert_eq!(fitted(body, "m", None).as_deref(), Ok(wanted), "{body}");
        }
    }

    #[test]
    fn the_service_tier_is_set_where_one_is_asked_for() {
        for (body, wanted) in [
            (r#"{"model":"m"}"#, r#"{"service_tier":"flex","model":"m"}"#),
            (r#"{"model":"m","service_tier":"auto"}"#, r#"{"model":"m","service_tier":"flex"}"#),
            ("{}", r#"{"model":"m","service_tier":"flex"}"#),
        ] {
            assert_eq!(fitted(body, "m", Some("flex")).as_deref(), Ok(wanted), "{body}");
        }
        assert_eq!(
            fitted(r#"{"model":"m","service_tier":"auto"}"#, "m", None).as_deref(),
            Ok(r#"{"model":"m","service_tier":"auto"}"#)
        );
    }

    #[test]
    fn bytes_that_need_no_change_are_not_copied() {
        let body = Bytes::from_static(br#"{"model":"m","messages":[]}"#);
        assert_eq!(fit(&body, "m", None).unwrap().as_ptr(), body.as_ptr());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in [
            "",
            "[]",
            "\"x\"",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":\"x",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
        ] {
            assert_eq!(fitted(body, "m", None), Err(NotAnObject), "{body}");
        }
        assert_eq!(fit(&Bytes::from_static(b"{\"a\":\"\xff\"}"), "m", None), Err(NotAnObject));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\"\\\\{}\\[\\]:,\u{e9}\u{1f600}\n]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"\\\\ ]{0,6}|model|stream", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    fn text_of(value: &Value, pretty: bool) -> String {
        if pretty { serde_json::to_string_pretty(value).unwrap() } else { value.to_string() }
    }

    proptest! {
        #[test]
        fn everything_but_the_model_stays_byte_for_byte(
            before in proptest::collection::btree_map("[a-l\"\\\\]{0,6}", any_json(), 0..4),
            after in proptest::collection::btree_map("[n-r\"\\\\]{1,6}", any_json(), 0..4),
            old in any_json(),
            new in "[ -~\u{e9}]{1,12}",
            pretty: bool,
            blank in "[ \n\t]{0,3}",
        ) {
            let member = |(key, value): (&String, &Value)| format!("{}{blank}:{blank}{}", json!(key), text_of(value, pretty));
            let join = |map: &std::collections::BTreeMap<String, Value>| map.iter().map(member).collect::<Vec<_>>();
            let mut members = join(&before);
            members.push(format!("\"model\"{blank}:{blank}\u{0}"));
            members.extend(join(&after));
            let template = format!("{blank}{{{blank}{}{blank}}}{blank}", members.join(&format!("{blank},{blank}")));
            let body = template.replacen('\u{0}', &text_of(&old, pretty), 1);
            let wanted = template.replacen('\u{0}', &json!(new).to_string(), 1);
            let out = fitted(&body, &new, None).unwrap();
            if old == json!(new) {
                prop_assert_eq!(&out, &body);
            } else {
                prop_assert_eq!(&out, &wanted);
            }
            prop_assert_eq!(&serde_json::from_str::<Value>(&out).unwrap()["model"], &json!(new));
        }

        #[test]
        fn a_missing_model_is_put_in_and_nothing_else(
            members in proptest::collection::btree_map("[a-l\"\\\\]{0,6}", any_json(), 0..5),
            pretty: bool,
        ) {
            let body = text_of(&json!(members), pretty);
            let out = fitted(&body, "m", None).unwrap();
            let mut wanted = json!(members);
            wanted["model"] = json!("m");
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), wanted);
            let rest = if members.is_empty() { "\"model\":\"m\"" } else { "\"model\":\"m\"," };
            prop_assert_eq!(out.replacen(rest, "", 1), body);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[{}\\[\\]\"\\\\:,a \u{e9}]{0,40}") {
            let _ = fitted(&text, "m", Some("flex"));
        }
    }
}
