//! The books: what calls cost and how long they took. A part of the store's seam.

use std::time::Duration;

use async_trait::async_trait;

use super::{AlertRow, CallKey, Correction, CostedCall, KeptPrice, LostCalls, Result, UsageScope};
use crate::budget::{BudgetAsk, BudgetKey, BudgetSight, BudgetStanding, Terms};
use crate::id::{BatchId, OwnerId};
use crate::tally::{By, Part};

/// Sums, prices and costs. They are written with the calls and results that they are of, by [`Store::flush`](super::Store::flush).
#[async_trait]
pub trait Books: Send + Sync {
    /// Adds up calls and results, in order of their names by what is asked by; without anything to add up by, in one line.
    async fn usage(&self, scope: &UsageScope, by: &[By]) -> Result<Vec<Part>>;

    /// Adds up the calls that workers may have been making when they died. [`Store::bury`](super::Store::bury) writes them.
    async fn lost_calls(&self, scope: &UsageScope) -> Result<LostCalls>;

    /// Adds up sums that are old, for the keeper; returns how many rows it took. Call again while it returns `limit` or more.
    async fn roll_up(&self, limit: u32) -> Result<u64>;

    /// Keeps rows of the price table that costs were computed from; those that are kept already stay.
    async fn keep_prices(&self, prices: &[KeptPrice]) -> Result<()>;

    /// Reads the rows of the price table that costs were computed from.
    async fn kept_prices(&self) -> Result<Vec<KeptPrice>>;

    /// Reads calls of which it is known what they used, in order of key: of a batch or of all, at most `limit` above `after`.
    async fn costed_calls(&self, batch: Option<BatchId>, after: Option<CallKey>, limit: u32)
    -> Result<Vec<CostedCall>>;

    /// Writes new costs of calls over the recorded ones, which are kept beside them, and moves every sum by the difference. A call
    /// whose cost is no longer the one that was read is left. Returns how many were written.
    async fn correct_costs(&self, corrections: &[Correction]) -> Result<u64>;

    /// Leases budgets to a worker, each asked for once, and says how all stand for it that may limit a call. What is leased is
    /// settled by [`Store::flush`](super::Store::flush).
    async fn lease_budgets(&self, owner: OwnerId, asks: &[BudgetAsk]) -> Result<Vec<BudgetSight>>;

    /// Sets a budget for all workers, or takes it away with `None`; `by` is kept. A new one counts what was spent in its period
    /// before. Returns whether there was one.
    async fn set_budget(&self, key: &BudgetKey, terms: Option<&Terms>, by: &str) -> Result<bool>;

    /// Makes at most `limit` jobs due that wait for a budget; returns how many.
    async fn wake_for_budget(&self, key: &BudgetKey, limit: u32) -> Result<u64>;

    /// Reads how the budgets stand, by key.
    async fn budgets(&self) -> Result<Vec<BudgetStanding>>;

    /// Corrects what was spent of budgets by the records, for the keeper: calls that began before a budget was known are in these
    /// alone. It adds up every sum of the period: of budgets that were set or began anew of late, or of all. Returns the former, if
    /// they are not spent: no job has to wait for them any more.
    async fn correct_budgets(&self, all: bool) -> Result<Vec<BudgetKey>>;

    /// Reads alerts of budgets, the newest first; with `due`, only those that are to be told now, the oldest first.
    async fn alerts(&self, due: bool, limit: u32) -> Result<Vec<AlertRow>>;

    /// Says how telling an alert ended: well, or with some trouble; and when it is tried again, if it is.
    async fn alert_told(&self, id: i64, trouble: Option<&str>, again: Option<Duration>) -> Result<()>;
}
