//! Reads the configuration and opens what it names.

use std::path::PathBuf;
use std::time::Duration;

use gristmill_common::backend::{Backend, Need, Place};
use gristmill_common::config::{Config, Deployment, Env, Overrides, Sources};
use gristmill_worker::simulate::{self, Simulator};

use super::Global;
use super::fault::{Exit, Fault};
use super::place::{self, Missing};
use super::ui;

/// An answer of the simulator takes about this long, so that a first run looks like a run.
const SIMULATED_LATENCY: Duration = Duration::from_millis(200);

/// Reads the configuration; `simulator` takes every model group's place.
pub(super) fn config(global: &Global, overrides: Overrides, simulator: Option<&Simulator>) -> Result<Config, Fault> {
    Ok(config_and_sources(global, overrides, simulator)?.0)
}

/// Reads the configuration, and says from what, for who follows it.
pub(super) fn config_and_sources(
    global: &Global,
    overrides: Overrides,
    simulator: Option<&Simulator>,
) -> Result<(Config, Sources), Fault> {
    let overrides = overrides
        .set("database_url", global.database_url.as_deref())
        .set("amqp_url", global.amqp_url.as_deref())
        .set("prices", global.prices.as_deref());
    let simulator = simulator.map(|simulator| simulator.base_url().parse()).transpose().map_err(|_| {
        // It names a host and a port of its own.
        Fault::new("the simulator's address is no URL")
    })?;
    let sources = Sources {
        directory: PathBuf::new(),
        file: global.config.clone(),
        env: Env::from_process(),
        overrides,
        simulator,
    };
    let config = Config::load(sources.clone())?;
    if !global.quiet {
        config.warnings().iter().for_each(|warning| ui::tell(&format!("warning: {warning}")));
    }
    Ok((config, sources))
}

/// Says what a LiteLLM configuration means here that it does not mean there; for commands that make calls.
pub(super) fn tell_notices(global: &Global, config: &Config) {
    if !global.quiet {
        config.notices().iter().for_each(|notice| ui::tell(&format!("note: {notice}")));
    }
}

/// Opens a database and, where the command needs it, the queue.
pub(super) async fn open(place: &Place, config: &Config, need: Need) -> Result<Backend, Fault> {
    Ok(Backend::open(place, config, need, "gristmill").await?)
}

/// Opens the database that is there.
pub(super) async fn existing(global: &Global, need: Need) -> Result<Backend, Fault> {
    let config = config(global, Overrides::default(), None)?;
    open(&place::find(global, &config, Missing::Refuse)?, &config, need).await
}

/// Starts a simulator on a free port of this machine.
pub(super) async fn simulator() -> Result<Simulator, Fault> {
    let options =
        simulate::Options { latency: SIMULATED_LATENCY, jitter: SIMULATED_LATENCY / 2, ..simulate::Options::default() };
    Ok(Simulator::start(options).await?)
}

/// Returns the deployments of some model groups.
pub(super) fn deployments<G: AsRef<str>>(config: &Config, groups: &[G]) -> Result<Vec<Deployment>, Fault> {
    let deployments = config.deployments_for(groups)?;
    if deployments.is_empty() {
        return Err(Fault::new("no deployment serves these requests").exit(Exit::Setup));
    }
    Ok(deployments)
}
