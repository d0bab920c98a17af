//! Batches beside `run`: submitted, worked, read and steered by processes of their own.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Command;

use serde_json::Value;

use crate::desk::{Desk, JOBS, Provider, Said, input};

#[test]
fn a_submitted_batch_is_worked_read_and_steered_by_other_processes() {
    let desk = Desk::with_jobs();
    let said = desk.run(&["submit", "in.jsonl", "--name", "sweep-7", "--json"]).ends_with(0);
    let submitted: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&submitted["batch"], &submitted["recorded"]), (&"sweep-7".into(), &JOBS.into()));
    assert!(said.err.contains("no worker runs now"), "{said:?}");
    let id = submitted["id"].as_str().unwrap();
    for batch in ["sweep-7", id, &id[..8], "@last"] {
        let status: Value = serde_json::from_str(&desk.run(&["status", batch, "--json"]).ends_with(0).out).unwrap();
        assert_eq!((&status["id"], &status["total"], &status["state"]), (&id.into(), &JOBS.into(), &"running".into()));
    }
    let said = desk.run(&["status", "swep-7"]).ends_with(1);
    assert_eq!(said.err, "error: there is no batch `swep-7`\nhint: did you mean sweep-7?\n");

    let provider = Provider::logging(&desk.path("calls.jsonl"), &[]);
    let worker = desk.command(&["worker", "--model", "gpt-4o", "--api-base", &provider.url]).spawn().unwrap();
    let said = desk.run(&["results", "sweep-7", "--follow", "--json"]).ends_with(0);
    assert_eq!(said.out.lines().count(), JOBS);
    assert!(said.err.contains(r#""more":false"#), "{said:?}");

    let mut cursor = "0-0".to_owned();
    let mut read = BTreeSet::new();
    loop {
        let said = desk.run(&["results", "sweep-7", "--json", "--cursor", &cursor, "--limit", "15"]).ends_with(0);
        for line in said.out.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(read.insert(line["custom_id"].as_str().unwrap().to_owned()), "no row twice");
        }
        let page: Value = serde_json::from_str(&said.err).unwrap();
        cursor = page["cursor"].as_str().unwrap().to_owned();
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(read.len(), JOBS);
    desk.run(&["results", "-o", "read.jsonl"]).ends_with(0);
    assert_eq!(desk.names("read.jsonl").len(), JOBS);
    let said = desk.run(&["submit", "in.jsonl", "--name", "again", "--wait", "-o", "again.jsonl"]).ends_with(0);
    assert!(!said.err.contains("warning"), "{said:?}");
    assert_eq!(desk.names("again.jsonl").len(), JOBS);
    desk.write("other.jsonl", input(0..3).replace("gpt-4o", "gpt-4i"));
    desk.run(&["submit", "other.jsonl", "--name", "other"]).ends_with(0);
    let status = desk.run(&["status", "other"]).ends_with(0).out;
    assert!(status.contains("waits for  a worker that serves `gpt-4i`; did you mean `gpt-4o`?\n"), "{status}");

    #[cfg(unix)]
    {
        assert!(Command::new("kill").args(["-TERM", &worker.id().to_string()]).status().unwrap().success());
        let said = Said::from(worker.wait_with_output().unwrap()).ends_with(0);
        assert!(said.err.contains("worker: serves gpt-4o (openai); up to 128 calls at once"), "{said:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_worker_that_logs_for_machines_writes_json_lines_alone() {
    let desk = Desk::with_jobs();
    let arguments = ["worker", "--model", "gpt-4o", "--api-base", "http://127.0.0.1:1/v1", "--json"];
    let mut worker = desk.command(&arguments).spawn().unwrap();
    let mut told = Vec::new();
    for line in BufReader::new(worker.stderr.take().unwrap()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).expect("every line is JSON");
        let message = line["fields"]["message"].as_str().unwrap().to_owned();
        if message == "worker ready" {
            assert!(Command::new("kill").args(["-TERM", &worker.id().to_string()]).status().unwrap().success());
        }
        told.push(message);
    }
    assert!(worker.wait().unwrap().success());
    assert!(told.iter().any(|text| text.starts_with("worker: serves gpt-4o")), "{told:?}");
    assert!(told.iter().any(|text| text.ends_with("once more to stop at once")), "{told:?}");
}

#[test]
fn a_cancelled_batch_ends_and_can_be_retried() {
    let desk = Desk::with_jobs();
    desk.run(&["submit", "in.jsonl", "--name", "sweep"]).ends_with(0);
    assert!(desk.run(&["cancel", "sweep"]).ends_with(0).out.contains("cancelled; running calls finish, open: 40 jobs"));
    assert_eq!(
        desk.run(&["submit", "in.jsonl", "--name", "sweep"]).ends_with(1).err.lines().skip(1).collect::<Vec<_>>(),
        [
            "error: batch `sweep` was cancelled and takes no more jobs",
            "hint: give the new one another --name, or run its cancelled jobs with `gristmill retry sweep --status cancelled`"
        ]
    );
    let provider = Provider::logging(&desk.path("calls.jsonl"), &[]);
    let run = |more: &[&str]| {
        desk.run(
            &[&["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--api-base", &provider.url], more].concat(),
        )
    };
    let said = run(&[]).ends_with(3);
    assert!(said.err.contains("40 were there already; the batch was cancelled: to run what was open, `"), "{said:?}");
    assert_eq!(desk.names("out.errors.jsonl").len(), JOBS);
    assert!(
        desk.lines("out.errors.jsonl")
            .iter()
            .all(|line| { line["response"].is_null() && line["error"]["code"] == "batch_cancelled" })
    );
    assert!(desk.lines("out.jsonl").is_empty());
    assert!(desk.run(&["cancel", "sweep"]).ends_with(0).out.contains("has ended already"));
    run(&["--retry-failed"]).ends_with(0);
    assert_eq!(desk.names("out.jsonl").len(), JOBS);
}

#[test]
fn a_new_database_says_what_it_is_and_that_there_is_no_batch_yet() {
    let desk = Desk::with_jobs();
    assert_eq!(desk.run(&["migrate"]).ends_with(0).out, "applied migration 1, 2, 3\n");
    assert_eq!(desk.run(&["migrate"]).ends_with(0).out, "the schema is of this version already\n");
    for arguments in [&["status"][..], &["status", "sweep"], &["results"], &["cancel", "@last"]] {
        let said = desk.run(arguments).ends_with(1);
        assert!(
            said.err.starts_with("error: there is no batch yet\nhint: submit one with `gristmill submit"),
            "{said:?}"
        );
    }
}

#[test]
fn machines_get_errors_and_repairs_as_json() {
    let desk = Desk::with_jobs();
    let said = desk.run(&["run", "in.jsonl", "--simulate", "-o", "none/out.jsonl", "--json"]).ends_with(1);
    let error: Value = serde_json::from_str(&said.err).expect("one line of JSON");
    assert_eq!(error["error"]["message"], "writing none/out.jsonl failed: its directory is not there");
    assert_eq!(error["error"]["hint"], "make the directory none first, or give another file with -o");
    assert_eq!(error["error"]["exit_code"], 1);

    let said = desk.run(&["submit", "in.jsonl", "--name", "sweep", "--json"]).ends_with(0);
    let id = serde_json::from_str::<Value>(&said.out).unwrap()["id"].clone();
    let repaired: Value = serde_json::from_str(&desk.run(&["repair", "sweep", "--json"]).ends_with(0).out).unwrap();
    assert_eq!((&repaired["batch"], &repaired["id"]), (&"sweep".into(), &id));
    assert_eq!((&repaired["published"], &repaired["requeued"]), (&JOBS.into(), &0.into()));
}
