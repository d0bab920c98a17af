//! `costs recompute`: bills recorded calls with today's prices; the store keeps what they cost before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use gristmill_common::backend::{Backend, Need};
use gristmill_common::config::{Config, Overrides};
use gristmill_common::id::BatchId;
use gristmill_common::outcome::CostBasis;
use gristmill_common::price::{Bill, PicoUsd, Price, Prices, Terms, Usage};
use gristmill_common::store::{self, BatchSelector, Correction, CostedCall, KeptPrice};
use gristmill_producer::Producer;
use serde_json::{Value, json};

use super::sheet::{amount, dollars};
use crate::cli::Global;
use crate::cli::backends;
use crate::cli::consent::confirm;
use crate::cli::fault::{Exit, Fault};
use crate::cli::place::{self, Missing};
use crate::cli::stop::Stop;
use crate::cli::table::{count, plural, sheet};
use crate::cli::ui;

/// Calls of one read, and of one transaction.
const PAGE: u32 = 1_000;

const EXAMPLES: &str = "\
Examples:
  gristmill costs recompute --dry-run             what would change
  gristmill costs recompute sweep-7               asks first
  gristmill costs recompute --prices new.json -y  by a newer table

Calls are billed by the prices that are configured here: the deployment's own, else the table's. What a
call cost before is kept beside it (table cost_change), and every sum moves by the difference. On Postgres
this needs the rights of the user who ran `gristmill migrate`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only this batch: its name, its id, the beginning of its id, or @last [default: all]
    #[arg(value_name = "BATCH")]
    batch: Option<String>,
    /// Show what would change and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let backend = backends::open(&place::find(global, &config, Missing::Refuse)?, &config, Need::Store).await?;
    let batch = match &args.batch {
        Some(batch) => Some(Producer::on(&backend).batch(&Producer::selector(batch)).await?.id),
        None => None,
    };
    let mut walk = Walk { biller: Biller::new(&config), backend: &backend, batch, simulated: HashMap::new() };
    let stop = Stop::on_signals("stopping after this step; the same command goes on")?;
    let plan = walk.over(&stop, false).await?;
    if stop.drain.is_cancelled() {
        return Ok(Exit::Interrupted);
    }
    let changed: u64 = plan.values().map(|line| line.changed).sum();
    if args.dry_run || changed == 0 {
        tell(global, &plan, true)?;
        return Ok(Exit::Success);
    }
    if !args.yes {
        // Who is asked sees what for.
        if !global.json {
            ui::tell(table(&plan).trim_end());
        }
        let what = plural(changed, "call");
        let refusal = format!("this would change the costs of {what}, and nobody is there to ask");
        let hint = "add --yes to change them, or --dry-run to see them";
        if !confirm(&format!("change the costs of {what}?"), refusal, hint).await? {
            return Err(Fault::new("nothing was changed"));
        }
    }
    let done = walk.over(&stop, true).await?;
    tell(global, &done, false)?;
    Ok(if stop.drain.is_cancelled() { Exit::Interrupted } else { Exit::Success })
}

/// What becomes of a model's costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Line {
    /// Calls that told what they used.
    calls: u64,
    changed: u64,
    /// Calls of which no price is known now; they stay as they are.
    unpriced: u64,
    old: PicoUsd,
    new: PicoUsd,
}

type Lines = BTreeMap<Arc<str>, Line>;

/// A walk over recorded calls.
struct Walk<'a> {
    biller: Biller<'a>,
    backend: &'a Backend,
    batch: Option<BatchId>,
    simulated: HashMap<BatchId, bool>,
}

