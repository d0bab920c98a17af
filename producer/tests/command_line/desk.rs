//! A directory of its own for a test, the program run in it, and a simulated provider in a process of its own.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Jobs of [`Desk::with_jobs`].
pub(crate) const JOBS: usize = 40;

/// A directory in which the program is run, with nothing of ours in its environment.
pub(crate) struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// Makes a directory with [`JOBS`] requests in `in.jsonl`.
    pub(crate) fn with_jobs() -> Self {
        let desk = Self::new();
        desk.write("in.jsonl", input(0..JOBS));
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
        command.args(arguments).current_dir(&self.directory).env_clear().env("TMPDIR", self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).output().unwrap())
    }

    pub(crate) fn run_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).envs(variables.iter().copied()).output().unwrap())
    }

    /// Runs the program with a text on its standard input.
    pub(crate) fn feed(&self, arguments: &[&str], text: &str) -> Said {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Said::from(child.wait_with_output().unwrap())
    }

    /// Reads the lines of a file, which must be whole.
    pub(crate) fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "whole lines");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Reads the names of the jobs in a file, none of which may come twice.
    pub(crate) fn names(&self, name: &str) -> BTreeSet<String> {
        let lines = self.lines(name);
        let names: BTreeSet<String> = lines.iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names.len(), lines.len(), "no job twice");
        names
    }
}

/// Makes OpenAI Batch lines.
pub(crate) fn input(jobs: impl IntoIterator<Item = usize>) -> String {
    let line = |job| {
        format!(
            r#"{{"custom_id":"job-{job}","method":"POST","url":"/v1/chat/completions","body":{{"model":"gpt-4o","messages":[{{"role":"user","content":"number {job}"}}]}}}}"#
        ) + "\n"
    };
    jobs.into_iter().map(line).collect()
}

/// What the program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
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
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Checks that it said one thing, on standard error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.trim_end(), text);
        assert_eq!(self.out, "");
    }

    /// Reads standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// A simulator that ends with this.
pub(crate) struct Provider {
    process: Child,
    pub(crate) url: String,
}

impl Provider {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(&[], arguments)
    }

    /// Starts one that writes its calls into a file.
    pub(crate) fn logging(log: &Path, arguments: &[&str]) -> Self {
        Self::start(&[&["--log", log.to_str().unwrap()], arguments].concat())
    }

    pub(crate) fn start_with(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_gristmill"))
            .args(["simulate", "--listen", "127.0.0.1:0"])
            .env("RIGHT_KEY", "right")
            .args(arguments)
            .envs(variables.iter().copied())
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
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
