//! What one request of a provider's own batch costs: its rates for batches, or half of the plain ones.

use super::Usage;
use super::bill::Lines;
use super::decimal::Decimal;
use super::field::{BATCHES, CACHE_READ, CACHE_WRITE, CACHE_WRITE_1H, CACHE_WRITE_12H, INPUT, OUTPUT};
use super::rates::{Case, Rates};
use super::row::Price;
use super::split::Prompt;

/// Adds the tokens of a call; service tiers and a price of reasoning do not count.
pub(super) fn add(lines: &mut Lines, price: &Price, usage: &Usage, case: &Case<'_>) {
    match of_batches(price, case, INPUT) {
        Some(input) => add_prompt(lines, price, usage, case, input),
        None => add_half_prompt(lines, price, usage, case),
    }
    let output = of_batches(price, case, OUTPUT)
        .unwrap_or_else(|| plain(price, case, OUTPUT).unwrap_or_default().times(Decimal::HALF));
    lines.completion("output", usage.completion_tokens, output);
}

fn add_prompt(lines: &mut Lines, price: &Price, usage: &Usage, case: &Case<'_>, input: Decimal) {
    let rate = |base| of_batches(price, case, base);
    let (mut rest, cache_read) = (usage.prompt_tokens, rate(CACHE_READ));
    // What has no price of its own in a batch is plain input there.
    let cached = if cache_read.is_some() { usage.cached_tokens } else { 0 };
    rest = rest.saturating_sub(cached);
    let (short, hour, half_day) = (rate(CACHE_WRITE), rate(CACHE_WRITE_1H), rate(CACHE_WRITE_12H));
    let writes = if short.or(hour).or(half_day).is_some() { Prompt::writes(usage) } else { Prompt::default() };
    rest = [writes.written, writes.written_1h, writes.written_12h].into_iter().fold(rest, u64::saturating_sub);
    let short = short.unwrap_or(input);
    lines.prompt("input", rest, input);
    lines.prompt("cached input", cached, cache_read.unwrap_or(input));
    lines.prompt("cache writes", writes.written, short);
    lines.prompt("cache writes for 1 h", writes.written_1h, hour.unwrap_or(short));
    lines.prompt("cache writes for 12 h", writes.written_12h, half_day.unwrap_or(short));
}

fn add_half_prompt(lines: &mut Lines, price: &Price, usage: &Usage, case: &Case<'_>) {
    let half = |rate: Decimal| rate.times(Decimal::HALF);
    let input = plain(price, case, INPUT).unwrap_or_default();
    let text = Prompt::of_text(usage).text;
    lines.prompt("input", text, half(input));
    // As LiteLLM has it: reads without a price of their own are free here, and writes are not told apart.
    lines.prompt("cached input", usage.cached_tokens, half(plain(price, case, CACHE_READ).unwrap_or_default()));
    lines.prompt("cache writes", usage.cache_write_tokens, half(plain(price, case, CACHE_WRITE).unwrap_or(input)));
}

/// Returns the rate for batches, that of the highest threshold that the prompt has passed.
fn of_batches(price: &Price, case: &Case<'_>, base: &str) -> Option<Decimal> {
    let passed = price.thresholds(&[BATCHES]).into_iter().rev().filter(|it| case.prompt_tokens > it.tokens);
    passed
        .map(|threshold| format!("{base}_above_{}_tokens", threshold.text))
        .find_map(|name| price.rate(&name, BATCHES))
        .or_else(|| price.rate(base, BATCHES))
}

/// Returns the plain rate, or that of the range of lengths where the row has no other.
fn plain(price: &Price, case: &Case<'_>, base: &str) -> Option<Decimal> {
    price.rate(base, "").or_else(|| {
        if price.ranges.is_empty() {
            return None;
        }
        let rates = Rates::of(price, &Case { tier: None, ..*case });
        match base {
            INPUT => Some(rates.input),
            OUTPUT => Some(rates.output),
            CACHE_READ => Some(rates.cache_read),
            CACHE_WRITE => Some(rates.cache_write),
            _ => None,
        }
    })
}