impl Walk<'_> {
    /// Bills every call, and writes what changed if it is to; returns what became of each model.
    async fn over(&mut self, stop: &Stop, writes: bool) -> Result<Lines, Fault> {
        let mut lines = Lines::new();
        let mut after = None;
        while !stop.drain.is_cancelled() {
            let calls = self.backend.store.costed_calls(self.batch, after, PAGE).await?;
            let Some(last) = calls.last() else { break };
            after = Some(last.key);
            let mut corrections = Vec::new();
            for call in calls {
                if self.is_simulated(call.batch).await? || call.cost_basis == CostBasis::Unbilled {
                    continue;
                }
                let line = lines.entry(Arc::clone(&call.group)).or_default();
                corrections.extend(line.take(call, &mut self.biller));
            }
            if writes && !corrections.is_empty() {
                self.write(&corrections).await?;
            }
        }
        Ok(lines)
    }

    async fn write(&mut self, corrections: &[Correction]) -> Result<(), Fault> {
        let store = &self.backend.store;
        let prices = std::mem::take(&mut self.biller.unkept);
        if !prices.is_empty() {
            store.keep_prices(&prices).await.map_err(refused)?;
        }
        store.correct_costs(corrections).await.map_err(refused)?;
        Ok(())
    }

    /// Tells whether a batch's answers were the simulator's, which cost nothing.
    async fn is_simulated(&mut self, batch: BatchId) -> Result<bool, Fault> {
        if let Some(known) = self.simulated.get(&batch) {
            return Ok(*known);
        }
        let found = self.backend.store.batch(&BatchSelector::Id(batch)).await?;
        let simulated = found.is_some_and(|batch| batch.simulated);
        self.simulated.insert(batch, simulated);
        Ok(simulated)
    }
}

fn refused(error: store::Error) -> Fault {
    let is_setup = matches!(error, store::Error::Setup(_));
    let fault = Fault::from(error);
    if is_setup {
        fault.hint("on Postgres, run it as the user who ran `gristmill migrate`: workers may only add")
    } else {
        fault
    }
}

impl Line {
    /// Adds a call; returns the correction that it needs, if any.
    fn take(&mut self, call: CostedCall, biller: &mut Biller<'_>) -> Option<Correction> {
        let old = PicoUsd(call.cost_pico_usd.unwrap_or(0));
        self.calls += 1;
        self.old = self.old.saturating_add(old);
        let Some((new, price_ref)) = biller.bill(&call) else {
            self.unpriced += 1;
            self.new = self.new.saturating_add(old);
            return None;
        };
        self.new = self.new.saturating_add(new);
        if call.cost_pico_usd == Some(new.0) {
            return None;
        }
        self.changed += 1;
        Some(Correction { call, cost_pico_usd: new.0, price_ref })
    }
}

/// Bills recorded calls.
struct Biller<'a> {
    config: &'a Config,
    prices: Arc<Prices>,
    found: HashMap<Billed, Option<Found>>,
    /// Prices that corrections name and that were not kept yet.
    unkept: Vec<KeptPrice>,
}

/// Whose calls have one price.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Billed {
    group: Arc<str>,
    deployment: Arc<str>,
    provider: Arc<str>,
    model: Arc<str>,
}

#[derive(Debug, Clone)]
struct Found {
    price: Arc<Price>,
    reference: Arc<str>,
    data_residency: Option<&'static str>,
}

impl<'a> Biller<'a> {
    fn new(config: &'a Config) -> Self {
        let prices = config.prices().prices(Instant::now());
        Self { config, prices, found: HashMap::new(), unkept: Vec::new() }
    }

    /// Returns what a call costs by today's prices and which one; `None` where none is known.
    fn bill(&mut self, call: &CostedCall) -> Option<(PicoUsd, Arc<str>)> {
        let usage = match &call.billed {
            Some(text) => serde_json::from_str(text).ok()?,
            None => Usage::from(&call.usage),
        };
        let Some(Found { price, reference, data_residency }) = self.find(call) else {
            // What the provider itself said needs no price, and changes with none.
            let bill = Bill::reported(&usage, &call.provider)?;
            return Some((bill.total, call.price_ref.clone().unwrap_or_default()));
        };
        let terms = Terms {
            provider: Some(&call.provider),
            requested_tier: call.requested_tier.as_deref(),
            served_tier: call.service_tier.as_deref(),
            data_residency,
            ..Terms::at(call.started_at)
        };
        Some((price.bill(&usage, &terms)?.total, reference))
    }

