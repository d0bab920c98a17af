//! `config`: what counts, and where each value comes from; nothing secret.

use gristmill_common::backend::Place;
use gristmill_common::config::{Config, Layer, Overrides, Route, Setting};

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::place::{self, Missing};
use super::table::columns;
use super::ui;

const EXAMPLES: &str = "\
Examples:
  gristmill config
  gristmill config --config production.yaml --json

Later ones win: defaults, gristmill.yaml, the environment with ./.env below it, flags.
Passwords, keys and the paths of endpoints are not shown.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {}

pub(super) fn run(global: &Global, _: &Args) -> Result<Exit, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let database = database(global, &config);
    if global.json {
        ui::json(&serde_json::json!({
            "options": config.settings(), "models": config.routes(), "routing": config.routing().settings(),
            "notices": config.notices(), "database": database,
        }))?;
    } else {
        ui::out(describe(&config, &database).as_bytes())?;
    }
    Ok(Exit::Success)
}

/// Says which database commands use.
fn database(global: &Global, config: &Config) -> String {
    match place::find(global, config, Missing::Refuse) {
        Ok(Place::Sqlite(path)) => path.display().to_string(),
        Ok(Place::Postgres(_)) => "as database_url says".to_owned(),
        Err(_) => "none yet; `gristmill run` and `gristmill submit` make .gristmill/gristmill.db here".to_owned(),
    }
}

fn describe(config: &Config, database: &str) -> String {
    let all = config.routes();
    let mut parts = vec![
        columns(&settings("OPTION", config.settings())),
        format!("database: {database}\n"),
        columns(&routes(&all)),
    ];
    if config.groups().is_some() {
        parts.push(columns(&shares(&all)));
    }
    parts.push(columns(&settings("ROUTING", config.routing().settings())));
    let notices: String = config.notices().iter().map(|notice| format!("note: {notice}\n")).collect();
    parts.extend((!notices.is_empty()).then_some(notices));
    parts.join("\n")
}

fn settings(what: &str, settings: &[Setting]) -> Vec<Vec<String>> {
    let heading = [what, "VALUE", "FROM"].map(str::to_owned).to_vec();
    let row = |setting: &Setting| {
        let value = setting.value.as_deref().unwrap_or("-");
        vec![setting.name.to_owned(), value.to_owned(), origin(setting)]
    };
    std::iter::once(heading).chain(settings.iter().map(row)).collect()
}

/// Lays out how deployments share the work, and what each adds to requests.
fn shares(routes: &[Route]) -> Vec<Vec<String>> {
    let heading = ["DEPLOYMENT", "LIMITS", "WEIGHT", "ORDER", "TAGS", "ADDS", "FROM"].map(str::to_owned).to_vec();
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let row = |route: &Route| {
        let name = route.deployment.as_deref().unwrap_or_default();
        let shared = route.account.as_deref().filter(|account| *account != name);
        let limits = or_none(route.limits());
        let defaults = route.defaults.iter().map(|(key, value)| format!("{key}={value}"));
        let headers = route.headers.iter().map(|header| format!("header {header}"));
        vec![
            name.to_owned(),
            shared.map_or_else(|| limits.clone(), |account| format!("{limits} (account {account})")),
            route.weight.to_string(),
            route.order.to_string(),
            or_none(route.tags.join(", ")),
            or_none(defaults.chain(headers).collect::<Vec<_>>().join(", ")),
            route.origin.clone().unwrap_or_default(),
        ]
    };
    std::iter::once(heading).chain(routes.iter().map(row)).collect()
}

fn origin(setting: &Setting) -> String {
    let layer = match setting.layer {
        Layer::Default => return "default".to_owned(),
        Layer::File => "file",
        Layer::Env => "env",
        Layer::Flag => "flag",
    };
    format!("{layer}: {}", setting.origin.as_deref().unwrap_or_default())
}

/// Lays out where calls can go.
pub(super) fn routes(routes: &[Route]) -> Vec<Vec<String>> {
    let heading = ["MODEL", "DEPLOYMENT", "ASKS", "AT", "KEY"].map(str::to_owned).to_vec();
    let or = |text: &Option<_>, other: &str| text.as_deref().unwrap_or(other).to_owned();
    let row = |route: &Route| {
        let asks = or(&route.provider_model, "the same");
        vec![
            or(&route.model.as_ref().map(ToString::to_string), "(any)"),
            or(&route.deployment.as_ref().map(ToString::to_string), "the same"),
            format!("{}/{asks}", route.provider),
            route.endpoint.clone(),
            match &route.problem {
                Some(problem) => format!("unusable: {problem}"),
                None => or(&route.key, "none"),
            },
        ]
    };
    std::iter::once(heading).chain(routes.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_says_what_set_the_value() {
        let setting = |layer, origin: Option<&str>| Setting {
            name: "timeout",
            value: Some("9".into()),
            layer,
            origin: origin.map(str::to_owned),
        };
        assert_eq!(origin(&setting(Layer::Default, None)), "default");
        assert_eq!(origin(&setting(Layer::Env, Some("LITELLM_TIMEOUT in .env"))), "env: LITELLM_TIMEOUT in .env");
        assert_eq!(origin(&setting(Layer::File, Some("timeout in gristmill.yaml"))), "file: timeout in gristmill.yaml");
        assert_eq!(origin(&setting(Layer::Flag, Some("--timeout"))), "flag: --timeout");
    }
}
