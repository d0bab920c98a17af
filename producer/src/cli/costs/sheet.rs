//! Costs, line by line, as people, programs and spreadsheets read them. Pure.

use gristmill_common::price::PicoUsd;
use gristmill_common::store::LostCalls;
use gristmill_common::tally::{By, Part, Sums};
use gristmill_producer::output::csv::{self, Cell};
use serde_json::{Map, Value, json};

use super::compare::Other;
use crate::cli::lost;
use crate::cli::scope::Scope;
use crate::cli::table::{count, money, plural, sheet};

/// Columns of what is said below the table.
const WIDTH: usize = 100;

/// What is known of a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// All of it.
    Exact(PicoUsd),
    /// A part: of some calls it is not known.
    AtLeast(PicoUsd),
    /// Nothing.
    Unknown,
}

impl Known {
    pub(super) const fn of(sums: &Sums) -> Self {
        let cost = PicoUsd(sums.cost_pico_usd);
        if sums.unpriced <= 0 && sums.unseen <= 0 {
            return Self::Exact(cost);
        }
        // What cost nothing so far may be free, or have no price.
        if cost.0 == 0 && (sums.unpriced > 0 || sums.unseen >= sums.calls) {
            return Self::Unknown;
        }
        Self::AtLeast(cost)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Exact(_) => "exact",
            Self::AtLeast(_) => "at_least",
            Self::Unknown => "unknown",
        }
    }

    const fn amount(self) -> Option<PicoUsd> {
        match self {
            Self::Exact(cost) | Self::AtLeast(cost) => Some(cost),
            Self::Unknown => None,
        }
    }

    pub(super) fn shown(self) -> String {
        match self {
            Self::Exact(cost) => amount(cost),
            Self::AtLeast(cost) => format!("≥{}", amount(cost)),
            Self::Unknown => "unknown".to_owned(),
        }
    }
}

/// Writes an amount for people, negative ones too.
pub(super) fn amount(PicoUsd(pico): PicoUsd) -> String {
    let text = money(PicoUsd(pico.saturating_abs()).dollars());
    if pico < 0 { format!("-{text}") } else { text }
}

/// Writes dollars with all twelve digits.
pub(in crate::cli) fn dollars(PicoUsd(pico): PicoUsd) -> String {
    const PICO: u64 = 1_000_000_000_000;
    let digits = pico.unsigned_abs();
    format!("{}{}.{:012}", if pico < 0 { "-" } else { "" }, digits / PICO, digits % PICO)
}

/// Costs by what was asked for.
#[derive(Debug)]
pub(super) struct Sheet<'a> {
    by: &'a [By],
    lines: Vec<Part>,
    total: Sums,
    lost: LostCalls,
    others: &'a [Other],
}

impl<'a> Sheet<'a> {
    /// Puts the dearest first, times in their order; leaves out what neither cost nor saved anything because nothing was called.
    pub(super) fn new(by: &'a [By], parts: Vec<Part>, lost: LostCalls, others: &'a [Other]) -> Self {
        let mut total = Sums::default();
        parts.iter().for_each(|part| total += &part.sums);
        let mut lines: Vec<Part> = parts.into_iter().filter(|Part { sums, .. }| is_of_interest(sums)).collect();
        if !by.iter().any(|by| matches!(by, By::Day | By::Hour | By::Seconds(_))) {
            lines.sort_by_key(|line| std::cmp::Reverse((line.sums.cost_pico_usd, line.sums.input_tokens)));
        }
        Self { by, lines, total, lost, others }
    }

    pub(super) fn text(&self, scope: &Scope) -> String {
        let of = scope.describe();
        if self.lines.is_empty() {
            let mut text = match of {
                Some(of) => format!("no calls: {of}\n"),
                None => "no calls yet\n".to_owned(),
            };
            lost::remark(&self.lost).iter().for_each(|remark| text.push_str(&format!("\n{}\n", wrapped(remark))));
            return text;
        }
        let mut text = of.map(|of| format!("{of}\n\n")).unwrap_or_default();
        let columns = self.columns();
        let mut heading: Vec<String> = self.by.iter().map(|by| by.to_string().to_uppercase()).collect();
        heading.extend(columns.iter().map(|column| column.heading(self.others)));
        let mut rows = vec![heading];
        let mut add = |mut row: Vec<String>, sums: &Sums| {
            row.extend(columns.iter().map(|column| self.cell(*column, sums)));
            rows.push(row);
        };
        for Part { names, sums } in &self.lines {
            add(names.iter().map(|name| if name.is_empty() { "-".to_owned() } else { clean(name) }).collect(), sums);
        }
        if self.lines.len() > 1 {
            let mut names = vec![String::new(); self.by.len()];
            if let Some(first) = names.first_mut() {
                "total".clone_into(first);
            }
            add(names, &self.total);
        }
        text.push_str(&sheet(&rows, self.by.len()));
        self.remarks().iter().for_each(|remark| text.push_str(&format!("\n{}\n", wrapped(remark))));
        text
    }

