//! Where calls go: shares of deployments, fallbacks to other groups, retries by policy.
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::collections::BTreeMap;
use std::time::Duration;

use gristmill_common::failure::ErrorClass;
use gristmill_common::id::BatchId;
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_tests::fleet::{Fleet, MODEL};
use gristmill_worker::simulate::{Limits, ModelLimits, Options};

/// Starts a simulator of these models, with faults, that counts the calls of each.
async fn start(models: &[&str], faults: &[&str]) -> Fleet {
    let counted = |model: &&str| ModelLimits { model: (*model).to_owned(), limits: Limits::default() };
    Fleet::start(Options {
        model_limits: models.iter().map(counted).collect(),
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        latency: Duration::from_millis(5),
        ..Options::default()
    })
    .await
}

/// Writes the workers' configuration: entries of a group, the model at the provider, and further parameters; then the rest.
fn configure(fleet: &Fleet, entries: &[(&str, &str, &str)], rest: &str) {
    let base = fleet.simulator.base_url();
    let mut yaml = "model_list:\n".to_owned();
    for (group, model, params) in entries {
        yaml += &format!(
            "- model_name: {group}\n  litellm_params: {{model: openai/{model}, api_base: '{base}', \
             api_key: sk-routing-0123456789, {params}}}\n"
        );
    }
    std::fs::write(fleet.dir.path().join("gristmill.yaml"), yaml + rest).unwrap();
}

async fn rows(fleet: &mut Fleet, batch: BatchId, jobs: usize) -> Vec<ResultRow> {
    fleet.worker(&[], &[]);
    fleet.agrees(batch, jobs).await
}

