//! The books behind the seam.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{AlertRow, Books, CallKey, Correction, CostedCall, Error, KeptPrice, LostCalls, Result, UsageScope};
use super::{LONG_PATIENCE, PostgresStore, again, budget, cost, tally, within};
use crate::budget::{BudgetAsk, BudgetKey, BudgetSight, BudgetStanding, Terms};
use crate::id::{BatchId, OwnerId};
use crate::tally::{By, Part};

#[async_trait]
impl Books for PostgresStore {
    async fn usage(&self, scope: &UsageScope, by: &[By]) -> Result<Vec<Part>> {
        within(LONG_PATIENCE, tally::usage(&self.cold, scope, by)).await
    }

    async fn lost_calls(&self, scope: &UsageScope) -> Result<LostCalls> {
        within(LONG_PATIENCE, cost::lost_calls(&self.cold, scope)).await
    }

    async fn roll_up(&self, limit: u32) -> Result<u64> {
        within(LONG_PATIENCE, tally::roll_up(&self.cold, limit)).await
    }

    async fn keep_prices(&self, prices: &[KeptPrice]) -> Result<()> {
        self.timely(0, cost::keep_prices(&self.cold, prices)).await
    }

    async fn kept_prices(&self) -> Result<Vec<KeptPrice>> {
        self.timely(0, cost::kept_prices(&self.cold)).await
    }

    async fn costed_calls(
        &self,
        batch: Option<BatchId>,
        after: Option<CallKey>,
        limit: u32,
    ) -> Result<Vec<CostedCall>> {
        within(LONG_PATIENCE, cost::costed_calls(&self.cold, batch, after, limit)).await
    }

    async fn correct_costs(&self, corrections: &[Correction]) -> Result<u64> {
        again!(within(LONG_PATIENCE, cost::correct(&self.cold, corrections)))
    }

    async fn lease_budgets(&self, owner: OwnerId, asks: &[BudgetAsk]) -> Result<Vec<BudgetSight>> {
        self.timely(0, async { again!(budget::lease(&self.hot, owner, asks)) }).await
    }

    async fn set_budget(&self, key: &BudgetKey, terms: Option<&Terms>, by: &str) -> Result<bool> {
        within(LONG_PATIENCE, budget::set(&self.cold, key, terms, by)).await
    }

    async fn wake_for_budget(&self, key: &BudgetKey, limit: u32) -> Result<u64> {
        again!(self.timely(0, budget::wake(&self.cold, key, limit)))
    }

    async fn budgets(&self) -> Result<Vec<BudgetStanding>> {
        self.timely(0, budget::standings(&self.cold)).await
    }

    async fn correct_budgets(&self, all: bool) -> Result<Vec<BudgetKey>> {
        again!(within(LONG_PATIENCE, budget::correct(&self.cold, all)))
    }

    async fn alerts(&self, due: bool, limit: u32) -> Result<Vec<AlertRow>> {
        self.timely(0, budget::alerts(&self.cold, due, limit)).await
    }

    async fn alert_told(&self, id: i64, trouble: Option<&str>, again: Option<Duration>) -> Result<()> {
        self.timely(0, budget::told(&self.cold, id, trouble, again)).await
    }
}
