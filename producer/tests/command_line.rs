//! The program as people meet it: help, exit codes, and what it says of wrong input, without any server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const LINE: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}}"#;

struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
        command.args(arguments).current_dir(self.path()).env_clear().env("TMPDIR", self.path());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).output().unwrap())
    }

    fn run_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
        Said::from(self.command(arguments).envs(variables.iter().copied()).output().unwrap())
    }
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
    fn fails(&self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.trim_end(), text);
        assert_eq!(self.out, "");
    }
}

#[test]
fn help_is_on_standard_output_and_shows_every_command() {
    let said = Desk::new().run(&["--help"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let commands =
        ["run", "submit", "worker", "list", "status", "results", "cancel", "retry", "migrate", "repair", "simulate"];
    for command in commands {
        assert!(said.out.contains(&format!("\n  {command} ")), "{command}");
        let help = Desk::new().run(&[command, "--help"]);
        assert_eq!(help.code, Some(0));
        assert!(help.out.contains("Examples:\n"), "{command}");
        let widest = help.out.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{command}: {widest:?}");
    }
}

#[test]
fn wrong_usage_ends_with_1() {
    let desk = Desk::new();
    desk.write("in.jsonl", LINE);
    let cases: [&[&str]; 8] = [
        &[],
        &["walk"],
        &["run"],
        &["run", "in.jsonl"],
        &["run", "in.jsonl", "-i", "in.jsonl", "-o", "out.jsonl"],
        &["run", "in.jsonl", "-o", "out.jsonl", "--simulate", "--db", "x.db"],
        &["run", "in.jsonl", "-o", "out.jsonl", "--priority", "urgent"],
        &["list", "--quiet", "--verbose"],
    ];
    for arguments in cases {
        let said = desk.run(arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}: {said:?}");
        assert!(said.err.starts_with("error: ") || arguments.is_empty(), "{said:?}");
    }
    assert!(!desk.path().join("out.jsonl").exists());
}

#[test]
fn bad_lines_are_told_before_anything_is_sent() {
    let desk = Desk::new();
    desk.write("in.jsonl", format!("{LINE}\noops\n{LINE}\n"));
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl"]).fails(
        1,
        "error: in.jsonl: 2 of 3 lines cannot be sent, nothing was sent\n  \
         line 2: is not JSON: expected value at column 1\n  \
         line 3: custom_id \"a\" is on line 1 already\n\
         hint: a line looks like {\"custom_id\":\"1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\
         \"body\":{\"model\":\"…\",\"messages\":[…]}}",
    );
    assert!(!desk.path().join("out.jsonl").exists());
    assert!(!desk.path().join(".gristmill").exists());
}

#[test]
fn input_that_is_no_file_of_requests_is_told_apart() {
    let desk = Desk::new();
    desk.write("empty.jsonl", "");
    desk.write("packed.jsonl", b"\x1f\x8b\x08\x00");
    std::fs::create_dir(desk.path().join("folder")).unwrap();
    let run = |file: &str| desk.run(&["run", file, "-o", "out.jsonl"]);
    run("none.jsonl").fails(1, "error: reading none.jsonl failed: No such file or directory (os error 2)");
    run("folder").fails(1, "error: folder is a directory; name a file in it");
    run("empty.jsonl").fails(1, "error: empty.jsonl holds no requests");
    run("packed.jsonl").fails(1, "error: packed.jsonl is compressed by gzip; unpack it first: gunzip -k FILE");
    run("-").fails(1, "error: standard input holds no requests");
}

#[test]
fn standard_input_is_checked_too() {
    let desk = Desk::new();
    let mut command = desk.command(&["submit", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{}\n").unwrap();
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("line 1: has no custom_id, no method, no url, no body"), "{said:?}");
}

#[test]
fn a_missing_key_ends_with_2_and_is_named() {
    let desk = Desk::new();
    desk.write("in.jsonl", LINE);
    let said = desk.run(&["run", "in.jsonl", "-o", "out.jsonl"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.starts_with("error: no key for api.openai.com: set OPENAI_API_KEY"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1);
    let said = desk.run(&["worker"]);
    assert_eq!(said.code, Some(2), "{said:?}");
}

#[test]
fn a_model_that_the_configuration_lacks_ends_with_2_and_names_the_near_one() {
    let desk = Desk::new();
    desk.write("in.jsonl", LINE.replace("gpt-4o", "gpt-4i"));
    desk.write(
        "gristmill.yaml",
        "model_list:\n  - model_name: gpt-4o\n    litellm_params: {model: openai/gpt-4o, api_key: sk-1}\n",
    );
    let said = desk.run(&["run", "in.jsonl", "-o", "out.jsonl"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("did you mean `gpt-4o`?"), "{said:?}");
}

#[test]
fn a_configuration_that_is_wrong_ends_with_1() {
    let desk = Desk::new();
    desk.write("in.jsonl", LINE);
    desk.write("gristmill.yaml", "concurency: 5\n");
    let said = desk.run(&["run", "in.jsonl", "-o", "out.jsonl"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("concurency") && said.err.contains("concurrency"), "{said:?}");
}

#[test]
fn no_database_is_said_with_what_to_do() {
    let desk = Desk::new();
    for arguments in
        [&["list"][..], &["status", "x"], &["results"], &["cancel", "x"], &["retry", "x"], &["repair", "x"]]
    {
        let said = desk.run(arguments);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.starts_with("error: there is no database: no .gristmill/gristmill.db in "), "{said:?}");
        assert!(said.err.contains("\nhint: set DATABASE_URL or give --db"), "{said:?}");
    }
    assert!(!desk.path().join(".gristmill").exists(), "looking makes nothing");
}

#[test]
fn an_address_that_is_none_is_refused_without_showing_it() {
    let desk = Desk::new();
    desk.run_with(&[("DATABASE_URL", "mysql://root:canary@h/d")], &["list"]).fails(
        1,
        "error: DATABASE_URL is neither a Postgres nor an SQLite address\n\
         hint: write postgres://user:password@host:5432/database, or sqlite:PATH",
    );
}

#[test]
fn no_server_is_one_line() {
    let desk = Desk::new();
    // Port 1 is reserved and closed.
    let said = desk.run_with(&[("DATABASE_URL", "postgres://u:canary@127.0.0.1:1/d")], &["list"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("no PostgreSQL answers at 127.0.0.1:1"), "{said:?}");
    assert!(!said.err.contains("canary") && said.err.lines().count() == 1, "{said:?}");
}

#[test]
fn a_port_in_use_is_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = Desk::new().run(&["simulate", "--listen", &address]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.starts_with(&format!("error: cannot listen on {address}: the port is in use")), "{said:?}");
}

#[test]
fn a_wrong_cursor_is_refused() {
    let said = Desk::new().run(&["results", "--cursor", "soon"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("`soon` is not a cursor"), "{said:?}");
}
