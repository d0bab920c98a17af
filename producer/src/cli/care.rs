//! Looking after: migrate, repair.

use gristmill_common::backend::Need;
use gristmill_common::config::Overrides;
use gristmill_producer::{Producer, Repaired};

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::place::{self, Missing};
use super::table::{count, plural};
use super::ui;

const MIGRATE_EXAMPLES: &str = "\
Examples:
  DATABASE_URL=postgres://gristmill@db/gristmill gristmill migrate";

#[derive(Debug, clap::Args)]
#[command(after_help = MIGRATE_EXAMPLES)]
pub(super) struct MigrateArgs {}

pub(super) async fn migrate(global: &Global, _: &MigrateArgs) -> Result<Exit, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let place = place::find(global, &config, Missing::Create)?;
    let backend = backends::open(&place, &config, Need::Schema).await?;
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
    let backend = backends::existing(global, Need::Queue).await?;
    let producer = Producer::on(&backend);
    let batch = producer.batch(&Producer::selector(&args.batch)).await?;
    let repaired = producer.repair(batch.id).await?;
    backend.close().await;
    let Repaired { published, requeued } = repaired;
    if global.json {
        ui::json(&serde_json::json!({
            "batch": batch.name, "id": batch.id, "published": published, "requeued": requeued,
        }))?;
    } else {
        let published = plural(published, "job");
        ui::line(&format!("{}: {published} published again, {} made due again", batch.name, count(requeued)))?;
    }
    Ok(Exit::Success)
}
