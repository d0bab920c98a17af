//! What a fleet's provider bills, and what its store says was spent.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::BTreeMap;

use gristmill_common::id::BatchId;
use gristmill_common::store::{LostCalls, UsageScope};

use crate::fleet::{Fleet, IDLE, MODEL};

/// Picodollars for a token of input and of output.
pub const INPUT: i64 = 2_500_000;
pub const OUTPUT: i64 = 10_000_000;

/// One line of the provider's log.
#[derive(Debug, serde::Deserialize)]
struct Line {
    status: Option<u16>,
    outcome: String,
    prompt_tokens: i64,
    completion_tokens: i64,
}

/// What a provider billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    /// Calls that it bills.
    pub calls: u64,
    /// Their price in picodollars.
    pub pico_usd: i64,
}

/// Writes the workers' configuration: two groups with prices, and behind them what a test adds.
pub fn configure(fleet: &Fleet, rest: &str) {
    let base = fleet.simulator.base_url();
    let entry = |group: &str, model: &str| {
        format!(
            "- model_name: {group}\n  litellm_params: {{model: openai/{model}, api_base: '{base}', api_key: sk-p7-0123456789, \
             input_cost_per_token: 2.5e-6, output_cost_per_token: 0.00001}}\n"
        )
    };
    let list = format!("model_list:\n{}{}{}", entry(MODEL, "first"), entry("second", "second"), entry(IDLE, "idle"));
    std::fs::write(fleet.dir.path().join("gristmill.yaml"), list + rest).unwrap();
}

/// Reads what the provider bills: every answer of success, whatever became of it.
pub async fn bill(fleet: &Fleet) -> Bill {
    // Waits until all of it is in the log.
    fleet.calls().await;
    let log = std::fs::read_to_string(fleet.dir.path().join("calls.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Line>(line).unwrap());
    let billed = lines.filter(|line| line.status == Some(200) && line.outcome != "timeout");
    billed.fold(Bill { calls: 0, pico_usd: 0 }, |bill, line| Bill {
        calls: bill.calls + 1,
        pico_usd: bill.pico_usd + line.prompt_tokens * INPUT + line.completion_tokens * OUTPUT,
    })
}

/// Returns what the store says was spent, in picodollars, by each of its records and sums.
pub async fn sums(fleet: &Fleet, batch: BatchId) -> BTreeMap<&'static str, i64> {
    let mut connection = fleet.database.connect().await;
    let mut sum = async |what: &'static str| -> i64 {
        let statement = format!("SELECT (coalesce(sum(cost_usd), 0) * 1000000000000)::bigint FROM gristmill.{what}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(&mut connection).await.unwrap()
    };
    let mut sums = BTreeMap::new();
    for what in ["attempt", "result", "batch", "tally", "usage"] {
        sums.insert(what, sum(what).await);
    }
    let told = fleet.store.usage(&scope(batch), &[]).await.unwrap();
    sums.insert("usage()", told.iter().map(|part| part.sums.cost_pico_usd).sum());
    sums
}

/// Returns which calls that were billed are in the records.
pub async fn recorded(fleet: &Fleet) -> u64 {
    let mut connection = fleet.database.connect().await;
    let count = "SELECT count(*) FROM gristmill.attempt WHERE cost_usd > 0";
    let count: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
    count.unsigned_abs()
}

/// Returns what the store lists as lost with workers.
pub async fn lost(fleet: &Fleet, batch: BatchId) -> LostCalls {
    fleet.store.lost_calls(&scope(batch)).await.unwrap()
}

fn scope(batch: BatchId) -> UsageScope {
    UsageScope { batch: Some(batch), ..UsageScope::default() }
}
