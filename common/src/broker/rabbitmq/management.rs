//! Declaring and counting, on a channel of the consuming connection, which no alarm blocks.

use std::sync::Arc;

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
use lapin::types::{FieldTable, ShortString};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::super::Result;
use super::failure;
use super::link::{Groups, Link};
use super::options::CALL_TIMEOUT;
use super::topology::{self, Names};
use crate::job::LaneKey;

const COUNTING: &str = "counting messages";
const DECLARING: &str = "declaring queues";

/// Declares and counts.
#[derive(Debug)]
pub(super) struct Management {
    link: Link,
    names: Names,
    groups: Arc<Groups>,
    channel: Mutex<Option<Channel>>,
}

impl Management {
    pub(super) fn new(link: Link, names: Names, groups: Arc<Groups>) -> Self {
        Self { link, names, groups, channel: Mutex::new(None) }
    }

    /// Declares what all groups share.
    pub(super) async fn declare_base(&self) -> Result<()> {
        let declaring = async {
            let mut slot = self.channel.lock().await;
            let channel = self.take(&mut slot, DECLARING).await?;
            topology::declare_base(&channel, &self.names).await?;
            *slot = Some(channel);
            Ok(())
        };
        timeout(CALL_TIMEOUT, declaring).await.unwrap_or_else(|_| Err(self.link.overdue(DECLARING)))
    }

    /// Declares the queues of a group, now and whenever the connection was lost.
    pub(super) async fn declare(&self, group: &str) -> Result<()> {
        let declaring = async {
            let mut slot = self.channel.lock().await;
            let channel = self.take(&mut slot, DECLARING).await?;
            topology::declare_group(&channel, &self.names, group).await?;
            *slot = Some(channel);
            Ok(())
        };
        timeout(CALL_TIMEOUT, declaring).await.unwrap_or_else(|_| Err(self.link.overdue(DECLARING)))?;
        self.groups.remember(group);
        Ok(())
    }

    /// Returns how many messages of a lane are ready; none if it has no queue.
    pub(super) async fn ready(&self, lane: &LaneKey) -> Result<u64> {
        let counting = async {
            let mut slot = self.channel.lock().await;
            let channel = self.take(&mut slot, COUNTING).await?;
            match count(&channel, self.names.work(lane)?).await {
                Ok(ready) => {
                    *slot = Some(channel);
                    Ok(u64::from(ready))
                }
                Err(error) if failure::soft(&error) == Some(AMQPSoftError::NOTFOUND) => Ok(0),
                Err(error) => Err(failure::unavailable(COUNTING, &error)),
            }
        };
        timeout(CALL_TIMEOUT, counting).await.unwrap_or_else(|_| Err(self.link.overdue(COUNTING)))
    }

    /// Takes the channel out of its place; who is interrupted leaves none, since an answer may be under way on it.
    async fn take(&self, slot: &mut Option<Channel>, doing: &'static str) -> Result<Channel> {
        if let Some(channel) = slot.take()
            && channel.status().connected()
        {
            return Ok(channel);
        }
        let live = self.link.live(doing).await?;
        live.connection.create_channel().await.map_err(|error| failure::unavailable(doing, &error))
    }
}

/// Counts by a passive declaration, which changes nothing and closes the channel if there is no such queue.
async fn count(channel: &Channel, queue: ShortString) -> lapin::Result<u32> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(queue, options, FieldTable::default()).await?.message_count())
}
