//! `price`: what a model costs, and what one call of it does.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Instant;

use clap::ValueEnum;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::config::{Overrides, nearest};
use gristmill_common::price::{Bill, Call, Decimal, Part, Price, Prices, Terms, Usage};
use serde_json::Value;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::table::count;
use super::ui;
use super::when::When;

const EXAMPLES: &str = "\
Examples:
  gristmill price gpt-4o                                   its rates, by the million tokens
  gristmill price gpt-4o --usage '{\"prompt_tokens\": 1200, \"completion_tokens\": 300}'
  gristmill price claude-opus-5-5 --usage - < answer.json  of an answer, or of its usage alone
  gristmill price gpt-5.5 --usage - --service-tier flex < answer.json

The usage is what the provider wrote: OpenAI's for chat, responses or embeddings, Anthropic's,
DeepSeek's. docs/costs.md has the rules.";

/// Names that are suggested at most.
const SUGGESTED: usize = 3;
/// Tokens that rates are shown for.
const MILLION: u64 = 1_000_000;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The model, as provider/model or as LiteLLM's table names it
    #[arg(value_name = "MODEL")]
    model: String,
    /// The usage of a call as JSON, or the answer that has it; - reads standard input [default: shows the model's rates]
    #[arg(long, value_name = "JSON")]
    usage: Option<String>,
    /// The service tier: flex, priority … [default: what the usage says was served]
    #[arg(long, value_name = "TIER", requires = "usage")]
    service_tier: Option<String>,
    /// What kind of call it was
    #[arg(long, value_enum, default_value_t, requires = "usage")]
    call: Kind,
    /// The provider, where the model's name does not say it
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// When the call was made, such as 2026-12-01T08:00:00Z: some prices change by the hour [default: now]
    #[arg(long, value_name = "TIME", requires = "usage")]
    at: Option<When>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Kind {
    /// One request and its answer
    #[default]
    Completion,
    /// One request of the provider's own batch API
    Batch,
    /// An embedding
    Embedding,
}

pub(super) fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let prices = config.prices().prices(Instant::now());
    let price = find(&prices, args.provider.as_deref(), &args.model)?;
    match &args.usage {
        None => show_rates(global, &prices, &price)?,
        Some(text) => {
            let usage = read_usage(text)?;
            let now = SystemClock.now();
            let terms = Terms {
                provider: args.provider.as_deref(),
                requested_tier: args.service_tier.as_deref(),
                call: match args.call {
                    Kind::Completion => Call::Completion,
                    Kind::Batch => Call::Batch,
                    Kind::Embedding => Call::Embedding,
                },
                ..Terms::at(args.at.map_or(now, |when| when.from(now)))
            };
            show_bill(global, &prices, &price, &usage, price.bill(&usage, &terms))?;
        }
    }
    Ok(Exit::Success)
}

/// Finds the prices of a model that a person named.
pub(super) fn find(prices: &Prices, provider: Option<&str>, model: &str) -> Result<std::sync::Arc<Price>, Fault> {
    let found = match provider {
        Some(provider) => prices.find(provider, model),
        None => prices.at_key(model).or_else(|| {
            let (provider, model) = model.split_once('/')?;
            prices.find(provider, model)
        }),
    };
    found.ok_or_else(|| {
        let named = provider.map_or_else(|| format!("`{model}`"), |provider| format!("`{model}` of {provider}"));
        let fault = Fault::new(format!("{} has no model {named}", prices.source()));
        let near = near(prices, model);
        if near.is_empty() {
            return fault.hint("a newer table is taken with --prices; a deployment's own prices are set in model_list");
        }
        let near: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
        fault.hint(format!("did you mean {}?", near.join(" or ")))
    })
}

/// Finds names that were probably meant: the same model at other providers, and names that are spelled nearly so.
fn near<'a>(prices: &'a Prices, model: &str) -> Vec<&'a str> {
    let bare = |name: &str| name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let wanted = bare(model);
    let mut found: Vec<&str> = prices.keys().filter(|key| bare(key) == wanted).collect();
    found.sort_unstable_by_key(|key| (key.len(), *key));
    let mut rest: BTreeSet<&str> = prices.keys().filter(|key| !found.contains(key)).collect();
    while found.len() < SUGGESTED
        && let Some(name) = nearest(model, rest.iter().copied())
    {
        rest.remove(name);
        found.push(name);
    }
    found.truncate(SUGGESTED);
    found
}

/// Reads a usage, or the one in an answer.
fn read_usage(text: &str) -> Result<Usage, Fault> {
    let mut input = String::new();
    let text = if text == "-" {
        let read = std::io::stdin().lock().read_to_string(&mut input);
        read.map_err(|error| Fault::new("reading standard input failed").because(&error))?;
        &input
    } else {
        text
    };
    let value: Value =
        serde_json::from_str(text).map_err(|error| Fault::new("the usage is not JSON").because(&error))?;
    let usage = value.get("usage").filter(|usage| usage.is_object()).unwrap_or(&value);
    if let Some((name, count)) = not_a_count(usage) {
        return Err(Fault::new(format!("{name} of the usage is {count}, which is no number of tokens")));
    }
    Usage::read(usage).ok_or_else(|| {
        Fault::new("the JSON is no usage of a provider's")
            .hint("it has prompt_tokens and completion_tokens, or input_tokens and output_tokens")
    })
}

