//! `history`.

use serde_json::Value;

use crate::costs::with_batches;
use crate::desk::{Desk, Provider};

#[test]
fn what_ended_last_comes_first_over_all_batches() {
    let desk = with_batches();
    let runs = |more: &[&str]| -> Vec<Value> {
        let json = desk.run(&[&["history", "--json"], more].concat()).ends_with(0).json();
        json["runs"].as_array().unwrap().clone()
    };
    let batches =
        |runs: &[Value]| -> Vec<String> { runs.iter().map(|run| run["batch"].as_str().unwrap().to_owned()).collect() };
    let last = runs(&[]);
    assert_eq!(batches(&last), ["tagged"; 10]);
    assert!(last.windows(2).all(|pair| pair[0]["finished_at"].as_str() >= pair[1]["finished_at"].as_str()));
    assert!(last[0]["cost_pico_usd"].as_i64().unwrap() > 0 && last[0]["latency_ms"].is_u64(), "{}", last[0]);
    assert_eq!(runs(&["--limit", "100"]).len(), 50);
    assert_eq!(batches(&runs(&["--batch", "plain", "--limit", "3"])), ["plain"; 3]);
    assert_eq!(runs(&["--model", "gpt-4o", "--limit", "2"]).len(), 2);
    assert!(runs(&["--model", "llama"]).is_empty() && runs(&["--failed"]).is_empty());
    assert_eq!(desk.run(&["history", "--failed"]).ends_with(0).out, "nothing has failed\n");
    let said = desk.run(&["history", "--limit", "1"]).ends_with(0).out;
    assert!(said.starts_with("WHEN ") && said.contains(" tagged/job-") && said.contains(" succeeded "), "{said}");
}

#[test]
fn what_failed_says_why() {
    let desk = Desk::with_jobs();
    let provider = Provider::start(&["--fault", "400:1"]);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "-q", "--limit", "3", "--api-base", &provider.url]).ends_with(3);
    let json = desk.run(&["history", "--failed", "--limit", "2", "--json"]).ends_with(0).json();
    assert_eq!(json["runs"].as_array().unwrap().len(), 2);
    assert_eq!(json["runs"][0]["error_class"], "BadRequestError");
    assert!(desk.run(&["history"]).ends_with(0).out.contains("BadRequestError: "));
}
