//! Steering: cancel, retry.

use gristmill_common::config::Overrides;
use gristmill_common::outcome::Status;
use gristmill_producer::Producer;

use super::Global;
use super::backends::{self, Backend, Need};
use super::fault::{Exit, Fault};
use super::place::{Missing, Place};
use super::table::count;
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
        ui::line(&format!("{}: cancelled; running calls finish, {} jobs were open", batch.name, count(batch.open())))?;
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
        ui::line(&format!("{}: {} {} jobs run again", batch.name, count(opened), statuses.join(" or ")))?;
    }
    Ok(Exit::Success)
}

async fn open(global: &Global, batch: &str) -> Result<(Producer, gristmill_common::batch::Batch), Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let place = Place::find(global, &config, Missing::Refuse)?;
    let producer = Backend::open(&place, &config, Need::Store).await?.producer();
    let batch = producer.batch(&Producer::selector(batch)).await?;
    Ok((producer, batch))
}
