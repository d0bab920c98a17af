//! What an input would take: tokens counted, output between two bounds, cost by the price table. Computes; prints nothing.
//!
//! Two numbers hold a request's output: what calls of its model gave on average, and the most that it may give. A model whose
//! price or bound is not known makes a sum unknown; it never counts as nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::config::{Config, Deployment};
use gristmill_common::price::{Call, PicoUsd, Price, Terms, Usage};
use gristmill_common::store::{Store, UsageScope};
use gristmill_common::tally::By;
use gristmill_producer::NewJob;
use gristmill_producer::input::Checked;
use gristmill_tokens::{Family, Model, Request};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::fault::Fault;

/// Tokens of an answer where no earlier call of the model tells.
pub(super) const USUAL_OUTPUT: u64 = 256;
/// Requests at the beginning of an input that a sample takes, and about how many of the others.
const SAMPLE: u64 = 2_000;
/// How long a sample is read.
const LONGEST_LOOK: Duration = Duration::from_secs(3);
/// Jobs that are counted on one thread in one go, and bytes of their bodies.
const CHUNK_JOBS: usize = 256;
const CHUNK_BYTES: usize = 1024 * 1024;

/// How much of an input is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// All of it.
    All,
    /// Some thousand requests, for some seconds at most; the rest is taken to be like them.
    Sample,
}

/// What an input would take.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    /// By model, in order of name.
    pub(super) models: BTreeMap<Arc<str>, ModelForecast>,
    /// How long it took to count.
    pub(super) took: Duration,
    /// Which table the prices are of.
    pub(super) prices: String,
}

/// What the requests for one model would take.
#[derive(Debug, Clone)]
pub(super) struct ModelForecast {
    pub(super) requests: u64,
    /// Those that were counted; the sums are scaled up from them.
    pub(super) counted: u64,
    pub(super) sums: Sums,
    /// Whether input is counted by the model's own vocabulary.
    pub(super) is_exact: bool,
    /// What earlier calls gave.
    pub(super) history: Option<History>,
    /// The prices that were tried: deployment and price.
    pub(super) priced: Vec<(Arc<str>, String)>,
    /// Deployments whose price is not known.
    pub(super) unpriced: Vec<Arc<str>>,
    /// Why no deployment is asked, where the configuration has none.
    pub(super) unserved: Option<String>,
}

/// What answered calls of a model gave before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct History {
    pub(super) calls: u64,
    /// Tokens of output of one call.
    pub(super) mean: u64,
}

/// Sums of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) requests: u64,
    pub(super) input_tokens: u128,
    pub(super) low_tokens: u128,
    /// Without the requests that have no bound.
    pub(super) high_tokens: u128,
    /// Requests whose output nothing bounds.
    pub(super) unbounded: u64,
    /// Requests that name no bound; the model's own was taken.
    pub(super) bounded_by_model: u64,
    pub(super) low_pico_usd: u128,
    pub(super) high_pico_usd: u128,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.input_tokens += other.input_tokens;
        self.low_tokens += other.low_tokens;
        self.high_tokens += other.high_tokens;
        self.unbounded += other.unbounded;
        self.bounded_by_model += other.bounded_by_model;
        self.low_pico_usd += other.low_pico_usd;
        self.high_pico_usd += other.high_pico_usd;
    }

    /// Takes them for so many requests.
    fn scaled(&self, requests: u64) -> Self {
        let of = u128::from(self.requests.max(1));
        let scale = |sum: u128| (sum * u128::from(requests) + of / 2) / of;
        let scale_count = |sum: u64| u64::try_from(scale(sum.into())).unwrap_or(u64::MAX);
        Self {
            requests,
            input_tokens: scale(self.input_tokens),
            low_tokens: scale(self.low_tokens),
            high_tokens: scale(self.high_tokens),
            unbounded: scale_count(self.unbounded),
            bounded_by_model: scale_count(self.bounded_by_model),
            low_pico_usd: scale(self.low_pico_usd),
            high_pico_usd: scale(self.high_pico_usd),
        }
    }
}

impl ModelForecast {
    /// Returns the least and the most that it costs, as far as each is known.
    pub(super) fn cost(&self) -> (Option<PicoUsd>, Option<PicoUsd>) {
        let known = |sum: u128, is_known: bool| {
            (is_known && self.counted > 0).then(|| PicoUsd(i64::try_from(sum).unwrap_or(i64::MAX)))
        };
        let is_priced = !self.priced.is_empty();
        (
            known(self.sums.low_pico_usd, is_priced),
            known(self.sums.high_pico_usd, is_priced && self.sums.unbounded == 0),
        )
    }

