//! What must hold after any sequence of operations: one row a run, counters as the rows, every call counted once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use gristmill_common::batch::{BatchState, Counters};
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::id::{BatchId, JobId, OwnerId};
use gristmill_common::job::{Job, JobRef};
use gristmill_common::outcome::{AttemptRecord, Status};
use gristmill_common::store::{Cursor, DeadLetter, End, Error, Settlement, Store, Verdict, Wake};

use super::{LONG, Lab, Submitted, arrival, attempt, ended, eventually, failure, success};

/// A small generator, so that a failing seed fails again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64*, Vigna 2016, https://arxiv.org/abs/1402.6246.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

struct Model<'a> {
    lab: &'a Lab,
    dice: Dice,
    batches: Vec<Submitted>,
    alive: Vec<OwnerId>,
    /// What each owner, also a dead one, believes to hold, with the calls made so far.
    hands: BTreeMap<OwnerId, BTreeMap<JobId, (JobRef, u32)>>,
    /// Calls that were flushed, each once however often.
    calls: BTreeSet<(JobId, u32, u32, OwnerId)>,
    batch_of: HashMap<JobId, BatchId>,
}

impl<'a> Model<'a> {
    async fn new(lab: &'a Lab, seed: u64) -> Self {
        let mut batches = Vec::new();
        for name in ["first", "second", "third"] {
            batches.push(lab.submitted(name, 9).await);
        }
        let batch_of = batches.iter().flat_map(|batch| &batch.jobs).map(|job| (job.id, job.batch)).collect();
        let mut model = Self {
            lab,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            batches,
            alive: Vec::new(),
            hands: BTreeMap::new(),
            calls: BTreeSet::new(),
            batch_of,
        };
        for _ in 0..3 {
            model.hire().await;
        }
        model
    }

    fn store(&mut self) -> Arc<dyn Store> {
        Arc::clone(if self.dice.roll(2) == 0 { &self.lab.store } else { &self.lab.other })
    }

    async fn hire(&mut self) {
        let owner = self.lab.worker(LONG).await;
        self.alive.push(owner);
        self.hands.insert(owner, BTreeMap::new());
    }

    async fn step(&mut self) {
        match self.dice.roll(100) {
            0..35 => self.admit().await,
            35..75 => self.flush().await,
            75..84 => self.queue_what_is_due().await,
            84..88 => self.kill().await,
            88..91 => self.cancel().await,
            91..94 => self.retry().await,
            94..97 => drop(self.store().close_cancelled(4).await.unwrap()),
            97..99 => self.bury_a_letter().await,
            _ => {
                let batch = self.dice.pick(&self.batches).id;
                self.store().requeue(batch).await.unwrap();
            }
        }
    }

    async fn admit(&mut self) {
        let owner = *self.dice.pick(&self.alive);
        let jobs: Vec<Job> = (0..self.dice.roll(8) + 1)
            .map(|_| {
                let batch = self.dice.roll(self.batches.len());
                self.dice.pick(&self.batches[batch].jobs).clone()
            })
            .collect();
        let verdicts = self.store().admit(owner, jobs.iter().map(arrival).collect()).await.unwrap();
        let mut seen = BTreeSet::new();
        for (verdict, job) in verdicts.into_iter().zip(&jobs) {
            let (Verdict::Run(ticket) | Verdict::Cancelled(ticket) | Verdict::Expired(ticket)) = verdict else {
                continue;
            };
            assert!(seen.insert(job.id), "once in a group");
            for other in self.alive.iter().filter(|other| **other != owner) {
                let theirs = self.hands[other].get(&job.id);
                assert!(theirs.is_none_or(|(held, _)| held.run < ticket.job.run), "two hold {}", job.id);
            }
            self.hands.entry(owner).or_default().insert(job.id, (ticket.job, ticket.calls));
        }
    }

