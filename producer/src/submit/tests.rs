use super::fake::{FakeBroker, FakeStore, Fault};
use super::*;
use crate::Options;
use gristmill_common::batch::BatchState;
use gristmill_common::job::LaneKey;
use gristmill_common::store::{Cursor, Recorded, Store as _};
use proptest::prelude::*;

#[derive(Clone, Default)]
struct Bench {
    store: Arc<FakeStore>,
    broker: Arc<FakeBroker>,
}

impl Bench {
    fn producer(&self) -> Producer {
        Producer::connect(Options::new(
            Arc::clone(&self.store) as Arc<dyn gristmill_common::store::Store>,
            Some(Arc::clone(&self.broker) as Arc<dyn gristmill_common::broker::Broker>),
        ))
    }

    async fn submit(&self, jobs: Vec<NewJob>) -> Result<Submitted> {
        self.submit_until(jobs, None).await
    }

    /// Submits, and asks to stop when the stream reaches a position.
    async fn submit_until(&self, jobs: Vec<NewJob>, stop_at: Option<usize>) -> Result<Submitted> {
        let control = Control::default();
        let stop = control.stop.clone();
        let stream = futures_util::stream::iter(jobs.into_iter().enumerate()).map(move |(position, job)| {
            if Some(position) == stop_at {
                stop.cancel();
            }
            Ok::<_, std::io::Error>(job)
        });
        self.producer().submit(spec(), stream, &control).await
    }

    fn names(&self) -> Vec<String> {
        self.store.state.lock().unwrap().jobs.iter().map(|job| job.custom_id.clone()).collect()
    }
}

fn spec() -> BatchSpec {
    BatchSpec { name: "sweep".to_owned(), priority: Priority::Bulk, ..BatchSpec::default() }
}

