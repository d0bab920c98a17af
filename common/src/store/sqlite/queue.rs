//! The tables of the embedded broker, written in the same turns as everything else.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use bytes::Bytes;

use super::super::Result;
use super::SqliteStore;
use super::error::Done;
use super::group::{Group, Values, nothing};
use crate::broker::Outgoing;
use crate::job::LaneKey;

static ENQUEUE: Group =
    Group::new("-- publish messages\nINSERT INTO queue (model_group, priority, lane, payload) VALUES ", 4, "");

const READ_LANE: &str = "-- the next messages of a lane
SELECT seq, payload FROM queue WHERE model_group = ?1 AND priority = ?2 AND lane = ?3 AND seq > ?4 ORDER BY seq LIMIT ?5";

const COUNT_LANE: &str = "-- how many messages of a lane were not read
SELECT count(*) FROM queue WHERE model_group = ?1 AND priority = ?2 AND lane = ?3 AND seq > ?4";

const PUT_ASIDE: &str = "-- put a message aside
INSERT INTO aside (kind, routing_key, reason, payload) VALUES (?, ?, ?, ?)";

const READ_ASIDE: &str = "-- messages that were put aside
SELECT id, routing_key, reason, payload FROM aside WHERE kind = ? ORDER BY id LIMIT ?";

/// A message as its row holds it.
#[derive(Debug)]
pub(crate) struct Enqueued {
    pub(crate) seq: i64,
    pub(crate) payload: Bytes,
}

/// A message that was put aside, as its row holds it.
#[derive(Debug)]
pub(crate) struct PutAside {
    pub(crate) id: i64,
    pub(crate) routing_key: String,
    pub(crate) reason: String,
    pub(crate) payload: Bytes,
}

impl SqliteStore {
    /// Writes messages; durable once it returns.
    pub(crate) async fn enqueue(&self, messages: &[Outgoing]) -> Result<()> {
        let put = |values: &mut Values, message: &Outgoing| {
            values.shared(&message.lane.group);
            values.text(message.lane.priority.as_str());
            values.put(i64::from(message.lane.lane));
            values.put(message.payload.to_vec());
        };
        let write = async {
            let mut work = self.core.writer.begin().await?;
            ENQUEUE.execute(work.tx(), messages, nothing, put).await?;
            work.commit().await
        };
        write.await.map_err(self.core.failed("publishing messages"))
    }

    /// Reads at most `limit` messages of a lane above `after`, in order.
    pub(crate) async fn read_lane(&self, lane: &LaneKey, after: i64, limit: usize) -> Result<Vec<Enqueued>> {
        let read = async {
            let rows = sqlx::query(READ_LANE)
                .bind(lane.group.to_string())
                .bind(lane.priority.as_str())
                .bind(i64::from(lane.lane))
                .bind(after)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&self.core.readers)
                .await?;
            let message =
                |row: &SqliteRow| Enqueued { seq: row.get(0), payload: Bytes::from(row.get::<Vec<u8>, _>(1)) };
            Done::Ok(rows.iter().map(message).collect())
        };
        read.await.map_err(self.core.failed("reading messages"))
    }

    /// Counts the messages of a lane above `after`.
    pub(crate) async fn count_lane(&self, lane: &LaneKey, after: i64) -> Result<u64> {
        let count = async {
            let count: i64 = sqlx::query_scalar(COUNT_LANE)
                .bind(lane.group.to_string())
                .bind(lane.priority.as_str())
                .bind(i64::from(lane.lane))
                .bind(after)
                .fetch_one(&self.core.readers)
                .await?;
            Done::Ok(count.unsigned_abs())
        };
        count.await.map_err(self.core.failed("counting messages"))
    }

    /// Writes a message aside; durable once it returns.
    pub(crate) async fn put_aside(&self, kind: &str, routing_key: &str, reason: &str, payload: &[u8]) -> Result<()> {
        let write = async {
            let mut work = self.core.writer.begin().await?;
            sqlx::query(PUT_ASIDE)
                .bind(kind.to_owned())
                .bind(routing_key.to_owned())
                .bind(reason.to_owned())
                .bind(payload.to_vec())
                .execute(work.tx())
                .await?;
            work.commit().await
        };
        write.await.map_err(self.core.failed("putting a message aside"))
    }

    /// Reads the first messages that were put aside.
    pub(crate) async fn read_aside(&self, kind: &str, limit: usize) -> Result<Vec<PutAside>> {
        let read = async {
            let query = sqlx::query(READ_ASIDE).bind(kind.to_owned()).bind(i64::try_from(limit).unwrap_or(i64::MAX));
            let rows = query.fetch_all(&self.core.readers).await?;
            let message = |row: &SqliteRow| PutAside {
                id: row.get(0),
                routing_key: row.get(1),
                reason: row.get(2),
                payload: Bytes::from(row.get::<Vec<u8>, _>(3)),
            };
            Done::Ok(rows.iter().map(message).collect())
        };
        read.await.map_err(self.core.failed("reading what was put aside"))
    }

    /// Notes that a message is taken care of; it is deleted with the next commit.
    pub(crate) fn acknowledge(&self, seq: i64) {
        self.core.writer.ack(seq);
    }

    /// Notes that a message which was put aside is taken care of; it is deleted with the next commit.
    pub(crate) fn acknowledge_aside(&self, id: i64) {
        self.core.writer.ack_aside(id);
    }

    /// Waits until something is acknowledged and not yet deleted.
    pub(crate) async fn acknowledged(&self) {
        self.core.writer.acked().await;
    }

    /// Deletes what is acknowledged, unless another commit has done so meanwhile.
    pub(crate) async fn forget_acknowledged(&self) -> Result<()> {
        self.core.writer.flush_acks().await.map_err(self.core.failed("forgetting acknowledged messages"))
    }
}