    /// Returns the columns that have something to say.
    fn columns(&self) -> Vec<Column> {
        let total = &self.total;
        let any = |count: i64, column| (count != 0).then_some(column);
        let mut columns = vec![Some(Column::Calls), Some(Column::Input)];
        columns.push(any(total.cached_input_tokens, Column::CachedInput));
        columns.extend([Column::Output, Column::Cost, Column::Share].map(Some));
        columns.push(any(total.cached | total.saved_pico_usd, Column::Saved));
        columns.push(any(total.unpriced, Column::Unpriced));
        columns.push(any(total.unseen, Column::Unseen));
        columns.extend((0..self.others.len()).map(|other| Some(Column::Other(other))));
        columns.into_iter().flatten().collect()
    }

    fn cell(&self, column: Column, sums: &Sums) -> String {
        let whole = |number: i64| count(u64::try_from(number).unwrap_or(0));
        match column {
            Column::Calls => whole(sums.calls),
            Column::Input => whole(sums.input_tokens),
            Column::CachedInput => whole(sums.cached_input_tokens),
            Column::Output => whole(sums.output_tokens),
            Column::Cost => Known::of(sums).shown(),
            Column::Share => self.share(sums).map_or_else(|| "-".to_owned(), percent),
            Column::Saved => amount(PicoUsd(sums.saved_pico_usd)),
            Column::Unpriced => whole(sums.unpriced),
            Column::Unseen => whole(sums.unseen),
            Column::Other(other) => {
                let Some(cost) = self.others[other].cost(sums) else { return "unknown".to_owned() };
                let ratio = ratio(sums, cost).map(|ratio| format!(" ({})", times(ratio))).unwrap_or_default();
                format!("{}{ratio}", amount(cost))
            }
        }
    }

    /// Returns which share of all that is known a line is.
    fn share(&self, sums: &Sums) -> Option<f64> {
        let cost = Known::of(sums).amount()?;
        (self.total.cost_pico_usd > 0).then(|| cost.dollars() / PicoUsd(self.total.cost_pico_usd).dollars())
    }

    /// Says what the numbers do not.
    fn remarks(&self) -> Vec<String> {
        let Sums { unpriced, unseen, bound_pico_usd, .. } = &self.total;
        let whole = |number: &i64| u64::try_from(*number).unwrap_or(0);
        let mut remarks = Vec::new();
        if *unpriced > 0 {
            remarks.push(format!(
                "unpriced: {} told what they used, and no price of theirs is known. Set one (`gristmill price --help`), then \
                 `gristmill costs recompute`.",
                plural(whole(unpriced), "call")
            ));
        }
        if *unseen > 0 {
            let bound = match *bound_pico_usd {
                0 => "what they cost is not known".to_owned(),
                bound => format!("at most {} more, as far as their prices are known", amount(PicoUsd(bound))),
            };
            remarks.push(format!("unseen: nobody saw how {} ended; {bound}.", plural(whole(unseen), "call")));
        }
        remarks.extend(lost::remark(&self.lost));
        if !self.others.is_empty() {
            remarks.push(
                "compared: the same counts of tokens at plain prices, cached ones at the other model's rates for them. Other \
                 tokenizers count other numbers, other models write other answers; tiers, long prompts, hours, batches, audio \
                 and fees of tools are left out. No ratio where a part of the cost is not known."
                    .to_owned(),
            );
        }
        remarks
    }

    pub(super) fn json(&self, scope: &Scope) -> Value {
        let by: Vec<String> = self.by.iter().map(By::to_string).collect();
        let line = |part: &Part| {
            let mut line = self.fields(&part.sums);
            let name = |name: &String| if name.is_empty() { Value::Null } else { name.as_str().into() };
            let names: Map<String, Value> = by.iter().cloned().zip(part.names.iter().map(name)).collect();
            line.insert("names".to_owned(), names.into());
            Value::Object(line)
        };
        let models = self.others.iter().map(|other| json!({ "model": other.name, "price": other.price.reference() }));
        json!({
            "scope": scope.json(), "by": by, "lines": self.lines.iter().map(line).collect::<Vec<_>>(),
            "total": self.fields(&self.total),
            "lost": lost::json(&self.lost),
            "compare": models.collect::<Vec<_>>(),
        })
    }

