//! What people ask of single jobs, and what they delete.

use std::time::Duration;

use gristmill_common::failure::ErrorClass;
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::outcome::{AttemptRecord, Status};
use gristmill_common::store::{
    BatchSelector, Cursor, DeploymentReport, Forgotten, JobLine, JobPlace, JobSelector, Renewal, STRIPPED_BODY,
    Settlement, Stripped,
};

use super::{LONG, Lab, attempt, eventually, failure, now, owner, settle, stranger, success, wake};

fn prefix(text: &str) -> JobSelector {
    JobSelector::from_prefix(text).unwrap()
}

pub async fn a_job_is_found_by_its_id_the_beginning_of_one_and_its_name(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    let other = lab.submitted("other", 3).await;
    let find = async |selector| lab.other.find_jobs(&selector, 10).await.unwrap();
    let one = submitted.jobs[1].id;
    assert_eq!(find(prefix(&one.to_string())).await, [(submitted.id, one)]);
    let newest_first: Vec<_> = submitted.jobs.iter().rev().map(|job| (submitted.id, job.id)).collect();
    let common = &one.to_string()[..18];
    let found = find(prefix(common)).await;
    // The other batch may be of the same millisecond.
    assert_eq!(found.into_iter().filter(|(batch, _)| *batch == submitted.id).collect::<Vec<_>>(), newest_first);
    assert_eq!(lab.store.find_jobs(&prefix(common), 2).await.unwrap().len(), 2);
    assert_eq!(find(JobSelector::CustomId(other.id, "line-2".to_owned())).await, [(other.id, other.jobs[2].id)]);
    assert_eq!(find(JobSelector::CustomId(other.id, "line-3".to_owned())).await, []);
    assert_eq!(find(prefix("ffff")).await, []);
}

pub async fn an_adopted_job_is_found_by_its_id(lab: Lab) {
    let id = JobId::derive(BatchId::new(now() - Duration::from_secs(60)), 0);
    let job =
        gristmill_common::job::Job { id, batch: BatchId::adhoc(id.part_day()), ..super::job(BatchId::new(now()), 0) };
    let worker = lab.worker(LONG).await;
    lab.store.admit(worker, vec![stranger(&job)]).await.unwrap();
    assert_eq!(lab.other.find_jobs(&prefix(&id.to_string()), 2).await.unwrap(), [(job.batch, id)]);
    lab.store.flush(worker, &[settle(&super::reference(&job, 1), success("a"))]).await.unwrap();
    assert_eq!(lab.other.find_jobs(&prefix(&id.to_string()), 2).await.unwrap(), [(job.batch, id)]);
}

pub async fn all_that_is_known_of_a_job_is_told(lab: Lab) {
    let submitted = lab
        .submitted_with("sweep", 1, |_, job| {
            job.options.tags.insert("split".to_owned(), "dev".to_owned());
            job.options.sample = 3;
        })
        .await;
    let job = &submitted.jobs[0];
    let read = async || lab.other.job(submitted.id, job.id).await.unwrap().expect("it is recorded");
    let fresh = read().await;
    assert_eq!((&fresh.job, fresh.batch.as_str()), (job, "sweep"));
    assert_eq!((fresh.live, fresh.runs.len(), fresh.attempts.len()), (None, 0, 0));
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await.remove(0);
    let live = read().await.live.expect("it is held");
    assert_eq!((live.run, live.owner, live.wake_at, live.deaths), (1, Some(worker), None, 0));
    let refused = AttemptRecord {
        http_status: Some(429),
        counted: false,
        ttft_ms: Some(7),
        error: Some(Box::new(gristmill_common::failure::ErrorRecord::new(ErrorClass::RateLimit, "slow down"))),
        ..attempt(1)
    };
    let waits = Settlement { attempts: vec![refused.clone()], ..wake(&held, LONG) };
    lab.store.flush(worker, &[waits]).await.unwrap();
    let live = read().await.live.expect("it waits");
    assert_eq!((live.owner, live.reason.as_deref(), live.calls), (None, Some("retry"), 1));
    assert!(live.wake_at > Some(now()));
    assert_eq!(read().await.attempts, [(1, refused)]);
    assert_eq!(lab.other.job(submitted.id, JobId::derive(submitted.id, 9)).await.unwrap(), None);
}

