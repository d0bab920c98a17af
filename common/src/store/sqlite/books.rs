//! The books behind the seam.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{AlertRow, Books, CallKey, Correction, CostedCall, KeptPrice, LostCalls, Result, UsageScope};
use super::{SqliteStore, budget, cost, tally};
use crate::budget::{BudgetAsk, BudgetKey, BudgetSight, BudgetStanding, Terms};
use crate::id::{BatchId, OwnerId};
use crate::tally::{By, Part};

#[async_trait]
impl Books for SqliteStore {
    async fn usage(&self, scope: &UsageScope, by: &[By]) -> Result<Vec<Part>> {
        tally::usage(&self.core, scope, by).await.map_err(self.core.failed("reading statistics"))
    }

    async fn lost_calls(&self, scope: &UsageScope) -> Result<LostCalls> {
        cost::lost_calls(&self.core, scope).await.map_err(self.core.failed("reading calls that were lost"))
    }

    async fn roll_up(&self, limit: u32) -> Result<u64> {
        tally::roll_up(&self.core, limit).await.map_err(self.core.failed("adding up statistics"))
    }

    async fn keep_prices(&self, prices: &[KeptPrice]) -> Result<()> {
        cost::keep_prices(&self.core, prices).await.map_err(self.core.failed("keeping prices"))
    }

    async fn kept_prices(&self) -> Result<Vec<KeptPrice>> {
        cost::kept_prices(&self.core).await.map_err(self.core.failed("reading prices"))
    }

    async fn costed_calls(
        &self,
        batch: Option<BatchId>,
        after: Option<CallKey>,
        limit: u32,
    ) -> Result<Vec<CostedCall>> {
        cost::costed_calls(&self.core, batch, after, limit).await.map_err(self.core.failed("reading costs"))
    }

    async fn correct_costs(&self, corrections: &[Correction]) -> Result<u64> {
        cost::correct(&self.core, corrections).await.map_err(self.core.failed("correcting costs"))
    }

    async fn lease_budgets(&self, owner: OwnerId, asks: &[BudgetAsk]) -> Result<Vec<BudgetSight>> {
        budget::lease(&self.core, owner, asks).await.map_err(self.core.failed("leasing budgets"))
    }

    async fn set_budget(&self, key: &BudgetKey, terms: Option<&Terms>, by: &str) -> Result<bool> {
        budget::set(&self.core, key, terms, by).await.map_err(self.core.failed("setting a budget"))
    }

    async fn wake_for_budget(&self, key: &BudgetKey, limit: u32) -> Result<u64> {
        let woken = budget::wake(&self.core, key, limit).await;
        woken.map_err(self.core.failed("waking jobs that wait for a budget"))
    }

    async fn budgets(&self) -> Result<Vec<BudgetStanding>> {
        budget::standings(&self.core).await.map_err(self.core.failed("reading budgets"))
    }

    async fn correct_budgets(&self, all: bool) -> Result<Vec<BudgetKey>> {
        budget::correct(&self.core, all).await.map_err(self.core.failed("correcting budgets"))
    }

    async fn alerts(&self, due: bool, limit: u32) -> Result<Vec<AlertRow>> {
        budget::alerts(&self.core, due, limit).await.map_err(self.core.failed("reading alerts"))
    }

    async fn alert_told(&self, id: i64, trouble: Option<&str>, again: Option<Duration>) -> Result<()> {
        let told = budget::told(&self.core, id, trouble, again).await;
        told.map_err(self.core.failed("keeping how an alert was told"))
    }
}
