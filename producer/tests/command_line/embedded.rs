//! The program on its embedded database, against the simulator: runs, interruptions, outputs, the commands beside them.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::desk::{Desk, JOBS, Provider, Said, input, wait_until};

/// Counts the lines of a file that may not be written to its end.
fn written(desk: &Desk, name: &str) -> usize {
    std::fs::read_to_string(desk.path(name)).unwrap_or_default().matches('\n').count()
}

/// Counts the calls of a log, once there are as many as there should be: the simulator writes them down a moment later.
fn calls(desk: &Desk, name: &str, wanted: usize) -> usize {
    wait_until("the calls are written down", || written(desk, name) >= wanted);
    written(desk, name)
}

#[test]
fn a_simulated_run_needs_nothing_and_marks_its_lines() {
    let desk = Desk::with_jobs();
    for _ in 0..2 {
        let said = desk.run(&["run", "in.jsonl", "--simulate", "-o", "out.jsonl", "--json"]).ends_with(0);
        let summary: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((&summary["succeeded"], &summary["total"]), (&JOBS.into(), &JOBS.into()));
        assert_eq!((&summary["simulated"], &summary["output"]), (&true.into(), &"out.jsonl".into()));
        assert!(summary["cost_usd"].is_null(), "no call told what it cost: {summary}");
        assert_eq!(desk.names("out.jsonl").len(), JOBS);
        assert!(desk.lines("out.jsonl").iter().all(|line| {
            line["gristmill"]["simulated"] == true
                && line["response"]["status_code"] == 200
                && line["error"].is_null()
                && line["response"]["body"]["choices"][0]["message"]["content"].is_string()
        }));
        assert!(!desk.path("out.errors.jsonl").exists());
    }
    let said = desk.run(&["list"]).ends_with(1);
    assert!(said.err.contains("add --db") && said.err.contains("simulated.db"), "{said:?}");
    let look = |command: &str, more: &[&str]| {
        desk.run(&[&[command, "--db", ".gristmill/simulated.db"], more].concat()).ends_with(0).out
    };
    assert!(look("list", &[]).contains("  unknown  ") && look("status", &[]).contains("cost       unknown\n"));
    let status: Value = serde_json::from_str(&look("status", &["--json"])).unwrap();
    assert!(status["cost_pico_usd"].is_null(), "{status}");
}

