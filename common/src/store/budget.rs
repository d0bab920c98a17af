//! What budgets are told with a settlement, and what is told of their alerts.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::Settlement;
use crate::budget::BudgetKey;
use crate::id::OwnerId;
use crate::outcome::AttemptRecord;

/// What the calls of a settlement are taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spends {
    /// The process that leased them.
    pub owner: OwnerId,
    /// The budgets that they were promised from.
    pub budgets: Arc<[BudgetKey]>,
    /// What was promised to each call, in picodollars: what it counts for if nobody saw its end.
    pub promised_pico_usd: i64,
}

/// Adds up what calls take off budgets: what they cost, and what was promised to those that nobody saw the end of.
pub(super) fn spent<'a>(
    attempts: &[(&'a Settlement, &'a AttemptRecord)],
) -> BTreeMap<(&'a BudgetKey, OwnerId), (i64, i64)> {
    let mut spent: BTreeMap<(&BudgetKey, OwnerId), (i64, i64)> = BTreeMap::new();
    for (settlement, attempt) in attempts {
        let Some(spends) = &settlement.spends else { continue };
        for key in &*spends.budgets {
            let sums = spent.entry((key, spends.owner)).or_default();
            match attempt.cost_pico_usd {
                Some(cost) => sums.0 = sums.0.saturating_add(cost),
                None => sums.1 = sums.1.saturating_add(spends.promised_pico_usd),
            }
        }
    }
    spent
}

/// Returns what the reason of a job begins with that waits for a budget.
pub fn reason_of(key: &BudgetKey) -> String {
    format!("budget {key}: ")
}

/// An alert, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRow {
    /// Its number.
    pub id: i64,
    /// When the threshold was crossed.
    pub created_at: DateTime<Utc>,
    /// The kind of the budget's scope.
    pub scope: String,
    /// The name of what it limits.
    pub name: String,
    /// Its period.
    pub period: String,
    /// The percent that was crossed.
    pub percent: u16,
    /// What is told.
    pub message: String,
    /// How often it was tried to tell it.
    pub tries: u32,
    /// Whether it is still to be told.
    pub is_due: bool,
    /// When it was told.
    pub told_at: Option<DateTime<Utc>>,
    /// Why the last try failed.
    pub trouble: Option<String>,
}
