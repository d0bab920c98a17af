//! A span as plain data.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::parent::{SpanId, TraceId};

/// Something that was done, from when to when.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The trace that it belongs to.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// What it was done for; a trace begins with a span that has none.
    pub parent: Option<SpanId>,
    /// What it is.
    pub kind: Kind,
    /// What is shown first: few names, however many spans.
    pub name: Cow<'static, str>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
    /// What else is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// The class of the error with which it ended, if it did.
    pub error: Option<String>,
}

/// What a span is to the process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It enqueued; its parent is this or another process's.
    Producer,
    /// It took from a queue; its parent is another process's.
    Consumer,
    /// It called; its parent is this process's.
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}
