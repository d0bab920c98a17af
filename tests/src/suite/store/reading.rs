//! What readers see: batches, rows in order, errors, progress, hints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gristmill_common::failure::ErrorClass;
use gristmill_common::job::{Job, Metadata};
use gristmill_common::outcome::Status;
use gristmill_common::store::{BatchSelector, Cursor, Progress, Store};

use super::{LONG, Lab, arrivals, ended, eventually, failure, settle, success, ticket, wake};

pub async fn a_batch_is_found_by_each_name_that_people_use(lab: Lab) {
    let submitted = lab.submitted("sweep/\u{e9}t\u{e9} 7", 2).await;
    let batch = lab.batch(submitted.id).await;
    let text = submitted.id.to_string();
    for selector in [
        BatchSelector::Id(submitted.id),
        BatchSelector::Name("sweep/\u{e9}t\u{e9} 7".to_owned()),
        BatchSelector::IdPrefix(text[..4].to_owned()),
        BatchSelector::IdPrefix(text[..8].to_uppercase()),
        BatchSelector::IdPrefix(text[..23].to_owned()),
        BatchSelector::IdPrefix(text.replace('-', "")),
        BatchSelector::IdPrefix(text),
        BatchSelector::Last,
    ] {
        assert_eq!(lab.store.batch(&selector).await.unwrap().as_ref(), Some(&batch), "{selector:?}");
    }
    for text in ["sweep", "zzzz", "0000", "%", "____", ""] {
        for selector in [BatchSelector::Name(text.to_owned()), BatchSelector::IdPrefix(text.to_owned())] {
            assert_eq!(lab.store.batch(&selector).await.unwrap(), None, "{selector:?}");
        }
    }
}

pub async fn batches_are_listed_newest_first(lab: Lab) {
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        ids.push(lab.submitted(name, 1).await.id);
        // Batches of one millisecond have no order.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ids.reverse();
    let listed: Vec<_> = lab.store.batches(10).await.unwrap().iter().map(|batch| batch.id).collect();
    assert_eq!(listed, ids);
    assert_eq!(lab.store.batches(2).await.unwrap().len(), 2);
    let last = lab.store.batch(&BatchSelector::Last).await.unwrap().unwrap();
    assert_eq!((last.id, last.name.as_str()), (ids[0], "three"));
}

pub async fn rows_are_read_in_pages_by_a_cursor_that_survives_as_text(lab: Lab) {
    let submitted = lab.submitted("sweep", 25).await;
    let other = lab.submitted("other", 5).await;
    let worker = lab.worker(LONG).await;
    for part in submitted.jobs.chunks(4) {
        lab.ended(worker, part, &success("ok")).await;
    }
    lab.ended(worker, &other.jobs, &success("not ours")).await;
    let all = lab.rows(submitted.id, 25).await;
    let mut read = Vec::new();
    let mut cursor = Cursor::default();
    for expected in [10, 10, 5, 0] {
        let page = lab.store.results_after(submitted.id, cursor, 10).await.unwrap();
        assert_eq!((page.rows.len(), page.more), (expected, expected == 10));
        cursor = page.cursor.to_string().parse().unwrap();
        read.extend(page.rows);
    }
    assert_eq!(read, all);
    assert_eq!(read.iter().map(|row| row.job_id).collect::<BTreeSet<_>>().len(), 25);
    // An empty page gives the cursor back.
    let page = lab.other.results_after(submitted.id, cursor, 10).await.unwrap();
    assert_eq!((page.rows.len(), page.cursor, page.more), (0, cursor, false));
}

pub async fn large_results_stand_among_small_ones(lab: Lab) {
    let large = "\u{e9}".repeat(10_000);
    let submitted = lab
        .submitted_with("sweep", 6, |ordinal, job| {
            job.options.metadata =
                (ordinal == 3).then(|| Metadata::from_json(serde_json::json!({ "note": large }).to_string()).unwrap());
        })
        .await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    for job in &held {
        let text = if job.id.ordinal() % 3 == 1 { &large } else { "small" };
        lab.store.flush(worker, &[settle(job, success(text))]).await.unwrap();
    }
    // Transactions of others hold rows back for a moment.
    let page = eventually("all six rows can be read", async || {
        let page = lab.store.results_after(submitted.id, Cursor::default(), 6).await.unwrap();
        (page.rows.len() == 6).then_some(page)
    })
    .await;
    assert!(page.more);
    for (row, job) in page.rows.iter().zip(&submitted.jobs) {
        assert_eq!((row.job_id, &row.metadata), (job.id, &job.options.metadata));
        let length = row.result.output_text.as_ref().map(String::len);
        assert_eq!(length, Some(if job.id.ordinal() % 3 == 1 { large.len() } else { 5 }));
    }
    let rest = lab.store.results_after(submitted.id, page.cursor, 6).await.unwrap();
    assert_eq!((rest.rows.len(), rest.cursor), (0, page.cursor));
}