/// Finds a count of tokens that is none.
fn not_a_count(usage: &Value) -> Option<(&String, &Value)> {
    let is_bad = |name: &str, value: &Value| name.ends_with("tokens") && value.is_number() && !value.is_u64();
    usage.as_object()?.iter().find(|(name, value)| is_bad(name, value))
}

fn heading(prices: &Prices, price: &Price) -> String {
    format!("{} ({})\n", price.reference(), prices.source())
}

fn show_rates(global: &Global, prices: &Prices, price: &Price) -> Result<(), Fault> {
    if global.json {
        let row: Value = serde_json::from_str(price.row()).unwrap_or_default();
        ui::json(&serde_json::json!({
            "model": price.key(),
            "price": price.reference(),
            "source": prices.source(),
            "max_input_tokens": price.max_input_tokens(),
            "max_output_tokens": price.max_output_tokens(),
            "row": row,
        }))?;
        return Ok(());
    }
    let mut text = heading(prices, price);
    for (what, tokens) in [("input", price.max_input_tokens()), ("output", price.max_output_tokens())] {
        if let Some(tokens) = tokens {
            text.push_str(&format!("at most {} tokens of {what}\n", count(tokens)));
        }
    }
    let mut rows: Vec<[String; 2]> = price.rates().map(|(field, rate)| [field.to_owned(), per_million(rate)]).collect();
    for (above, to, rates) in price.ranges() {
        let row =
            |(field, rate): (&str, Decimal)| [format!("{field} (prompts above {above} up to {to})"), per_million(rate)];
        rows.extend(rates.map(row));
    }
    rows.extend(price.search_fees().map(|(size, fee)| [format!("web search, {size}"), each(fee)]));
    if !price.has_token_prices() {
        text.push_str(&unknown(price));
    }
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&aligned(&rows));
    }
    ui::out(text.as_bytes())?;
    Ok(())
}

fn show_bill(global: &Global, prices: &Prices, price: &Price, usage: &Usage, bill: Option<Bill>) -> Result<(), Fault> {
    if global.json {
        let cost = bill.as_ref().map(|bill| bill.total.dollars());
        ui::json(&serde_json::json!({
            "model": price.key(),
            "price": price.reference(),
            "source": prices.source(),
            "cost_usd": cost,
            "usage": usage,
            "bill": bill,
        }))?;
        return Ok(());
    }
    let mut text = heading(prices, price);
    let Some(bill) = bill else {
        text.push_str(&unknown(price));
        ui::out(text.as_bytes())?;
        return Ok(());
    };
    if bill.is_reported {
        text.push_str("the provider says what the call cost\n");
    }
    for factor in &bill.factors {
        text.push_str(&format!("rates of tokens are multiplied by {}: {}\n", factor.factor, factor.why));
    }
    let row = |what: &str, quantity: String, rate: String, cost: String| [what.to_owned(), quantity, rate, cost];
    let mut rows = vec![row("", "QUANTITY".to_owned(), "RATE".to_owned(), "COST".to_owned())];
    for term in &bill.terms {
        let rate = if term.part == Part::Tools { each(term.rate) } else { per_million(term.rate) };
        rows.push(row(term.what, count(term.quantity), rate, term.amount.to_string()));
    }
    rows.push(row("total", String::new(), String::new(), bill.total.to_string()));
    text.push('\n');
    text.push_str(&aligned(&rows));
    ui::out(text.as_bytes())?;
    Ok(())
}

fn unknown(price: &Price) -> String {
    format!("{} has no price of tokens: what calls cost is not known\n", price.key())
}

fn per_million(rate: Decimal) -> String {
    format!("{} per million", dollars(rate.times_count(MILLION)))
}

fn each(fee: Decimal) -> String {
    format!("{} each", dollars(fee))
}

/// Writes dollars exactly, with cents at least.
fn dollars(amount: Decimal) -> String {
    let text = amount.to_string();
    let (whole, cents) = text.split_once('.').unwrap_or((&text, ""));
    format!("${whole}.{cents:0<2}")
}

/// Lays rows out in columns, numbers to the right.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column == 0 {
                text.push_str(&format!("{cell:<width$}"));
            } else {
                text.push_str(&format!("  {cell:>width$}"));
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_by_the_million_with_cents_at_least() {
        for (rate, shown) in
            [("2.5e-06", "$2.50 per million"), ("3e-9", "$0.003 per million"), ("0", "$0.00 per million")]
        {
            assert_eq!(per_million(rate.parse().unwrap()), shown);
        }
    }

    #[test]
    fn the_same_model_elsewhere_and_near_names_are_suggested() {
        let prices = Prices::shipped();
        assert_eq!(near(&prices, "gpt4o")[0], "gpt-4o");
        let elsewhere = near(&prices, "openrouter/gpt-4o");
        assert!(elsewhere.contains(&"gpt-4o") && elsewhere.len() == SUGGESTED, "{elsewhere:?}");
        assert!(near(&prices, "zzzzzzzzzzzzzzzzzz").is_empty());
    }
}
