//! Costs that LiteLLM's own calculator computed.

use serde::Deserialize;
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!("../../../fixtures/cost_vectors.jsonl");

#[derive(Deserialize)]
struct Vector {
    id: String,
    model: String,
    provider: String,
    call: String,
    service_tier: Option<String>,
    requested_service_tier: Option<String>,
    served_service_tier: Option<String>,
    data_residency: Option<String>,
    billing_time_utc: Option<DateTime<Utc>>,
    usage: Value,
    normalized_usage: Value,
    prompt_cost_usd: f64,
    completion_cost_usd: f64,
    #[serde(default)]
    tool_cost_usd: f64,
    cost_usd: f64,
}

impl Vector {
    fn all() -> Vec<Self> {
        VECTORS.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn bill(&self, usage: &Usage, requested: Option<&str>, served: Option<&str>) -> Bill {
        let terms = Terms {
            provider: Some(&self.provider),
            requested_tier: requested,
            served_tier: served,
            call: match self.call.as_str() {
                "batch" => Call::Batch,
                "embedding" => Call::Embedding,
                _ => Call::Completion,
            },
            at: self.billing_time_utc.unwrap_or_else(noon),
            data_residency: self.data_residency.as_deref(),
        };
        // A vector names its row. The search finds it, or the one with the provider's name before it.
        let found = shipped(&self.provider, &self.model);
        assert!(found.key().ends_with(&self.model), "{}: {}", self.id, found.key());
        let price = Prices::shipped().at_key(&self.model).unwrap();
        price.bill(usage, &terms).unwrap_or_else(|| panic!("{}: no price", self.id))
    }

    /// The numbers of the fixture are doubles; half a picodollar is the rounding of ours.
    fn check(&self, bill: &Bill, from: &str) {
        for (what, amount, wanted) in [
            ("prompt", bill.prompt, self.prompt_cost_usd),
            ("completion", bill.completion, self.completion_cost_usd),
            ("tools", bill.tools, self.tool_cost_usd),
            ("total", bill.total, self.cost_usd),
        ] {
            let wanted: PicoUsd = format!("{wanted:.24}").parse().unwrap();
            let apart = (amount.0 - wanted.0).abs();
            assert!(apart <= 1, "{} {what} from {from}: {amount}, not {wanted}: {bill:#?}", self.id);
        }
    }
}

#[test]
fn the_wires_usage_costs_what_litellm_says() {
    let vectors = Vector::all();
    assert_eq!(vectors.len(), 200);
    for vector in vectors {
        let usage = Usage::read(&vector.usage).unwrap();
        vector.check(&vector.bill(&usage, vector.service_tier.as_deref(), None), "the wire");
        if vector.requested_service_tier.is_some() || vector.served_service_tier.is_some() {
            let (requested, served) = (vector.requested_service_tier.as_deref(), vector.served_service_tier.as_deref());
            vector.check(&vector.bill(&usage, requested, served), "both tiers");
        }
    }
}

#[test]
fn litellms_usage_costs_what_litellm_says() {
    for vector in Vector::all() {
        // LiteLLM's has neither the provider's sum nor its searches.
        let wire = Usage::read(&vector.usage).unwrap();
        let own = Usage::read(&vector.normalized_usage).unwrap();
        let usage = Usage { total_tokens: wire.total_tokens, web_search_requests: wire.web_search_requests, ..own };
        vector.check(&vector.bill(&usage, vector.service_tier.as_deref(), None), "LiteLLM's");
    }
}

#[test]
fn stored_usage_costs_the_same() {
    for vector in Vector::all() {
        let usage = Usage::read(&vector.usage).unwrap();
        let stored: Usage = serde_json::from_str(&serde_json::to_string(&usage).unwrap()).unwrap();
        assert_eq!(stored, usage, "{}", vector.id);
    }
}