pub async fn the_runs_of_a_job_come_in_order_with_their_calls(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &failure("no")).await;
    assert_eq!(lab.store.retry(submitted.id, &[Status::Failed], Cursor::default(), 10).await.unwrap().0, 1);
    lab.due(1).await;
    lab.ended(worker, &submitted.jobs, &success("yes")).await;
    let detail = lab.other.job(submitted.id, submitted.jobs[0].id).await.unwrap().unwrap();
    assert_eq!(detail.live, None);
    let runs: Vec<_> = detail.runs.iter().map(|row| (row.run, row.result.status)).collect();
    assert_eq!(runs, [(1, Status::Failed), (2, Status::Succeeded)]);
    assert_eq!(detail.runs[0].result.error, failure("no").error);
    assert_eq!(detail.runs[1].result.response, success("yes").response);
    assert_eq!(detail.attempts.iter().map(|(run, call)| (*run, call.attempt)).collect::<Vec<_>>(), [(1, 1), (2, 1)]);
}

pub async fn jobs_are_listed_with_where_they_are(lab: Lab) {
    let submitted = lab.submitted("sweep", 6).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..1], &success("a")).await;
    lab.ended(worker, &submitted.jobs[1..3], &failure("no")).await;
    let held = lab.admitted(worker, &submitted.jobs[3..5]).await;
    lab.store.flush(worker, &[wake(&held[0], LONG)]).await.unwrap();
    let list = lab.other.jobs(submitted.id, None, None, 10).await.unwrap();
    let places: Vec<_> = list.iter().map(|line| (line.custom_id.as_str(), line.place, line.attempts)).collect();
    assert_eq!(
        places,
        [
            ("line-0", JobPlace::Ended(Status::Succeeded), 1),
            ("line-1", JobPlace::Ended(Status::Failed), 1),
            ("line-2", JobPlace::Ended(Status::Failed), 1),
            ("line-3", JobPlace::Waiting, 1),
            ("line-4", JobPlace::Held, 0),
            ("line-5", JobPlace::Queued, 0),
        ]
    );
    let tail = lab.other.jobs(submitted.id, None, Some(list[3].id), 1).await.unwrap();
    assert_eq!(tail, [list[4].clone()]);
}

pub async fn failed_jobs_are_listed_until_they_run_again(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..3], &failure("no")).await;
    lab.ended(worker, &submitted.jobs[3..], &success("a")).await;
    let failed =
        async || lab.other.jobs(submitted.id, Some(&[Status::Failed, Status::Expired]), None, 10).await.unwrap();
    let lines = failed().await;
    assert_eq!(lines.len(), 3);
    let JobLine { custom_id, model, place, run, attempts, class, message, .. } = &lines[0];
    assert_eq!((custom_id.as_str(), model.as_str(), *run, *attempts), ("line-0", "gpt-4o", 1, 1));
    assert_eq!(*place, JobPlace::Ended(Status::Failed));
    assert_eq!((class.as_deref(), message.as_deref()), (Some("BadRequestError"), Some("no")));
    let page = lab.other.jobs(submitted.id, Some(&[Status::Failed]), Some(lines[0].id), 1).await.unwrap();
    assert_eq!(page, [lines[1].clone()]);
    lab.store.retry(submitted.id, &[Status::Failed], Cursor::default(), 1).await.unwrap();
    assert_eq!(failed().await, lines[1..]);
    lab.due(1).await;
    lab.ended(worker, &submitted.jobs[..1], &success("at last")).await;
    assert_eq!(failed().await, lines[1..]);
}

