//! Steering: cancel, retry.

use gristmill_common::backend::Need;
use gristmill_common::outcome::Status;
use gristmill_producer::Producer;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::table::plural;
use super::ui;

const CANCEL_EXAMPLES: &str = "\
Examples:
  gristmill cancel sweep-7
  gristmill cancel @last";

#[derive(Debug, clap::Args)]
#[command(after_help = CANCEL_EXAMPLES)]
pub(super) struct CancelArgs {
    /// The batch: its name, its id, the beginning of its id, or @last
    batch: String,
}

pub(super) async fn cancel(global: &Global, args: &CancelArgs) -> Result<Exit, Fault> {
    let (producer, batch) = open(global, &args.batch).await?;
    let cancelled = producer.cancel(batch.id).await?;
    if global.json {
        ui::json(&serde_json::json!({ "batch": batch.name, "id": batch.id, "cancelled": cancelled }))?;
    } else if cancelled {
        ui::line(&format!("{}: cancelled; running calls finish, open: {}", batch.name, plural(batch.open(), "job")))?;
    } else {
        ui::line(&format!("{}: has ended already, nothing to cancel", batch.name))?;
    }
    Ok(Exit::Success)
}

const RETRY_EXAMPLES: &str = "\
Examples:
  gristmill retry sweep-7
  gristmill retry @last --status cancelled";

#[derive(Debug, clap::Args)]
#[command(after_help = RETRY_EXAMPLES)]
pub(super) struct RetryArgs {
    /// The batch: its name, its id, the beginning of its id, or @last
    batch: String,
    /// Run jobs again whose latest run ended so: failed, expired, cancelled, succeeded
    #[arg(long, value_name = "STATUS", value_delimiter = ',', default_values = ["failed", "expired"])]
    status: Vec<Status>,
}

pub(super) async fn retry(global: &Global, args: &RetryArgs) -> Result<Exit, Fault> {
    let (producer, batch) = open(global, &args.batch).await?;
    let opened = producer.retry(batch.id, &args.status).await?;
    if global.json {
        ui::json(&serde_json::json!({ "batch": batch.name, "id": batch.id, "retried": opened }))?;
    } else {
        let statuses: Vec<&str> = args.status.iter().map(|status| status.as_str()).collect();
        let jobs = plural(opened, &format!("{} job", statuses.join(" or ")));
        ui::line(&format!("{}: to run again: {jobs}", batch.name))?;
    }
    Ok(Exit::Success)
}

async fn open(global: &Global, batch: &str) -> Result<(Producer, gristmill_common::batch::Batch), Fault> {
    let producer = Producer::on(&backends::existing(global, Need::Store).await?);
    let batch = producer.batch(&Producer::selector(batch)).await?;
    Ok((producer, batch))
}
