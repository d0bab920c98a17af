//! `check`: whether the database, the queue and every deployment can be used, and what to do where they cannot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_common::backend::{Need, Place};
use gristmill_common::broker::Drift;
use gristmill_common::clock::SystemClock;
use gristmill_common::config::{Config, Deployment, Overrides, is_pattern};
use gristmill_common::store::Store;
use gristmill_worker::provider::Limit;
use gristmill_worker::{Examined, examine};
use serde::Serialize;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::place::{self, Missing};
use super::table::{columns, plural};
use super::ui;

const EXAMPLES: &str = "\
Examples:
  gristmill check
  gristmill check --model gpt-4o --call     one call of one token, which shows the limits too
  gristmill check --json

Ends with 2 if anything is at fault.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "these comments are the help text")]
pub(super) struct Args {
    /// Check the deployments of this model; may be repeated [default: all of the configuration]
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// Make a call of one token, which settles what a list of models does not; costs next to nothing
    #[arg(long)]
    call: bool,
    /// The OpenAI-compatible endpoint, such as http://localhost:8000/v1
    #[arg(long, value_name = "URL")]
    api_base: Option<String>,
}

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It may be so on purpose.
    Note,
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    state: State,
    latency_ms: Option<u64>,
    detail: String,
}

impl Finding {
    fn new(what: &str, state: State, detail: impl Into<String>) -> Self {
        Self { what: what.to_owned(), state, latency_ms: None, detail: detail.into() }
    }

    fn fault(what: &str, fault: &Fault) -> Self {
        let text = fault.to_string();
        let detail = text.strip_prefix("error: ").unwrap_or(&text).replace("\nhint: ", "; ");
        Self::new(what, State::Fault, detail)
    }

    fn after(self, time: Duration) -> Self {
        Self { latency_ms: u64::try_from(time.as_millis()).ok(), ..self }
    }
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let overrides = Overrides::default().set("api_base", args.api_base.as_deref());
    let config = backends::config(global, overrides, None)?;
    let mut findings = Vec::new();
    let served = match place::find(global, &config, Missing::Refuse) {
        Ok(place) => servers(&place, &config, &mut findings).await,
        Err(_) if config.database_url.is_none() && global.db.is_none() => {
            let made = "none yet; `gristmill run` and `gristmill submit` make one here";
            findings.push(Finding::new("database", State::Note, made));
            BTreeSet::new()
        }
        Err(fault) => {
            findings.push(Finding::fault("database", &fault));
            BTreeSet::new()
        }
    };
    deployments(args, &config, &served, &mut findings).await;
    let faulty = findings.iter().any(|finding| finding.state == State::Fault);
    if global.json {
        ui::json(&serde_json::json!({ "ok": !faulty, "checks": findings }))?;
    } else {
        ui::out(columns(&rows(&findings)).as_bytes())?;
    }
    Ok(if faulty { Exit::Setup } else { Exit::Success })
}

fn rows(findings: &[Finding]) -> Vec<Vec<String>> {
    let heading = ["CHECK", "STATE", "MS", "DETAIL"].map(str::to_owned).to_vec();
    let row = |finding: &Finding| {
        let state = match finding.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Fault => "FAULT",
        };
        let latency = finding.latency_ms.map_or_else(String::new, |ms| ms.to_string());
        vec![finding.what.clone(), state.to_owned(), latency, finding.detail.clone()]
    };
    std::iter::once(heading).chain(findings.iter().map(row)).collect()
}

/// Checks the database, its schema, the queue and the workers; returns the models that workers serve.
async fn servers(place: &Place, config: &Config, findings: &mut Vec<Finding>) -> BTreeSet<String> {
    let started = Instant::now();
    let backend = match backends::open(place, config, Need::Schema).await {
        Ok(backend) => backend,
        Err(fault) => {
            findings.push(Finding::fault("database", &fault));
            return BTreeSet::new();
        }
    };
    let kind = backend.file.as_ref().map_or_else(|| "PostgreSQL".to_owned(), |file| file.display().to_string());
    findings.push(Finding::new("database", State::Ok, kind).after(started.elapsed()));
    if let Err(error) = backend.store.check_schema().await {
        findings.push(Finding::fault("schema", &error.into()));
        return BTreeSet::new();
    }
    findings.push(Finding::new("schema", State::Ok, "of this version"));
    let served = workers(&*backend.store, findings).await;
    if backend.file.is_none() {
        queue(place, config, &served, findings).await;
    }
    served
}

async fn workers(store: &dyn Store, findings: &mut Vec<Finding>) -> BTreeSet<String> {
    let (workers, paused) = match (store.workers().await, store.paused_deployments().await) {
        (Ok(workers), Ok(paused)) => (workers, paused),
        (Err(error), _) | (_, Err(error)) => {
            findings.push(Finding::fault("workers", &error.into()));
            return BTreeSet::new();
        }
    };
    let alive: Vec<_> = workers.iter().filter(|worker| worker.alive).collect();
    let served: BTreeSet<String> = alive.iter().flat_map(|worker| worker.info.groups.iter().cloned()).collect();
    findings.push(if alive.is_empty() {
        Finding::new(
            "workers",
            State::Note,
            "none runs now; `gristmill run` brings its own, `gristmill worker` starts one",
        )
    } else {
        let names: Vec<&str> = served.iter().map(String::as_str).collect();
        let number = plural(alive.len() as u64, "worker");
        Finding::new("workers", State::Ok, format!("{number}, serving {}", names.join(", ")))
    });
    for report in paused {
        let reason = report.paused.unwrap_or_default();
        let detail = format!("paused by a worker: {reason}; then `gristmill resume {}`", report.deployment);
        findings.push(Finding::new(&format!("worker's {}", report.deployment), State::Fault, detail));
    }
    served
}