/// Groups end on two handles at once, each group in several steps, while a reader follows with small pages.
pub async fn paging_during_concurrent_flushes_sees_each_row_exactly_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 600).await;
    let batch = submitted.id;
    let (left, right) = submitted.jobs.split_at(300);
    let (left, right) = (left.to_vec(), right.to_vec());
    let done = Arc::new(AtomicBool::new(false));
    let work = |store: &Arc<dyn Store>, owner, jobs: Vec<Job>, group: usize| {
        let store = Arc::clone(store);
        async move {
            for part in jobs.chunks(group) {
                let verdicts = store.admit(owner, arrivals(part)).await.unwrap();
                let settlements: Vec<_> =
                    verdicts.iter().map(|verdict| settle(&ticket(verdict).job, success("ok"))).collect();
                store.flush(owner, &settlements).await.unwrap();
            }
        }
    };
    let (a, b) = (lab.worker(LONG).await, lab.worker(LONG).await);
    let writers = async {
        tokio::join!(work(&lab.store, a, left, 7), work(&lab.other, b, right, 11));
        done.store(true, Ordering::SeqCst);
    };
    let reader = async {
        let mut seen = Vec::new();
        let mut cursor = Cursor::default();
        let started = Instant::now();
        while !done.load(Ordering::SeqCst) || seen.len() < 600 {
            assert!(started.elapsed() < Duration::from_secs(60), "read {} rows", seen.len());
            let page = lab.other.results_after(batch, cursor, 13).await.unwrap();
            assert!(page.cursor >= cursor, "the cursor never goes back");
            seen.extend(page.rows.iter().map(|row| row.job_id));
            cursor = page.cursor;
        }
        seen
    };
    let ((), mut seen) = tokio::join!(writers, reader);
    assert_eq!(seen.len(), 600);
    seen.sort_unstable();
    assert_eq!(seen, submitted.jobs.iter().map(|job| job.id).collect::<Vec<_>>());
}

pub async fn a_later_run_comes_as_a_new_row(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &failure("first")).await;
    lab.rows(submitted.id, 1).await;
    let cursor = lab.store.results_after(submitted.id, Cursor::default(), 10).await.unwrap().cursor;
    lab.retried(submitted.id, &[Status::Failed], 10).await;
    lab.ended(worker, &submitted.jobs, &success("second")).await;
    lab.rows(submitted.id, 2).await;
    let page = lab.store.results_after(submitted.id, cursor, 10).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.run).collect::<Vec<_>>(), [2]);
}

pub async fn errors_are_counted_by_class_of_each_jobs_latest_run(lab: Lab) {
    let submitted = lab.submitted("sweep", 9).await;
    let worker = lab.worker(LONG).await;
    let timeout = ended(Status::Failed, ErrorClass::Timeout, "no first byte within 600 s");
    lab.ended(worker, &submitted.jobs[..3], &timeout).await;
    lab.ended(worker, &submitted.jobs[3..5], &failure("no such parameter")).await;
    lab.ended(worker, &submitted.jobs[5..6], &success("ok")).await;
    lab.ended(worker, &submitted.jobs[6..], &ended(Status::Cancelled, ErrorClass::Cancelled, "stop")).await;
    let errors = lab.store.errors(submitted.id, 10).await.unwrap();
    let read: Vec<_> = errors.iter().map(|error| (error.class.as_str(), error.count, error.example.as_str())).collect();
    assert_eq!(read, [("Timeout", 3, "no first byte within 600 s"), ("BadRequestError", 2, "no such parameter")]);
    assert_eq!(lab.store.errors(submitted.id, 1).await.unwrap().len(), 1);
    // Two of the three come out well the second time.
    lab.retried(submitted.id, &[Status::Failed], 10).await;
    lab.ended(worker, &submitted.jobs[..2], &success("ok")).await;
    lab.ended(worker, &submitted.jobs[2..5], &failure("no such parameter")).await;
    let errors = lab.store.errors(submitted.id, 10).await.unwrap();
    let read: Vec<_> = errors.iter().map(|error| (error.class.as_str(), error.count)).collect();
    assert_eq!(read, [("BadRequestError", 3)]);
}

pub async fn progress_tells_held_from_waiting(lab: Lab) {
    let submitted = lab.submitted("sweep", 6).await;
    let other = lab.submitted("other", 1).await;
    let worker = lab.worker(LONG).await;
    lab.admitted(worker, &other.jobs).await;
    assert_eq!(lab.store.progress(submitted.id).await.unwrap(), Progress::default());
    let held = lab.admitted(worker, &submitted.jobs[..5]).await;
    lab.store
        .flush(worker, &[wake(&held[0], LONG), wake(&held[1], LONG), settle(&held[2], success("ok"))])
        .await
        .unwrap();
    let held_by_model = BTreeMap::from([("gpt-4o".to_owned(), 2)]);
    assert_eq!(lab.other.progress(submitted.id).await.unwrap(), Progress { held: 2, waiting: 2, held_by_model });
}

pub async fn a_hint_comes_after_results(lab: Lab) {
    let submitted = lab.submitted("sweep", 63).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let (three, others) = held.split_at(3);
    let (mut here, mut elsewhere) = (lab.store.hints(), lab.other.hints());
    // Listening begins a little after it was asked for.
    let mut listens = false;
    for job in others {
        lab.store.flush(worker, &[settle(job, success("before"))]).await.unwrap();
        listens = tokio::time::timeout(Duration::from_secs(1), elsewhere.changed()).await.is_ok();
        if listens {
            break;
        }
    }
    assert!(listens, "nothing was heard of sixty results");
    for (job, text) in three.iter().zip(["a", "b", "c"]) {
        here.mark_unchanged();
        elsewhere.mark_unchanged();
        lab.store.flush(worker, &[settle(job, success(text))]).await.unwrap();
        for hints in [&mut here, &mut elsewhere] {
            tokio::time::timeout(Duration::from_secs(60), hints.changed()).await.expect("a hint").unwrap();
        }
    }
}

pub async fn the_schema_is_current_and_stays_so(lab: Lab) {
    lab.store.check_schema().await.unwrap();
    lab.store.migrate().await.unwrap();
    assert_eq!(lab.store.migrate().await.unwrap(), [0; 0]);
    lab.store.ensure_partitions(super::now().date_naive()).await.unwrap();
    lab.other.ensure_partitions(super::now().date_naive()).await.unwrap();
    lab.other.check_schema().await.unwrap();
}