fn job(name: usize) -> NewJob {
    NewJob {
        custom_id: format!("job-{name}"),
        endpoint: "/v1/chat/completions".into(),
        model: "gpt-4o".into(),
        body: format!(r#"{{"n":{name}}}"#).into(),
        options: JobOptions::default(),
    }
}

fn jobs(names: impl IntoIterator<Item = usize>) -> Vec<NewJob> {
    names.into_iter().map(job).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn interrupted_submissions_record_each_job_once_in_order(
        count in 1usize..2_600,
        stops in proptest::collection::vec(0usize..2_600, 0..5),
        lost in proptest::collection::vec(0usize..3, 0..4),
    ) {
        runtime().block_on(async {
            let bench = Bench::default();
            for fault in lost {
                let fault = [Fault::LostAnswer, Fault::LostAnswer, Fault::Unroutable][fault];
                bench.broker.faults.lock().unwrap().push_back(fault);
            }
            for stop in stops {
                let _ = bench.submit_until(jobs(0..count), Some(stop)).await;
            }
            let submitted = bench.submit(jobs(0..count)).await.unwrap();
            assert_eq!(submitted.changed, 0);
            assert_eq!(submitted.recorded_now + submitted.already_there, count as u64);
            assert_eq!(bench.names(), (0..count).map(|name| format!("job-{name}")).collect::<Vec<_>>());
            let state = bench.store.state.lock().unwrap();
            let ids: Vec<_> = state.jobs.iter().map(|job| job.id).collect();
            assert_eq!(bench.broker.jobs(), ids, "every job is published");
            assert!(state.sealed >= 1);
            assert!(ids.iter().all(|id| submitted.members.contains(*id)));
        });
    }

    #[test]
    fn an_edited_input_records_only_what_is_new(
        before in proptest::collection::btree_set(0usize..60, 0..40),
        after in proptest::collection::vec(0usize..60, 0..60),
    ) {
        runtime().block_on(async {
            let bench = Bench::default();
            let before: Vec<usize> = before.into_iter().collect();
            let mut after = after;
            let mut seen = std::collections::BTreeSet::new();
            after.retain(|name| seen.insert(*name));
            bench.submit(jobs(before.iter().copied())).await.unwrap();
            let submitted = bench.submit(jobs(after.iter().copied())).await.unwrap();
            let mut expected: Vec<usize> = before.clone();
            expected.extend(after.iter().filter(|name| !before.contains(name)));
            assert_eq!(bench.names(), expected.iter().map(|name| format!("job-{name}")).collect::<Vec<_>>());
            let gone = before.iter().filter(|name| !after.contains(name)).count();
            assert_eq!(submitted.changed, gone as u64);
            let listed = before.iter().filter(|name| !after.contains(name)).take(MOST_LISTED);
            assert_eq!(submitted.changed_ids, listed.map(|name| format!("job-{name}")).collect::<Vec<_>>());
            for (position, name) in expected.iter().enumerate() {
                let id = bench.store.state.lock().unwrap().jobs[position].id;
                assert_eq!(submitted.members.contains(id), after.contains(name), "job {name}");
            }
        });
    }
}

#[tokio::test]
async fn a_chunk_is_published_behind_its_record_and_through_follows() {
    let bench = Bench::default();
    bench.submit(jobs(0..3_500)).await.unwrap();
    let state = bench.store.state.lock().unwrap();
    assert_eq!(state.throughs, [0, 0, 1_000, 2_000]);
    let published = bench.broker.published.lock().unwrap();
    assert_eq!(published.len(), 350, "ten jobs a message");
    assert_eq!(*bench.broker.declared.lock().unwrap(), ["gpt-4o"]);
}

#[tokio::test]
async fn the_emptier_lane_is_taken_once() {
    let bench = Bench::default();
    let control = Control::default();
    let batch_lanes = |id| LaneKey::candidates(id, "gpt-4o", Priority::Bulk).map(|lane| lane.lane);
    // Every lane is as full as its number, so the lower one of the two is the emptier.
    *bench.broker.depths.lock().unwrap() = (0..4).map(|lane| (lane, u64::from(lane))).collect();
    let stream = futures_util::stream::iter(jobs(0..30)).map(Ok::<_, std::io::Error>);
    let submitted = bench.producer().submit(spec(), stream, &control).await.unwrap();
    let expected = batch_lanes(submitted.batch.id).into_iter().min().unwrap();
    assert!(bench.broker.published.lock().unwrap().iter().all(|message| message.lane.lane == expected));
}

#[tokio::test]
async fn refused_messages_wait_in_the_store() {
    let bench = Bench::default();
    bench.broker.faults.lock().unwrap().push_back(Fault::Refuse);
    bench.submit(jobs(0..25)).await.unwrap();
    let state = bench.store.state.lock().unwrap();
    assert_eq!(state.deferred.len(), 25);
    assert!(bench.broker.jobs().is_empty());
    assert_eq!(state.batch.as_ref().unwrap().published_through, 25, "the keeper has them");
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_declared_and_published_to_again() {
    let bench = Bench::default();
    bench.broker.faults.lock().unwrap().push_back(Fault::Unroutable);
    bench.submit(jobs(0..25)).await.unwrap();
    assert_eq!(bench.broker.jobs().len(), 25);
    assert_eq!(*bench.broker.declared.lock().unwrap(), ["gpt-4o", "gpt-4o"]);
}

#[tokio::test]
async fn large_bodies_go_by_reference_and_huge_ones_are_refused() {
    let bench = Bench::default();
    let large = NewJob { body: format!("\"{}\"", "x".repeat(40_000)).into(), ..job(1) };
    bench.submit(vec![job(0), large]).await.unwrap();
    let arrivals: Vec<_> = {
        let published = bench.broker.published.lock().unwrap();
        published.iter().flat_map(|message| gristmill_common::envelope::read(&message.payload).unwrap()).collect()
    };
    let carried: Vec<bool> = arrivals.iter().map(|arrival| arrival.request.is_some()).collect();
    assert_eq!(carried, [true, false]);

    let huge = NewJob { body: vec![b'1'; MAX_BODY_BYTES + 1].into(), ..job(2) };
    let error = Bench::default().submit(vec![huge]).await.unwrap_err();
    assert!(matches!(error, Error::BodyTooLarge { .. }));
    let broken = NewJob { body: "{".into(), ..job(3) };
    let bench = Bench::default();
    assert!(matches!(bench.submit(vec![broken]).await.unwrap_err(), Error::BodyNotJson { .. }));
    assert_eq!(bench.store.state.lock().unwrap().left, 1, "the batch is let go");
}

#[tokio::test]
async fn jobs_for_later_are_recorded_and_not_published() {
    let bench = Bench::default();
    let later = |minutes| {
        let not_before = Some(bench.producer().options.clock.now() + chrono::TimeDelta::minutes(minutes));
        JobOptions { not_before, ..JobOptions::default() }
    };
    let batch = vec![
        NewJob { options: later(60), ..job(0) },
        NewJob { options: later(-60), ..job(1) },
        // It may be due by the store's clock.
        NewJob { options: later(0), ..job(2) },
    ];
    bench.submit(batch).await.unwrap();
    assert_eq!(bench.names().len(), 3);
    assert_eq!(bench.broker.jobs().iter().map(|id| id.ordinal()).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_hold_that_was_lost_in_an_outage_is_taken_back() {
    let bench = Bench::default();
    bench.store.state.lock().unwrap().record_answers.push_back(Recorded::LostProducer);
    let submitted = bench.submit(jobs(0..10)).await.unwrap();
    assert_eq!(submitted.recorded_now, 10);
    assert_eq!(bench.names().len(), 10);
}

#[tokio::test]
async fn a_hold_that_was_lost_before_the_seal_is_taken_back() {
    let bench = Bench::default();
    bench.store.state.lock().unwrap().lost_at_seal = Some(None);
    bench.submit(jobs(0..10)).await.unwrap();
    assert_eq!(bench.store.state.lock().unwrap().sealed, 1);
}

#[tokio::test]
async fn a_batch_that_another_took_before_the_seal_is_no_success() {
    let bench = Bench::default();
    let other = bench.producer().owner;
    bench.store.state.lock().unwrap().lost_at_seal = Some(Some(other));
    assert!(matches!(bench.submit(jobs(0..10)).await.unwrap_err(), Error::Replaced(_)));
    let state = bench.store.state.lock().unwrap();
    assert_eq!((state.sealed, state.producer), (0, Some(other)), "it is the other's to seal");
}

#[tokio::test]
async fn a_cancelled_batch_takes_no_more() {
    let bench = Bench::default();
    bench.store.state.lock().unwrap().record_answers.push_back(Recorded::Cancelled);
    assert!(matches!(bench.submit(jobs(0..10)).await.unwrap_err(), Error::Cancelled(_)));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_another_process_submits_is_waited_for_and_then_refused() {
    let bench = Bench::default();
    bench.submit(jobs(0..1)).await.unwrap();
    bench.store.state.lock().unwrap().producer = Some(bench.producer().owner);
    assert!(matches!(bench.submit(jobs(0..2)).await.unwrap_err(), Error::Busy(_)));
}

#[tokio::test]
async fn an_input_that_fails_leaves_the_batch_open() {
    let bench = Bench::default();
    let stream = futures_util::stream::iter(vec![Ok(job(0)), Err(std::io::Error::other("bad line"))]);
    let error = bench.producer().submit(spec(), stream, &Control::default()).await.unwrap_err();
    assert!(matches!(error, Error::Input(_)));
    let state = bench.store.state.lock().unwrap();
    assert_eq!((state.sealed, state.left), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_does_not_hold_back_what_it_gave() {
    let bench = Bench::default();
    let stream = futures_util::stream::iter(jobs(0..1)).chain(futures_util::stream::pending());
    let control = Control::default();
    let producer = bench.producer();
    let stream = stream.map(Ok::<_, std::io::Error>);
    let submitting = producer.submit(spec(), stream, &control);
    assert!(tokio::time::timeout(Duration::from_secs(2), submitting).await.is_err());
    assert_eq!(bench.names().len(), 1);
    assert_eq!(bench.broker.jobs().len(), 1);
}

#[tokio::test]
async fn a_stream_that_has_ended_is_not_asked_again() {
    let bench = Bench::default();
    let mut left = jobs(0..3).into_iter();
    let mut ended = false;
    let stream = futures_util::stream::poll_fn(move |_| {
        assert!(!ended, "polled after its end");
        let next = left.next();
        ended = next.is_none();
        std::task::Poll::Ready(next.map(Ok::<_, std::io::Error>))
    });
    bench.producer().submit(spec(), stream, &Control::default()).await.unwrap();
    assert_eq!(bench.names().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_ends_with_the_batch_and_misses_nothing() {
    let bench = Bench::default();
    let submitted = bench.submit(jobs(0..3)).await.unwrap();
    let id = submitted.batch.id;
    let add = |count: u32| {
        let mut state = bench.store.state.lock().unwrap();
        for _ in 0..count {
            let row = crate::output::tests::row(id, u32::try_from(state.results.len()).unwrap());
            state.results.push(row);
        }
        drop(state);
        bench.store.tell();
    };
    add(1);
    let mut subscription = bench.producer().subscribe(id, Cursor::default(), CancellationToken::new());
    assert_eq!(subscription.next_page().await.unwrap().unwrap().rows.len(), 1);
    assert!(tokio::time::timeout(Duration::from_secs(5), subscription.next_page()).await.is_err(), "it waits");
    add(2);
    bench.store.state.lock().unwrap().batch.as_mut().unwrap().state = BatchState::Finished;
    assert_eq!(subscription.next_page().await.unwrap().unwrap().rows.len(), 2);
    assert!(subscription.next_page().await.unwrap().is_none());
    let resumed = bench.producer().subscribe(id, Cursor { xid: 0, seq: 1 }, CancellationToken::new());
    assert_eq!(resumed.rows().collect::<Vec<_>>().await.len(), 2);
}

#[tokio::test]
async fn what_a_submission_does_not_call_says_so() {
    let bench = Bench::default();
    let error = bench.store.due(1).await.unwrap_err();
    assert_eq!(error.to_string(), "a submission does not call `due`, and nothing stands in for it here");
    assert!(!error.is_transient(), "nobody tries again");
    assert_eq!(bench.store.workers().await.unwrap(), []);
}

#[test]
fn a_submission_can_be_spawned() {
    fn sendable(_: impl Send) {}
    let bench = Bench::default();
    let producer = bench.producer();
    let control = Control::default();
    let stream = futures_util::stream::iter(jobs(0..1)).map(Ok::<_, std::io::Error>);
    sendable(producer.submit(spec(), stream, &control));
}
