//! What a call costs: from what the provider says was used, and the deployment's price.
//!
//! Owns how a cost is found and what is said where it cannot be. Prices that costs were computed from are kept in the store by a
//! task of its own, beside the results: a crash in between leaves costs whose price is kept with the next call of that price.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use gristmill_common::config::Deployment;
use gristmill_common::outcome::CostBasis;
use gristmill_common::price::{Bill, Call, PicoUsd, Price, Terms, Usage};
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{self, KeptPrice, Store, Ticket};
use gristmill_tokens::Model;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::provider::Reply;
use crate::quota::Size;

/// Output of which no call of an unknown model has more.
const MOST_OUTPUT: u64 = 128_000;

/// How long keeping the last prices may take when the process ends.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What one call cost, as its record says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) pico_usd: Option<i64>,
    pub(crate) basis: CostBasis,
    pub(crate) bound_pico_usd: Option<i64>,
    pub(crate) price_ref: Option<Arc<str>>,
    pub(crate) billed: Option<String>,
}

impl Cost {
    /// Nothing was billed.
    const fn nothing() -> Self {
        Self { pico_usd: Some(0), basis: CostBasis::Unbilled, bound_pico_usd: None, price_ref: None, billed: None }
    }
}

/// What a process knows of prices beside the table.
#[derive(Debug)]
pub(crate) struct Costs {
    /// The price that each deployment had last, with its name.
    named: Mutex<BTreeMap<Arc<str>, Named>>,
    /// Deployments of which it was said that they have no price.
    unpriced: Mutex<BTreeSet<Arc<str>>>,
    keep: mpsc::UnboundedSender<KeptPrice>,
}

/// A price with the name that costs are recorded with.
#[derive(Debug)]
struct Named {
    price: Arc<Price>,
    name: Arc<str>,
}

impl Costs {
    /// Makes one, with the end at which [`keep`] hears of prices.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<KeptPrice>) {
        let (keep, kept) = mpsc::unbounded_channel();
        (Self { named: Mutex::default(), unpriced: Mutex::default(), keep }, kept)
    }

    /// Finds what a call cost.
    pub(crate) fn of(&self, deployment: &Deployment, ticket: &Ticket, reply: &Reply, at: DateTime<Utc>) -> Cost {
        if deployment.simulated {
            return Cost::nothing();
        }
        let Some(tariff) = &deployment.price else { return Cost::default() };
        let told = told(reply);
        if told.is_none() && !may_be_billed(reply) {
            return Cost::nothing();
        }
        let terms = terms(deployment, ticket, reply, at);
        let Some(price) = tariff.price(Instant::now()) else {
            let reported = told.as_ref().and_then(|usage| Bill::reported(usage, &deployment.provider));
            if let Some(bill) = reported {
                let billed = told.as_ref().and_then(|usage| beyond_summary(usage, reply));
                return Cost { billed, ..cost(&bill, CostBasis::Reported) };
            }
            self.say_unpriced(deployment);
            return Cost { billed: told.as_ref().and_then(|usage| beyond_summary(usage, reply)), ..Cost::default() };
        };
        let price_ref = Some(self.name(deployment, &price));
        let (usage, basis) = match told {
            Some(usage) => (usage, CostBasis::Reported),
            None if reply.outcome.is_ok() => (estimated(deployment, ticket, reply), CostBasis::Estimated),
            None => {
                let bound_pico_usd = bound(deployment, ticket, &price, &terms);
                return Cost { bound_pico_usd, price_ref, ..Cost::default() };
            }
        };
        let billed = beyond_summary(&usage, reply);
        match price.bill(&usage, &terms) {
            Some(bill) => Cost { price_ref, billed, ..cost(&bill, basis) },
            None => {
                self.say_unpriced(deployment);
                Cost { billed, ..Cost::default() }
            }
        }
    }

    /// Returns the most that a call may cost, as far as its price is known, in picodollars.
    pub(crate) fn most(deployment: &Deployment, ticket: &Ticket, at: DateTime<Utc>) -> Option<i64> {
        let price = deployment.price.as_ref()?.price(Instant::now())?;
        bound(deployment, ticket, &price, &asked(deployment, ticket, at))
    }

    /// Returns the name of a deployment's price; has it kept where it is new here.
    fn name(&self, deployment: &Deployment, price: &Arc<Price>) -> Arc<str> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = named.get(&deployment.name)
            && Arc::ptr_eq(&known.price, price)
        {
            return Arc::clone(&known.name);
        }
        let name: Arc<str> = price.reference().into();
        let known = Named { price: Arc::clone(price), name: Arc::clone(&name) };
        named.insert(Arc::clone(&deployment.name), known);
        // Fails only when the process ends.
        let _ = self.keep.send(KeptPrice { reference: Arc::clone(&name), row: price.row().into() });
        name
    }

    fn say_unpriced(&self, deployment: &Deployment) {
        let mut unpriced = self.unpriced.lock().unwrap_or_else(PoisonError::into_inner);
        if unpriced.insert(Arc::clone(&deployment.name)) {
            tracing::warn!(
                deployment = %deployment.name,
                provider = %deployment.provider,
                model = %deployment.model,
                "no price is known of this model, what its calls cost stays unknown; set input_cost_per_token and \
                 output_cost_per_token, or base_model, or give a newer table with --prices"
            );
        }
    }
}

