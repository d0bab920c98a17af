//! The body of an answer in its final words: one JSON value, or a row of server-sent events.

use serde::Serialize;

/// A body before it is sent.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// Where each event ends; empty for a body that is no stream.
    pub(super) events: Vec<Event>,
}

/// One server-sent event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    /// Its end in the bytes of the body; it starts where the one before ends.
    pub(super) end: usize,
    /// Tokens of output that it carries; 0 for events around the output.
    pub(super) tokens: u64,
}

impl Body {
    /// Writes a whole body.
    pub(super) fn json(value: &impl Serialize) -> Self {
        let mut body = Self { bytes: Vec::with_capacity(1_024), events: Vec::new() };
        body.write(value);
        body
    }

    /// Starts a stream.
    pub(super) fn stream() -> Self {
        Self { bytes: Vec::with_capacity(4_096), events: Vec::with_capacity(32) }
    }

    /// Appends an event without a name.
    pub(super) fn data(&mut self, value: &impl Serialize, tokens: u64) {
        self.bytes.extend_from_slice(b"data: ");
        self.write(value);
        self.finish(tokens);
    }

    /// Appends an event with a name.
    pub(super) fn event(&mut self, name: &str, value: &impl Serialize, tokens: u64) {
        self.bytes.extend_from_slice(b"event: ");
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'\n');
        self.data(value, tokens);
    }

    /// Appends what ends the streams of OpenAI.
    pub(super) fn done(&mut self) {
        self.bytes.extend_from_slice(b"data: [DONE]");
        self.finish(0);
    }

    fn write(&mut self, value: &impl Serialize) {
        serde_json::to_writer(&mut self.bytes, value).expect("a Vec takes every write, and keys are strings");
    }

    fn finish(&mut self, tokens: u64) {
        self.bytes.extend_from_slice(b"\n\n");
        self.events.push(Event { end: self.bytes.len(), tokens });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_written_with_their_ends() {
        let mut body = Body::stream();
        body.data(&json!({ "a": "\u{e9}" }), 1);
        body.event("ping", &json!({}), 0);
        body.done();
        let events = ["data: {\"a\":\"\u{e9}\"}\n\n", "event: ping\ndata: {}\n\n", "data: [DONE]\n\n"];
        assert_eq!(String::from_utf8(body.bytes).unwrap(), events.concat());
        let ends = [(events[0].len(), 1), (events[0].len() + events[1].len(), 0), (events.concat().len(), 0)];
        assert_eq!(body.events, ends.map(|(end, tokens)| Event { end, tokens }));
        assert!(Body::json(&json!([1])).events.is_empty());
    }
}
