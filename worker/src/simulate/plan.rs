//! What will become of a call, decided in one step when its body is there: outages, key, limits, numbers, faults.
//!
//! The same for all dialects; each only says what its provider insists on and how it counts tokens.

use std::time::Duration;

use super::call::Call;
use super::fault::{self, Fault, FaultRule};
use super::limit::Cost;
use super::random::{self, Purpose, Random};
use super::refusal::Refusal;
use super::reply::Reply;
use super::request::{Malformed, Request};
use super::route::Route;
use super::shared::{Settings, Shared};
use super::tally::Turn;

/// A call that was let in.
pub(super) struct Plan<'a> {
    pub(super) request: Request<'a>,
    pub(super) reply: Reply,
    pub(super) fault: Option<Fault>,
    pub(super) draws: Draws,
}

/// A call that was not.
pub(super) type Refused = (Reply, Refusal);

/// What chance is drawn from for one call: nothing that depends on other markers or on time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws {
    seed: u64,
    marker: u64,
    turn: u32,
}

impl<'a> Plan<'a> {
    /// Decides, without waiting; `door` is the verdict on the call's key and headers.
    pub(super) fn make(
        shared: &Shared,
        settings: &Settings,
        route: &Route,
        call: &mut Call,
        door: Result<(), Refusal>,
        request: Result<Request<'a>, Malformed>,
    ) -> Result<Self, Box<Refused>> {
        let request = match request {
            Ok(request) => request,
            Err(malformed) => {
                let refusal = door.err().unwrap_or_else(|| Refusal::malformed(malformed));
                return Err(Box::new((Reply::new(0, None), refusal)));
            }
        };
        call.identify(request.marker(), request.prompt_tokens());
        let marker = random::hash(request.marker().as_bytes());
        if let Some(fault) = outage(shared, settings, call, &request.model, marker) {
            call.meet_outage();
            let turn = shared.tally.count(marker, false);
            call.number(turn.call);
            let reply = Reply::new(request_id(shared, marker, turn), None);
            let draws = Draws { seed: shared.seed, marker, turn: turn.admitted };
            return Ok(Self { request, reply, fault: Some(fault), draws });
        }

        let mut lefts = None;
        let refusal = door.and_then(|()| request.check().map_err(Refusal::malformed)).and_then(|()| {
            if !call.operation().is_metered() {
                return Ok(());
            }
            shared.catch_up(call.arrived().now);
            let arrival = shared.meter.arrive(&request.model, cost(shared, route, &request, marker), call.arrived());
            lefts = Some(arrival.lefts).filter(|_| settings.limit_headers);
            match arrival.verdict {
                Ok(permit) => {
                    call.hold(permit);
                    Ok(())
                }
                Err(refusal) => {
                    shared.counters.refused();
                    Err(Refusal::limited(refusal, &request.model, settings))
                }
            }
        });

        let script = request.script();
        let is_counted = shared.log.is_some()
            || !settings.faults.is_empty()
            || !settings.jitter.is_zero()
            || script.is_some()
            || request.cached.tokens > 0;
        let turn = if is_counted { shared.tally.count(marker, refusal.is_ok()) } else { Turn::UNCOUNTED };
        call.number(turn.call);
        let reply = Reply::new(request_id(shared, marker, turn), lefts);
        if let Err(refusal) = refusal {
            return Err(Box::new((reply, refusal)));
        }

        let draws = Draws { seed: shared.seed, marker, turn: turn.admitted };
        let fault = match script.map(|script| fault::scripted(script, turn.admitted)) {
            None => FaultRule::choose(&settings.faults, &request.model, || draws.random(Purpose::Fault)).cloned(),
            Some(Ok(fault)) => fault,
            Some(Err(reason)) => return Err(Box::new((reply, Refusal::script(&reason)))),
        };
        Ok(Self { request, reply, fault, draws })
    }
}

/// Finds what a call meets because the provider is away.
///
/// A caller who tries again may have more luck, where an outage leaves any.
fn outage(shared: &Shared, settings: &Settings, call: &Call, model: &str, marker: u64) -> Option<Fault> {
    let rules = shared.outages(settings, call.arrived().since_first);
    let draw = || Random::new(shared.seed, marker, shared.tally.next(marker).call, Purpose::Fault);
    FaultRule::choose(rules, model, draw).cloned()
}

/// Counts what a call takes from the limits at its arrival.
fn cost(shared: &Shared, route: &Route, request: &Request<'_>, marker: u64) -> Cost {
    let prompt = request.prompt_tokens();
    let is_read = request.cached.tokens > 0 && shared.tally.next(marker).admitted > 1;
    let input_tokens = if is_read { prompt.saturating_sub(request.cached.tokens) } else { prompt };
    Cost { tokens: route.dialect.charge(request), input_tokens }
}

fn request_id(shared: &Shared, marker: u64, turn: Turn) -> u64 {
    Random::new(shared.seed, marker, turn.call, Purpose::RequestId).bits()
}

impl Draws {
    #[cfg(test)]
    pub(super) fn new(seed: u64, marker: u64, turn: u32) -> Self {
        Self { seed, marker, turn }
    }

    /// Tells whether it is the marker's first call: what it wants cached, the later ones find.
    pub(super) fn is_first(self) -> bool {
        self.turn <= 1
    }

    /// Starts the random numbers of one decision about the call.
    pub(super) fn random(self, purpose: Purpose) -> Random {
        Random::new(self.seed, self.marker, self.turn, purpose)
    }

    /// Draws the time until the answer, evenly around the latency.
    pub(super) fn latency(self, settings: &Settings) -> Duration {
        if settings.jitter.is_zero() {
            return settings.latency;
        }
        let shift = settings.jitter.mul_f64(2.0 * self.random(Purpose::Latency).unit());
        (settings.latency + shift).saturating_sub(settings.jitter)
    }
}