    /// Returns the most tokens of output, if there is a bound.
    pub(super) fn most_output(&self) -> Option<u128> {
        (self.sums.unbounded == 0 && self.counted > 0).then_some(self.sums.high_tokens)
    }
}

impl Forecast {
    /// Returns how many requests there are.
    pub(super) fn requests(&self) -> u64 {
        self.models.values().map(|model| model.requests).sum()
    }

    /// Returns how many of them were counted.
    pub(super) fn counted(&self) -> u64 {
        self.models.values().map(|model| model.counted).sum()
    }

    /// Returns the requests whose least cost is not known, and those whose most is not.
    pub(super) fn unknown(&self) -> (u64, u64) {
        let of = |is_unknown: fn(&ModelForecast) -> bool| {
            self.models.values().filter(|model| is_unknown(model)).map(|model| model.requests).sum()
        };
        (of(|model| model.cost().0.is_none()), of(|model| model.cost().1.is_none()))
    }

    /// Returns the sums of what is known of the least and the most that it costs; `None` where nothing is.
    pub(super) fn cost(&self) -> (Option<PicoUsd>, Option<PicoUsd>) {
        let sum = |costs: Vec<PicoUsd>| (!costs.is_empty()).then(|| costs.into_iter().sum());
        (
            sum(self.models.values().filter_map(|model| model.cost().0).collect()),
            sum(self.models.values().filter_map(|model| model.cost().1).collect()),
        )
    }

    /// Adds what another input would take.
    pub(super) fn add(&mut self, other: Self) {
        for (name, model) in other.models {
            match self.models.get_mut(&name) {
                Some(own) => {
                    own.requests += model.requests;
                    own.counted += model.counted;
                    own.sums.add(&model.sums);
                }
                None => _ = self.models.insert(name, model),
            }
        }
        self.took += other.took;
        self.prices = other.prices;
    }
}

/// Estimates what an input would take; `store` knows what calls gave before.
pub(super) async fn of(
    config: &Config,
    checked: &Checked,
    store: Option<&dyn Store>,
    depth: Depth,
) -> Result<Forecast, Fault> {
    let started = Instant::now();
    let histories = match store {
        Some(store) => histories(store).await?,
        None => BTreeMap::new(),
    };
    let plan = |group: &Arc<str>| Plan::new(config, group, histories.get(&**group).copied(), started);
    let plans: BTreeMap<Arc<str>, Plan> = checked.models.keys().map(|group| (Arc::clone(group), plan(group))).collect();
    let plans = Arc::new(plans);
    let counted = count_all(checked, &plans, depth, SystemClock.now()).await?;
    let models = plans.iter().map(|(name, plan)| {
        let requests = checked.models.get(name).copied().unwrap_or(0);
        let [head, tail] = counted.get(name).copied().unwrap_or_default();
        let counted = head.requests + tail.requests;
        let left = requests.saturating_sub(head.requests);
        let mut sums = head;
        match (head.requests, tail.requests) {
            (_, 0) if head.requests < requests => sums = head.scaled(requests),
            _ => sums.add(&tail.scaled(left)),
        }
        (Arc::clone(name), plan.forecast(requests, counted, sums))
    });
    Ok(Forecast {
        models: models.collect(),
        took: started.elapsed(),
        prices: config.prices().prices(started).source().to_owned(),
    })
}

/// Reads what calls of each model gave.
async fn histories(store: &dyn Store) -> Result<BTreeMap<String, History>, Fault> {
    let parts = store.usage(&UsageScope::default(), &[By::Model]).await?;
    let history = |part: gristmill_common::tally::Part| {
        let (name, sums) = (part.names.into_iter().next()?, part.sums);
        // Calls that failed give nothing.
        let calls = sums.latency.count();
        let output = u64::try_from(sums.output_tokens).ok().filter(|tokens| *tokens > 0)?;
        (calls > 0).then(|| (name, History { calls, mean: output.div_ceil(calls) }))
    };
    Ok(parts.into_iter().filter_map(history).collect())
}

/// How the requests for one model are counted.
#[derive(Debug)]
struct Plan {
    choices: Vec<Choice>,
    history: Option<History>,
    priced: Vec<(Arc<str>, String)>,
    unpriced: Vec<Arc<str>>,
    unserved: Option<String>,
}