    async fn flush(&mut self) {
        // One in six comes from whoever it is, also from an owner that died.
        let owners: Vec<OwnerId> = self.hands.keys().copied().collect();
        let owner = if self.dice.roll(6) == 0 { *self.dice.pick(&owners) } else { *self.dice.pick(&self.alive) };
        let hand = self.hands.remove(&owner).unwrap_or_default();
        let (mut keep, mut settlements) = (BTreeMap::new(), Vec::new());
        for (id, (job, calls)) in hand {
            if self.dice.roll(3) == 0 {
                keep.insert(id, (job, calls));
            } else {
                settlements.push(self.settlement(owner, job, calls));
            }
        }
        self.hands.insert(owner, keep);
        let flushed = self.store().flush(owner, &settlements).await.unwrap();
        let settled = flushed.results + flushed.waiting + flushed.lost;
        assert_eq!((settled, flushed.rejected), (u64::try_from(settlements.len()).unwrap(), 0));
        if self.alive.contains(&owner) {
            assert_eq!(flushed.lost, 0, "a live owner holds what it was given");
        }
        if self.dice.roll(3) == 0 {
            let again = self.store().flush(owner, &settlements).await.unwrap();
            assert_eq!((again.results, again.waiting, again.attempts), (0, 0, 0));
        }
    }

    fn settlement(&mut self, owner: OwnerId, job: JobRef, calls: u32) -> Settlement {
        let made = u32::try_from(self.dice.roll(3)).unwrap();
        let attempts: Vec<AttemptRecord> = (calls + 1..=calls + made).map(attempt).collect();
        self.calls.extend(attempts.iter().map(|made| (job.id, job.run, made.attempt, owner)));
        let wake = Wake {
            after: Duration::ZERO,
            reason: "retry".to_owned(),
            calls: calls + made,
            attempts: made,
            faults: 0,
            earlier: Vec::new(),
            spent_pico_usd: None,
        };
        let end = match self.dice.roll(6) {
            0..2 => End::Wake(wake),
            2..4 => End::Result(Box::new(success("ok"))),
            4 => End::Result(Box::new(failure("no"))),
            _ => End::Result(Box::new(ended(Status::Cancelled, ErrorClass::Cancelled, "stop"))),
        };
        Settlement { job, tags: Arc::default(), spends: None, attempts, caching: None, end }
    }

    async fn queue_what_is_due(&mut self) {
        let limit = u32::try_from(self.dice.roll(9) + 1).unwrap();
        let due = self.store().due(limit).await.unwrap();
        self.store().mark_queued(&due).await.unwrap();
    }

    async fn kill(&mut self) {
        let index = self.dice.roll(self.alive.len());
        let owner = self.alive.remove(index);
        if self.dice.roll(4) == 0 {
            self.store().deregister(owner).await.unwrap();
        } else {
            self.store().renew(owner, Duration::ZERO, 0, &[]).await.unwrap();
            let store = self.store();
            eventually("it is dead", || async { (store.bury(3, 5).await.unwrap().owners > 0).then_some(()) }).await;
            while store.bury(3, 5).await.unwrap().more {}
        }
        self.hire().await;
    }

    async fn cancel(&mut self) {
        let batch = self.dice.pick(&self.batches).id;
        self.store().cancel(batch).await.unwrap();
    }

