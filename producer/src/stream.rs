//! A job's output as it comes, and its row at the end.
//!
//! Output is heard while it is made and may be lost on its way; the row never is. Whoever stops listening, or is slow, holds up
//! nobody.

use std::fmt;

use futures_util::StreamExt as _;
use gristmill_common::broker::Pieces;
use gristmill_common::id::{BatchId, OwnerId};
use gristmill_common::job::{JobOptions, StreamId};
use gristmill_common::outcome::ResultRow;
use gristmill_common::piece::{Content, Piece};
use gristmill_common::store::Cursor;

use crate::error::{Error, Result};
use crate::submit::{BatchSpec, Control, NewJob};
use crate::{Producer, Subscription};

/// What is heard of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Another call began: what was heard before is void.
    Reset {
        /// Which call of the run it is, from 1; the same again where a worker died within it.
        attempt: u32,
    },
    /// Text of the answer.
    Text(String),
    /// Text that the model thinks.
    Reasoning(String),
    /// Something was lost here; the row has all of it.
    Gap,
}

/// Which call a piece belongs to: a number may be that of several, if workers died.
type Call = (u32, OwnerId);

/// Listens to one job's output.
#[derive(Debug)]
pub struct Listening {
    pieces: Box<dyn Pieces>,
    /// The call that is heard, and the place of its next piece.
    current: Option<(Call, u64)>,
    /// Calls of the same attempt that were heard before: their workers died, or lost them.
    past: Vec<Call>,
    waiting: Option<Heard>,
    behind: Option<Heard>,
}

impl Listening {
    pub(crate) const fn new(pieces: Box<dyn Pieces>) -> Self {
        Self { pieces, current: None, past: Vec::new(), waiting: None, behind: None }
    }

    /// Waits for what comes next; `None` when no more can come, as after the loss of the broker. Cancel safe.
    pub async fn next(&mut self) -> Option<Heard> {
        if let Some(heard) = self.waiting.take() {
            return Some(heard);
        }
        if let Some(heard) = self.behind.take() {
            return Some(heard);
        }
        loop {
            let bytes = self.pieces.next().await?;
            // What a later version tells is passed over.
            let Some(piece) = Piece::read(&bytes) else { continue };
            if let Some(heard) = self.hear(piece) {
                return Some(heard);
            }
        }
    }

    fn hear(&mut self, piece: Piece) -> Option<Heard> {
        let content = match piece.content {
            Content::Text(text) => Some(Heard::Text(text)),
            Content::Reasoning(text) => Some(Heard::Reasoning(text)),
            Content::Other => None,
        };
        let call = (piece.attempt, piece.worker);
        let (current, next) = self.current.unwrap_or((call, 0));
        let is_new = call != current;
        // A call that another worker still speaks of is past, and so is what came already.
        if is_new && (piece.attempt < current.0 || self.past.contains(&call)) || !is_new && piece.seq < next {
            return None;
        }
        if is_new {
            self.past.push(current);
            self.past.retain(|(attempt, _)| *attempt == piece.attempt);
        }
        self.current = Some((call, piece.seq + 1));
        let mut heard = Vec::with_capacity(3);
        if is_new {
            heard.push(Heard::Reset { attempt: piece.attempt });
        }
        if piece.seq > if is_new { 0 } else { next } {
            heard.push(Heard::Gap);
        }
        heard.extend(content);
        let mut heard = heard.into_iter();
        let first = heard.next();
        self.waiting = heard.next();
        self.behind = heard.next();
        first
    }
}

/// What a streamed job says.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Output, as it comes.
    Heard(Heard),
    /// The job's row; nothing comes behind it.
    Ended(Box<ResultRow>),
}

