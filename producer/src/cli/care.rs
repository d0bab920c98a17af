//! Looking after: migrate, repair.

use gristmill_common::config::Overrides;
use gristmill_producer::Producer;

use super::Global;
use super::backends::{self, Backend, Need};
use super::fault::{Exit, Fault};
use super::place::{Missing, Place};
use super::table::count;
use super::ui;

const MIGRATE_EXAMPLES: &str = "\
Examples:
  DATABASE_URL=postgres://gristmill@db/gristmill gristmill migrate";

#[derive(Debug, clap::Args)]
#[command(after_help = MIGRATE_EXAMPLES)]
pub(super) struct MigrateArgs {}

pub(super) async fn migrate(global: &Global, _: &MigrateArgs) -> Result<Exit, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let place = Place::find(global, &config, Missing::Create)?;
    let backend = Backend::open(&place, &config, Need::Schema).await?;
    let applied = backend.store.migrate().await?;
    if global.json {
        ui::json(&serde_json::json!({ "applied": applied }))?;
    } else if applied.is_empty() {
        ui::line("the schema is of this version already")?;
    } else {
        let versions: Vec<String> = applied.iter().map(ToString::to_string).collect();
        ui::line(&format!("applied migration {}", versions.join(", ")))?;
    }
    Ok(Exit::Success)
}

const REPAIR_EXAMPLES: &str = "\
Examples:
  gristmill repair sweep-7        after RabbitMQ lost its disk
  gristmill repair @last --json";

#[derive(Debug, clap::Args)]
#[command(after_help = REPAIR_EXAMPLES)]
pub(super) struct RepairArgs {
    /// The batch: its name, its id, the beginning of its id, or @last
    batch: String,
}

pub(super) async fn repair(global: &Global, args: &RepairArgs) -> Result<Exit, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let place = Place::find(global, &config, Missing::Refuse)?;
    let backend = Backend::open(&place, &config, Need::Queue).await?;
    let producer = backend.producer();
    let batch = producer.batch(&Producer::selector(&args.batch)).await?;
    let repaired = producer.repair(batch.id).await?;
    backend.close().await;
    if global.json {
        ui::json(&repaired)?;
    } else {
        ui::line(&format!(
            "{}: {} jobs published again, {} made due again",
            batch.name,
            count(repaired.published),
            count(repaired.requeued)
        ))?;
    }
    Ok(Exit::Success)
}