fn received(fleet: &Fleet) -> BTreeMap<String, u64> {
    let models = fleet.simulator.control().stats().models;
    models.into_iter().map(|(name, scope)| (name, scope.accepted + scope.refused)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_share_a_groups_calls_by_weight() {
    let mut fleet = start(&["a", "b"], &[]).await;
    configure(&fleet, &[(MODEL, "a", "weight: 3"), (MODEL, "b", "weight: 1")], "");
    let batch = fleet.submit("shared", 200, |_, _| {}).await;
    // So few at once that none finds its deployment full.
    fleet.worker(&["--concurrency", "8"], &[]);
    fleet.agrees(batch, 200).await;
    let received = received(&fleet);
    assert_eq!(received["a"] + received["b"], 200);
    assert!((125..=175).contains(&received["a"]), "three of four: {received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_group_fails_goes_on_in_the_next_with_its_path_recorded() {
    let mut fleet = start(&["bad", "good"], &["400:1:model=bad", "500:1:model=worse"]).await;
    configure(
        &fleet,
        &[(MODEL, "worse", ""), ("bad", "worse", ""), ("good", "good", "")],
        &format!("router_settings: {{fallbacks: [{{{MODEL}: [bad, good]}}], num_retries: 1}}\n"),
    );
    let batch = fleet.submit("falls-back", 4, |_, _| {}).await;
    let rows = rows(&mut fleet, batch, 4).await;
    for row in &rows {
        assert_eq!(row.result.status, Status::Succeeded, "{row:?}");
        assert_eq!(row.result.deployment.as_deref(), Some("good"), "{row:?}");
        assert_eq!(row.result.attempts, 5, "two calls in each group that fails, and one: {row:?}");
    }
    let mut connection = fleet.database.connect().await;
    let path: Vec<String> = sqlx::query_scalar(
        "SELECT string_agg(deployment, ' ' ORDER BY attempt) FROM gristmill.attempt GROUP BY job_id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(path.iter().all(|path| *path == format!("{MODEL} {MODEL} bad bad good")), "{path:?}");
    assert_eq!(fleet.batch(batch).await.calls, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_request_fall_back_nowhere() {
    let mut fleet = start(&["good"], &["400:1:model=bad"]).await;
    let rest = format!("router_settings: {{fallbacks: [{{{MODEL}: [good]}}]}}\n");
    configure(&fleet, &[(MODEL, "bad", ""), ("good", "good", "")], &rest);
    let batch = fleet.submit("refused", 3, |_, _| {}).await;
    let rows = rows(&mut fleet, batch, 3).await;
    assert!(rows.iter().all(|row| row.result.error.as_ref().unwrap().class == ErrorClass::BadRequest), "{rows:?}");
    assert_eq!(received(&fleet)["good"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_a_valid_key_is_not_waited_for_where_another_is_open() {
    let mut fleet = start(&["good"], &["401:1:model=locked"]).await;
    let rest = format!("router_settings: {{fallbacks: [{{{MODEL}: [good]}}]}}\n");
    configure(&fleet, &[(MODEL, "locked", ""), ("good", "good", "")], &rest);
    let batch = fleet.submit("locked", 50, |_, _| {}).await;
    let rows = rows(&mut fleet, batch, 50).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_wait_when_the_limit_of_a_day_is_met_go_elsewhere_at_once() {
    let mut fleet = start(&["daily", "good"], &[]).await;
    let rest = format!("router_settings: {{fallbacks: [{{{MODEL}: [good]}}]}}\n");
    configure(&fleet, &[(MODEL, "daily", "rpm: 6000, rpd: 20"), ("good", "good", "")], &rest);
    let batch = fleet.submit("daily", 200, |_, _| {}).await;
    let rows = rows(&mut fleet, batch, 200).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded), "{rows:?}");
    let received = received(&fleet);
    assert!(received["daily"] <= 20 && received["good"] >= 180, "{received:?}");
    let started: Vec<_> = rows.iter().filter_map(|row| row.result.started_at).collect();
    let took = *started.iter().max().unwrap() - *started.iter().min().unwrap();
    assert!(took < chrono::TimeDelta::seconds(25), "none waited until it was sent back: {took}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_too_long_for_its_group_goes_to_the_one_for_long_prompts_without_a_call() {
    let mut fleet = start(&["short", "long"], &[]).await;
    configure(
        &fleet,
        &[(MODEL, "short", ""), ("long", "long", "")],
        &format!("router_settings: {{context_window_fallbacks: [{{{MODEL}: [long]}}]}}\n"),
    );
    let path = fleet.dir.path().join("gristmill.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        yaml.replacen("- model_name: sim-1", "- model_info: {max_input_tokens: 100}\n  model_name: sim-1", 1),
    )
    .unwrap();
    let batch = fleet
        .submit("windows", 10, |n, job| {
            let body = serde_json::json!({
                "model": MODEL, "user": job.custom_id, "max_tokens": 5,
                "messages": [{"role": "user", "content": "mill ".repeat(if n % 2 == 0 { 10 } else { 2_000 })}],
            });
            job.body = body.to_string().into();
        })
        .await;
    let rows = rows(&mut fleet, batch, 10).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded), "{rows:?}");
    assert_eq!(received(&fleet), BTreeMap::from([("long".to_owned(), 5), ("short".to_owned(), 5)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_follow_the_policy_of_their_class() {
    let mut fleet = start(&["sim-1"], &["500:1"]).await;
    let rest = "router_settings: {num_retries: 4, retry_policy: {InternalServerErrorRetries: 1}}\n";
    configure(&fleet, &[(MODEL, "sim-1", "")], rest);
    let batch = fleet.submit("policy", 3, |_, _| {}).await;
    let rows = rows(&mut fleet, batch, 3).await;
    for row in rows {
        let error = row.result.error.unwrap();
        assert_eq!(row.result.attempts, 2, "{error:?}");
        assert!(error.verdict.unwrap().contains("retried 1× at most"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployments_defaults_fill_in_what_a_request_does_not_say() {
    let mut fleet = start(&["sim-1"], &[]).await;
    configure(&fleet, &[(MODEL, "sim-1", "max_tokens: 7")], "");
    let batch = fleet
        .submit("defaults", 1, |_, job| {
            let body = serde_json::json!({
                "model": MODEL, "user": job.custom_id, "messages": [{"role": "user", "content": "Go on for long."}],
            });
            job.body = body.to_string().into();
        })
        .await;
    let rows = rows(&mut fleet, batch, 1).await;
    assert!(rows[0].result.usage.output_tokens.unwrap() <= 7, "{rows:?}");
}