    fn fields(&self, sums: &Sums) -> Map<String, Value> {
        let known = Known::of(sums);
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| {
            fields.insert(name.to_owned(), value);
        };
        for (name, number) in counts(sums) {
            put(name, number.into());
        }
        put("cost_is", known.as_str().into());
        put("cost_pico_usd", known.amount().map(|PicoUsd(pico)| pico).into());
        put("cost_usd", known.amount().map(dollars).into());
        put("share", self.share(sums).into());
        let bound = (sums.unseen == 0 || sums.bound_pico_usd != 0).then_some(sums.bound_pico_usd);
        for (name, pico) in [("saved", Some(sums.saved_pico_usd)), ("unseen_bound", bound)] {
            put(&format!("{name}_pico_usd"), pico.into());
            put(&format!("{name}_usd"), pico.map(|pico| dollars(PicoUsd(pico))).into());
        }
        let compared = self.others.iter().map(|other| {
            let cost = other.cost(sums);
            let ratio = cost.and_then(|cost| ratio(sums, cost));
            let value = json!({ "cost_pico_usd": cost, "cost_usd": cost.map(dollars), "ratio": ratio });
            (other.name.clone(), value)
        });
        let compared: Map<String, Value> = compared.collect();
        if !compared.is_empty() {
            put("compare", compared.into());
        }
        fields
    }

    /// Writes the lines; the total is for the spreadsheet to make.
    pub(super) fn csv(&self) -> String {
        let by: Vec<String> = self.by.iter().map(By::to_string).collect();
        let others: Vec<String> = self.others.iter().map(|other| format!("{}_usd", other.name)).collect();
        let names = counts(&self.total).map(|(name, _)| name);
        let rest = ["cost_usd", "cost_is", "saved_usd", "unseen_bound_usd"];
        let heading = by.iter().map(String::as_str).chain(names).chain(rest).chain(others.iter().map(String::as_str));
        let mut text = csv::record(heading.map(Cell::Text));
        let number = |cost: Option<PicoUsd>| cost.map_or(Cell::Empty, |cost| Cell::Number(dollars(cost)));
        for Part { names, sums } in &self.lines {
            let known = Known::of(sums);
            let mut cells: Vec<Cell<'_>> = names.iter().map(|name| Cell::Text(name)).collect();
            cells.extend(counts(sums).map(|(_, number)| Cell::Number(number.to_string())));
            cells.extend([number(known.amount()), Cell::Text(known.as_str())]);
            cells.extend([sums.saved_pico_usd, sums.bound_pico_usd].map(|pico| number(Some(PicoUsd(pico)))));
            cells.extend(self.others.iter().map(|other| number(other.cost(sums))));
            text.push_str(&csv::record(cells));
        }
        text
    }
}

/// A column of numbers for people.
#[derive(Debug, Clone, Copy)]
enum Column {
    Calls,
    Input,
    CachedInput,
    Output,
    Cost,
    Share,
    Saved,
    Unpriced,
    Unseen,
    Other(usize),
}

impl Column {
    fn heading(self, others: &[Other]) -> String {
        let text = match self {
            Self::Calls => "CALLS",
            Self::Input => "TOKENS IN",
            Self::CachedInput => "CACHED",
            Self::Output => "OUT",
            Self::Cost => "COST",
            Self::Share => "SHARE",
            Self::Saved => "SAVED",
            Self::Unpriced => "UNPRICED",
            Self::Unseen => "UNSEEN",
            Self::Other(other) => return others[other].name.clone(),
        };
        text.to_owned()
    }
}

/// Returns the counts by their names for programs.
fn counts(sums: &Sums) -> impl Iterator<Item = (&'static str, i64)> + use<> {
    [
        ("calls", sums.calls),
        ("input_tokens", sums.input_tokens),
        ("cached_input_tokens", sums.cached_input_tokens),
        ("cache_write_tokens", sums.cache_write_tokens),
        ("output_tokens", sums.output_tokens),
        ("reasoning_tokens", sums.reasoning_tokens),
        ("unpriced_calls", sums.unpriced),
        ("unseen_calls", sums.unseen),
        ("cached_results", sums.cached),
    ]
    .into_iter()
}

const fn is_of_interest(sums: &Sums) -> bool {
    sums.calls != 0 || sums.cached != 0 || sums.cost_pico_usd != 0 || sums.saved_pico_usd != 0
}

/// Returns what another cost is of the own one, where both are of the same calls.
fn ratio(sums: &Sums, other: PicoUsd) -> Option<f64> {
    (sums.unpriced <= 0 && sums.cost_pico_usd > 0).then(|| other.dollars() / PicoUsd(sums.cost_pico_usd).dollars())
}

fn times(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}×") } else { format!("{ratio:.2}×") }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// Breaks a text into lines.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        if let Some(line) = lines.last_mut() {
            if line.is_empty() {
                line.push_str(word);
                continue;
            }
            if line.chars().count() + 1 + word.chars().count() <= WIDTH {
                line.push(' ');
                line.push_str(word);
                continue;
            }
        }
        lines.push(word.to_owned());
    }
    lines.join("\n")
}

/// Makes a name fit for a line of a terminal.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
