//! `costs`.

use serde_json::Value;

use crate::desk::{Desk, JOBS, Provider};

/// Makes a directory in which two batches have run, the second with a tag that a spreadsheet would take for a formula.
pub(crate) fn with_batches() -> Desk {
    let desk = Desk::with_jobs();
    let provider = Provider::start(&[]);
    let run = ["run", "in.jsonl", "--api-base", &provider.url, "-q"];
    desk.run(&[&run[..], &["--name", "plain", "-o", "a.jsonl"]].concat()).ends_with(0);
    let more = ["--name", "tagged", "-o", "b.jsonl", "--tag", "team==cmd()", "--project", "web", "--limit", "10"];
    desk.run(&[&run[..], &more].concat()).ends_with(0);
    desk
}

fn lines(json: &Value) -> Vec<(String, u64)> {
    let line = |line: &Value| {
        let names = line["names"].as_object().unwrap().values().map(|name| name.as_str().unwrap_or("-").to_owned());
        (names.collect::<Vec<_>>().join("/"), line["calls"].as_u64().unwrap())
    };
    json["lines"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn costs_are_told_by_what_is_asked_for_and_equal_the_batches_own() {
    let desk = with_batches();
    let costs = |more: &[&str]| desk.run(&[&["costs", "--json"], more].concat()).ends_with(0).json();
    let all = costs(&[]);
    assert_eq!(lines(&all), [("gpt-4o".to_owned(), JOBS as u64 + 10)]);
    let batch = desk.run(&["status", "tagged", "--json"]).ends_with(0).json();
    let of_batch = costs(&["tagged"]);
    assert_eq!(of_batch["total"]["cost_pico_usd"], batch["cost_pico_usd"]);
    assert_eq!((&of_batch["total"]["cost_is"], &of_batch["scope"]["batch"]), (&"exact".into(), &"tagged".into()));
    assert!(of_batch["total"]["cost_usd"].as_str().unwrap().starts_with("0.00"), "{of_batch}");
    assert_eq!(lines(&costs(&["--by", "project,batch"])), [("plain/-".to_owned(), 40), ("tagged/web".to_owned(), 10)]);
    assert_eq!(lines(&costs(&["--project", "web", "--by", "tag:team"])), [("=cmd()".to_owned(), 10)]);
    assert_eq!(lines(&costs(&["--since", "2099-01-01"])), []);
    assert_eq!(lines(&costs(&["--by", "day", "--since", "2d"])).len(), 1);

    let said = desk.run(&["costs", "--by", "batch"]).ends_with(0).out;
    assert!(said.starts_with("BATCH   CALLS  TOKENS IN ") && said.contains("\ntotal      50 "), "{said}");
    let said = desk.run(&["costs", "tagged", "--by", "tag:team", "--csv"]).ends_with(0).out;
    assert!(said.lines().nth(1).unwrap().starts_with("'=cmd(),10,"), "{said}");
}

#[test]
fn the_same_tokens_are_compared_with_other_models() {
    let desk = with_batches();
    let json = desk.run(&["costs", "--compare", "gpt-4o,claude-haiku-4-5", "--json"]).ends_with(0).json();
    let total = &json["total"];
    assert_eq!(total["compare"]["gpt-4o"]["cost_pico_usd"], total["cost_pico_usd"]);
    assert_eq!(total["compare"]["gpt-4o"]["ratio"], 1.0);
    assert!(total["compare"]["claude-haiku-4-5"]["ratio"].as_f64().unwrap() < 1.0, "{total}");
    let said = desk.run(&["costs", "--compare", "gpt-4o"]).ends_with(0).out;
    assert!(said.contains(" (1.00×)\n") && said.contains("\ncompared: "), "{said}");
    let said = desk.run(&["costs", "--compare", "gpt4o"]).ends_with(1);
    assert!(said.err.contains("has no model `gpt4o`\nhint: did you mean `gpt-4o`"), "{said:?}");
}

#[test]
fn what_names_nothing_to_add_up_by_is_told() {
    let desk = Desk::new();
    let said = desk.run(&["costs", "--by", "colour"]).ends_with(1);
    assert!(said.err.contains("`colour` is none of model, provider"), "{said:?}");
    desk.run(&["costs", "--since", "1h", "--until", "2h"]).ends_with(1);
    desk.write("in.csv", "prompt\nhi\n");
    let run = ["run", "in.csv", "--model", "m", "--simulate", "--name", "sweep", "-o", "out.jsonl"];
    desk.run(&run).ends_with(0);
    let said = desk.run(&["costs", "--db", ".gristmill/simulated.db"]).ends_with(0).out;
    assert!(said.contains("$0.00") && !said.contains("unpriced"), "what the simulator answers costs nothing: {said}");
}

#[test]
fn recorded_calls_are_billed_anew_after_a_price_was_corrected() {
    let desk = with_batches();
    let before = desk.run(&["costs", "--json"]).ends_with(0).json()["total"].clone();
    let recompute = |more: &[&str]| desk.run(&[&["costs", "recompute"], more].concat());
    assert!(recompute(&["--dry-run"]).ends_with(0).out.ends_with("\nevery cost is as today's prices have it\n"));
    // Twice the shipped rates of gpt-4o.
    desk.write(
        "prices.json",
        r#"{"gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 5e-6, "output_cost_per_token": 20e-6}}"#,
    );
    let newer = ["--prices", "prices.json"];
    let said = recompute(&[&newer[..], &["--dry-run"]].concat()).ends_with(0).out;
    assert!(said.starts_with("MODEL   CALLS  CHANGED  ") && said.ends_with("\nwould change 50 calls\n"), "{said}");
    let said = recompute(&newer).ends_with(1);
    assert!(said.err.contains("and nobody is there to ask\nhint: add --yes"), "{said:?}");
    let json = recompute(&[&newer[..], &["tagged", "--yes", "--json"]].concat()).ends_with(0).json();
    assert_eq!((&json["total"]["changed"], &json["models"][0]["model"]), (&10.into(), &"gpt-4o".into()));
    let said = recompute(&[&newer[..], &["-y"]].concat()).ends_with(0).out;
    assert!(said.ends_with("\nchanged 40 calls; what they cost before is kept\n"), "{said}");

    let after = desk.run(&["costs", "--json"]).ends_with(0).json()["total"].clone();
    let pico = |total: &Value| total["cost_pico_usd"].as_i64().unwrap();
    assert_eq!(pico(&after), 2 * pico(&before));
    let batch = desk.run(&["status", "tagged", "--json"]).ends_with(0).json();
    let of_batch = desk.run(&["costs", "tagged", "--json"]).ends_with(0).json();
    assert_eq!(of_batch["total"]["cost_pico_usd"], batch["cost_pico_usd"]);
    assert!(desk.run(&["show", "tagged/job-1"]).ends_with(0).out.contains(" by gpt-4o@"));
}

#[test]
fn a_deployments_own_rates_count_without_its_key() {
    let desk = with_batches();
    desk.write(
        "gristmill.yaml",
        "model_list: [{model_name: gpt-4o, litellm_params: {model: openai/gpt-4o, api_key: os.environ/NO_KEY, \
         input_cost_per_token: 0, output_cost_per_token: 0}}]",
    );
    let said = desk.run(&["costs", "recompute", "--yes"]).ends_with(0).out;
    assert!(said.contains("$0.00"), "{said}");
    let total = desk.run(&["costs", "--json"]).ends_with(0).json()["total"].clone();
    assert_eq!((&total["cost_pico_usd"], &total["cost_is"]), (&0.into(), &"exact".into()));
}
