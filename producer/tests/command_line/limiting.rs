//! `limits` on the embedded database: what is shown, what is changed, what is refused.

use crate::desk::{Desk, Provider, Said, wait_until};

fn configure(desk: &Desk, provider: &Provider, rpm: u64) {
    let url = &provider.url;
    let text = format!(
        "model_list:\n  - model_name: gpt-4o\n    litellm_params: {{ model: openai/gpt-4o, api_base: \"{url}\", api_key: x, rpm: {rpm} }}\n  \
         - model_name: local\n    litellm_params: {{ model: openai/local, api_base: \"{url}\" }}\n"
    );
    desk.write("gristmill.yaml", text);
}

#[test]
fn limits_are_shown_set_cleared_and_applied() {
    let desk = Desk::with_jobs();
    let provider = Provider::start(&[]);
    configure(&desk, &provider, 6_000);
    desk.run(&["limits"]).fails(
        1,
        &format!(
            "error: there is no database: no .gristmill/gristmill.db in {} or above it\nhint: set DATABASE_URL or give --db, or \
             begin with `gristmill run FILE -o OUT`",
            desk.path("").canonicalize().unwrap().display()
        ),
    );
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl"]).ends_with(0);
    let set = |arguments: &[&str]| {
        desk.run_with(&[("USER", "ada")], &[&["limits", "set", "gpt-4o"], arguments].concat()).ends_with(0).out
    };
    assert_eq!(
        set(&["--rpm", "1_200", "--max-parallel", "8"]),
        "gpt-4o: 6000 rpm → 1200 rpm, 8 max_parallel_requests\n"
    );
    assert_eq!(set(&["--max-parallel", "none", "--tpd", "90000"]).lines().count(), 1);
    let all = desk.run(&["limits", "--json"]).ends_with(0).json();
    let accounts: Vec<_> = all["accounts"].as_array().unwrap().iter().map(|account| &account["account"]).collect();
    assert_eq!(accounts, ["gpt-4o", "local"]);
    let account = &all["accounts"][0];
    assert_eq!(account["set"], serde_json::json!({ "rpm": 1_200, "tpd": 90_000 }));
    assert!(account["set_by"]["by"].as_str().unwrap().starts_with("ada@"), "{account}");
    let text = desk.run(&["limits"]).ends_with(0).out;
    assert!(text.lines().nth(1).unwrap().starts_with("gpt-4o   1,200 rpm, 90,000 tpd  set by ada@"), "{text}");
    assert!(text.lines().nth(2).unwrap().starts_with("local    no limit known"), "{text}");
    let one = desk.run(&["limits", "gpt-4o"]).ends_with(0).out;
    assert!(one.contains(": set 1200 rpm, 90000 tpd; it was 1200 rpm, 8 max_parallel_requests\n"), "{one}");

    configure(&desk, &provider, 900);
    let shown = desk.run(&["limits", "apply", "-f", "gristmill.yaml", "--dry-run"]).ends_with(0).out;
    assert_eq!(shown, "gpt-4o: 1200 rpm, 90000 tpd → 900 rpm (not done: --dry-run)\n");
    assert_eq!(desk.run(&["limits", "gpt-4o", "--json"]).json()["set"]["rpm"], 1_200);
    let applied = desk.run(&["limits", "apply", "-f", "gristmill.yaml", "--json"]).ends_with(0).json();
    assert_eq!(
        (&applied["changed"][0]["after"], &applied["changed"][0]["dry_run"]),
        (&serde_json::json!({ "rpm": 900 }), &false.into())
    );
    desk.run(&["limits", "apply"]).ends_with(0);
    assert_eq!(desk.run(&["limits", "apply"]).out, "gpt-4o: 900 rpm, as before\n");
    desk.run(&["limits", "clear", "gpt-4o"]).ends_with(0);
    assert_eq!(desk.run(&["limits", "gpt-4o", "--json"]).json()["set"], serde_json::Value::Null);
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let desk = Desk::with_jobs();
    let provider = Provider::start(&[]);
    configure(&desk, &provider, 6_000);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--limit", "1"]).ends_with(0);
    desk.run(&["limits", "set", "gpt4o", "--rpm", "1"])
        .fails(1, "error: there is no account `gpt4o`\nhint: did you mean `gpt-4o`?");
    desk.run(&["limits", "nothing-alike"])
        .fails(1, "error: there is no account `nothing-alike`\nhint: `gristmill limits` shows all of them");
    for (arguments, text) in [
        (&["--rpm", "0"][..], "0 would let no call start; to stop a batch, cancel it"),
        (&["--rpm", "many"], "write a whole number, or none"),
        (&[], "the following required arguments were not provided"),
    ] {
        let said = desk.run(&[&["limits", "set", "gpt-4o"], arguments].concat()).ends_with(1);
        assert!(said.err.contains(text), "{said:?}");
    }
    desk.write("empty.yaml", "concurrency: 4\n");
    desk.run(&["limits", "apply", "-f", "empty.yaml"]).fails(
        1,
        "error: the configuration limits no account\nhint: give rpm, tpm … in an entry of its model_list, or name another file \
         with -f",
    );
}

#[test]
fn a_run_follows_a_limit_that_is_set_meanwhile_and_says_what_it_waits_for() {
    let desk = Desk::with_jobs();
    let provider = Provider::start(&[]);
    configure(&desk, &provider, 30);
    let arguments = ["run", "in.jsonl", "-o", "out.jsonl", "--name", "sweep", "--progress", "json"];
    let run = desk.command(&arguments).spawn().unwrap();
    wait_until("jobs wait for quota", || {
        let said = desk.run(&["status", "sweep"]);
        said.out.contains("gpt-4o: ") && said.out.contains("wait for quota") && said.out.contains("to go ")
    });
    // 40 calls at 30 a minute would take longer than the test waits.
    desk.run(&["limits", "set", "gpt-4o", "--rpm", "6000"]).ends_with(0);
    wait_until("the batch to end", || desk.run(&["status", "sweep", "--json"]).json()["state"] == "finished");
    let said = Said::from(run.wait_with_output().unwrap()).ends_with(0);
    let waited = said.err.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).any(|view| {
        let model = &view["models"][0];
        model["model"] == "gpt-4o" && model["waiting_for_quota"].as_u64().is_some_and(|jobs| jobs > 0)
    });
    assert!(waited, "{said:?}");
}