async fn queue(place: &Place, config: &Config, served: &BTreeSet<String>, findings: &mut Vec<Finding>) {
    let started = Instant::now();
    let backend = match backends::open(place, config, Need::Queue).await {
        Ok(backend) => backend,
        Err(fault) => return findings.push(Finding::fault("broker", &fault)),
    };
    let Some(broker) = &backend.broker else { return };
    match broker.check().await {
        Ok(()) => findings.push(Finding::new("broker", State::Ok, "RabbitMQ").after(started.elapsed())),
        Err(error) => return findings.push(Finding::fault("broker", &Fault::of(&error))),
    }
    let configured = config.groups().into_iter().flatten().filter(|group| !is_pattern(group));
    let groups: BTreeSet<String> = configured.map(|group| group.to_string()).chain(served.iter().cloned()).collect();
    let groups: Vec<String> = groups.into_iter().collect();
    match broker.drift(&groups).await {
        Ok(drifts) => findings.extend(topology(&drifts, groups.len())),
        Err(error) => findings.push(Finding::fault("queues", &Fault::of(&error))),
    }
    backend.close().await;
}

/// Says how the queues differ from what they should be.
fn topology(drifts: &[Drift], groups: usize) -> Vec<Finding> {
    let missing = drifts.iter().filter(|drift| matches!(drift, Drift::Missing(_))).count();
    let mut findings: Vec<Finding> = drifts
        .iter()
        .filter_map(|drift| match drift {
            Drift::Differs(text) => Some(Finding::new("queues", State::Fault, text.clone())),
            Drift::Missing(_) => None,
        })
        .collect();
    if missing > 0 {
        let detail =
            format!("{} not there yet; a worker that serves the model makes them", plural(missing as u64, "queue"));
        findings.push(Finding::new("queues", State::Note, detail));
    }
    if findings.is_empty() {
        let detail = format!("as this version declares them, for {}", plural(groups as u64, "model"));
        findings.push(Finding::new("queues", State::Ok, detail));
    }
    findings
}

/// Checks every deployment of the configuration, or of the models that are asked for.
async fn deployments(args: &Args, config: &Config, served: &BTreeSet<String>, findings: &mut Vec<Finding>) {
    let named = if args.model.is_empty() { config.model.clone().into_iter().collect() } else { args.model.clone() };
    let groups: Vec<String> = match config.groups() {
        Some(groups) if args.model.is_empty() => groups.iter().map(ToString::to_string).collect(),
        _ => named,
    };
    if groups.is_empty() {
        let detail = if served.is_empty() {
            "no model is configured: add --model, or a model_list in gristmill.yaml"
        } else {
            "no model is configured here; the workers have their own, add --model to check one from here"
        };
        return findings.push(Finding::new("deployments", State::Note, detail));
    }
    for group in groups {
        if is_pattern(&group) {
            let detail = "stands for many models; add --model to check one of them";
            findings.push(Finding::new(&group, State::Note, detail));
            continue;
        }
        match config.deployments_for(&[&group]) {
            Ok(deployments) => {
                for deployment in &deployments {
                    findings.push(deployment_finding(deployment, args.call).await);
                }
            }
            Err(error) => findings.push(Finding::fault(&group, &error.into())),
        }
    }
}

async fn deployment_finding(deployment: &Deployment, call: bool) -> Finding {
    let started = Instant::now();
    let name = &deployment.name;
    let examined = match examine(deployment, Arc::new(SystemClock), call).await {
        Ok(examined) => examined,
        Err(error) => return Finding::fault(name, &error.into()),
    };
    let finding = match examined {
        Examined::Listed => Finding::new(name, State::Ok, format!("`{}` is there", deployment.model)),
        Examined::Answered(limits) => {
            Finding::new(name, State::Ok, format!("`{}` answered a call; {}", deployment.model, told(&limits)))
        }
        Examined::Unsettled(why) => Finding::new(name, State::Note, format!("reachable; {why}; add --call to try one")),
        Examined::Unlisted(why) => Finding::new(
            name,
            State::Fault,
            format!("reachable; {why} Correct the model's name, or add --call to try it"),
        ),
        Examined::Faulty(_, why) => Finding::new(name, State::Fault, why),
    };
    finding.after(started.elapsed())
}

/// Says what a provider told of its limits.
fn told(limits: &[Limit]) -> String {
    let limits: Vec<String> = limits
        .iter()
        .map(|Limit { dimension, limit, remaining }| match remaining {
            Some(remaining) => format!("{remaining} of {limit} {dimension} left"),
            None => format!("{limit} {dimension}"),
        })
        .collect();
    if limits.is_empty() { "it tells no limits".to_owned() } else { format!("limits: {}", limits.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_stands_on_one_line_with_its_remedy() {
        let fault = Fault::new("no key").hint("set OPENAI_API_KEY").hint("or ask");
        let finding = Finding::fault("gpt-4o", &fault);
        assert_eq!((finding.state, finding.detail.as_str()), (State::Fault, "no key; set OPENAI_API_KEY; or ask"));
    }

    #[test]
    fn queues_that_differ_are_faults_and_missing_ones_are_not() {
        let states = |drifts: &[Drift]| topology(drifts, 2).iter().map(|finding| finding.state).collect::<Vec<_>>();
        assert_eq!(states(&[]), [State::Ok]);
        assert_eq!(states(&[Drift::Missing("a".into()), Drift::Missing("b".into())]), [State::Note]);
        assert_eq!(states(&[Drift::Missing("a".into()), Drift::Differs("b".into())]), [State::Fault, State::Note]);
    }
}
