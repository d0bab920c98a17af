//! What every broker does with output as it comes: it is heard, or lost, and holds up nobody.

use std::time::Duration;

use bytes::Bytes;
use gristmill_common::broker::{Broker, Pieces};
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::job::{Priority, StreamId};
use tokio::time::timeout;

use super::{SILENCE, Scene, lane, numbered, publish, take, until, within};

/// Pieces that are far more than anybody keeps.
const FLOOD: usize = 30_000;
/// Most that may be kept for a listener who does not listen, whatever the back end.
const MOST_KEPT: usize = 12_000;

/// Makes the name of a stream.
pub fn stream() -> StreamId {
    StreamId::random(SystemClock.now())
}

/// Waits for the next piece.
pub async fn heard(pieces: &mut Box<dyn Pieces>) -> Bytes {
    within("waiting for a piece", pieces.next()).await.expect("the listening goes on")
}

/// Tells a piece until it is heard, as what is told may be lost; returns how many others were heard before.
pub async fn tell_until_heard(
    broker: &dyn Broker,
    stream: StreamId,
    pieces: &mut Box<dyn Pieces>,
    last: &Bytes,
) -> usize {
    let mut others = 0;
    until("a piece is heard", async || {
        broker.tell(stream, last.clone());
        while let Ok(piece) = timeout(Duration::from_millis(50), pieces.next()).await {
            if piece.expect("the listening goes on") == *last {
                return true;
            }
            others += 1;
        }
        false
    })
    .await;
    others
}

/// Hears all pieces of a moderate output, as they were told.
pub async fn pieces_are_heard_in_the_order_in_which_they_are_told(scene: Scene) {
    let broker = scene.open().await;
    let stream = stream();
    let mut pieces = broker.listen(stream).await.unwrap();
    let mut told = numbered("piece", 500);
    told.push(Bytes::from(vec![0; 200_000]));
    told.push(Bytes::new());
    for piece in &told {
        broker.tell(stream, piece.clone());
    }
    for piece in &told {
        let heard = heard(&mut pieces).await;
        assert!(heard == *piece, "{} bytes came as {}", piece.len(), heard.len());
    }
    assert!(timeout(SILENCE, pieces.next()).await.is_err(), "nothing is heard twice");
    broker.shutdown().await;
}

/// Keeps streams apart; drops what nobody listens to, whatever comes of it.
pub async fn streams_do_not_mix_and_one_that_nobody_hears_harms_nobody(scene: Scene) {
    let broker = scene.alpha().await;
    let (one, other, deaf) = (stream(), stream(), stream());
    let mut first = broker.listen(one).await.unwrap();
    let mut second = broker.listen(other).await.unwrap();
    for n in 0..200 {
        broker.tell(one, Bytes::from(format!("one {n}")));
        broker.tell(deaf, Bytes::from_static(b"to nobody"));
        broker.tell(other, Bytes::from(format!("other {n}")));
    }
    for n in 0..200 {
        assert_eq!(heard(&mut second).await, format!("other {n}"));
        assert_eq!(heard(&mut first).await, format!("one {n}"));
    }
    let high = lane("alpha", Priority::High, 0);
    publish(&*broker, &high, &numbered("m", 3)).await;
    let mut consumer = broker.consume("alpha", 5).await.unwrap();
    assert_eq!(take(&mut consumer, 3).await, numbered("m", 3));
    broker.shutdown().await;
}

/// Goes on telling others, and working, while one listener takes nothing; what is kept for that one is bounded and in order.
pub async fn a_listener_that_is_slow_or_gone_holds_nobody_up_and_keeps_little(scene: Scene) {
    let broker = scene.alpha().await;
    let (slow, quick) = (stream(), stream());
    let mut slow_pieces = broker.listen(slow).await.unwrap();
    let mut quick_pieces = broker.listen(quick).await.unwrap();
    let high = lane("alpha", Priority::High, 0);
    let mut consumer = broker.consume("alpha", 5).await.unwrap();
    for n in 0..FLOOD {
        broker.tell(slow, Bytes::from(n.to_string()));
        if n % 500 == 0 {
            // Work goes its way meanwhile, and leaves the pieces the time to go theirs.
            publish(&*broker, &high, &numbered("m", 1)).await;
            take(&mut consumer, 1).await;
        }
    }
    tell_until_heard(&*broker, quick, &mut quick_pieces, &Bytes::from_static(b"still here")).await;

    let number = |piece: &Bytes| std::str::from_utf8(piece).unwrap().parse::<usize>().unwrap();
    let mut kept = vec![number(&heard(&mut slow_pieces).await)];
    while let Ok(piece) = timeout(SILENCE, slow_pieces.next()).await {
        kept.push(number(&piece.expect("the listening goes on")));
    }
    assert!(kept.len() <= MOST_KEPT, "{} of {FLOOD} were kept", kept.len());
    assert!(kept.is_sorted_by(|one, next| one < next), "what is heard is in order");
    tell_until_heard(&*broker, slow, &mut slow_pieces, &Bytes::from_static(b"again")).await;

    drop(slow_pieces);
    for n in 0..FLOOD {
        broker.tell(slow, Bytes::from(n.to_string()));
    }
    tell_until_heard(&*broker, quick, &mut quick_pieces, &Bytes::from_static(b"as before")).await;
    // A stream may be listened to again.
    let mut again = broker.listen(slow).await.unwrap();
    tell_until_heard(&*broker, slow, &mut again, &Bytes::from_static(b"anew")).await;
    broker.shutdown().await;
}

/// Loses no piece when the waiting for it is given up.
pub async fn waiting_for_a_piece_is_cancel_safe(scene: Scene) {
    let broker = scene.open().await;
    let stream = stream();
    let mut pieces = broker.listen(stream).await.unwrap();
    let mut seen = Vec::new();
    for n in 0..100 {
        broker.tell(stream, Bytes::from(format!("piece {n}")));
        // Given up again and again, at any moment.
        if let Ok(Some(piece)) = timeout(Duration::from_micros(n * 20), pieces.next()).await {
            seen.push(piece);
        }
    }
    while seen.len() < 100 {
        seen.push(heard(&mut pieces).await);
    }
    assert_eq!(seen, numbered("piece", 100));
    broker.shutdown().await;
}

/// Ends the listening at the shutdown; telling is then in vain, and nothing else.
pub async fn shutdown_ends_the_listening(scene: Scene) {
    let broker = scene.open().await;
    let stream = stream();
    let mut pieces = broker.listen(stream).await.unwrap();
    tell_until_heard(&*broker, stream, &mut pieces, &Bytes::from_static(b"piece")).await;
    let ending = async { while pieces.next().await.is_some() {} };
    within("the listening ends", async { tokio::join!(ending, broker.shutdown()) }).await;
    assert!(within("it has ended", pieces.next()).await.is_none());
    broker.tell(stream, Bytes::from_static(b"too late"));
    assert!(broker.listen(stream).await.is_err());
}
