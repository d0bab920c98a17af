//! What a batch that stands still waits for.

use std::sync::Arc;
use std::time::Duration;

use gristmill_common::store::{End, Settlement, Wait, Wake};

use super::{LONG, Lab, now, wake};

pub async fn what_a_batch_waits_for_is_told_by_group_and_reason(lab: Lab) {
    let submitted = lab.submitted("sweep", 5).await;
    lab.submitted("another", 1).await;
    assert_eq!(lab.store.waits(submitted.id, 10).await.unwrap(), [], "nothing was admitted yet");
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    assert_eq!(lab.store.waits(submitted.id, 10).await.unwrap(), [], "what is held does not wait");

    let due = now() + LONG;
    let mut settlements: Vec<Settlement> = held[..3].iter().map(|job| wake(job, LONG)).collect();
    let End::Wake(retry) = &settlements[0].end else { panic!("it waits") };
    let soon = Wake { after: Duration::ZERO, reason: "deployment gpt-4o: set a key".to_owned(), ..retry.clone() };
    settlements.push(Settlement {
        job: held[3].clone(),
        tags: Arc::default(),
        spends: None,
        attempts: Vec::new(),
        caching: None,
        end: End::Wake(soon),
    });
    lab.store.flush(worker, &settlements).await.unwrap();
    let waits = lab.store.waits(submitted.id, 10).await.unwrap();
    let said: Vec<_> = waits.iter().map(|wait| (&*wait.group, wait.reason.as_deref(), wait.jobs)).collect();
    assert_eq!(said, [("gpt-4o", Some("retry"), 3), ("gpt-4o", Some("deployment gpt-4o: set a key"), 1)]);
    assert!(waits[0].until.is_some_and(|until| (until - due).abs() < chrono::TimeDelta::seconds(60)));
    assert_eq!(lab.store.waits(submitted.id, 1).await.unwrap(), waits[..1]);

    let due = lab.store.due(10).await.unwrap();
    lab.store.mark_queued(&due).await.unwrap();
    let waits = lab.store.waits(submitted.id, 10).await.unwrap();
    assert!(matches!(&waits[1], Wait { jobs: 1, until: None, .. }), "its message is out: {waits:?}");
}