    /// Finds the price of a call: its deployment's, where the configuration here has it as it was, else the table's.
    fn find(&mut self, call: &CostedCall) -> Option<Found> {
        let CostedCall { group, deployment, provider, model, .. } = call;
        let billed = Billed {
            group: Arc::clone(group),
            deployment: Arc::clone(deployment),
            provider: Arc::clone(provider),
            model: Arc::clone(model),
        };
        if let Some(found) = self.found.get(&billed) {
            return found.clone();
        }
        let is_it = |priced: &gristmill_common::config::Priced| {
            *priced.deployment == **deployment && *priced.provider == **provider && *priced.model == **model
        };
        let own = self.config.priced(group).into_iter().find(is_it);
        let data_residency = own.as_ref().and_then(|own| own.data_residency);
        let price = match own {
            Some(own) => own.tariff.price(Instant::now()),
            None => self.prices.find(provider, model),
        };
        let found = price.map(|price| Found { reference: price.reference().into(), price, data_residency });
        if let Some(Found { price, reference, .. }) = &found {
            self.unkept.push(KeptPrice { reference: Arc::clone(reference), row: price.row().into() });
        }
        self.found.insert(billed, found.clone());
        found
    }
}

fn total(lines: &Lines) -> Line {
    lines.values().fold(Line::default(), |sum, line| Line {
        calls: sum.calls + line.calls,
        changed: sum.changed + line.changed,
        unpriced: sum.unpriced + line.unpriced,
        old: sum.old.saturating_add(line.old),
        new: sum.new.saturating_add(line.new),
    })
}

fn tell(global: &Global, lines: &Lines, is_plan: bool) -> Result<(), Fault> {
    if global.json {
        let models: Vec<Value> = lines.iter().map(|(model, line)| machine(Some(model), line)).collect();
        ui::json(&json!({ "dry_run": is_plan, "models": models, "total": machine(None, &total(lines)) }))?;
        return Ok(());
    }
    let Line { calls, changed, .. } = total(lines);
    if calls == 0 {
        ui::line("no call is recorded that told what it used")?;
        return Ok(());
    }
    ui::out(table(lines).as_bytes())?;
    let last = match (changed, is_plan) {
        (0, _) => "every cost is as today's prices have it".to_owned(),
        (_, true) => format!("would change {}", plural(changed, "call")),
        (_, false) => format!("changed {}; what they cost before is kept", plural(changed, "call")),
    };
    ui::line(&last)?;
    Ok(())
}

fn table(lines: &Lines) -> String {
    let shows_unpriced = total(lines).unpriced > 0;
    let row = |name: &str, line: &Line| {
        let mut row = vec![
            name.to_owned(),
            count(line.calls),
            count(line.changed),
            amount(line.old),
            amount(line.new),
            difference(line),
        ];
        if shows_unpriced {
            row.push(count(line.unpriced));
        }
        row
    };
    let mut heading = ["MODEL", "CALLS", "CHANGED", "BEFORE", "NOW", "DIFFERENCE"].map(str::to_owned).to_vec();
    if shows_unpriced {
        heading.push("NO PRICE".to_owned());
    }
    let mut rows = vec![heading];
    rows.extend(lines.iter().map(|(model, line)| row(model, line)));
    if lines.len() > 1 {
        rows.push(row("total", &total(lines)));
    }
    sheet(&rows, 1)
}

fn difference(line: &Line) -> String {
    let difference = PicoUsd(line.new.0.saturating_sub(line.old.0));
    if difference.0 > 0 { format!("+{}", amount(difference)) } else { amount(difference) }
}

fn machine(model: Option<&str>, line: &Line) -> Value {
    json!({
        "model": model, "calls": line.calls, "changed": line.changed, "unpriced_calls": line.unpriced,
        "before_pico_usd": line.old, "before_usd": dollars(line.old), "now_pico_usd": line.new,
        "now_usd": dollars(line.new),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_changes_by_model() {
        let line =
            |changed, unpriced, old, new| Line { calls: 10, changed, unpriced, old: PicoUsd(old), new: PicoUsd(new) };
        let lines = Lines::from([
            ("gpt-4o".into(), line(10, 0, 2_000_000_000_000, 1_500_000_000_000)),
            ("mine".into(), line(4, 6, 0, 7_000_000_000)),
        ]);
        assert_eq!(
            table(&lines),
            "MODEL   CALLS  CHANGED  BEFORE       NOW  DIFFERENCE  NO PRICE\n\
             gpt-4o     10       10   $2.00     $1.50     -$0.500         0\n\
             mine       10        4   $0.00  $0.00700   +$0.00700         6\n\
             total      20       14   $2.00     $1.51     -$0.493         6\n"
        );
        let json = machine(Some("mine"), &lines["mine"]);
        assert_eq!((&json["now_usd"], &json["unpriced_calls"]), (&"0.007000000000".into(), &6.into()));
    }
}
