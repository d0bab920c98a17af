//! How the queues and exchanges that are there differ from those that this program declares.
//!
//! RabbitMQ compares arguments only when something that is there is declared again, so what is missing is looked for first:
//! looking changes nothing. Every refusal closes the channel that it came on.

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
use lapin::types::{FieldTable, ShortString};
use tokio::time::timeout;

use super::super::{Drift, Error, Result};
use super::failure;
use super::link::Link;
use super::options::CALL_TIMEOUT;
use super::topology::{self, Names};
use crate::job::LaneKey;

const DOING: &str = "comparing queues";

/// Compares what is there with what is declared, for what all groups share and for the queues of some.
pub(super) async fn find(link: &Link, names: &Names, groups: &[String]) -> Result<Vec<Drift>> {
    let mut drifts = Vec::new();
    let base = declared(topology::declare_base(&channel(link).await?, names)).await?;
    drifts.extend(base);
    for lane in groups.iter().flat_map(|group| LaneKey::all(group)) {
        let name = names.work(&lane)?;
        if !is_there(&channel(link).await?, &name).await? {
            drifts.push(Drift::Missing(name.to_string()));
            continue;
        }
        let channel = channel(link).await?;
        drifts.extend(declared(topology::declare_lane(&channel, names, &lane)).await?);
    }
    Ok(drifts)
}

async fn channel(link: &Link) -> Result<Channel> {
    let live = timeout(CALL_TIMEOUT, link.live(DOING)).await.map_err(|_| link.overdue(DOING))??;
    let opening = timeout(CALL_TIMEOUT, live.connection.create_channel()).await;
    opening.map_err(|_| link.overdue(DOING))?.map_err(|error| failure::unavailable(DOING, &error))
}

async fn is_there(channel: &Channel, queue: &ShortString) -> Result<bool> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(queue.clone(), options, FieldTable::default()).await {
        Ok(_) => Ok(true),
        Err(error) => match failure::soft(&error) {
            Some(AMQPSoftError::NOTFOUND) => Ok(false),
            _ => Err(failure::unavailable(DOING, &error)),
        },
    }
}

/// Takes a refusal for a difference, and everything else as it is.
async fn declared(declaring: impl Future<Output = Result<()>>) -> Result<Option<Drift>> {
    match timeout(CALL_TIMEOUT, declaring).await {
        Ok(Ok(())) => Ok(None),
        Ok(Err(Error::Setup(text))) => Ok(Some(Drift::Differs(text))),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failure::timed_out(DOING)),
    }
}
