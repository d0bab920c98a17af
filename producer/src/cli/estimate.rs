//! `estimate`, and what `submit` and `run` show of it before they begin.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use gristmill_common::backend::{Backend, Need};
use gristmill_common::config::{Config, Overrides};
use gristmill_common::price::PicoUsd;
use gristmill_common::store::{BatchSelector, Store};
use gristmill_producer::BatchSpec;
use gristmill_producer::input::Checked;
use serde_json::{Value, json};

use super::Global;
use super::backends;
use super::batch::BatchArgs;
use super::consent;
use super::fault::{Exit, Fault};
use super::forecast::{self, Depth, Forecast, History, ModelForecast, USUAL_OUTPUT};
use super::place::{self, Missing};
use super::progress::Style;
use super::stop::Stop;
use super::table::{count, duration, money, plural};
use super::ui;

/// What an input may cost before a person is asked.
const ASK_ABOVE: PicoUsd = PicoUsd(1_000_000_000_000);

const EXAMPLES: &str = "\
Examples:
  gristmill estimate prompts.jsonl
  gristmill estimate prompts.jsonl --model gpt-4o --model gpt-4o-mini --repeat 5
  gristmill estimate monday.jsonl tuesday.jsonl --service-tier flex --json

It takes the options that `submit` takes, and sends nothing. The least is what earlier calls of the model gave on
average; the most is max_tokens, or what the model may give. docs/reports.md says how it is counted.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    batch: BatchArgs,
    /// More such files
    #[arg(value_name = "MORE")]
    more: Vec<PathBuf>,
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let backend = existing(global, &config).await?;
    let store = backend.as_ref().map(|backend| &*backend.store);
    let mut all = Forecast::default();
    let mut input = args.batch.check(global, None).await?;
    let mut more = args.more.into_iter();
    loop {
        all.add(forecast::of(&config, &input, store, Depth::All).await?);
        let Some(path) = more.next() else { break };
        input = args.batch.check_file(global, path, None).await?;
    }
    if let Some(backend) = &backend {
        backend.close().await;
    }
    if global.json {
        ui::json(&as_json(&all))?;
    } else {
        ui::out(describe(&all).as_bytes())?;
    }
    Ok(Exit::Success)
}

/// Opens the database, which knows what calls gave before, if there is one.
async fn existing(global: &Global, config: &Config) -> Result<Option<Backend>, Fault> {
    let place = match place::find(global, config, Missing::Refuse) {
        Ok(place) => place,
        Err(fault) if global.db.is_some() || config.database_url.is_some() => return Err(fault),
        Err(_) => return Ok(None),
    };
    Ok(Some(backends::open(&place, config, Need::Store).await?))
}

/// Estimates for a dry run.
pub(super) async fn of_dry_run(global: &Global, config: &Config, checked: &Checked) -> Result<Forecast, Fault> {
    let backend = existing(global, config).await?;
    let store = backend.as_ref().map(|backend| &*backend.store);
    let forecast = forecast::of(config, checked, store, Depth::Sample).await;
    if let Some(backend) = backend {
        backend.close().await;
    }
    forecast
}

/// What is about to be submitted.
pub(super) struct Before<'a> {
    pub(super) config: &'a Config,
    pub(super) backend: &'a Backend,
    pub(super) checked: &'a Checked,
    pub(super) args: &'a BatchArgs,
    pub(super) spec: &'a BatchSpec,
    pub(super) style: Style,
    pub(super) stop: &'a Stop,
}

impl Before<'_> {
    /// Shows the estimate where a person is there, and asks where much may be spent. Returns whether to go on.
    ///
    /// # Errors
    ///
    /// The person says no.
    pub(super) async fn show(&self, global: &Global) -> Result<bool, Fault> {
        let is_seen = std::io::stderr().is_terminal() && !global.quiet && !global.json && self.style != Style::Json;
        if !is_seen {
            return Ok(true);
        }
        let store: &dyn Store = &*self.backend.store;
        let forecast = forecast::of(self.config, self.checked, Some(store), Depth::Sample).await?;
        ui::tell(brief(&forecast).trim_end());
        let Some(most) = self.to_ask_about(&forecast, store).await?.filter(|_| consent::can_ask()) else {
            return Ok(true);
        };
        let question = format!("this may cost {most}: go on?");
        tokio::select! {
            answer = consent::ask(&question) => match answer? {
                true => Ok(true),
                false => Err(Fault::new("nothing was submitted").hint("--yes goes on without asking")),
            },
            () = self.stop.drain.cancelled() => Ok(false),
        }
    }

    /// Returns what is to be asked about, if anything is.
    async fn to_ask_about(&self, forecast: &Forecast, store: &dyn Store) -> Result<Option<String>, Fault> {
        if self.args.yes {
            return Ok(None);
        }
        // What has ended is not paid again.
        let known = store.batch(&BatchSelector::Name(self.spec.name.clone())).await?;
        let ended = known.filter(|_| !self.args.append).map_or(0, |batch| batch.counters.done());
        let left = self.checked.jobs.saturating_sub(ended);
        if left == 0 {
            return Ok(None);
        }
        let Some(most) = forecast.cost().1 else { return Ok(None) };
        let most = i128::from(most.0) * i128::from(left) / i128::from(self.checked.jobs.max(1));
        let most = PicoUsd(i64::try_from(most).unwrap_or(i64::MAX));
        let up_to = if forecast.unknown().1 > 0 { "more than" } else { "up to" };
        Ok((most > ASK_ABOVE).then(|| format!("{up_to} {}", money(most.dollars()))))
    }
}

