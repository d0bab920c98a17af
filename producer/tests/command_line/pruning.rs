//! `prune`, and what is made of the command tree.

use crate::desk::Desk;

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
