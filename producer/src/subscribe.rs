use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::Stream;
use gristmill_common::id::BatchId;
use gristmill_common::outcome::ResultRow;
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{self, BatchSelector, Cursor, Page, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Rows of one read.
const PAGE_ROWS: u32 = 1_000;
/// How long a lost hint may delay a row.
const POLL: Duration = Duration::from_secs(1);
/// How long rows are held back before somebody should look why.
const HELD_BACK: Duration = Duration::from_secs(15);

/// A reader that follows a batch to its end; each row comes once.
///
/// Save [`Subscription::cursor`] after a page has been dealt with, and a later subscription goes on behind it.
pub struct Subscription {
    store: Arc<dyn Store>,
    batch: BatchId,
    cursor: Cursor,
    hints: watch::Receiver<u64>,
    stop: CancellationToken,
    waiting_for: Option<String>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("batch", &self.batch).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Subscription {
    pub(crate) fn new(store: Arc<dyn Store>, batch: BatchId, cursor: Cursor, stop: CancellationToken) -> Self {
        // Subscribed before the first look, so that nothing is committed unseen between the two.
        let hints = store.hints();
        Self { store, batch, cursor, hints, stop, waiting_for: None }
    }

    /// Returns where a later subscription goes on behind what this one has returned.
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Waits for more rows; `None` when the batch has ended and every row was returned, or `stop` has fired.
    ///
    /// Cancel safe: a page is either returned or comes again.
    ///
    /// # Errors
    ///
    /// What the store refuses for good; an unreachable store is waited for.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        let mut ended = false;
        let mut held_back: Option<Instant> = None;
        loop {
            self.hints.borrow_and_update();
            let store = Arc::clone(&self.store);
            let (batch, cursor) = (self.batch, self.cursor);
            let Some(page) = self.patiently(|| store.results_after(batch, cursor, PAGE_ROWS)).await? else {
                return Ok(None);
            };
            self.cursor = page.cursor;
            if !page.rows.is_empty() {
                return Ok(Some(page));
            }
            // Only a read that began after the end was seen proves that no row is left.
            if ended && !page.more {
                return Ok(None);
            }
            if page.more && held_back.get_or_insert_with(Instant::now).elapsed() >= HELD_BACK {
                held_back = Some(Instant::now());
                tracing::warn!(batch.id = %batch, "results wait for a transaction on the database's server that does not end");
            }
            if !ended {
                let selector = BatchSelector::Id(batch);
                let Some(found) = self.patiently(|| store.batch(&selector)).await? else { return Ok(None) };
                let Some(found) = found else {
                    return Err(Error::UnknownBatch { selector: batch.to_string(), near: Vec::new() });
                };
                ended = found.state.is_ended();
                if ended {
                    continue;
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                changed = self.hints.changed() => if changed.is_err() {
                    tokio::time::sleep(POLL).await;
                },
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Turns the reader into a stream of rows.
    pub fn rows(self) -> impl Stream<Item = Result<ResultRow>> + Send {
        futures_util::stream::try_unfold((self, VecDeque::new()), |(mut reader, mut rows)| async move {
            if rows.is_empty() {
                let Some(page) = reader.next_page().await? else { return Ok(None) };
                rows = page.rows.into();
            }
            Ok(rows.pop_front().map(|row: ResultRow| (row, (reader, rows))))
        })
    }

    async fn patiently<T, F, Fut>(&mut self, operation: F) -> Result<Option<T>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = store::Result<T>>,
    {
        let told = &mut self.waiting_for;
        let outcome = until_ok(
            Schedule::RECONNECT,
            &self.stop,
            operation,
            store::Error::is_transient,
            |error: &store::Error, failures| {
                if failures == 1 {
                    tracing::warn!(error = %error, "reading results waits for the database");
                }
                *told = Some(error.to_string());
            },
        )
        .await;
        if self.waiting_for.take().is_some() && outcome.is_some() {
            tracing::info!("the database answers again");
        }
        Ok(outcome.transpose()?)
    }
}