/// Says an estimate in a line, and what is unknown in others.
pub(super) fn brief(forecast: &Forecast) -> String {
    let requests = plural(forecast.requests(), "request");
    let input: u128 = forecast.models.values().map(|model| model.sums.input_tokens).sum();
    let mut text = format!("estimate: {requests}, {} tokens in, {}\n", number(input), total_cost(forecast));
    text.push_str(&sampled(forecast));
    for (name, model) in &forecast.models {
        unknowns(model).iter().for_each(|line| text.push_str(&format!("{name}: {line}\n")));
    }
    text
}

fn describe(forecast: &Forecast) -> String {
    let mut rows = vec![["MODEL", "REQUESTS", "INPUT", "OUTPUT", "COST"].map(str::to_owned)];
    for (name, model) in &forecast.models {
        rows.push([
            name.to_string(),
            count(model.requests),
            if model.counted == 0 { "unknown".to_owned() } else { number(model.sums.input_tokens) },
            output(model),
            range(model.cost().0.map(shown), model.cost().1.map(shown)),
        ]);
    }
    if forecast.models.len() > 1 {
        let sum = |of: fn(&ModelForecast) -> u128| number(forecast.models.values().map(of).sum());
        let (low, high) = (sum(|model| model.sums.low_tokens), sum(|model| model.sums.high_tokens));
        let is_bounded = forecast.models.values().all(|model| model.most_output().is_some());
        rows.push([
            "total".to_owned(),
            count(forecast.requests()),
            sum(|model| model.sums.input_tokens),
            range(Some(low), is_bounded.then_some(high)),
            total_cost(forecast),
        ]);
    }
    let mut text = super::price::aligned(&rows);
    text.push('\n');
    for (name, model) in &forecast.models {
        text.push_str(&basis(name, model));
        unknowns(model).iter().for_each(|line| text.push_str(&format!("  note    {line}\n")));
    }
    text.push_str(&format!(
        "\nprices: {}; nothing cached, no call twice\n{}counted {} in {}\n",
        forecast.prices,
        sampled(forecast),
        plural(forecast.counted(), "request"),
        duration(forecast.took)
    ));
    text
}

fn sampled(forecast: &Forecast) -> String {
    let (counted, requests) = (forecast.counted(), forecast.requests());
    if counted == requests {
        return String::new();
    }
    format!("extrapolated from {} of {}\n", count(counted), plural(requests, "request"))
}

fn total_cost(forecast: &Forecast) -> String {
    let (low, high) = forecast.cost();
    let (unknown_low, unknown_high) = forecast.unknown();
    let range = range(low.map(shown), high.filter(|_| unknown_high == unknown_low).map(shown));
    match (low, unknown_low) {
        (_, 0) => range,
        (None, _) => "cost unknown".to_owned(),
        (Some(_), unknown) => format!("{range} and {} of unknown cost", plural(unknown, "request")),
    }
}

