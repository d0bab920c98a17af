//! The newest runs over all batches.

use chrono::TimeDelta;
use gristmill_common::failure::ErrorClass;
use gristmill_common::job::JobRef;
use gristmill_common::outcome::{JobResult, Status};
use gristmill_common::store::{HistoryScope, PastRun};

use super::{LONG, Lab, ended, failure, now, settle, success};

async fn history(lab: &Lab, scope: HistoryScope, limit: u32) -> Vec<String> {
    let runs = lab.other.history(&scope, limit).await.unwrap();
    runs.into_iter().map(|run: PastRun| format!("{}/{}#{}", run.batch, run.custom_id, run.run)).collect()
}

/// Ends a job so long after now.
async fn end(lab: &Lab, job: &JobRef, seconds: i64, result: JobResult) {
    let result = JobResult { finished_at: now() + TimeDelta::seconds(seconds), ..result };
    let worker = lab.worker(LONG).await;
    let arrival = gristmill_common::store::Arrival { job: job.clone(), request: None, recorded: true };
    lab.store.admit(worker, vec![arrival]).await.unwrap();
    lab.store.flush(worker, &[settle(job, result)]).await.unwrap();
}

pub async fn the_newest_runs_of_all_batches_come_first(lab: Lab) {
    let first = lab.submitted("first", 4).await;
    let second = lab.submitted("second", 2).await;
    lab.submitted("empty", 2).await;
    let (a, b) = (first.refs(), second.refs());
    end(&lab, &a[0], 1, success("a")).await;
    end(&lab, &b[0], 2, success("b")).await;
    end(&lab, &a[1], 3, failure("broken")).await;
    end(&lab, &b[1], 4, ended(Status::Expired, ErrorClass::DeadlineExceeded, "late")).await;
    end(&lab, &a[2], 5, ended(Status::Cancelled, ErrorClass::Cancelled, "no more")).await;

    let all = ["first/line-2#1", "second/line-1#1", "first/line-1#1", "second/line-0#1", "first/line-0#1"];
    assert_eq!(history(&lab, HistoryScope::default(), 10).await, all);
    assert_eq!(history(&lab, HistoryScope::default(), 2).await, all[..2]);
    assert_eq!(history(&lab, HistoryScope::default(), 0).await, [""; 0]);
    let of_batch = HistoryScope { batch: Some(second.id), ..HistoryScope::default() };
    assert_eq!(history(&lab, of_batch, 10).await, [all[1], all[3]]);
    let failed = HistoryScope { failed: true, ..HistoryScope::default() };
    assert_eq!(history(&lab, failed.clone(), 10).await, [all[1], all[2]]);
    assert_eq!(history(&lab, failed, 1).await, [all[1]]);

    let newest = lab.store.history(&HistoryScope::default(), 3).await.unwrap();
    let broken = &newest[2];
    assert_eq!((broken.status, broken.message.as_deref()), (Status::Failed, Some("broken")));
    assert_eq!(broken.class.as_deref(), Some(ErrorClass::BadRequest.as_str()));
    assert_eq!((broken.job_id, broken.batch_id, broken.model.as_str()), (a[1].id, first.id, "gpt-4o"));
}

pub async fn a_models_runs_are_found_among_others(lab: Lab) {
    let both = lab
        .submitted_with("both", 6, |ordinal, job| {
            if ordinal % 3 == 0 {
                job.lane.group = "llama".into();
            }
        })
        .await;
    lab.submitted("other", 1).await;
    for (at, job) in (0..).zip(&both.refs()) {
        end(&lab, job, at, if at == 3 { failure("broken") } else { success("a") }).await;
    }
    let scope = |failed| HistoryScope { model: Some("llama".to_owned()), failed, ..HistoryScope::default() };
    assert_eq!(history(&lab, scope(false), 5).await, ["both/line-3#1", "both/line-0#1"]);
    assert_eq!(history(&lab, scope(false), 1).await, ["both/line-3#1"]);
    assert_eq!(history(&lab, scope(true), 5).await, ["both/line-3#1"]);
    let none = HistoryScope { model: Some("claude".to_owned()), ..HistoryScope::default() };
    assert_eq!(history(&lab, none, 5).await, [""; 0]);
}

pub async fn a_run_after_the_first_is_a_line_of_its_own(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let job = &submitted.refs()[0];
    end(&lab, job, 0, failure("broken")).await;
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 10).await, 1);
    let again = JobRef { run: 2, ..job.clone() };
    end(&lab, &again, 1, success("a")).await;
    assert_eq!(history(&lab, HistoryScope::default(), 5).await, ["sweep/line-0#2", "sweep/line-0#1"]);
}