#[test]
fn standard_input_goes_to_standard_output() {
    let desk = Desk::with_jobs();
    let mut child = desk.command(&["run", "-", "-o", "-", "--simulate", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input(0..5).as_bytes()).unwrap();
    let said = Said::from(child.wait_with_output().unwrap()).ends_with(0);
    assert_eq!(said.err, "");
    let names: BTreeSet<String> = said
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["custom_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 5);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_what_runs_and_goes_on_without_a_second_call() {
    let desk = Desk::with_jobs();
    let log = desk.path("calls.jsonl");
    // Long enough for the signal to come before the end.
    let provider = Provider::logging(&log, &["--latency", "2s"]);
    let arguments = ["run", "in.jsonl", "-o", "out.jsonl", "--concurrency", "8", "--api-base", &provider.url];
    let child = desk.command(&arguments).spawn().unwrap();
    wait_until("the first results", || written(&desk, "out.jsonl") >= 8);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let said = Said::from(child.wait_with_output().unwrap()).ends_with(130);
    assert!(said.err.contains("stopping: running calls finish and are saved"), "{said:?}");
    assert!(said.err.contains("interrupted: the same command goes on where this one stopped"), "{said:?}");
    let first = desk.names("out.jsonl");
    assert!(first.len() >= 8 && first.len() < JOBS, "{}", first.len());

    let said = desk.run(&arguments).ends_with(0);
    assert!(said.err.contains(&format!("0 jobs submitted, {JOBS} were there already")), "{said:?}");
    let second = desk.names("out.jsonl");
    assert!(second.len() == JOBS && second.is_superset(&first));
    assert!(said.err.contains(&format!("{JOBS} of {JOBS} succeeded; {} done before; ", first.len())), "{said:?}");
    assert_eq!(calls(&desk, "calls.jsonl", JOBS), JOBS, "no call was made twice");
}

#[test]
fn one_process_at_a_time_works_a_database() {
    let desk = Desk::with_jobs();
    // Long enough for the second run to begin before the end of the first.
    let provider = Provider::start(&["--latency", "5s"]);
    let run = |out: &str, name: &str| {
        desk.command(&[
            "run",
            "in.jsonl",
            "-o",
            out,
            "--name",
            name,
            "--concurrency",
            "20",
            "--api-base",
            &provider.url,
        ])
    };
    let first = run("a.jsonl", "one").spawn().unwrap();
    wait_until("the first run", || desk.path(".gristmill/gristmill.db.lock").exists());
    let second = Said::from(run("b.jsonl", "two").output().unwrap()).ends_with(1);
    let pid = first.id();
    assert!(second.err.starts_with("error: another gristmill works on "), "{second:?}");
    assert!(second.err.contains(&format!("(pid {pid})")), "{second:?}");
    assert!(!desk.path("b.jsonl").exists());
    // Submitting and looking need no right to work.
    desk.run(&["submit", "in.jsonl", "--name", "beside"]).ends_with(0);
    assert!(desk.run(&["list"]).ends_with(0).out.contains("beside"));
    Said::from(first.wait_with_output().unwrap()).ends_with(0);
    assert_eq!(desk.names("a.jsonl").len(), JOBS);
}

#[test]
fn failures_have_a_file_and_run_again_when_they_are_told_to() {
    let desk = Desk::with_jobs();
    let bad = Provider::logging(&desk.path("bad.jsonl"), &["--fault", "400:0.3"]);
    let run = |url: &str, more: &[&str]| {
        desk.run(&[&["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--api-base", url], more].concat())
    };
    let said = run(&bad.url, &[]).ends_with(3);
    assert!(said.err.contains("× BadRequestError: "), "{said:?}");
    let (answers, errors) = (desk.names("out.jsonl"), desk.names("out.errors.jsonl"));
    assert!(!errors.is_empty() && answers.is_disjoint(&errors));
    assert_eq!(answers.len() + errors.len(), JOBS);
    for line in desk.lines("out.errors.jsonl") {
        assert_eq!((&line["response"]["status_code"], &line["error"]), (&400.into(), &Value::Null));
        assert_eq!(line["gristmill"]["error"]["class"], "BadRequestError");
        assert!(line["response"]["body"]["error"]["message"].is_string());
    }
    run(&bad.url, &[]).ends_with(3);

    let good = Provider::logging(&desk.path("good.jsonl"), &[]);
    let said = run(&good.url, &["--retry-failed", "--json"]).ends_with(0);
    let summary: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&summary["succeeded"], &summary["before"]), (&JOBS.into(), &answers.len().into()));
    assert_eq!(desk.names("out.jsonl").len(), JOBS);
    assert!(!desk.path("out.errors.jsonl").exists());
    assert_eq!(calls(&desk, "good.jsonl", errors.len()), errors.len(), "only what failed");
    assert_eq!(calls(&desk, "bad.jsonl", JOBS), JOBS, "what failed is not called again by itself");

    let lines = |arguments: &[&str]| -> Vec<Value> {
        let said = desk.run(arguments).ends_with(0);
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let once = lines(&["results", "sweep", "--json"]);
    assert_eq!(once.len(), JOBS, "the latest run of each job");
    assert!(once.iter().all(|line| line["gristmill"]["status"] == "succeeded"));
    let streamed = lines(&["results", "sweep", "--json", "--follow"]);
    assert_eq!(streamed.len(), JOBS + errors.len(), "every run, as it was written");
    assert_eq!(streamed.iter().filter(|line| line["gristmill"]["run"] == 2).count(), errors.len());
    let text = desk.run(&["results", "sweep"]).ends_with(0).out;
    assert_eq!((text.lines().count(), text.matches(" (run 2)  ").count()), (JOBS, errors.len()));
    // Nothing is left to call, so any key and provider will do.
    let arguments = ["run", "in.jsonl", "-o", "-", "--name", "sweep", "--api-base", "http://127.0.0.1:1/v1"];
    assert_eq!(lines(&arguments).len(), JOBS);
}

#[test]
fn what_is_open_again_is_not_counted_as_done() {
    let desk = Desk::with_jobs();
    let provider = Provider::logging(&desk.path("calls.jsonl"), &["--fault", "400:0.3"]);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--api-base", &provider.url]).ends_with(3);
    let succeeded = desk.lines("out.jsonl").len();
    desk.run(&["retry", "sweep"]).ends_with(0);
    let arguments = ["submit", "in.jsonl", "--name", "sweep", "--wait", "--progress", "json"];
    let mut waiting = desk.command(&arguments).spawn().unwrap();
    let mut seen = 0;
    // Without a worker it waits, and tells how far it is every second.
    for line in BufReader::new(waiting.stderr.take().unwrap()).lines() {
        let Ok(view) = serde_json::from_str::<Value>(&line.unwrap()) else { continue };
        // What is said in words comes between.
        let Some(done) = view["done"].as_u64() else { continue };
        assert!(done <= succeeded as u64 && done == view["succeeded"] && view["failed"] == 0, "{view}");
        seen += u32::from(done == succeeded as u64);
        if seen == 2 {
            break;
        }
    }
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    assert_eq!(seen, 2);
}

#[test]
fn an_edited_input_calls_only_what_is_new() {
    let desk = Desk::with_jobs();
    let provider = Provider::logging(&desk.path("calls.jsonl"), &[]);
    let run = || {
        desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--combined", "--name", "sweep", "--api-base", &provider.url])
            .ends_with(0)
    };
    run();
    // Line 3 says something else, line 7 is gone, two are appended.
    let edited: String = input((0..JOBS + 2).filter(|job| *job != 6)).replace("number 2\"", "number two\"");
    desk.write("in.jsonl", &edited);
    let said = run();
    assert!(
        said.err.contains("3 jobs submitted, 38 were there already; 2 earlier jobs are not in this input"),
        "{said:?}"
    );
    let expected: BTreeSet<String> = (0..JOBS + 2).filter(|job| *job != 6).map(|job| format!("job-{job}")).collect();
    assert_eq!(desk.names("out.jsonl"), expected);
    // Who reads the batch without its input gets what was removed as well, and of each name the latest line.
    desk.run(&["results", "sweep", "-o", "all.jsonl", "--combined"]).ends_with(0);
    assert_eq!(desk.names("all.jsonl").len(), JOBS + 2);
    assert_eq!(desk.run(&["results", "sweep"]).ends_with(0).out.lines().count(), JOBS + 2);
    let latest = |name: &str| {
        let line = desk.lines(name).into_iter().find(|line| line["custom_id"] == "job-2").unwrap();
        line["gristmill"]["job_id"].clone()
    };
    assert_eq!(latest("all.jsonl"), latest("out.jsonl"));
    assert_eq!(calls(&desk, "calls.jsonl", JOBS + 3), JOBS + 3);
}

#[test]
fn somebody_elses_file_is_not_overwritten() {
    let desk = Desk::with_jobs();
    desk.write("out.jsonl", "my notes\n");
    let said = desk.run(&["run", "in.jsonl", "--simulate", "-o", "out.jsonl"]).ends_with(1);
    assert_eq!(
        said.err,
        "error: out.jsonl exists and holds something that is not Gristmill's on line 1; nothing was changed\n\
         hint: give another file with -o, or move that one away\n"
    );
    assert_eq!(std::fs::read_to_string(desk.path("out.jsonl")).unwrap(), "my notes\n");
}

#[test]
fn a_wrong_key_fails_no_job_and_ends_with_2() {
    let desk = Desk::with_jobs();
    let provider = Provider::start_with(&[("SIMULATED_KEY", "sk-right")], &["--require-key-env", "SIMULATED_KEY"]);
    let run = |key: &str| {
        let mut command = desk.command(&["run", "in.jsonl", "-o", "out.jsonl", "--api-base", &provider.url]);
        Said::from(command.env("OPENAI_API_KEY", key).output().unwrap())
    };
    let said = run("sk-canary").ends_with(2);
    let todo = "deployment gpt-4o: set OPENAI_API_KEY to a valid key (401 AuthenticationError: ";
    assert_eq!(said.err.matches("set OPENAI_API_KEY").count(), 1, "it is told once: {said:?}");
    assert!(said.err.contains(&format!("error: {todo}")), "{said:?}");
    assert!(!said.err.contains("canary"), "{said:?}");
    let status = desk.run(&["status"]).ends_with(0).out;
    assert!(status.contains(&format!("waits for  {todo}")), "it is known after the run: {status}");
    assert!(!status.contains("canary"), "{status}");
    assert!(desk.lines("out.jsonl").is_empty() && !desk.path("out.errors.jsonl").exists());
    run("sk-right").ends_with(0);
    assert_eq!(desk.names("out.jsonl").len(), JOBS);
}
