//! Where a call goes: which deployment of its group, and which group once its own has failed.
//!
//! Decides from the configuration, what the deployments showed of late, and the job's earlier calls; keeps no job and calls nobody.
//! What a run went through stands in its earlier calls, which its live row keeps: whoever goes on with it goes on there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::config::{Deployment, FallbackKind, Routing, Strategy};
use gristmill_common::failure::{EarlierAttempt, ErrorClass, ErrorRecord};
use gristmill_common::job::JobOptions;

use crate::gate::Gate;
use crate::group::Group;
use crate::provider::Verdict;
use crate::quota::Size;

/// Input that a job is priced with until the first was counted.
const FIRST_INPUT: u64 = 1_000;
/// Output that a job is priced with where it names no limit.
const USUAL_OUTPUT: u64 = 256;

/// Chooses among the deployments of one group.
#[derive(Debug)]
pub(crate) struct Chooser {
    strategy: Strategy,
    shares: Mutex<Vec<Share>>,
}

/// A deployment's share, by smooth weighted round robin.
#[derive(Debug, Clone, Copy)]
struct Share {
    order: u32,
    weight: i64,
    credit: i64,
}

impl Chooser {
    pub(crate) fn new(strategy: Strategy, gates: &[Arc<Gate>]) -> Self {
        let shares = gates
            .iter()
            .map(|gate| Share { order: gate.deployment.order, weight: gate.deployment.weight.into(), credit: 0 })
            .collect();
        Self { strategy, shares: Mutex::new(shares) }
    }

    /// Returns the gates' places in the order in which they are asked: by `order` first, then by the strategy. Prices are those
    /// of a job of the group's usual size.
    pub(crate) fn order(&self, gates: &[Arc<Gate>], usual: Size) -> Vec<usize> {
        let mut order: Vec<usize> = (0..gates.len()).collect();
        if order.len() < 2 {
            return order;
        }
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        order.sort_by_cached_key(|index| {
            let (gate, share) = (&gates[*index], shares[*index]);
            // Who has no weight is asked when nobody else can be.
            let by_weight = if share.weight == 0 { i64::MAX } else { -(share.credit + share.weight) };
            let key = match self.strategy {
                Strategy::Weighted => by_weight,
                Strategy::LowestCost => cost(&gate.deployment, usual),
                Strategy::Ordered => 0,
                Strategy::LeastBusy => i64::from(gate.in_flight()),
                // Who was never called is tried.
                Strategy::LowestLatency => i64::from(gate.latency_ms()),
            };
            (gate.deployment.order, key, by_weight)
        });
        order
    }

    /// Notes which one got the call.
    pub(crate) fn chose(&self, chosen: usize) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(order) = shares.get(chosen).map(|share| share.order) else { return };
        let all: i64 = shares.iter().filter(|share| share.order == order).map(|share| share.weight).sum();
        for (index, share) in shares.iter_mut().enumerate().filter(|(_, share)| share.order == order) {
            share.credit += share.weight - if index == chosen { all } else { 0 };
            // A share that others take while one is paused is not saved up.
            share.credit = share.credit.clamp(-all, all);
        }
    }
}

/// Returns what a job of this size would cost, in picodollars; without a price it comes last.
fn cost(deployment: &Deployment, size: Size) -> i64 {
    let input = if size.input == 0 { FIRST_INPUT } else { size.input };
    let output = size.most_output.unwrap_or(USUAL_OUTPUT);
    let price = deployment.price.as_ref().and_then(|tariff| tariff.price(Instant::now()));
    let cost = price.and_then(|price| price.estimate(&deployment.provider, input, output, SystemClock.now()));
    cost.map_or(i64::MAX, |cost| cost.0)
}

/// The groups and the rules by which calls go from one to another.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) routing: Arc<Routing>,
    groups: BTreeMap<Arc<str>, Arc<Group>>,
}

impl Routes {
    pub(crate) fn new(routing: Arc<Routing>, groups: &[Arc<Group>]) -> Self {
        Self { routing, groups: groups.iter().map(|group| (Arc::clone(&group.name), Arc::clone(group))).collect() }
    }

    /// Returns the group that a run is in: its own, or the one that it last fell back to.
    pub(crate) fn current(&self, home: &Arc<Group>, earlier: &[EarlierAttempt]) -> Arc<Group> {
        let last = earlier.iter().rev().find_map(|earlier| earlier.fell_back.as_ref());
        last.and_then(|fell_back| self.groups.get(&*fell_back.to)).unwrap_or(home).clone()
    }

    /// Returns a group that takes calls while a run's own does not: nobody waits where others are there to fall back to. `left`:
    /// groups that it left for that, which look open as soon as nobody asks them for anything.
    pub(crate) fn open_instead(
        &self,
        home: &Group,
        current: &Group,
        earlier: &[EarlierAttempt],
        left: &[Arc<str>],
    ) -> Option<Arc<Group>> {
        let been =
            |name: &str| earlier.iter().any(|earlier| earlier.fell_back.as_ref().is_some_and(|to| to.to == name));
        let wanted = self.routing.fallbacks_of(&home.name, FallbackKind::General).iter();
        wanted
            .filter(|name| **name != home.name && **name != current.name && !been(name) && !left.contains(name))
            .filter_map(|name| self.groups.get(name))
            .find(|group| !group.is_held_up())
            .cloned()
    }

