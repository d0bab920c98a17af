//! `resume`: paused deployments are looked at again at once.

use gristmill_common::backend::Need;
use gristmill_common::config::nearest;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::ui;

const EXAMPLES: &str = "\
Examples:
  gristmill resume            all paused deployments
  gristmill resume gpt-4o     those of a model, or one by its name

Every worker makes one call to each at once, instead of at the end of its pause; if it is answered, the others follow.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The deployment, or the model of several [default: all that are paused]
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    let resumed = backend.store.resume(args.name.as_deref()).await?;
    if let (Some(name), []) = (&args.name, resumed.as_slice()) {
        let paused = backend.store.paused_deployments().await?;
        let names = paused.iter().flat_map(|report| [report.deployment.as_str(), report.group.as_str()]);
        if let Some(near) = nearest(name, names) {
            return Err(
                Fault::new(format!("no paused deployment is called `{name}`")).hint(format!("did you mean `{near}`?"))
            );
        }
    }
    if global.json {
        let resumed: Vec<_> = resumed
            .iter()
            .map(|report| {
                serde_json::json!({
                    "deployment": report.deployment, "model": report.group, "reason": report.paused,
                    "class": report.class,
                })
            })
            .collect();
        ui::json(&serde_json::json!({ "resumed": resumed }))?;
        return Ok(Exit::Success);
    }
    if resumed.is_empty() {
        let which = args.name.as_ref().map(|name| format!(" of `{name}`")).unwrap_or_default();
        ui::line(&format!("no deployment{which} is paused"))?;
    }
    for report in resumed {
        let reason = report.paused.unwrap_or_default();
        ui::line(&format!("{}: workers look again now; it was paused for {reason}", report.deployment))?;
    }
    Ok(Exit::Success)
}