/// A deployment as far as counting and prices go.
#[derive(Debug)]
struct Choice {
    model: Model,
    is_exact: bool,
    provider: Option<Arc<str>>,
    price: Option<Arc<Price>>,
    /// Tokens of output of requests that name no bound.
    own_bound: Option<u64>,
    most_output: Option<u64>,
}

impl Plan {
    fn new(config: &Config, group: &Arc<str>, history: Option<History>, now: Instant) -> Self {
        let mut plan = Self { choices: Vec::new(), history, priced: Vec::new(), unpriced: Vec::new(), unserved: None };
        match config.deployments_for(&[group]) {
            Ok(deployments) => deployments.iter().for_each(|deployment| plan.take(deployment, now)),
            // Who submits needs no keys, so the configuration may be the workers' alone: the model's name has to do.
            Err(error) => {
                let (provider, model) = match group.split_once('/') {
                    Some((provider, model)) => (Some(provider), model),
                    None => (None, &**group),
                };
                let prices = config.prices().prices(now);
                let found = match provider {
                    Some(provider) => prices.find(provider, model),
                    None => prices.at_key(group),
                };
                plan.unserved = Some(Fault::from(error).message().to_owned());
                plan.choose(group, provider, model, found, None);
            }
        }
        plan
    }

    fn take(&mut self, deployment: &Deployment, now: Instant) {
        let price = deployment.price.as_ref().and_then(|tariff| tariff.price(now));
        let own = ["max_tokens", "max_completion_tokens"].into_iter().find_map(|name| deployment.defaults.get(name));
        let own = own.and_then(serde_json::Value::as_u64);
        self.choose(&deployment.name, Some(&deployment.provider), &deployment.model, price, own);
    }

    fn choose(
        &mut self,
        name: &Arc<str>,
        provider: Option<&str>,
        model: &str,
        price: Option<Arc<Price>>,
        own_bound: Option<u64>,
    ) {
        let most_output = price.as_ref().and_then(|price| price.max_output_tokens());
        let price = price.filter(|price| price.has_token_prices());
        match &price {
            Some(price) => self.priced.push((Arc::clone(name), price.reference())),
            None => self.unpriced.push(Arc::clone(name)),
        }
        let counts_as = provider.unwrap_or("openai");
        self.choices.push(Choice {
            model: Model::of(counts_as, model),
            is_exact: Family::of(counts_as, model).is_some(),
            provider: provider.map(Arc::from),
            price,
            own_bound,
            most_output,
        });
    }

    /// Estimates one job. `read` are the counts of its body, which jobs of one body share.
    fn estimate(&self, job: &NewJob, read: &mut Vec<(Model, Request)>, at: DateTime<Utc>) -> Sums {
        let mut sums = Sums { requests: 1, ..Sums::default() };
        let is_embedding = job.endpoint.ends_with("/embeddings");
        let tier = job.options.service_tier.clone().or_else(|| tier_of(&job.body));
        let (mut is_unbounded, mut is_by_model, mut costs) = (false, false, Vec::new());
        for choice in &self.choices {
            let request = counted(&choice.model, job, read);
            let answers = request.choices.unwrap_or(1);
            let own = choice.own_bound.filter(|_| request.is_open).or(choice.most_output);
            let most = match request.most_output_tokens {
                _ if is_embedding => Some(0),
                Some(most) => Some(most),
                None => {
                    is_by_model |= own.is_some();
                    own.map(|most| most.saturating_mul(answers))
                }
            };
            is_unbounded |= most.is_none();
            let mean = self.history.map_or(USUAL_OUTPUT, |history| history.mean).saturating_mul(answers);
            let low = if is_embedding { 0 } else { most.map_or(mean, |most| mean.min(most)) };
            sums.input_tokens = sums.input_tokens.max(request.input_tokens.into());
            sums.low_tokens = match sums.low_tokens {
                0 => low.into(),
                other => other.min(low.into()),
            };
            sums.high_tokens = sums.high_tokens.max(most.unwrap_or(0).into());
            let cost = |output: u64| choice.cost(request.input_tokens, output, tier.as_deref(), is_embedding, at);
            costs.extend(cost(low).map(|low| (low, most.and_then(cost).unwrap_or_default())));
        }
        sums.unbounded = u64::from(is_unbounded);
        sums.bounded_by_model = u64::from(is_by_model);
        let amount = |cost: Option<i64>| cost.and_then(|cost| u128::try_from(cost).ok()).unwrap_or(0);
        sums.low_pico_usd = amount(costs.iter().map(|(low, _)| low.0).min());
        sums.high_pico_usd = amount(costs.iter().map(|(_, high)| high.0).max());
        sums
    }