pub async fn a_worker_hears_once_that_it_should_look_again(lab: Lab) {
    let report = |deployment: &str, group: &str| DeploymentReport {
        deployment: deployment.to_owned(),
        group: group.to_owned(),
        paused: Some("401".to_owned()),
        class: Some("AuthenticationError".to_owned()),
    };
    let reports = [report("eu", "gpt-4o"), report("us", "gpt-4o"), report("local", "llama")];
    let (first, second) = (lab.worker(LONG).await, lab.worker(LONG).await);
    let hears = async |worker| match lab.store.renew(worker, LONG, 0, &reports).await.unwrap() {
        Renewal::Alive { mut resumed, .. } => {
            resumed.sort();
            resumed
        }
        Renewal::Lost => panic!("alive"),
    };
    assert!(hears(first).await.is_empty() && hears(second).await.is_empty());
    assert_eq!(lab.other.resume(Some("claude")).await.unwrap(), []);
    // Both workers report it; it is told once.
    assert_eq!(lab.other.resume(Some("eu")).await.unwrap(), [report("eu", "gpt-4o")]);
    assert_eq!((hears(first).await, hears(second).await), (vec!["eu".to_owned()], vec!["eu".to_owned()]));
    assert!(hears(first).await.is_empty());
    assert_eq!(lab.other.resume(Some("gpt-4o")).await.unwrap().len(), 2);
    assert_eq!(hears(first).await, ["eu", "us"]);
    assert_eq!(lab.other.resume(None).await.unwrap().len(), 3);
    assert_eq!(hears(first).await, ["eu", "local", "us"]);
    assert_eq!(hears(second).await, ["eu", "local", "us"]);
}

pub async fn jobs_that_wait_for_a_resumed_deployment_are_due(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let report = DeploymentReport {
        deployment: "eu".to_owned(),
        group: "gpt-4o".to_owned(),
        paused: Some("401".to_owned()),
        class: None,
    };
    let mut waits = [wake(&held[0], LONG), wake(&held[1], LONG)];
    if let gristmill_common::store::End::Wake(wake) = &mut waits[0].end {
        wake.reason = report.reason().unwrap();
    }
    lab.store.flush(worker, &waits).await.unwrap();
    lab.store.renew(worker, LONG, 0, &[report]).await.unwrap();
    lab.other.resume(None).await.unwrap();
    // The other one waits for its retry.
    assert_eq!(lab.due(1).await[0].id, submitted.jobs[0].id);
}

pub async fn an_ended_batch_is_forgotten_in_steps(lab: Lab) {
    let kept = lab.submitted("kept", 2).await;
    let submitted = lab.submitted("sweep", 5).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &kept.jobs, &success("kept")).await;
    lab.ended(worker, &submitted.jobs, &success("a")).await;
    let forgotten = lab.owner.forget(submitted.id, 3).await.unwrap();
    assert_eq!(forgotten, Forgotten { requests: 3, results: 3, attempts: 3, more: true });
    assert!(lab.other.batch(&BatchSelector::Id(submitted.id)).await.unwrap().is_some());
    let forgotten = lab.owner.forget(submitted.id, 3).await.unwrap();
    assert_eq!(forgotten, Forgotten { requests: 2, results: 2, attempts: 2, more: false });
    assert_eq!(lab.other.batch(&BatchSelector::Id(submitted.id)).await.unwrap(), None);
    assert_eq!(lab.other.results_after(submitted.id, Cursor::default(), 10).await.unwrap().rows, []);
    assert_eq!(lab.other.jobs(submitted.id, None, None, 10).await.unwrap(), []);
    assert_eq!(lab.owner.forget(submitted.id, 3).await.unwrap(), Forgotten::default());
    assert_eq!(lab.rows(kept.id, 2).await.len(), 2);
}