    async fn retry(&mut self) {
        let batch = self.dice.pick(&self.batches).id;
        let limit = u32::try_from(self.dice.roll(5) + 1).unwrap();
        match self.store().retry(batch, &[Status::Failed, Status::Cancelled], Cursor::default(), limit).await {
            Ok(_) | Err(Error::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn bury_a_letter(&mut self) {
        let batch = self.dice.roll(self.batches.len());
        let job = self.dice.pick(&self.batches[batch].jobs);
        // A copy of the first message: late for a job that runs again.
        let job = super::reference(job, 1);
        let letter = DeadLetter {
            reason: "delivery_limit".to_owned(),
            queue: job.lane.routing_key(),
            payload: bytes::Bytes::from_static(b"{}"),
            jobs: vec![job],
            error: ErrorRecord::new(ErrorClass::InvalidMessage, "it came back too often"),
        };
        self.store().bury_letter(&letter).await.unwrap();
    }

    /// Checks what holds at any time.
    async fn check(&self) {
        for batch in &self.batches {
            let read = self.lab.batch(batch.id).await;
            let calls = self.calls.iter().filter(|(job, ..)| self.batch_of[job] == batch.id).count();
            let calls = u64::try_from(calls).unwrap();
            assert_eq!((read.calls, read.input_tokens, read.output_tokens), (calls, calls * 100, calls * 10));
            assert_eq!(read.cost_pico_usd, Some(i64::try_from(calls).unwrap() * 1_500_000));
            assert!(read.counters.done() <= 9 && read.total == Some(9));
            assert_eq!(read.state.is_ended(), read.counters.done() == 9, "{read:?}");
            let mut runs = BTreeSet::new();
            for row in self.lab.everything(batch.id).await {
                assert!(runs.insert((row.job_id, row.run)), "one row a run");
            }
        }
    }

    /// Brings everything to its end, as a fleet does once it is left alone.
    async fn finish(&mut self) {
        let owner = self.lab.worker(LONG).await;
        for owner in std::mem::take(&mut self.alive) {
            self.store().deregister(owner).await.unwrap();
        }
        for round in 0.. {
            assert!(round < 100, "it does not come to its end");
            let mut open = false;
            for index in 0..self.batches.len() {
                let due = self.store().due(100).await.unwrap();
                self.store().mark_queued(&due).await.unwrap();
                let arrivals = self.batches[index].jobs.iter().map(arrival).collect();
                let verdicts = self.store().admit(owner, arrivals).await.unwrap();
                let settlements: Vec<_> = verdicts
                    .into_iter()
                    .filter_map(|verdict| {
                        let (result, ticket) = match verdict {
                            Verdict::Run(ticket) => (success("at last"), ticket),
                            Verdict::Cancelled(ticket) => {
                                (ended(Status::Cancelled, ErrorClass::Cancelled, "stop"), ticket)
                            }
                            _ => return None,
                        };
                        let end = End::Result(Box::new(result));
                        Some(Settlement {
                            job: ticket.job,
                            tags: Arc::default(),
                            spends: None,
                            attempts: Vec::new(),
                            caching: None,
                            end,
                        })
                    })
                    .collect();
                self.store().flush(owner, &settlements).await.unwrap();
                open |= !self.lab.batch(self.batches[index].id).await.state.is_ended();
            }
            if !open {
                return;
            }
        }
    }

    /// Checks that each batch's counters are what its rows say.
    async fn check_ended(&self) {
        for batch in &self.batches {
            let read = self.lab.batch(batch.id).await;
            assert!(matches!(read.state, BatchState::Finished | BatchState::Cancelled));
            let rows = eventually("the rows are as the counters", || async {
                let rows = self.lab.everything(batch.id).await;
                (count(&rows) == read.counters).then_some(rows)
            })
            .await;
            // The runs of a job are numbered without a gap, and nothing is left behind.
            let mut runs: BTreeMap<JobId, Vec<u32>> = BTreeMap::new();
            for row in &rows {
                runs.entry(row.job_id).or_default().push(row.run);
            }
            assert_eq!(runs.len(), 9);
            for mut runs in runs.into_values() {
                runs.sort_unstable();
                assert_eq!(runs, (1..=u32::try_from(runs.len()).unwrap()).collect::<Vec<_>>());
            }
            let progress = self.lab.store.progress(batch.id).await.unwrap();
            assert_eq!((progress.held, progress.waiting), (0, 0));
            assert_eq!(self.lab.store.unfinished(batch.id, None, 100).await.unwrap(), (Vec::new(), None));
        }
    }
}

fn count(rows: &[gristmill_common::outcome::ResultRow]) -> Counters {
    let mut latest: BTreeMap<JobId, (u32, Status)> = BTreeMap::new();
    for row in rows {
        let latest = latest.entry(row.job_id).or_insert((row.run, row.result.status));
        if row.run >= latest.0 {
            *latest = (row.run, row.result.status);
        }
    }
    let mut counters = Counters::default();
    for (_, status) in latest.into_values() {
        *match status {
            Status::Succeeded => &mut counters.succeeded,
            Status::Failed => &mut counters.failed,
            Status::Cancelled => &mut counters.cancelled,
            Status::Expired => &mut counters.expired,
        } += 1;
    }
    counters
}

async fn play(lab: &Lab, seed: u64, steps: usize) {
    let mut model = Model::new(lab, seed).await;
    for step in 1..=steps {
        model.step().await;
        if step % 20 == 0 {
            model.check().await;
        }
    }
    model.finish().await;
    model.check().await;
    model.check_ended().await;
}

pub async fn after_any_operations_counters_equal_rows_first_seed(lab: Lab) {
    play(&lab, 1, 220).await;
}

pub async fn after_any_operations_counters_equal_rows_second_seed(lab: Lab) {
    play(&lab, 2, 220).await;
}

pub async fn after_any_operations_counters_equal_rows_third_seed(lab: Lab) {
    play(&lab, 3, 220).await;
}

pub async fn after_any_operations_counters_equal_rows_fourth_seed(lab: Lab) {
    play(&lab, 4, 220).await;
}