    fn forecast(&self, requests: u64, counted: u64, sums: Sums) -> ModelForecast {
        ModelForecast {
            requests,
            counted,
            sums,
            is_exact: self.choices.iter().all(|choice| choice.is_exact),
            history: self.history,
            priced: self.priced.clone(),
            unpriced: self.unpriced.clone(),
            unserved: self.unserved.clone(),
        }
    }
}

impl Choice {
    fn cost(
        &self,
        input: u64,
        output: u64,
        tier: Option<&str>,
        is_embedding: bool,
        at: DateTime<Utc>,
    ) -> Option<PicoUsd> {
        let usage = Usage { prompt_tokens: input, completion_tokens: output, ..Usage::default() };
        let call = if is_embedding { Call::Embedding } else { Call::Completion };
        let terms = Terms { provider: self.provider.as_deref(), requested_tier: tier, call, ..Terms::at(at) };
        Some(self.price.as_ref()?.bill(&usage, &terms)?.total)
    }
}

/// Returns a body's count, which the jobs of a sweep share.
fn counted(model: &Model, job: &NewJob, read: &mut Vec<(Model, Request)>) -> Request {
    if let Some((_, request)) = read.iter().find(|(known, _)| known == model) {
        return *request;
    }
    // Every line that was checked holds an object.
    let request = Request::read(&job.body, model).unwrap_or_default();
    read.push((*model, request));
    request
}

/// Returns the service tier that a body asks for.
fn tier_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        service_tier: Option<String>,
    }
    const NAME: &[u8] = b"\"service_tier\"";
    let is_named = body.windows(NAME.len()).any(|window| window == NAME);
    is_named.then(|| serde_json::from_slice::<Body>(body).ok()?.service_tier).flatten()
}

/// Sums of the beginning of an input, and of what was picked from the rest.
type Counted = BTreeMap<Arc<str>, [Sums; 2]>;

/// Counts on all cores what is read.
async fn count_all(
    checked: &Checked,
    plans: &Arc<BTreeMap<Arc<str>, Plan>>,
    depth: Depth,
    at: DateTime<Utc>,
) -> Result<Counted, Fault> {
    let each = checked.jobs_per_request().max(1);
    let first = SAMPLE.div_ceil(each);
    let (jobs, head) = match depth {
        Depth::Sample if checked.jobs > 2 * SAMPLE => {
            (checked.sample(first, first, Instant::now() + LONGEST_LOOK).left_stream(), first * each)
        }
        _ => (checked.stream().right_stream(), u64::MAX),
    };
    let mut jobs = std::pin::pin!(jobs.fuse());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut counting, mut sums, mut seen) = (JoinSet::new(), Counted::new(), 0);
    loop {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_JOBS && bytes < CHUNK_BYTES {
            let Some(job) = jobs.next().await.transpose()? else { break };
            bytes += job.body.len();
            chunk.push((usize::from(seen >= head), job));
            seen += 1;
        }
        let is_end = chunk.is_empty();
        if !is_end {
            let plans = Arc::clone(plans);
            counting.spawn_blocking(move || count(&plans, &chunk, at));
        }
        while counting.len() >= cores || (is_end && !counting.is_empty()) {
            let Some(counted) = counting.join_next().await else { break };
            for (name, counted) in counted.map_err(|error| Fault::of(&error))? {
                let own = sums.entry(name).or_default();
                own.iter_mut().zip(&counted).for_each(|(own, counted)| own.add(counted));
            }
        }
        if is_end {
            return Ok(sums);
        }
    }
}

fn count(plans: &BTreeMap<Arc<str>, Plan>, jobs: &[(usize, NewJob)], at: DateTime<Utc>) -> Counted {
    let mut sums = Counted::new();
    let (mut read, mut body) = (Vec::new(), None);
    for (part, job) in jobs {
        // The jobs of a sweep share their bodies, and come one after the other.
        let place = (job.body.as_ptr(), job.body.len());
        if body.replace(place) != Some(place) {
            read.clear();
        }
        if let Some(plan) = plans.get(&job.model) {
            sums.entry(Arc::clone(&job.model)).or_default()[*part].add(&plan.estimate(job, &mut read, at));
        }
    }
    sums
}

#[cfg(test)]
mod tests;
