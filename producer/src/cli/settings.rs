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
            "options": config.settings(), "models": config.routes(), "database": database,
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
    let heading = ["OPTION", "VALUE", "FROM"].map(str::to_owned).to_vec();
    let option = |setting: &Setting| {
        let value = setting.value.as_deref().unwrap_or("-");
        vec![setting.name.to_owned(), value.to_owned(), origin(setting)]
    };
    let rows: Vec<_> = std::iter::once(heading).chain(config.settings().iter().map(option)).collect();
    let mut text = columns(&rows);
    text.push_str(&format!("\ndatabase: {database}\n\n"));
    text.push_str(&columns(&routes(&config.routes())));
    text
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
