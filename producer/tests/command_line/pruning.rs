//! `prune`, and what is made of the command tree.

use crate::desk::{Desk, Provider};

#[test]
fn old_batches_are_shown_asked_for_and_deleted() {
    let desk = Desk::new();
    desk.write("in.csv", "prompt\nhi\nho\n");
    let run = ["run", "in.csv", "--model", "m", "--simulate", "--name", "sweep", "-o", "out.jsonl"];
    desk.run(&run).ends_with(0);
    let prune = ["prune", "--db", ".gristmill/simulated.db", "--older-than"];
    let with = |rest: &[&str]| desk.run(&[&prune[..], rest].concat());
    assert_eq!(with(&["1"]).ends_with(0).out, "no batch ended that long ago: nothing to delete\n");
    let said = with(&["0", "--dry-run"]).ends_with(0);
    assert!(said.out.contains("sweep  2") && said.out.ends_with("would delete 1 batch with 2 requests\n"), "{said:?}");
    let said = with(&["0"]).ends_with(1);
    assert!(said.err.contains("nobody is there to ask\nhint: add --yes"), "{said:?}");
    let said = with(&["0", "--yes"]).ends_with(0);
    assert_eq!(
        said.out,
        "deleted 1 batch: 2 requests, 2 results, 2 attempts\nthe file keeps its size; what is free in it is used again\n"
    );
    assert!(desk.run(&["list", "--db", ".gristmill/simulated.db"]).ends_with(0).out.starts_with("no batches yet"));
    let json = with(&["0", "--yes", "--json"]).ends_with(0).json();
    assert_eq!(json["requests"], 0);
}

#[test]
fn bodies_alone_can_go_and_what_is_left_says_so() {
    let desk = Desk::with_jobs();
    let bad = Provider::start(&["--fault", "400:0.2"]);
    let run = ["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--api-base", &bad.url];
    desk.run(&run).ends_with(3);
    let calls = desk.run(&["report", "--json"]).ends_with(0).json()["totals"].clone();
    let prune = ["prune", "--older-than", "0d", "--bodies-only", "--yes"];
    let said = desk.run(&prune).ends_with(0);
    assert!(said.out.starts_with("emptied 1 batch: 40 requests, 40 results, "), "{said:?}");
    assert!(desk.run(&prune).ends_with(0).out.starts_with("emptied 0 batches: 0 requests, 0 results"));
    let said = desk.run(&["results", "sweep"]).ends_with(0);
    assert!(said.out.contains("succeeded  job-") && said.out.contains("  (pruned)\n"), "{said:?}");
    assert!(said.out.contains("BadRequestError"), "the messages of errors stay: {said:?}");
    let line = desk.run(&["results", "sweep", "--json", "--limit", "40"]).ends_with(0).out;
    let lines: Vec<serde_json::Value> = line.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answer = lines.iter().find(|line| line["gristmill"]["status"] == "succeeded").unwrap();
    assert_eq!((&answer["gristmill"]["pruned"], &answer["response"]["body"]), (&true.into(), &serde_json::Value::Null));
    let shown = desk.run(&["show", "sweep/job-1"]).ends_with(0).out;
    assert!(shown.contains("(its body was pruned)"), "{shown}");
    let said = desk.run(&["retry", "sweep"]).ends_with(1);
    assert!(said.err.contains("the bodies of this batch were pruned"), "{said:?}");
    assert_eq!(desk.run(&["report", "--json"]).ends_with(0).json()["totals"], calls);
}

#[test]
fn all_that_is_kept_of_a_project_is_deleted_on_request() {
    let desk = Desk::with_jobs();
    let provider = Provider::start(&[]);
    for (name, project) in [("a", "acme"), ("b", "acme"), ("c", "other")] {
        let out = format!("{name}.jsonl");
        let run = ["run", "in.jsonl", "-o", &out, "--name", name, "--project", project, "--api-base", &provider.url];
        desk.run(&run).ends_with(0);
    }
    desk.run(&["submit", "in.jsonl", "--name", "open", "--project", "acme"]).ends_with(0);
    let prune = |rest: &[&str]| desk.run(&[&["prune", "--project", "acme"], rest].concat());
    let said = prune(&["--yes"]).ends_with(1);
    assert_eq!(said.err, "error: batch open of project acme is running\nhint: `gristmill cancel open` ends it\n");
    desk.run(&["cancel", "open"]);
    let model =
        ["run", "in.jsonl", "-o", "open.jsonl", "--name", "open", "--project", "acme", "--api-base", &provider.url];
    desk.run(&model);
    assert!(prune(&["--dry-run"]).ends_with(0).out.contains("would delete"));
    assert!(prune(&[]).ends_with(1).err.contains("nobody is there to ask"));
    let said = prune(&["--yes"]).ends_with(0);
    assert!(said.out.contains(" of the project's sums and cached answers\n"), "{said:?}");
    let list = desk.run(&["list"]).ends_with(0).out;
    assert!(list.contains("\nc ") && list.lines().count() == 2, "{list}");
    let calls =
        |project| desk.run(&["report", "--project", project, "--json"]).ends_with(0).json()["totals"]["calls"].clone();
    assert_eq!((calls("acme"), calls("other")), (0.into(), 40.into()));
}

#[test]
fn completions_and_man_pages_are_written() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(desk.run(&["completions", shell]).ends_with(0).out.contains("prune"), "{shell}");
    }
    assert!(desk.run(&["man"]).ends_with(0).out.contains(".TH gristmill 1"));
    assert!(desk.run(&["man", "run"]).ends_with(0).out.contains(".TH gristmill-run 1"));
    let said = desk.run(&["man", "submt"]).ends_with(1);
    assert_eq!(said.err, "error: there is no command `submt`\nhint: did you mean `submit`?\n");
}

#[test]
fn a_command_that_is_nearly_one_is_suggested() {
    let said = Desk::new().run(&["reslts"]).ends_with(1);
    assert!(said.err.contains("unrecognized subcommand 'reslts'") && said.err.contains("'results'"), "{said:?}");
}