/// One job that is heard while it runs.
pub struct Streamed {
    batch: BatchId,
    listening: Option<Listening>,
    rows: Subscription,
    has_ended: bool,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl Streamed {
    /// Returns the job's batch, for example to cancel it.
    pub const fn batch(&self) -> BatchId {
        self.batch
    }

    /// Waits for what comes next; `None` behind the row, or when the submission's `stop` has fired. Cancel safe.
    ///
    /// # Errors
    ///
    /// What the store refuses for good; an unreachable store is waited for.
    pub async fn next(&mut self) -> Result<Option<Output>> {
        if self.has_ended {
            return Ok(None);
        }
        loop {
            let hear = async {
                match &mut self.listening {
                    Some(listening) => listening.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                heard = hear => match heard {
                    Some(heard) => return Ok(Some(Output::Heard(heard))),
                    None => self.listening = None,
                },
                page = self.rows.next_page() => {
                    self.has_ended = true;
                    let row = page?.and_then(|page| page.rows.into_iter().next());
                    return Ok(row.map(|row| Output::Ended(Box::new(row))));
                }
            }
        }
    }
}

impl Producer {
    /// Has a job's output told as it comes, and listens to it: to be called before the job is submitted.
    ///
    /// # Errors
    ///
    /// [`Error::NoBroker`], or what the broker says if it cannot be listened to.
    pub async fn listen(&self, options: &mut JobOptions) -> Result<Listening> {
        let stream = StreamId::random(self.options.clock.now());
        let broker = self.options.broker.as_ref().ok_or(Error::NoBroker)?;
        let pieces = broker.listen(stream).await?;
        options.set_stream(stream);
        Ok(Listening::new(pieces))
    }

    /// Submits one job as a batch of its own and gives its output as it comes, and its row at the end.
    ///
    /// Needs the broker only to hear: where it cannot be listened to, the row comes all the same.
    ///
    /// # Errors
    ///
    /// As [`Producer::submit`].
    pub async fn stream(&self, spec: BatchSpec, mut job: NewJob, control: &Control) -> Result<Streamed> {
        let listening = match self.listen(&mut job.options).await {
            Ok(listening) => Some(listening),
            Err(error) => {
                tracing::warn!(%error, "output is not heard as it comes, only its row at the end");
                None
            }
        };
        let jobs = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(job)]);
        let batch = self.submit(spec, jobs.boxed(), control).await?.batch.id;
        let rows = self.subscribe(batch, Cursor::default(), control.stop.clone());
        Ok(Streamed { batch, listening, rows, has_ended: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use bytes::Bytes;
    use chrono::DateTime;
    use std::collections::VecDeque;

    #[derive(Debug)]
    struct Told(VecDeque<Bytes>);

    #[async_trait]
    impl Pieces for Told {
        async fn next(&mut self) -> Option<Bytes> {
            self.0.pop_front()
        }
    }

    /// Hears pieces of these attempts, workers and places.
    async fn heard(pieces: &[(u32, usize, u64, &str)]) -> Vec<Heard> {
        let workers = [0, 1].map(|ms| OwnerId::new(DateTime::from_timestamp_millis(ms).unwrap()));
        let bytes = |(attempt, worker, seq, text): &(u32, usize, u64, &str)| {
            Piece::new(*attempt, workers[*worker], *seq, Content::Text((*text).to_owned())).to_bytes()
        };
        let mut listening = Listening::new(Box::new(Told(pieces.iter().map(bytes).collect())));
        let mut all = Vec::new();
        while let Some(heard) = listening.next().await {
            all.push(heard);
        }
        all
    }

    fn text(text: &str) -> Heard {
        Heard::Text(text.to_owned())
    }

    #[tokio::test]
    async fn a_new_attempt_voids_what_was_heard_and_a_gap_shows() {
        assert_eq!(heard(&[(1, 0, 0, "a"), (1, 0, 1, "b")]).await, [text("a"), text("b")]);
        assert_eq!(heard(&[(1, 0, 0, "a"), (1, 0, 2, "c")]).await, [text("a"), Heard::Gap, text("c")]);
        assert_eq!(heard(&[(1, 0, 3, "d")]).await, [Heard::Gap, text("d")]);
        assert_eq!(
            heard(&[(1, 0, 0, "a"), (2, 0, 0, "x"), (1, 0, 1, "b"), (2, 0, 1, "y")]).await,
            [text("a"), Heard::Reset { attempt: 2 }, text("x"), text("y")]
        );
        assert_eq!(
            heard(&[(1, 0, 0, "a"), (3, 1, 1, "x")]).await,
            [text("a"), Heard::Reset { attempt: 3 }, Heard::Gap, text("x")]
        );
        assert_eq!(heard(&[(1, 0, 0, "a"), (1, 0, 0, "a"), (1, 0, 1, "b")]).await, [text("a"), text("b")]);
    }

    #[tokio::test]
    async fn an_attempt_that_another_worker_makes_again_is_another_call() {
        assert_eq!(
            heard(&[(1, 0, 0, "a"), (1, 1, 0, "x"), (1, 0, 1, "b"), (1, 1, 1, "y"), (2, 0, 0, "z")]).await,
            [text("a"), Heard::Reset { attempt: 1 }, text("x"), text("y"), Heard::Reset { attempt: 2 }, text("z")]
        );
    }
}
