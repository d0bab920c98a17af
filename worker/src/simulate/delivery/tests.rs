use super::*;
use crate::simulate::body::Event;
use crate::simulate::fault::StatusFault;

const TOKEN: Duration = Duration::from_millis(10);

/// A stream with an opening, three pieces of output and an ending, one letter each.
fn stream() -> Body {
    let events = [0, 4, 4, 1, 0].into_iter().zip(1..).map(|(tokens, end)| Event { end, tokens });
    Body { bytes: b"oabce".to_vec(), events: events.collect() }
}

fn whole() -> Body {
    Body { bytes: b"{1234}".to_vec(), events: Vec::new() }
}

fn late(body: Body, mishap: Mishap, after: u32, token: Duration) -> Delivery {
    Delivery::late(body, &LateFault { mishap, after, token: None }, token, b":", |sent| format!("E{sent}").into_bytes())
}

fn send(text: &'static str) -> Step {
    Step::Send(Bytes::from_static(text.as_bytes()))
}

fn pause(ms: u64) -> Step {
    Step::Pause(Duration::from_millis(ms))
}

#[test]
fn without_a_pace_a_stream_goes_at_once() {
    let delivery = Delivery::plain(stream(), Duration::ZERO);
    assert_eq!((delivery.steps, delivery.promised), (vec![send("oabce")], None));
    let delivery = Delivery::plain(whole(), TOKEN);
    assert_eq!((delivery.steps, delivery.promised), (vec![send("{1234}")], Some(6)));
}

#[test]
fn every_piece_waits_for_its_tokens() {
    let steps = Delivery::plain(stream(), TOKEN).steps;
    assert_eq!(steps, [send("o"), pause(40), send("a"), pause(40), send("b"), pause(10), send("ce")]);
}

#[test]
fn a_stream_stops_behind_pieces_of_output() {
    let cut = |after, how| late(stream(), Mishap::Cut { how }, after, Duration::ZERO);
    for (after, sent, tokens) in [(0, None, 0), (1, Some("oa"), 4), (2, Some("oab"), 8), (9, Some("oabc"), 9)] {
        let delivery = cut(after, Ending::Close);
        assert_eq!(delivery.steps, sent.map(send).into_iter().chain([Step::Cut]).collect::<Vec<_>>());
        assert_eq!((delivery.tokens, delivery.promised, delivery.resets), (Some(tokens), None, false));
    }
    assert_eq!(cut(2, Ending::End).steps, [send("oab")]);
    assert!(cut(2, Ending::Reset).resets);
    let empty = Body { bytes: b"oe".to_vec(), events: vec![Event { end: 1, tokens: 0 }, Event { end: 2, tokens: 0 }] };
    assert_eq!(late(empty, Mishap::Cut { how: Ending::End }, 2, TOKEN).steps, [send("o")]);
}

#[test]
fn an_error_follows_what_was_sent() {
    let error = || Mishap::Error(StatusFault { status: 500, code: None, retry_after: None });
    assert_eq!(late(stream(), error(), 2, Duration::ZERO).steps, [send("oab"), send("E3")]);
    let whole = late(whole(), error(), 2, Duration::ZERO);
    assert_eq!((whole.steps, whole.promised, whole.tokens), (vec![send("E0")], Some(2), Some(0)));
}

#[test]
fn a_stall_lasts_or_ends() {
    let stall = |body, resumes_after| late(body, Mishap::Stall { resumes_after }, 1, Duration::ZERO);
    let pause_for = Some(Duration::from_millis(7));
    assert_eq!(stall(stream(), None).steps, [send("oa"), Step::Hang]);
    assert_eq!(stall(stream(), pause_for).steps, [send("oa"), pause(7), send("bce")]);
    let hung = stall(whole(), None);
    assert_eq!((hung.steps, hung.promised), (vec![send("{12"), Step::Hang], Some(6)));
    assert_eq!(stall(whole(), pause_for).steps, [send("{12"), pause(7), send("34}")]);
}

#[test]
fn signs_of_life_come_first() {
    let every = Duration::from_millis(3);
    let alive = |body, count| late(body, Mishap::KeepAlive { count, every }, 2, Duration::ZERO);
    assert_eq!(alive(stream(), Some(2)).steps, [send(":"), pause(3), send(":"), pause(3), send("oabce")]);
    let whole = alive(whole(), Some(1));
    assert_eq!((whole.steps, whole.promised), (vec![send("\n"), pause(3), send("{1234}")], None));
    assert_eq!(alive(stream(), None).steps[0], Step::Repeat(Bytes::from_static(b":"), every));
}
