//! Rate limits as one worker keeps them: what it holds of each account, and the task that asks the store for more.
//!
//! A job never waits for a round trip of its own: the task asks for all accounts at once, a few times a second while jobs wait,
//! at once when the fleet should hear of something, and not at all while nothing happens. While the store is away nothing is
//! granted, and what was runs out within a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_common::id::OwnerId;
use gristmill_common::quota::{Ask, Grant, Known, Micros};
use gristmill_common::store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;
use crate::line::Line;
use crate::metrics::Counts;

mod follow;
mod ledger;
mod need;
mod news;
mod size;

pub(crate) use follow::Follow;
pub(crate) use ledger::{Demand, Figures, Ledger, Need, Taken};
pub(crate) use need::{Estimator, admits_by_length};
pub(crate) use size::Size;

/// How often the store is asked at most.
const SHORTEST: Duration = Duration::from_millis(20);
/// How often it is asked while calls run and nothing waits.
const CALM: Duration = Duration::from_secs(1);
/// How long an answer may take: what comes later is void.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the farewell may take: what is held runs out by itself.
const GIVE_UP: Duration = Duration::from_secs(2);

/// The accounts of a process.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) owner: OwnerId,
    pub(crate) line: Arc<Line>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) urgent: Arc<Notify>,
    pub(crate) counts: Arc<Counts>,
}

/// An account with its deployments.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) gates: Vec<Arc<Gate>>,
}

/// How soon the store is to be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Jobs wait.
    Waiting(Duration),
    /// Calls run, or a deployment is paused.
    Busy,
    /// Nothing happens.
    Idle,
}

impl Accounts {
    /// Returns what follows changes of the limits in the worker's file.
    pub(crate) fn follow(&self) -> Follow {
        let ledgers = self.accounts.iter().map(|account| Arc::clone(&account.ledger)).collect();
        Follow { ledgers, urgent: Arc::clone(&self.urgent) }
    }

    /// Asks for what is needed and tells what is found, until `stop`; then gives up what it holds.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut is_failing = false;
        let mut told = Told::default();
        loop {
            let Some(asked) = stop.run_until_cancelled(self.ask()).await else { break };
            let pace = match asked {
                Ok((pace, grants)) => {
                    is_failing = false;
                    self.log(&grants, &mut told);
                    pace
                }
                Err(error) => {
                    self.counts.limits_not_leased();
                    if !is_failing {
                        tracing::warn!(error, "rate limits not leased, no call starts until they are");
                    }
                    is_failing = true;
                    Pace::Busy
                }
            };
            let asked = Instant::now();
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.next(pace) => {}
            }
            tokio::time::sleep_until((asked + SHORTEST).into()).await;
        }
        // What is left goes to the others at once, and not when this worker is forgotten.
        let after_all = Instant::now() + Duration::from_secs(86_400);
        let farewell: Vec<Ask> =
            self.accounts.iter().map(|account| account.ledger.ask(&Demand::default(), after_all)).collect();
        let _ = tokio::time::timeout(GIVE_UP, self.store.lease_quota(self.owner, &farewell)).await;
    }

    async fn next(&self, pace: Pace) {
        match pace {
            Pace::Waiting(again) => tokio::select! {
                () = tokio::time::sleep(again) => {}
                () = self.urgent.notified() => {}
            },
            Pace::Busy => tokio::select! {
                () = tokio::time::sleep(CALM) => {}
                () = self.urgent.notified() => {}
                () = self.line.hungry().notified() => {}
            },
            Pace::Idle => tokio::select! {
                () = self.urgent.notified() => {}
                () = self.line.hungry().notified() => {}
            },
        }
    }

    async fn ask(&self) -> Result<(Pace, Vec<Grant>), String> {
        let mut asks = Vec::with_capacity(self.accounts.len());
        let mut versions = Vec::with_capacity(self.accounts.len());
        let mut pace = Pace::Idle;
        let sent = Instant::now();
        for account in &self.accounts {
            let demand = self.line.demand(&account.ledger);
            let mut ask = account.ledger.ask(&demand, sent);
            let mut seen = Vec::with_capacity(account.gates.len());
            for gate in &account.gates {
                let (look, version) = gate.look(self.line.waits_for(gate));
                ask.looks.push(look);
                seen.push(version);
            }
            let is_busy = ask.in_flight > 0 || account.gates.iter().any(|gate| !gate.is_open());
            pace = match pace {
                _ if demand.calls > 0 => Pace::Waiting(Duration::ZERO),
                Pace::Idle if is_busy => Pace::Busy,
                pace => pace,
            };
            asks.push(ask);
            versions.push(seen);
        }
        let leasing = tokio::time::timeout(PATIENCE, self.store.lease_quota(self.owner, &asks)).await;
        let leased = match leasing {
            Ok(leased) => leased.map_err(|error| error.to_string()),
            Err(_) => Err("the store does not answer".to_owned()),
        };
        let grants = match leased {
            Ok(grants) => grants,
            Err(error) => {
                self.accounts.iter().zip(&asks).for_each(|(account, ask)| account.ledger.take_back(ask));
                return Err(error);
            }
        };
        let answered = Instant::now();
        for ((account, grant), seen) in self.accounts.iter().zip(&grants).zip(versions) {
            account.ledger.grant(grant, sent, answered);
            for ((gate, sight), version) in account.gates.iter().zip(&grant.sights).zip(seen) {
                gate.see(sight, version, answered);
            }
        }
        self.line.ring();
        // What the answer paused is looked after.
        if pace == Pace::Idle && self.accounts.iter().any(|account| account.gates.iter().any(|gate| !gate.is_open())) {
            pace = Pace::Busy;
        }
        if let Pace::Waiting(again) = &mut pace {
            *again = grants.iter().map(|grant| micros(grant.again)).max().unwrap_or(CALM);
        }
        Ok((pace, grants))
    }

    fn log(&self, grants: &[Grant], told: &mut Told) {
        told.known.resize(self.accounts.len(), None);
        for ((account, grant), known) in self.accounts.iter().zip(grants).zip(&mut told.known) {
            let account = &*account.ledger.account;
            let why = grant.learnt.as_deref();
            for news in news::take(known.get_or_insert(grant.known), &grant.known) {
                let (dimension, change) = (news.dimension, news.change.as_str());
                tracing::info!(account, dimension, change, from = news.from, to = news.to, why, "limit changed");
                self.counts.limit_changed(account, dimension, change);
            }
            if grant.drift.is_some() && told.drift != grant.drift {
                tracing::warn!(account, what = grant.drift, "limits drift");
                told.drift.clone_from(&grant.drift);
            }
        }
    }
}

/// What was logged last.
#[derive(Debug, Default)]
struct Told {
    /// By account.
    known: Vec<Option<Known>>,
    drift: Option<String>,
}

fn micros(length: Micros) -> Duration {
    Duration::from_micros(u64::try_from(length).unwrap_or_default())
}
