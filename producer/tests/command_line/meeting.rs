//! What a newcomer meets first: help, exit codes, and what it says of wrong input, without any server.

use std::io::Write as _;
use std::process::Stdio;

use crate::desk::{Desk, Said};

const LINE: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}}"#;

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
    assert!(!desk.path("out.jsonl").exists());
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
         \"body\":{\"model\":\"…\",\"messages\":[…]}}, or {\"prompt\":\"…\",\"model\":\"…\"}",
    );
    assert!(!desk.path("out.jsonl").exists());
    assert!(!desk.path(".gristmill").exists());
}

#[test]
fn input_that_is_no_file_of_requests_is_told_apart() {
    let desk = Desk::new();
    desk.write("empty.jsonl", "");
    std::fs::create_dir(desk.path("folder")).unwrap();
    let run = |file: &str| desk.run(&["run", file, "-o", "out.jsonl"]);
    let none = run("none.jsonl").ends_with(1);
    assert!(none.err.starts_with("error: reading none.jsonl failed: No such file or directory (os error 2)\nhint: "));
    run("folder").fails(1, "error: folder is a directory; name a file in it");
    run("empty.jsonl").fails(1, "error: empty.jsonl holds no requests");
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
    assert!(said.err.contains("line 1: is no request: it has no prompt, no messages, no body"), "{said:?}");
}

#[test]
fn a_name_that_no_command_could_address_is_refused_before_anything_is_made() {
    let desk = Desk::new();
    desk.write("in.jsonl", LINE);
    for name in ["", "@last", "a/b", "0196b3a0-1111-7222-8333-444455556666"] {
        let said = desk.run(&["submit", "in.jsonl", "--name", name]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.starts_with(&format!("error: the batch name {name:?} ")), "{said:?}");
        assert!(said.err.contains("; a name has 1 to 200 characters, "), "{said:?}");
    }
    assert!(!desk.path(".gristmill").exists());
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
    assert!(!desk.path(".gristmill").exists(), "looking makes nothing");
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
