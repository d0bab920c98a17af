//! `models`: what workers serve now, and what the configuration here has.

use std::collections::{BTreeMap, BTreeSet};

use gristmill_common::backend::Need;
use gristmill_common::config::{Overrides, Route, nearest};
use gristmill_common::store::{DeploymentReport, WorkerRow};
use serde::Serialize;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::place::{self, Missing};
use super::table::columns;
use super::ui;

const EXAMPLES: &str = "\
Examples:
  gristmill models                all of them
  gristmill models gpt-4o --json  one of them; ends with 2 if there is none of this name";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Show this model only
    #[arg(value_name = "MODEL")]
    model: Option<String>,
}

/// What is known of one model.
#[derive(Debug, Default, Serialize)]
struct Model {
    /// Live workers that serve it.
    workers: usize,
    /// Calls that they run at once at most, for all their models.
    slots: u64,
    /// Deployments of the configuration here.
    configured: Vec<String>,
    /// Why deployments of it are paused.
    paused: Vec<String>,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let (workers, paused) = match place::find(global, &config, Missing::Refuse) {
        Ok(place) => {
            let backend = backends::open(&place, &config, Need::Store).await?;
            (backend.store.workers().await?, backend.store.paused_deployments().await?)
        }
        // Without a database there are no workers; what the configuration has can be told all the same.
        Err(_) => (Vec::new(), Vec::new()),
    };
    let routes = config.routes();
    let any = routes.iter().find(|route| route.model.is_none());
    let mut models = collect(&workers, &paused, &routes);
    if let Some(wanted) = &args.model {
        models.retain(|name, _| name == wanted);
        if models.is_empty() {
            // It may have a name that a pattern takes.
            let places: Vec<String> = any.into_iter().chain(&config.routes_for(wanted)).map(place_of).collect();
            if places.is_empty() {
                return Err(unknown(wanted, &collect(&workers, &paused, &routes)));
            }
            models.insert(wanted.clone(), Model { configured: places, ..Model::default() });
        }
    }
    if global.json {
        ui::json(&serde_json::json!({ "models": models, "any_other": any.filter(|_| args.model.is_none()) }))?;
        return Ok(Exit::Success);
    }
    if !models.is_empty() {
        ui::out(columns(&rows(&models)).as_bytes())?;
    }
    if let Some(any) = any.filter(|_| args.model.is_none()) {
        ui::line(&format!("any other: {}", place_of(any)))?;
    }
    Ok(Exit::Success)
}

fn collect(workers: &[WorkerRow], paused: &[DeploymentReport], routes: &[Route]) -> BTreeMap<String, Model> {
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    for worker in workers.iter().filter(|worker| worker.alive) {
        for group in worker.info.groups.iter().collect::<BTreeSet<_>>() {
            let model = models.entry(group.clone()).or_default();
            model.workers += 1;
            model.slots += u64::from(worker.info.concurrency);
        }
    }
    for (name, route) in routes.iter().filter_map(|route| Some((route.model.as_ref()?, route))) {
        models.entry(name.to_string()).or_default().configured.push(place_of(route));
    }
    for report in paused {
        let reason = report.paused.as_deref().unwrap_or("unknown");
        let model = models.entry(report.group.clone()).or_default();
        model.paused.push(format!("{}: {reason}", report.deployment));
    }
    models
}

fn place_of(route: &Route) -> String {
    let model = route.provider_model.as_deref().map(|model| format!("/{model}")).unwrap_or_default();
    let place = format!("{}{model} at {}", route.provider, route.endpoint);
    match &route.problem {
        Some(problem) => format!("{place} (unusable: {problem})"),
        None => place,
    }
}

fn unknown(wanted: &str, models: &BTreeMap<String, Model>) -> Fault {
    let fault = Fault::new(format!("there is no model `{wanted}`")).exit(Exit::Setup);
    match nearest(wanted, models.keys().map(String::as_str)) {
        Some(near) => fault.hint(format!("did you mean `{near}`?")),
        None => fault.hint("`gristmill models` shows all of them"),
    }
}

fn rows(models: &BTreeMap<String, Model>) -> Vec<Vec<String>> {
    let heading = ["MODEL", "WORKERS", "CONFIGURED HERE", "STATE"].map(str::to_owned).to_vec();
    let row = |(name, model): (&String, &Model)| {
        let configured = if model.configured.is_empty() { "no".to_owned() } else { model.configured.join("; ") };
        let state = match (&model.paused[..], model.workers) {
            ([], 0) => "no worker serves it now".to_owned(),
            ([], _) => "ready".to_owned(),
            (paused, _) => format!("paused: {}", paused.join("; ")),
        };
        vec![name.clone(), model.workers.to_string(), configured, state]
    };
    std::iter::once(heading).chain(models.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested() {
        let models = BTreeMap::from([("gpt-4o".to_owned(), Model::default())]);
        assert_eq!(
            unknown("gpt4o", &models).to_string(),
            "error: there is no model `gpt4o`\nhint: did you mean `gpt-4o`?"
        );
        assert!(unknown("x", &models).to_string().contains("shows all of them"));
    }

    #[test]
    fn a_paused_deployment_shows_with_its_reason() {
        let report = DeploymentReport {
            deployment: "eu".into(),
            group: "gpt-4o".into(),
            paused: Some("401: set OPENAI_API_KEY".into()),
            class: None,
        };
        let rows = rows(&collect(&[], &[report], &[]));
        assert_eq!(rows[1], ["gpt-4o", "0", "no", "paused: eu: 401: set OPENAI_API_KEY"]);
    }
}