/// Keeps the prices that costs were computed from; once `stop` is cancelled, those that wait, as far as the store takes them at once.
pub(crate) async fn keep(
    store: Arc<dyn Store>,
    mut prices: mpsc::UnboundedReceiver<KeptPrice>,
    stop: CancellationToken,
) {
    while let Some(Some(price)) = stop.run_until_cancelled(prices.recv()).await {
        let price = [price];
        let keep = || store.keep_prices(&price);
        match until_ok(Schedule::RECONNECT, &stop, keep, store::Error::is_transient, |_, _| {}).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, price = %price[0].reference, "a price was not kept beside the costs");
            }
            None => keep_at_once(&*store, price.into()).await,
        }
    }
    let mut rest = Vec::new();
    while let Ok(price) = prices.try_recv() {
        rest.push(price);
    }
    keep_at_once(&*store, rest).await;
}

async fn keep_at_once(store: &dyn Store, prices: Vec<KeptPrice>) {
    if prices.is_empty() {
        return;
    }
    let kept = tokio::time::timeout(AT_ONCE, store.keep_prices(&prices)).await;
    if !matches!(kept, Ok(Ok(()))) {
        tracing::warn!(prices = prices.len(), "prices were not kept beside the costs");
    }
}

/// Returns what the provider says was used; nothing where it says nothing.
fn told(reply: &Reply) -> Option<Usage> {
    let text = || Usage::read(&serde_json::from_str(reply.usage_text.as_deref()?).ok()?);
    text().or_else(|| reply.usage.is_told().then(|| Usage::from(&reply.usage)))
}

/// Tells whether work may have been done of which nothing was said: the answer never came whole.
fn may_be_billed(reply: &Reply) -> bool {
    let is_refused = reply.http_status.is_some_and(|status| status >= 400);
    reply.sent && !is_refused
}

fn terms<'a>(deployment: &'a Deployment, ticket: &'a Ticket, reply: &'a Reply, at: DateTime<Utc>) -> Terms<'a> {
    Terms { served_tier: reply.service_tier.as_deref(), ..asked(deployment, ticket, at) }
}

/// Returns on what terms a call is billed by what it asks for.
fn asked<'a>(deployment: &'a Deployment, ticket: &'a Ticket, at: DateTime<Utc>) -> Terms<'a> {
    let is_embedding = ticket.request.endpoint.ends_with("/embeddings");
    Terms {
        provider: Some(&deployment.provider),
        requested_tier: ticket.request.options.service_tier.as_deref(),
        call: if is_embedding { Call::Embedding } else { Call::Completion },
        data_residency: deployment.api_base.data_residency(),
        ..Terms::at(at)
    }
}

const fn cost(bill: &Bill, basis: CostBasis) -> Cost {
    let PicoUsd(pico_usd) = bill.total;
    Cost { pico_usd: Some(pico_usd), basis, bound_pico_usd: None, price_ref: None, billed: None }
}

