//! The program on its embedded database, against the simulator: runs, interruptions, outputs, the commands beside them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const JOBS: usize = 40;

struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    /// Makes a directory with `in.jsonl`.
    fn new() -> Self {
        let desk = Self { directory: tempfile::tempdir().unwrap() };
        desk.write("in.jsonl", &input(0..JOBS));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
        command.args(arguments).current_dir(&self.directory).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).output().unwrap())
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "whole lines");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn names(&self, name: &str) -> BTreeSet<String> {
        let lines = self.lines(name);
        let names: BTreeSet<String> = lines.iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names.len(), lines.len(), "no job twice");
        names
    }
}

fn input(jobs: impl IntoIterator<Item = usize>) -> String {
    let line = |job| {
        format!(
            r#"{{"custom_id":"job-{job}","method":"POST","url":"/v1/chat/completions","body":{{"model":"gpt-4o","messages":[{{"role":"user","content":"number {job}"}}]}}}}"#
        ) + "\n"
    };
    jobs.into_iter().map(line).collect()
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// A simulator in a process of its own, that ends with this.
struct Provider {
    process: Child,
    url: String,
}

impl Provider {
    fn start(log: &Path, arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_gristmill"))
            .args(["simulate", "--listen", "127.0.0.1:0", "--log"])
            .arg(log)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.rsplit(' ').next().unwrap().trim().to_owned();
        Self { process, url }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[track_caller]
fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_simulated_run_needs_nothing_and_marks_its_lines() {
    let desk = Desk::new();
    for _ in 0..2 {
        let said = desk.run(&["run", "in.jsonl", "--simulate", "-o", "out.jsonl", "--json"]).ends_with(0);
        let summary: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((&summary["succeeded"], &summary["total"]), (&JOBS.into(), &JOBS.into()));
        assert_eq!((&summary["simulated"], &summary["output"]), (&true.into(), &"out.jsonl".into()));
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
}

#[test]
fn standard_input_goes_to_standard_output() {
    let desk = Desk::new();
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
    let desk = Desk::new();
    let log = desk.path("calls.jsonl");
    let provider = Provider::start(&log, &["--latency", "400ms"]);
    let arguments = ["run", "in.jsonl", "-o", "out.jsonl", "--concurrency", "8", "--api-base", &provider.url];
    let child = desk.command(&arguments).spawn().unwrap();
    wait_until("the first results", || desk.path("out.jsonl").exists() && desk.lines("out.jsonl").len() >= 8);
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
    drop(provider);
    assert_eq!(desk.lines("calls.jsonl").len(), JOBS, "no call was made twice");
}

#[test]
fn one_process_at_a_time_works_a_database() {
    let desk = Desk::new();
    let provider = Provider::start(&desk.path("calls.jsonl"), &["--latency", "1s"]);
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
    let desk = Desk::new();
    let bad = Provider::start(&desk.path("bad.jsonl"), &["--fault", "400:0.3"]);
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
    let calls = desk.lines("bad.jsonl").len();
    run(&bad.url, &[]).ends_with(3);
    assert_eq!(desk.lines("bad.jsonl").len(), calls, "what failed is not called again by itself");
    drop(bad);

    let good = Provider::start(&desk.path("good.jsonl"), &[]);
    run(&good.url, &["--retry-failed"]).ends_with(0);
    assert_eq!(desk.names("out.jsonl").len(), JOBS);
    assert!(!desk.path("out.errors.jsonl").exists());
    drop(good);
    assert_eq!(desk.lines("good.jsonl").len(), errors.len(), "only what failed");
}

#[test]
fn an_edited_input_calls_only_what_is_new() {
    let desk = Desk::new();
    let provider = Provider::start(&desk.path("calls.jsonl"), &[]);
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
    drop(provider);
    assert_eq!(desk.lines("calls.jsonl").len(), JOBS + 3);
}

#[test]
fn somebody_elses_file_is_not_overwritten() {
    let desk = Desk::new();
    desk.write("out.jsonl", "my notes\n");
    let said = desk.run(&["run", "in.jsonl", "--simulate", "-o", "out.jsonl"]).ends_with(1);
    assert_eq!(
        said.err,
        "error: out.jsonl exists and holds something that is not Gristmill's; nothing was changed\n\
         hint: give another file with -o, or move that one away\n"
    );
    assert_eq!(std::fs::read_to_string(desk.path("out.jsonl")).unwrap(), "my notes\n");
}

#[test]
fn a_wrong_key_fails_no_job_and_ends_with_2() {
    let desk = Desk::new();
    let mut simulator = Command::new(env!("CARGO_BIN_EXE_gristmill"));
    simulator.args(["simulate", "--listen", "127.0.0.1:0", "--require-key-env", "SIMULATED_KEY"]);
    let mut process = simulator.env("SIMULATED_KEY", "sk-right").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let provider = Provider { process, url: line.rsplit(' ').next().unwrap().trim().to_owned() };
    let run = |key: &str| {
        let mut command = desk.command(&["run", "in.jsonl", "-o", "out.jsonl", "--api-base", &provider.url]);
        Said::from(command.env("OPENAI_API_KEY", key).output().unwrap())
    };
    let said = run("sk-canary").ends_with(2);
    assert!(said.err.contains("set OPENAI_API_KEY to a valid key"), "{said:?}");
    assert!(!said.err.contains("canary"), "{said:?}");
    assert!(desk.lines("out.jsonl").is_empty() && !desk.path("out.errors.jsonl").exists());
    run("sk-right").ends_with(0);
    assert_eq!(desk.names("out.jsonl").len(), JOBS);
}

#[test]
fn a_submitted_batch_is_worked_read_and_steered_by_other_processes() {
    let desk = Desk::new();
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

    let provider = Provider::start(&desk.path("calls.jsonl"), &[]);
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

    #[cfg(unix)]
    {
        assert!(Command::new("kill").args(["-TERM", &worker.id().to_string()]).status().unwrap().success());
        let said = Said::from(worker.wait_with_output().unwrap()).ends_with(0);
        assert!(said.err.contains("worker: serves gpt-4o (openai); up to 128 calls at once"), "{said:?}");
    }
}

#[test]
fn a_cancelled_batch_ends_and_can_be_retried() {
    let desk = Desk::new();
    desk.run(&["submit", "in.jsonl", "--name", "sweep"]).ends_with(0);
    assert!(desk.run(&["cancel", "sweep"]).ends_with(0).out.contains("cancelled; running calls finish, 40 jobs"));
    let provider = Provider::start(&desk.path("calls.jsonl"), &[]);
    let run = |more: &[&str]| {
        desk.run(
            &[&["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--api-base", &provider.url], more].concat(),
        )
    };
    run(&[]).ends_with(3);
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
