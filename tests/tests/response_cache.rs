//! Equal requests are called once, on whichever worker they run and also at the same time; the others are answered by the cache.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gristmill_common::job::CachePolicy;
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_producer::NewJob;
use gristmill_tests::fleet::{self, Fleet, IDLE, MODEL, eventually, gristmill};
use gristmill_worker::simulate::{self, Simulator};

const JOBS: usize = 1000;
const DISTINCT: usize = 250;

fn slow() -> simulate::Options {
    simulate::Options {
        latency: Duration::from_millis(300),
        jitter: Duration::from_millis(200),
        ..simulate::Options::default()
    }
}

/// The question of a job, in an order that has nothing of theirs.
fn question(n: usize) -> usize {
    (n * 389 + 17) % JOBS % DISTINCT
}

/// Makes one of equal requests, each from a user of its own.
fn ask(n: usize, job: &mut NewJob) {
    let body = serde_json::json!({
        "model": MODEL, "temperature": 0, "user": job.custom_id, "max_tokens": 20,
        "messages": [{"role": "user", "content": format!("What is ground by mill {}?", question(n))}],
    });
    job.body = Bytes::from(body.to_string());
    job.options.cache = CachePolicy::ON;
}

/// Gives the fleet's model a price.
fn priced(fleet: &Fleet) {
    let entry = |model: &str| {
        format!(
            "  - model_name: {model}\n    litellm_params:\n      model: openai/{model}\n      api_base: {}\n      api_key: \
             os.environ/OPENAI_API_KEY\n      input_cost_per_token: 0.000003\n      output_cost_per_token: 0.000015\n",
            fleet.simulator.base_url()
        )
    };
    let text = format!("model_list:\n{}{}", entry(MODEL), entry(IDLE));
    std::fs::write(fleet.dir.path().join("gristmill.yaml"), text).unwrap();
}