/// Writes what was used where a record's own columns do not say all of it.
fn beyond_summary(usage: &Usage, reply: &Reply) -> Option<String> {
    let sum = usage.prompt_tokens.saturating_add(usage.completion_tokens);
    let total_tokens = usage.total_tokens.filter(|total| *total != sum);
    let own = Usage { service_tier: None, total_tokens, ..usage.clone() };
    (own != Usage::from(&reply.usage)).then(|| serde_json::to_string(&own).ok()).flatten()
}

/// Estimates what an answer used that does not say it.
fn estimated(deployment: &Deployment, ticket: &Ticket, reply: &Reply) -> Usage {
    let model = Model::of(&deployment.provider, &deployment.model);
    let output = reply.outcome.as_ref().ok().and_then(|answer| answer.output_text.as_deref()).unwrap_or_default();
    Usage {
        prompt_tokens: Size::of_body(&ticket.request.body, &model).input,
        completion_tokens: gristmill_tokens::estimate(output) as u64,
        ..Usage::default()
    }
}

/// Returns the most that a call may have cost: a token has a byte at least, and the output an end.
fn bound(deployment: &Deployment, ticket: &Ticket, price: &Price, terms: &Terms<'_>) -> Option<i64> {
    let body = &ticket.request.body;
    let model = Model::of(&deployment.provider, &deployment.model);
    let size = Size::of_body(body, &model);
    let most = size.most_output.or_else(|| price.max_output_tokens()).unwrap_or(MOST_OUTPUT);
    let usage = Usage { prompt_tokens: size.input.max(body.len() as u64), completion_tokens: most, ..Usage::default() };
    let plain = Terms { requested_tier: None, served_tier: None, ..*terms };
    [terms, &plain].iter().filter_map(|terms| price.bill(&usage, terms)).map(|bill| bill.total.0).max()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use gristmill_common::config::Endpoint;
    use gristmill_common::failure::{ErrorClass, ErrorRecord};
    use gristmill_common::id::{BatchId, JobId};
    use gristmill_common::job::{JobOptions, JobRef, LaneKey, Priority};
    use gristmill_common::price::{Book, Tariff};
    use gristmill_common::store::Request;
    use serde_json::json;

    use super::*;

    fn deployment(provider: &str, model: &str) -> Deployment {
        let endpoint: Endpoint = "http://localhost:1/v1".parse().unwrap();
        let price = Tariff::new(Arc::new(Book::shipped()), provider, model, None, BTreeMap::new());
        Deployment { price: Some(price), ..Deployment::new("group", provider, model, endpoint) }
    }

    fn ticket(body: &str) -> Ticket {
        let batch = BatchId::new(DateTime::UNIX_EPOCH);
        let lane = LaneKey { group: "group".into(), priority: Priority::Standard, lane: 0 };
        Ticket {
            job: JobRef { id: JobId::derive(batch, 0), batch, run: 1, lane },
            request: Request {
                custom_id: "a".to_owned(),
                endpoint: "/v1/chat/completions".to_owned(),
                body: Bytes::copy_from_slice(body.as_bytes()),
                options: JobOptions::default(),
            },
            calls: 0,
            attempts: 0,
            faults: 0,
            deaths: 0,
            queued_at: DateTime::UNIX_EPOCH,
            earlier: Vec::new(),
            spent_pico_usd: None,
            project: None,
            has_budget: false,
            caching: None,
        }
    }

    fn answered(usage: &serde_json::Value) -> Reply {
        let body =
            json!({"choices": [{"message": {"content": "hello there"}, "finish_reason": "stop"}], "usage": usage});
        Reply { http_status: Some(200), ..Reply::read("/v1/chat/completions", body.to_string().into()) }
    }

    fn failed(sent: bool, http_status: Option<u16>) -> Reply {
        let error = ErrorRecord::new(ErrorClass::Timeout, "no answer came");
        Reply { sent, http_status, ..Reply::new(Err(Box::new(error))) }
    }

    fn of(deployment: &Deployment, ticket: &Ticket, reply: &Reply) -> Cost {
        Costs::new().0.of(deployment, ticket, reply, DateTime::UNIX_EPOCH)
    }

    const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":100}"#;

    #[test]
    fn what_was_used_is_billed_by_the_price() {
        // gpt-4o: 2.5 dollars a million of input, 10 of output, 1.25 of cached input.
        let (gpt, ticket) = (deployment("openai", "gpt-4o"), ticket(BODY));
        let cost = of(
            &gpt,
            &ticket,
            &answered(&json!({"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010})),
        );
        assert_eq!((cost.pico_usd, cost.basis, &cost.billed), (Some(2_600_000_000), CostBasis::Reported, &None));
        assert!(cost.price_ref.unwrap().starts_with("gpt-4o@"));
        let cached =
            json!({"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 400}});
        let cost = of(&gpt, &ticket, &answered(&cached));
        assert_eq!((cost.pico_usd, cost.billed), (Some(2_100_000_000), None), "columns say it all");
    }

    #[test]
    fn what_columns_do_not_say_is_kept_beside_them() {
        let usage =
            json!({"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"audio_tokens": 40}});
        let cost = of(&deployment("openai", "gpt-4o-audio-preview"), &ticket(BODY), &answered(&usage));
        assert!(cost.billed.unwrap().contains(r#""prompt_audio_tokens":40"#));
    }

    #[test]
    fn what_was_refused_or_never_sent_costs_nothing() {
        let (gpt, ticket) = (deployment("openai", "gpt-4o"), ticket(BODY));
        for reply in [failed(false, None), failed(true, Some(429)), failed(true, Some(500))] {
            assert_eq!(of(&gpt, &ticket, &reply), Cost::nothing());
        }
    }

    #[test]
    fn what_nobody_saw_has_a_bound() {
        let (gpt, ticket) = (deployment("openai", "gpt-4o"), ticket(BODY));
        for reply in [failed(true, None), failed(true, Some(200))] {
            let cost = of(&gpt, &ticket, &reply);
            assert_eq!((cost.pico_usd, cost.basis), (None, CostBasis::Unknown));
            let bytes = i64::try_from(BODY.len()).unwrap();
            assert_eq!(cost.bound_pico_usd, Some(bytes * 2_500_000 + 100 * 10_000_000));
            assert_eq!(Costs::most(&gpt, &ticket, DateTime::UNIX_EPOCH), cost.bound_pico_usd, "known before the call");
            assert!(cost.price_ref.is_some());
        }
        assert_eq!(Costs::most(&deployment("vllm", "my-own"), &ticket, DateTime::UNIX_EPOCH), None);
    }

    #[test]
    fn an_answer_that_does_not_say_what_it_used_is_estimated() {
        let cost = of(&deployment("openai", "gpt-4o"), &ticket(BODY), &answered(&json!(null)));
        assert_eq!(cost.basis, CostBasis::Estimated);
        assert!(cost.pico_usd.is_some_and(|pico| pico > 0 && pico < 1_000_000_000), "{cost:?}");
    }

    #[test]
    fn a_model_without_a_price_has_no_cost() {
        let usage = json!({"prompt_tokens": 1, "completion_tokens": 1});
        let cost = of(&deployment("vllm", "my-own"), &ticket(BODY), &answered(&usage));
        assert_eq!((cost.pico_usd, cost.basis, cost.price_ref), (None, CostBasis::Unknown, None));
        let untracked = Deployment { price: None, ..deployment("openai", "gpt-4o") };
        assert_eq!(of(&untracked, &ticket(BODY), &answered(&usage)), Cost::default());
    }

    #[test]
    fn what_a_provider_says_a_call_cost_counts() {
        let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.25});
        let cost = of(&deployment("openrouter", "some/unknown"), &ticket(BODY), &answered(&usage));
        assert_eq!((cost.pico_usd, cost.basis), (Some(250_000_000_000), CostBasis::Reported));
    }

    #[test]
    fn a_price_is_kept_once() {
        let (costs, mut kept) = Costs::new();
        let (gpt, ticket) = (deployment("openai", "gpt-4o"), ticket(BODY));
        let reply = answered(&json!({"prompt_tokens": 1, "completion_tokens": 1}));
        let names: Vec<_> =
            (0..3).map(|_| costs.of(&gpt, &ticket, &reply, DateTime::UNIX_EPOCH).price_ref.unwrap()).collect();
        let price = kept.try_recv().unwrap();
        assert!(names.iter().all(|name| *name == price.reference));
        assert!(price.row.contains("input_cost_per_token"));
        assert!(kept.try_recv().is_err());
    }
}
