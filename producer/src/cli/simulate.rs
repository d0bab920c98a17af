use tokio_util::sync::CancellationToken;

use super::fault::{Exit, Fault};
use super::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  gristmill simulate --listen 127.0.0.1:8010
  gristmill simulate --latency 200ms --fault 429:0.1:retry-after=1
  gristmill simulate --rpm 600 --limit gpt-4o=tpm:90000 --limit-at 5m=rpm:300 --outage 10m+60s
  gristmill run prompts.jsonl -o out.jsonl --api-base http://127.0.0.1:8010/v1";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SimulateArgs {
    #[command(flatten)]
    simulator: gristmill_worker::simulate::Args,
}

pub(super) async fn run(args: SimulateArgs) -> Result<Exit, Fault> {
    let stop = Stop::on_signals("stopping")?;
    let cancel: CancellationToken = stop.drain;
    tokio::select! {
        outcome = gristmill_worker::simulate::run(args.simulator, cancel) => outcome?,
        () = stop.abort.cancelled() => {}
    }
    Ok(Exit::Success)
}