/// Checks that each answer was paid for once: those of a question are one answer, and who did not pay saved what it cost.
fn share(rows: &[ResultRow]) -> (usize, i64) {
    let mut by_question: BTreeMap<usize, Vec<&ResultRow>> = BTreeMap::new();
    for row in rows {
        assert_eq!(row.result.status, Status::Succeeded, "{row:?}");
        let n = row.custom_id.rsplit('-').next().unwrap().parse().unwrap();
        by_question.entry(question(n)).or_default().push(row);
    }
    let (mut cached, mut saved) = (0, 0);
    for (question, rows) in by_question {
        let called: Vec<&&ResultRow> = rows.iter().filter(|row| !row.result.cached).collect();
        assert_eq!(called.len(), 1, "question {question} was paid for once");
        let called = &called[0].result;
        assert!(called.cost_pico_usd.is_some_and(|cost| cost > 0) && called.saved_pico_usd.is_none());
        for row in rows.iter().filter(|row| row.result.cached) {
            let result = &row.result;
            assert_eq!((result.cost_pico_usd, result.attempts), (Some(0), 0));
            assert_eq!(result.saved_pico_usd, called.cost_pico_usd);
            assert_eq!((&result.response, &result.output_text), (&called.response, &called.output_text));
            assert_eq!(
                (&result.provider, &result.deployment, result.usage),
                (&called.provider, &called.deployment, called.usage)
            );
            cached += 1;
            saved += result.saved_pico_usd.unwrap();
        }
    }
    (cached, saved)
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_are_called_once_on_four_workers() {
    let mut fleet = Fleet::start(slow()).await;
    priced(&fleet);
    for _ in 0..4 {
        fleet.worker(&["--concurrency", "50"], &[]);
    }
    let batch = fleet.submit("sweep", JOBS, ask).await;
    let rows = fleet.agrees(batch, JOBS).await;
    assert_eq!(fleet.calls().await.len(), DISTINCT, "{}", fleet.logs());
    let (cached, saved) = share(&rows);
    assert_eq!(cached, JOBS - DISTINCT);
    let read = fleet.batch(batch).await;
    assert_eq!((read.saved_pico_usd, read.calls), (saved, DISTINCT as u64));
    assert_eq!(fleet.store.cache_size(None).await.unwrap().answers, DISTINCT as u64);
    assert_eq!(fleet.producer().await.cached(batch).await.unwrap(), cached as u64);

    // A batch that asks the same later is answered without a call.
    let again = fleet.submit("again", JOBS, ask).await;
    let rows = fleet.agrees(again, JOBS).await;
    assert!(rows.iter().all(|row| row.result.cached && row.result.saved_pico_usd.is_some()));
    assert_eq!(fleet.calls().await.len(), DISTINCT);
    // One that has no part in the cache calls.
    let plain = fleet.submit("plain", 100, |n, job| {
        ask(n, job);
        job.options.cache = CachePolicy::OFF;
    });
    let rows = fleet.agrees(plain.await, 100).await;
    assert!(rows.iter().all(|row| !row.result.cached));
    assert_eq!(fleet.calls().await.len(), DISTINCT + 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_repeats_only_what_it_called() {
    const CONCURRENCY: usize = 20;
    let mut fleet = Fleet::start(slow()).await;
    priced(&fleet);
    fleet.keeper(&[]).await;
    let workers: Vec<usize> = (0..4).map(|_| fleet.worker(&["--concurrency", "20"], &[])).collect();
    let batch = fleet.submit("killed", JOBS, ask).await;
    eventually("a part is done", async || (fleet.batch(batch).await.counters.done() >= 200).then_some(())).await;
    fleet.kill(workers[1]).await;
    let rows = fleet.agrees(batch, JOBS).await;
    let calls = fleet.calls().await.len();
    // What ran, and the answers that waited for their group.
    assert!((DISTINCT..=DISTINCT + 2 * CONCURRENCY).contains(&calls), "{calls} calls");
    let (cached, _) = share(&rows);
    assert_eq!(cached, JOBS - DISTINCT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_one_process_calls_equal_requests_once() {
    let dir = tempfile::TempDir::new().unwrap();
    let log = dir.path().join("calls.jsonl");
    let simulator = Simulator::start(simulate::Options { log: Some(log.clone()), ..slow() }).await.unwrap();
    let lines: Vec<String> = (0..200)
        .map(|n| {
            let body = serde_json::json!({
                "model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": format!("mill {}?", n * 7 % 50)}],
            });
            let url = "/v1/chat/completions";
            serde_json::json!({"custom_id": format!("line-{n}"), "method": "POST", "url": url, "body": body}).to_string()
        })
        .collect();
    std::fs::write(dir.path().join("in.jsonl"), lines.join("\n")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = gristmill(dir.path());
        command.args(["run", "in.jsonl", "--json"]).args(arguments);
        command.env("OPENAI_BASE_URL", simulator.base_url()).env("OPENAI_API_KEY", fleet::KEY);
        let ended = command.output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        serde_json::from_slice::<serde_json::Value>(&ended.stdout).unwrap()
    };
    let first = run(&["-o", "one.jsonl", "--name", "one", "--cache", "on"]);
    assert_eq!((first["succeeded"].as_u64(), first["cached"].as_u64()), (Some(200), Some(150)), "{first}");
    let later = run(&["-o", "two.jsonl", "--name", "two", "--cache", "read-only"]);
    assert_eq!((later["succeeded"].as_u64(), later["cached"].as_u64()), (Some(200), Some(200)), "{later}");
    assert_eq!(fleet::calls(&simulator.control(), &log).await.len(), 50);
    let written = std::fs::read_to_string(dir.path().join("two.jsonl")).unwrap();
    assert_eq!(written.lines().filter(|line| line.contains(r#""cached":true"#)).count(), 200);
    // Samples of one request stay apart: three of each, and the second time three again.
    let sampled = ["--set", "temperature=1", "--repeat", "3", "--limit", "50", "--cache", "on+sampled"];
    let three = run(&[&["-o", "three.jsonl", "--name", "three"][..], &sampled].concat());
    assert_eq!((three["total"].as_u64(), three["cached"].as_u64()), (Some(150), Some(0)), "{three}");
    let again = run(&[&["-o", "four.jsonl", "--name", "four"][..], &sampled].concat());
    assert_eq!(again["cached"].as_u64(), Some(150), "{again}");
    assert_eq!(fleet::calls(&simulator.control(), &log).await.len(), 50 + 150);
    let cache = gristmill(dir.path()).args(["cache", "--json"]).output().unwrap();
    let cache: serde_json::Value = serde_json::from_slice(&cache.stdout).unwrap();
    assert_eq!((cache["answers"].as_u64(), cache["hits"].as_u64()), (Some(200), Some(500)), "{cache}");
    simulator.shutdown().await;
}
