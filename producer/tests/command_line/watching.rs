//! Progress as machines and logs see it, `status --watch`, and `resume`.

use serde_json::Value;

use crate::desk::{Desk, Provider, Said, wait_until};

fn desk() -> Desk {
    let desk = Desk::new();
    let lines: String = (0..60).map(|n| format!("{{\"prompt\":\"number {n}\"}}\n")).collect();
    desk.write("in.jsonl", &lines);
    desk
}

const RUN: [&str; 8] = ["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--model", "m"];

#[test]
fn progress_for_machines_is_a_line_of_json_at_a_time() {
    let desk = desk();
    let provider = Provider::start(&["--latency", "1s"]);
    let arguments = ["--api-base", &provider.url, "--concurrency", "8", "--progress", "json"];
    let said = desk.run(&[&RUN[..], &arguments].concat()).ends_with(0);
    let views: Vec<Value> = said.err.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(views.len() >= 2, "{said:?}");
    let view = views.last().unwrap();
    assert_eq!((&view["batch"], &view["total"], &view["failed"]), (&"sweep".into(), &60.into(), &0.into()));
    assert!(view["rate_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{view}");
    assert!(view["done"].as_u64() > views[0]["done"].as_u64(), "{views:?}");
}

#[test]
fn machines_read_nothing_but_json_and_the_end_is_always_told() {
    let desk = desk();
    let provider = Provider::start(&["--fault", "400:1"]);
    let arguments = ["--api-base", &provider.url, "--limit", "3", "--progress", "json"];
    for _ in 0..2 {
        let said = desk.run(&[&RUN[..], &arguments].concat()).ends_with(3);
        let lines: Vec<Value> = said.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.last().unwrap();
        assert_eq!((&last["done"], &last["total"], &last["failed"]), (&3.into(), &3.into(), &3.into()), "{said:?}");
        assert!(
            lines.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains(" submitted"))),
            "{said:?}"
        );
    }
    let said = desk.run(&["submit", "in.jsonl", "--name", "x", "--model", "m", "--progress", "json"]).ends_with(0);
    let last: Value = serde_json::from_str(said.err.lines().rfind(|line| line.contains("total")).unwrap()).unwrap();
    assert_eq!((&last["done"], &last["total"]), (&60.into(), &60.into()));
}

#[test]
fn progress_in_a_log_is_plain_lines_without_colour() {
    let desk = desk();
    let provider = Provider::start(&["--latency", "1s"]);
    let arguments = ["--api-base", &provider.url, "--concurrency", "8"];
    let said = desk.run(&[&RUN[..], &arguments].concat()).ends_with(0);
    assert!(said.err.lines().any(|line| line.contains("/60 done")), "{said:?}");
    assert!(!said.err.contains('\u{1b}') && !said.err.contains('\r'), "{said:?}");
}

#[test]
fn a_batch_is_watched_to_its_end() {
    let desk = desk();
    let provider = Provider::start(&["--latency", "300ms"]);
    let run = desk.command(&[&RUN[..], &["--api-base", &provider.url, "--concurrency", "8"]].concat()).spawn().unwrap();
    wait_until("the batch to be there", || desk.run(&["status", "sweep"]).code == Some(0));
    let said = desk.run(&["status", "sweep", "--watch", "--json"]).ends_with(0);
    let views: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&views.last().unwrap()["state"], &views.last().unwrap()["succeeded"]),
        (&"finished".into(), &60.into())
    );
    Said::from(run.wait_with_output().unwrap()).ends_with(0);
    let said = desk.run(&["status", "--watch"]).ends_with(0);
    assert!(said.out.contains("done       60 of 60"), "{said:?}");
}

#[test]
fn a_paused_deployment_is_looked_at_again_when_it_is_told_to() {
    let desk = desk();
    assert_eq!(desk.run(&[&RUN[..], &["--simulate"]].concat()).code, Some(0));
    let provider = Provider::start(&["--require-key-env", "RIGHT_KEY"]);
    let worker = ["worker", "--model", "m", "--api-base", &provider.url];
    desk.run(&["submit", "in.jsonl", "--name", "sweep", "--model", "m"]).ends_with(0);
    let mut worker = desk.command(&worker).env("OPENAI_API_KEY", "wrong").spawn().unwrap();
    wait_until("the pause", || {
        desk.run(&["resume", "nothing"]).out == "no deployment of `nothing` is paused\n"
            && desk.run(&["models"]).out.contains("paused")
    });
    assert!(desk.run(&["resume", "n"]).err.contains("did you mean `m`?"));
    let said = desk.run(&["resume", "m"]).ends_with(0);
    assert!(said.out.starts_with("m: workers look again now; it was paused for "), "{said:?}");
    let json = desk.run(&["resume", "--json"]).ends_with(0).json();
    assert_eq!(json["resumed"][0]["deployment"], "m");
    worker.kill().unwrap();
    worker.wait().unwrap();
}
