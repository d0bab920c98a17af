//! `show` and `list --jobs`.

use crate::desk::{Desk, Provider};

const LINES: &str = r#"{"custom_id":"a/1","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}}
{"custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[{"role":"user","content":"ho"}],"seed":7}}
"#;

/// A batch of two jobs, of which both failed.
fn failed() -> Desk {
    let desk = Desk::new();
    desk.write("in.jsonl", LINES);
    let provider = Provider::start(&["--fault", "400:1"]);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--api-base", &provider.url]).ends_with(3);
    desk
}

#[test]
fn a_job_is_shown_whole_however_it_is_named() {
    let desk = failed();
    let shown = desk.run(&["show", "sweep/b"]).ends_with(0);
    for text in [
        "job    sweep/b (",
        "state  failed, run 1, 1 call\n",
        "request: POST /v1/chat/completions\n",
        "\"seed\": 7",
        "timeline:\n",
        "recorded\n",
        "run 1, call 1: gpt-4o, 400 after ",
        "run 1 failed, $0.00 in all\n",
        ", not billed\n",
        "error of run 1:\n",
        "\"class\": \"BadRequestError\"",
        "\"verdict\": \"not retried",
    ] {
        assert!(shown.out.contains(text), "{text}: {}", shown.out);
    }
    let json = desk.run(&["show", "@last/b", "--json"]).ends_with(0).json();
    assert_eq!((&json["batch"], &json["request"]["body"]["seed"]), (&"sweep".into(), &7.into()));
    assert_eq!((&json["runs"][0]["status"], &json["attempts"][0]["http_status"]), (&"failed".into(), &400.into()));
    let call = &json["attempts"][0];
    assert_eq!((&call["cost_basis"], &call["cost_pico_usd"]), (&"unbilled".into(), &0.into()));
    assert!(call["offset_ms"].as_i64().unwrap() >= 0 && call["price"].is_null(), "{call}");
    let id = json["job_id"].as_str().unwrap();
    assert_eq!(desk.run(&["show", id]).ends_with(0).out, shown.out);
    assert_eq!(desk.run(&["show", &id[..30]]).ends_with(0).out, shown.out);
    // A custom_id may hold a slash.
    assert!(desk.run(&["show", "sweep/a/1"]).ends_with(0).out.starts_with("job    sweep/a/1 ("));
}

#[test]
fn a_job_that_is_not_there_is_told_with_what_to_do() {
    let desk = failed();
    let id = desk.run(&["show", "sweep/b", "--json"]).json()["job_id"].as_str().unwrap().to_owned();
    for (name, error) in [
        ("sweep/c", "error: batch `sweep` has no job `c`\nhint: `gristmill list --jobs sweep` shows its jobs\n"),
        ("swep/b", "error: there is no batch `swep`\nhint: did you mean sweep?\n"),
        (
            "b",
            "error: `b` names no job\nhint: name it by BATCH/CUSTOM_ID, by its id, or by at least four digits of its beginning\n",
        ),
        ("ffffff", "error: there is no job ffffff\nhint: `gristmill list --jobs` shows jobs\n"),
        (&id[..13], &format!("error: more than one job's id begins with {}; give more digits\n", &id[..13])),
    ] {
        assert_eq!(desk.run(&["show", name]).ends_with(1).err, error);
    }
}

#[test]
fn the_jobs_of_a_batch_are_listed_with_their_errors() {
    let desk = failed();
    let said = desk.run(&["list", "--jobs", "--failed", "sweep"]).ends_with(0);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines[0], "CUSTOM_ID  STATE   CALLS  CLASS            MESSAGE");
    assert!(lines[1].starts_with("a/1        failed  1      BadRequestError  "), "{said:?}");
    assert_eq!(said.err, "all of one: gristmill show 'sweep/a/1'\n");
    let said = desk.run(&["list", "--jobs", "--limit", "1"]).ends_with(0);
    assert_eq!((said.out.lines().count(), said.err.lines().next()), (2, Some("more: add --limit 10")));
    let json = desk.run(&["list", "--jobs", "sweep", "--json"]).ends_with(0).json();
    assert_eq!((&json["jobs"][1]["state"], &json["more"]), (&"failed".into(), &false.into()));
    let provider = Provider::start(&[]);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--retry-failed", "--api-base", &provider.url])
        .ends_with(0);
    assert_eq!(desk.run(&["list", "--jobs", "--failed", "sweep"]).ends_with(0).out, "sweep: no failed jobs\n");
    assert!(desk.run(&["list", "--jobs"]).ends_with(0).out.contains("succeeded, run 2"));
    let shown = desk.run(&["show", "sweep/b"]).ends_with(0).out;
    assert!(shown.contains("\nanswer of run 2:\n  ") && shown.contains(" by gpt-4o@"), "{shown}");
    assert!(shown.contains("run 2 succeeded, $0.0"), "{shown}");
    assert!(desk.run(&["list", "sweep"]).ends_with(1).err.contains("--jobs"));
}