/// Says on what a model's numbers rest.
fn basis(name: &str, model: &ModelForecast) -> String {
    let input =
        if model.is_exact { "counted with the model's own vocabulary" } else { "estimated from the characters" };
    let least = match model.history {
        Some(History { calls, mean }) => {
            format!("{} tokens each, as {} gave on average", count(mean), plural(calls, "earlier call"))
        }
        None => format!("{USUAL_OUTPUT} tokens each, since no earlier call tells"),
    };
    let most = match model.sums.bounded_by_model {
        _ if model.sums.unbounded > 0 => {
            format!("unknown for {}; give max_tokens", plural(model.sums.unbounded, "request"))
        }
        0 => "max_tokens".to_owned(),
        all if all == model.requests => "as much as the model may give, since no request has max_tokens".to_owned(),
        some => format!("max_tokens; as much as the model may give for {} without", plural(some, "request")),
    };
    let mut text = format!("{name}\n  input   {input}\n  output  at least {least}\n          at most {most}\n");
    match model.priced.as_slice() {
        [] => {}
        [(_, price)] => text.push_str(&format!("  price   {price}\n")),
        several => {
            let prices: Vec<String> = several.iter().map(|(name, price)| format!("{name} {price}")).collect();
            text.push_str(&format!("  price   the cheapest and the dearest of {}\n", prices.join(", ")));
        }
    }
    text
}

/// Says what is not known of a model, a line each.
fn unknowns(model: &ModelForecast) -> Vec<String> {
    let mut lines = Vec::new();
    let requests = plural(model.requests, "request");
    if let Some(reason) = &model.unserved {
        lines.push(format!("only its name says the price: no deployment is configured here ({reason})"));
    }
    if model.priced.is_empty() {
        lines.push(format!("no price is known: what {requests} would cost is unknown"));
    } else if !model.unpriced.is_empty() {
        let deployments: Vec<&str> = model.unpriced.iter().map(Arc::as_ref).collect();
        lines.push(format!("no price is known of {}: the cost leaves it out", deployments.join(", ")));
    }
    if model.counted == 0 {
        lines.push(format!("{requests} are not in the sample; `gristmill estimate` counts all"));
    }
    lines
}

fn output(model: &ModelForecast) -> String {
    if model.counted == 0 {
        return "unknown".to_owned();
    }
    range(Some(number(model.sums.low_tokens)), model.most_output().map(number))
}

/// Writes two ends as one where they are the same.
fn range(low: Option<String>, high: Option<String>) -> String {
    match (low, high) {
        (Some(low), Some(high)) if low == high => low,
        (Some(low), Some(high)) => format!("{low}–{high}"),
        (Some(low), None) => format!("{low} or more"),
        (None, _) => "unknown".to_owned(),
    }
}

fn shown(cost: PicoUsd) -> String {
    money(cost.dollars())
}

fn number(number: u128) -> String {
    count(u64::try_from(number).unwrap_or(u64::MAX))
}

/// Returns an estimate for machines; `null` is what is not known.
pub(super) fn as_json(forecast: &Forecast) -> Value {
    let tokens = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
    let model = |(name, model): (&Arc<str>, &ModelForecast)| {
        let (low, high) = model.cost();
        let counted = Some(&model.sums).filter(|_| model.counted > 0);
        json!({
            "model": &**name,
            "requests": model.requests,
            "counted": model.counted,
            "input_tokens": counted.map(|sums| tokens(sums.input_tokens)),
            "input_is_exact": model.is_exact,
            "output_tokens_low": counted.map(|sums| tokens(sums.low_tokens)),
            "output_tokens_high": model.most_output().map(tokens),
            "requests_without_max_tokens": model.sums.bounded_by_model + model.sums.unbounded,
            "requests_without_bound": model.sums.unbounded,
            "history": model.history.map(|History { calls, mean }| json!({ "calls": calls, "mean_output_tokens": mean })),
            "cost_usd_low": low.map(PicoUsd::dollars),
            "cost_usd_high": high.map(PicoUsd::dollars),
            "cost_pico_usd_low": low,
            "cost_pico_usd_high": high,
            "prices": model.priced.iter().map(|(name, price)| json!({ "deployment": &**name, "price": price }))
                .collect::<Vec<_>>(),
            "unpriced": model.unpriced.iter().map(|name| &**name).collect::<Vec<_>>(),
            "unserved": model.unserved,
        })
    };
    let (low, high) = forecast.cost();
    let (unknown_low, unknown_high) = forecast.unknown();
    json!({
        "requests": forecast.requests(),
        "counted": forecast.counted(),
        "cost_usd_low": low.map(PicoUsd::dollars),
        "cost_usd_high": high.map(PicoUsd::dollars),
        "cost_pico_usd_low": low,
        "cost_pico_usd_high": high,
        "requests_of_unknown_cost": unknown_low,
        "requests_of_unknown_high_cost": unknown_high,
        "usual_output_tokens": USUAL_OUTPUT,
        "prices": forecast.prices,
        "took_ms": u64::try_from(forecast.took.as_millis()).unwrap_or(u64::MAX),
        "models": forecast.models.iter().map(model).collect::<Vec<_>>(),
    })
}
