//! The header that carries a message's span.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::trace::Traceparent;

/// Writes the headers of a message that comes from a span.
pub(super) fn traceparent(span: Traceparent) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(Traceparent::HEADER.into(), AMQPValue::LongString(span.to_string().into()));
    headers
}

/// Returns the span that a message says it comes from; what is no span is passed over.
pub(super) fn told_traceparent(properties: &BasicProperties) -> Option<Traceparent> {
    match properties.headers().as_ref()?.inner().get(Traceparent::HEADER)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.parse().ok(),
        AMQPValue::ShortString(text) => text.as_str().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::id::{BatchId, JobId};

    #[test]
    fn what_is_written_is_read_and_what_is_no_span_is_passed_over() {
        let span = Traceparent::of(JobId::derive(BatchId::new(SystemClock.now()), 0), true);
        let with = |headers| BasicProperties::default().with_headers(headers);
        assert_eq!(told_traceparent(&with(traceparent(span))), Some(span));
        assert_eq!(told_traceparent(&BasicProperties::default()), None);
        for value in [
            AMQPValue::LongString("00-nonsense".into()),
            AMQPValue::LongString(vec![0xff; 55].into()),
            AMQPValue::LongUInt(7),
        ] {
            let mut headers = FieldTable::default();
            headers.insert(Traceparent::HEADER.into(), value);
            assert_eq!(told_traceparent(&with(headers)), None);
        }
    }
}
