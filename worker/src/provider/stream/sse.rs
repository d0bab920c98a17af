//! Server-sent events: bytes in, events out.
//!
//! After <https://html.spec.whatwg.org/multipage/server-sent-events.html>, read 2026-11, with one leniency: an event at the end
//! of the stream counts without the blank line behind it, since some servers leave that out.

use std::borrow::Cow;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Event<'a> {
    /// The value of its `event` field; empty where it has none.
    pub(in super::super) name: &'a str,
    /// Its `data` lines, joined by line feeds.
    pub(in super::super) data: &'a str,
    /// Whether the stream ended within it: there was no blank line behind.
    pub(in super::super) is_unended: bool,
    /// Whether it is text: bytes that are no UTF-8 are replaced in what is here.
    pub(in super::super) is_text: bool,
}

/// Reads events from chunks that may be cut anywhere, inside a character too.
#[derive(Debug, Default)]
pub(in super::super) struct Parser {
    line: Vec<u8>,
    name: String,
    data: String,
    has_data: bool,
    is_damaged: bool,
    /// The last byte was a carriage return: a line feed behind it belongs to the same line end.
    after_return: bool,
    began: bool,
}

impl Parser {
    /// Reads a chunk; `take` gets each event that it completes, and ends the reading by returning `false`.
    ///
    /// Returns whether reading goes on.
    pub(in super::super) fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(Event<'_>) -> bool) -> bool {
        if self.after_return && bytes.first() == Some(&b'\n') {
            bytes = &bytes[1..];
        }
        if !bytes.is_empty() {
            self.after_return = false;
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.line.extend_from_slice(&bytes[..end]);
            let returned = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if returned {
                match bytes.first() {
                    Some(b'\n') => bytes = &bytes[1..],
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            if self.end_line() && !self.dispatch(&mut take, false) {
                return false;
            }
        }
        self.line.extend_from_slice(bytes);
        true
    }

    /// Reads the end of the stream: what stands there without a line end or a blank line behind it.
    pub(in super::super) fn finish(mut self, mut take: impl FnMut(Event<'_>) -> bool) {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.dispatch(&mut take, true);
    }

    /// Reads the line that is complete; tells whether it was blank.
    fn end_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let mut bytes = &line[..];
        if !std::mem::replace(&mut self.began, true) {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        if bytes.is_empty() {
            self.line = cleared(line);
            return true;
        }
        let text = String::from_utf8_lossy(bytes);
        self.is_damaged |= matches!(text, Cow::Owned(_));
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "event" => {
                self.name.clear();
                self.name.push_str(value);
            }
            // A comment has no field name; `id` and `retry` are for clients that connect again.
            _ => {}
        }
        drop(text);
        self.line = cleared(line);
        false
    }

    fn dispatch(&mut self, take: &mut impl FnMut(Event<'_>) -> bool, is_unended: bool) -> bool {
        let goes_on =
            !self.has_data || take(Event { name: &self.name, data: &self.data, is_unended, is_text: !self.is_damaged });
        self.name.clear();
        self.data.clear();
        self.has_data = false;
        self.is_damaged = false;
        goes_on
    }
}

fn cleared(mut line: Vec<u8>) -> Vec<u8> {
    line.clear();
    line
}

/// Tells whether a body begins as a stream does, with a field or a comment; `None` if that is not seen yet.
///
/// No JSON and no page begins so. Blank lines may stand before either: they keep connections alive.
pub(in super::super) fn begins_as_stream(head: &[u8]) -> Option<bool> {
    const BEGINNINGS: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let head = head.strip_prefix(MARK).unwrap_or(head).trim_ascii_start();
    if BEGINNINGS.iter().any(|beginning| head.starts_with(beginning)) {
        return Some(true);
    }
    let may_go_on = MARK.starts_with(head) || BEGINNINGS.iter().any(|beginning| beginning.starts_with(head));
    (!may_go_on).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(chunks: &[&[u8]]) -> Vec<(String, String)> {
        let mut seen = Vec::new();
        let mut parser = Parser::default();
        let mut take = |event: Event<'_>| {
            seen.push((event.name.to_owned(), event.data.to_owned()));
            true
        };
        for chunk in chunks {
            assert!(parser.feed(chunk, &mut take));
        }
        parser.finish(take);
        seen
    }

    fn data(text: &str) -> Vec<String> {
        events(&[text.as_bytes()]).into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn events_end_with_a_blank_line_or_the_stream() {
        assert_eq!(data("data: a\n\ndata: b\n\n"), ["a", "b"]);
        assert_eq!(data("data: a\r\n\r\ndata:b\r\rdata: c"), ["a", "b", "c"]);
        assert_eq!(data("data: a\ndata:\ndata:  b\n\n"), ["a\n\n b"]);
        assert_eq!(data(": keep-alive\n\n: again\n\ndata: a\n\n"), ["a"]);
        assert_eq!(data("id: 1\nretry: 5\nnothing\n\n"), [""; 0]);
        assert_eq!(data("data\n\n"), [""]);
        assert_eq!(data("\u{feff}data: a\n\n"), ["a"]);
        assert_eq!(
            events(&[b"event: x\ndata: 1\n\ndata: 2\n\n"]),
            [("x".into(), "1".into()), (String::new(), "2".into())]
        );
    }

    #[test]
    fn whoever_has_enough_gets_no_more() {
        let mut parser = Parser::default();
        let mut seen = 0;
        assert!(!parser.feed(b"data: 1\n\ndata: 2\n\n", |_| {
            seen += 1;
            false
        }));
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_stream_is_known_by_its_first_bytes() {
        for stream in
            ["data: {}\n\n", "event: x", ": keep-alive", "id: 1", "retry:1", "\u{feff}data:", "\r\n\ndata: {}"]
        {
            assert_eq!(begins_as_stream(stream.as_bytes()), Some(true), "{stream:?}");
        }
        for other in ["{\"data\": 1}", "[", "\n{", "<html>", "database", "even", "error: x", "\"data:\""] {
            let told = begins_as_stream(other.as_bytes());
            assert_eq!(told, (other != "even").then_some(false), "{other:?}");
        }
        for short in [&b""[..], b"\n\n", b"d", b"data", b"eve", b"\xef\xbb"] {
            assert_eq!(begins_as_stream(short), None, "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            lines in proptest::collection::vec("(data: [a-zé☃\u{1f600}]{0,6}|event: [a-z]{1,4}|: c|)", 0..12),
            end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text: String = lines.iter().map(|line| format!("{line}{end}")).collect();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let chunks: Vec<&[u8]> = places.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(events(&chunks), events(&[text.as_bytes()]));
        }
    }
}
