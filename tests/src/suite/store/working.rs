//! What workers say of themselves, and what others see of them.

use std::time::Duration;

use gristmill_common::store::{DeploymentReport, Renewal};

use super::{LONG, Lab, SHORT, eventually, owner, wake, worker_info};

fn paused(deployment: &str, text: Option<&str>) -> DeploymentReport {
    DeploymentReport {
        deployment: deployment.to_owned(),
        group: "gpt-4o".to_owned(),
        paused: text.map(str::to_owned),
        class: text.map(|_| "AuthenticationError".to_owned()),
    }
}

pub async fn a_worker_is_seen_as_it_is(lab: Lab) {
    let worker = lab.worker(LONG).await;
    assert_eq!(
        lab.store.renew(worker, LONG, 17, &[]).await.unwrap(),
        Renewal::Alive { cancelled: Vec::new(), resumed: Vec::new() }
    );
    let rows = lab.other.workers().await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].info, worker_info(worker));
    assert_eq!((rows[0].alive, rows[0].in_flight), (true, 17));
}

pub async fn a_worker_whose_lease_ended_lives_again_unless_it_was_declared_dead(lab: Lab) {
    let (late, dead) = (lab.worker(SHORT).await, lab.worker(LONG).await);
    eventually("its lease ends", || async {
        let rows = lab.store.workers().await.unwrap();
        rows.iter().any(|row| row.info.owner == late && !row.alive).then_some(())
    })
    .await;
    assert!(matches!(lab.store.renew(late, LONG, 0, &[]).await.unwrap(), Renewal::Alive { .. }));
    lab.store.renew(dead, Duration::ZERO, 0, &[]).await.unwrap();
    lab.buried(5).await;
    assert_eq!(lab.store.renew(dead, LONG, 0, &[]).await.unwrap(), Renewal::Lost);
    assert!(matches!(lab.store.renew(late, LONG, 0, &[]).await.unwrap(), Renewal::Alive { .. }));
    let rows = lab.store.workers().await.unwrap();
    let alive: Vec<_> = rows.iter().filter(|row| row.alive).map(|row| row.info.owner).collect();
    assert_eq!((alive, rows.len()), (vec![late], 2), "one that died lately is shown as dead");
}

pub async fn an_unknown_worker_has_lost(lab: Lab) {
    assert_eq!(lab.store.renew(owner(), LONG, 0, &[]).await.unwrap(), Renewal::Lost);
}

pub async fn a_worker_that_leaves_returns_what_it_held_and_did_not_die(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    // With one death allowed, a death would end the job.
    for _ in 0..3 {
        let worker = lab.worker(LONG).await;
        let held = lab.admitted(worker, &submitted.jobs).await;
        lab.store.deregister(worker).await.unwrap();
        lab.store.deregister(worker).await.unwrap();
        assert_eq!(lab.store.renew(worker, LONG, 0, &[]).await.unwrap(), Renewal::Lost);
        assert_eq!(lab.due(3).await.len(), 3);
        let late = lab.store.flush(worker, &[wake(&held[0], LONG)]).await.unwrap();
        assert_eq!(late.lost, 1);
    }
    let burial = lab.store.bury(1, 100).await.unwrap();
    assert_eq!((burial.owners, burial.returned, burial.poisoned), (0, 0, 0));
    assert!(lab.store.workers().await.unwrap().iter().all(|row| !row.alive));
    let dying = lab.worker(SHORT).await;
    lab.admitted(dying, &submitted.jobs).await;
    assert_eq!(lab.buried(2).await, (3, 0), "the first death");
}

pub async fn paused_deployments_of_live_workers_are_told(lab: Lab) {
    let (first, second) = (lab.worker(LONG).await, lab.worker(LONG).await);
    let key = "the key in OPENAI_API_KEY is refused";
    let reports = [paused("eu", Some(key)), paused("us", None), paused("asia", Some("no such model"))];
    lab.store.renew(first, LONG, 0, &reports).await.unwrap();
    lab.other.renew(second, LONG, 0, &reports[..1]).await.unwrap();
    let told = lab.store.paused_deployments().await.unwrap();
    assert_eq!(told, [reports[2].clone(), reports[0].clone()], "by name, each once");
    lab.store.renew(first, LONG, 0, &[paused("eu", Some("still refused"))]).await.unwrap();
    lab.other.renew(second, LONG, 0, &[paused("eu", None)]).await.unwrap();
    assert_eq!(lab.store.paused_deployments().await.unwrap(), [paused("eu", Some("still refused"))]);
    lab.store.deregister(first).await.unwrap();
    assert_eq!(lab.store.paused_deployments().await.unwrap(), []);
}
