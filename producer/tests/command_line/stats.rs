//! `stats`.

use crate::costs::with_batches;
use crate::desk::{Desk, JOBS};

#[test]
fn statistics_are_told_by_what_is_asked_for() {
    let desk = with_batches();
    let stats = |more: &[&str]| desk.run(&[&["stats", "--json"], more].concat()).ends_with(0).json();
    let all = stats(&["--since", "1h"]);
    let line = &all["lines"][0];
    assert_eq!((&line["names"]["model"], &line["ended"]), (&"gpt-4o".into(), &(JOBS + 10).into()));
    assert_eq!((&line["success_rate"], &line["failed"]), (&1.0.into(), &0.into()));
    assert_eq!(line["queue_ms"]["count"], JOBS + 10);
    assert!(line["latency_ms"]["p99"].as_u64() >= line["ttft_ms"]["p50"].as_u64(), "{line}");
    assert!((all["seconds"].as_f64().unwrap() - 3_600.0).abs() < 60.0, "{all}");
    let of_batch = stats(&["tagged", "--by", "batch,deployment"]);
    assert_eq!(of_batch["lines"].as_array().unwrap().len(), 1);
    assert_eq!(of_batch["lines"][0]["names"]["batch"], "tagged");

    let said = desk.run(&["stats", "plain"]).ends_with(0).out;
    for part in
        ["plain: 20", "\ngpt-4o\n  jobs        40 ended, 100.0% succeeded\n", "\n  call        p50 ", "\n  queue "]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.is_ascii(), "no terminal: {said}");
    assert!(
        desk.run(&["stats", "--since", "2099-01-01"]).ends_with(0).out.ends_with("nothing has been called or ended\n")
    );
}

#[test]
fn a_batch_that_there_is_not_is_told() {
    let desk = Desk::with_jobs();
    desk.run(&["run", "in.jsonl", "--simulate", "-o", "out.jsonl", "-q"]).ends_with(0);
    let said = desk.run(&["stats", "none", "--db", ".gristmill/simulated.db"]).ends_with(1);
    assert!(said.err.contains("none"), "{said:?}");
}