pub async fn an_open_batch_is_not_forgotten(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..1], &failure("no")).await;
    assert_eq!(lab.owner.forget(submitted.id, 10).await.unwrap(), Forgotten::default());
    lab.ended(worker, &submitted.jobs[1..], &success("a")).await;
    lab.store.retry(submitted.id, &[Status::Failed], Cursor::default(), 10).await.unwrap();
    assert_eq!(lab.owner.forget(submitted.id, 10).await.unwrap(), Forgotten::default());
    assert_eq!(lab.other.jobs(submitted.id, None, None, 10).await.unwrap().len(), 2);
}

pub async fn batches_that_ended_before_a_time_are_told_oldest_first(lab: Lab) {
    let (first, second) = (lab.submitted("first", 1).await, lab.submitted("second", 1).await);
    lab.recorded("open", owner(), 1).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &second.jobs, &success("a")).await;
    let ended_at = lab.batch(second.id).await.finished_at.unwrap();
    eventually("time goes on", || async { (now() > ended_at).then_some(()) }).await;
    lab.ended(worker, &first.jobs, &success("a")).await;
    let names = async |time| {
        let batches = lab.other.ended_before(time, 10).await.unwrap();
        batches.into_iter().map(|batch| batch.name).collect::<Vec<_>>()
    };
    assert_eq!(names(now() + LONG).await, ["second", "first"]);
    assert_eq!(names(lab.batch(first.id).await.finished_at.unwrap()).await, ["second"]);
    assert!(names(now() - LONG).await.is_empty());
    assert_eq!(lab.other.ended_before(now() + LONG, 1).await.unwrap().len(), 1);
}

pub async fn bodies_are_emptied_in_steps_and_such_jobs_run_no_more(lab: Lab) {
    let submitted = lab.submitted("sweep", 5).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..4], &success("a \u{1}")).await;
    let mut failed = failure("no");
    if let Some(error) = &mut failed.error {
        (error.message, error.body) = ("no".to_owned(), Some("{\"a\":\"\0\"}".to_owned()));
    }
    lab.ended(worker, &submitted.jobs[4..], &failed).await;
    let before = lab.rows(submitted.id, 5).await;
    let first = lab.owner.strip(submitted.id, None, 3).await.unwrap();
    assert_eq!((first.requests, first.results, first.next), (3, 3, Some(submitted.jobs[2].id)));
    let second = lab.owner.strip(submitted.id, first.next, 3).await.unwrap();
    assert_eq!((second.requests, second.results, second.next), (2, 2, None));
    assert_eq!(lab.owner.strip(submitted.id, None, 3).await.unwrap(), Stripped::default(), "it is done");
    for (before, after) in before.iter().zip(lab.rows(submitted.id, 5).await) {
        assert_eq!((&after.result.response, &after.result.output_text), (&None, &None));
        assert_eq!((&after.custom_id, after.result.usage), (&before.custom_id, before.result.usage));
        let errors =
            [&before.result.error, &after.result.error].map(|error| error.as_ref().map(|error| &error.message));
        assert_eq!(errors[0], errors[1]);
        assert_eq!(after.result.error.and_then(|error| error.body), None);
        let detail = lab.store.job(submitted.id, after.job_id).await.unwrap().unwrap();
        assert_eq!(detail.job.body, STRIPPED_BODY);
    }
    let all = lab.store.retry(submitted.id, &Status::ALL, Cursor::default(), 10).await.unwrap_err();
    let one = lab.store.retry_jobs(submitted.id, &Status::ALL, &[submitted.jobs[4].id]).await.unwrap_err();
    for refused in [all, one] {
        assert!(refused.to_string().contains("were pruned"), "{refused}");
    }
}

pub async fn an_open_batch_keeps_its_bodies(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    assert_eq!(lab.owner.strip(submitted.id, None, 10).await.unwrap(), Stripped::default());
    let detail = lab.store.job(submitted.id, submitted.jobs[0].id).await.unwrap().unwrap();
    assert_ne!(detail.job.body, STRIPPED_BODY);
}