    /// Waits until limits of a day are used up in the group that a run is in, and another is open instead; returns how long the
    /// first will be so yet. Cancel safe.
    pub(crate) async fn used_up(
        &self,
        home: &Group,
        current: &Group,
        earlier: &[EarlierAttempt],
        left: &[Arc<str>],
    ) -> Duration {
        if self.routing.fallbacks_of(&home.name, FallbackKind::General).is_empty() {
            return std::future::pending().await;
        }
        current.used_up(|| self.open_instead(home, current, earlier, left).is_some()).await
    }

    /// Returns the group that a run goes on with after this error, if there is one that it has not been through.
    pub(crate) fn next(
        &self,
        home: &Group,
        current: &Group,
        earlier: &[EarlierAttempt],
        error: &ErrorRecord,
    ) -> Option<Arc<Group>> {
        let kind = match error.class {
            ErrorClass::ContextWindowExceeded => FallbackKind::ContextWindow,
            ErrorClass::ContentPolicyViolation => FallbackKind::ContentPolicy,
            _ if Verdict::of(error).fallback => FallbackKind::General,
            _ => return None,
        };
        let been: Vec<&str> = earlier.iter().filter_map(|earlier| Some(&*earlier.fell_back.as_ref()?.to)).collect();
        if been.len() >= self.routing.max_fallbacks as usize {
            return None;
        }
        let wanted = self.routing.fallbacks_of(&home.name, kind).iter();
        wanted
            .filter(|name| **name != home.name && **name != current.name && !been.contains(&&***name))
            .find_map(|name| self.groups.get(name))
            .cloned()
    }
}

/// Returns the calls that counted before a run came into the group that it is in.
pub(crate) fn attempts_before(earlier: &[EarlierAttempt]) -> u32 {
    earlier.iter().rev().find_map(|earlier| earlier.fell_back.as_ref()).map_or(0, |fell_back| fell_back.attempts)
}

/// Keeps the newest of a run's earlier calls, and every one after which it went to another group: it goes through each once.
///
/// The calls of the group that it is in are counted by class, so an older one of them is folded into the next of its class. With
/// more than `most` classes the oldest call of all is lost.
pub(crate) fn keep_newest(earlier: &mut Vec<EarlierAttempt>, most: usize) {
    while earlier.len() > most {
        let here = earlier.iter().rposition(|earlier| earlier.fell_back.is_some()).map_or(0, |last| last + 1);
        // What came before the group that the run is in counts no more.
        let before = earlier[..here].iter().position(|earlier| earlier.fell_back.is_none());
        let Some(dropped) = before.or_else(|| fold(earlier, here)).or_else(|| (here < earlier.len()).then_some(here))
        else {
            return;
        };
        earlier.remove(dropped);
    }
}

/// Adds the oldest of the calls from `from` on that has a newer one of its class to that; returns which one it was.
fn fold(earlier: &mut [EarlierAttempt], from: usize) -> Option<usize> {
    for older in from..earlier.len() {
        let is_alike = |newer: &EarlierAttempt| newer.counts_as() == earlier[older].counts_as();
        let Some(newer) = earlier[older + 1..].iter().position(is_alike) else { continue };
        earlier[older + 1 + newer].times += earlier[older].times;
        return Some(older);
    }
    None
}

/// Why no deployment of a group may take a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Its prompt is longer than every window.
    TooLong { tokens: u64, most: u64 },
    /// None has its tags.
    Tags,
}

/// Tells which deployments may take a job; `None` is all of them.
pub(crate) fn fit(
    routing: &Routing,
    gates: &[Arc<Gate>],
    options: &JobOptions,
    size: Size,
) -> Result<Option<Vec<bool>>, Unfit> {
    let mut fit = vec![true; gates.len()];
    if routing.tag_filtering {
        let tags: Vec<String> = wanted_tags(options);
        let has = |deployment: &Deployment| {
            let has = |tag: &String| deployment.tags.iter().any(|own| **own == **tag);
            match (tags.is_empty(), routing.match_any_tag) {
                // As in LiteLLM: a request without tags goes to deployments without any, or to those of the tag `default`.
                (true, _) => deployment.tags.is_empty() || deployment.tags.iter().any(|own| &**own == "default"),
                (false, true) => tags.iter().any(has),
                (false, false) => tags.iter().all(has),
            }
        };
        for (fit, gate) in fit.iter_mut().zip(gates) {
            *fit = has(&gate.deployment);
        }
        if !fit.contains(&true) {
            return Err(Unfit::Tags);
        }
    }
    if routing.pre_call_checks != Some(false) {
        let mut most = 0;
        for (fit, gate) in fit.iter_mut().zip(gates) {
            let Some(window) = gate.deployment.max_input_tokens else { continue };
            most = most.max(window);
            *fit &= !size.surely_exceeds(window);
        }
        if !fit.contains(&true) {
            return Err(Unfit::TooLong { tokens: size.input, most });
        }
    }
    Ok(fit.contains(&false).then_some(fit))
}

/// Returns the tags by which a job chooses: each value, and `key=value`.
fn wanted_tags(options: &JobOptions) -> Vec<String> {
    let own = options.tags.iter().filter(|(key, _)| !key.starts_with("gristmill."));
    own.flat_map(|(key, value)| [value.clone(), format!("{key}={value}")]).collect()
}

impl Unfit {
    /// Says so as the error of a job.
    pub(crate) fn error(self, group: &str) -> ErrorRecord {
        match self {
            Self::TooLong { tokens, most } => ErrorRecord::new(
                ErrorClass::ContextWindowExceeded,
                format!("the prompt has about {tokens} tokens, and `{group}` takes {most} at most; no call was made"),
            ),
            Self::Tags => ErrorRecord::new(
                ErrorClass::UnknownModelGroup,
                format!("no deployment of `{group}` has the tags of this request; see `tags` in model_list"),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
