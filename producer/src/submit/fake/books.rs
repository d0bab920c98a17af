//! The books of the store in memory: nothing is called, so nothing costs.

use std::time::Duration;

use async_trait::async_trait;
use gristmill_common::budget::{BudgetAsk, BudgetKey, BudgetSight, BudgetStanding, Terms};
use gristmill_common::id::{BatchId, OwnerId};
use gristmill_common::store::{
    AlertRow, AnswerCache, Books, CacheSize, CallKey, Correction, CostedCall, KeptPrice, LostCalls, Result, UsageScope,
};
use gristmill_common::tally::{By, Part};

use super::FakeStore;

#[async_trait]
impl Books for FakeStore {
    async fn usage(&self, _: &UsageScope, _: &[By]) -> Result<Vec<Part>> {
        Ok(Vec::new())
    }

    async fn lost_calls(&self, _: &UsageScope) -> Result<LostCalls> {
        Ok(LostCalls::default())
    }

    async fn roll_up(&self, _: u32) -> Result<u64> {
        Ok(0)
    }

    async fn keep_prices(&self, _: &[KeptPrice]) -> Result<()> {
        Ok(())
    }

    async fn kept_prices(&self) -> Result<Vec<KeptPrice>> {
        Ok(Vec::new())
    }

    async fn costed_calls(&self, _: Option<BatchId>, _: Option<CallKey>, _: u32) -> Result<Vec<CostedCall>> {
        Ok(Vec::new())
    }

    async fn correct_costs(&self, _: &[Correction]) -> Result<u64> {
        Ok(0)
    }

    async fn lease_budgets(&self, _: OwnerId, _: &[BudgetAsk]) -> Result<Vec<BudgetSight>> {
        Ok(Vec::new())
    }

    async fn set_budget(&self, _: &BudgetKey, _: Option<&Terms>, _: &str) -> Result<bool> {
        Ok(false)
    }

    async fn wake_for_budget(&self, _: &BudgetKey, _: u32) -> Result<u64> {
        Ok(0)
    }

    async fn budgets(&self) -> Result<Vec<BudgetStanding>> {
        Ok(Vec::new())
    }

    async fn correct_budgets(&self, _: bool) -> Result<Vec<BudgetKey>> {
        Ok(Vec::new())
    }

    async fn alerts(&self, _: bool, _: u32) -> Result<Vec<AlertRow>> {
        Ok(Vec::new())
    }

    async fn alert_told(&self, _: i64, _: Option<&str>, _: Option<Duration>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl AnswerCache for FakeStore {
    async fn cache_size(&self, _: Option<&str>) -> Result<CacheSize> {
        Ok(CacheSize::default())
    }
    async fn prune_cache(&self, _: u32) -> Result<u64> {
        Ok(0)
    }
    async fn clear_cache(&self, _: Option<&str>, _: u32) -> Result<u64> {
        Ok(0)
    }
}
