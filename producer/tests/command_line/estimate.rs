//! `estimate`, and the estimate of a dry run.

use crate::desk::{Desk, Provider, input};

const NO_KEY: &str = "no key for api.openai.com: set OPENAI_API_KEY (or OPENAI_API_KEY_FILE), or name another endpoint \
                      with --api-base";

#[test]
fn tokens_and_cost_are_estimated_between_two_ends_without_key_or_database() {
    let desk = Desk::new();
    desk.write(
        "in.jsonl",
        r#"{"model":"gpt-4o","prompt":"hi"}
{"model":"gpt-4o","prompt":"hi"}
{"model":"mystery","prompt":"hi"}
"#,
    );
    let said = desk.run(&["estimate", "in.jsonl", "--set", "max_tokens=300"]).ends_with(0);
    let (table, rest) = said.out.split_once("\n\n").unwrap();
    assert_eq!(
        table,
        "MODEL    REQUESTS  INPUT   OUTPUT                                             COST\n\
         gpt-4o          2     16  512–600                                $0.00516–$0.00604\n\
         mystery         1      8  256–300                                          unknown\n\
         total           3     24  768–900  $0.00516–$0.00604 and 1 request of unknown cost"
    );
    assert!(rest.contains("gpt-4o\n  input   counted with the model's own vocabulary\n"), "{rest}");
    assert!(rest.contains("  output  at least 256 tokens each, since no earlier call tells\n"), "{rest}");
    assert!(rest.contains("          at most max_tokens\n  price   gpt-4o@"), "{rest}");
    assert!(rest.contains(&format!("no deployment is configured here ({NO_KEY})\n")), "{rest}");
    assert!(rest.contains("  note    no price is known: what 1 request would cost is unknown\n"), "{rest}");
    assert!(rest.contains("\ncounted 3 requests in "), "{rest}");
    assert!(!desk.path(".gristmill").exists(), "nothing is made");
}

#[test]
fn numbers_for_machines_are_exact_and_unknown_is_null() {
    let desk = Desk::new();
    desk.write("a.csv", "prompt\nhi\n");
    desk.write("b.csv", "prompt\nhi\nho\n");
    let key = [("OPENAI_API_KEY", "x")];
    let models = ["--model", "gpt-4o", "--model", "mystery", "--repeat", "2", "--json"];
    let json = desk.run_with(&key, &[&["estimate", "a.csv", "b.csv"][..], &models].concat()).ends_with(0).json();
    let (known, unknown) = (&json["models"][0], &json["models"][1]);
    assert_eq!((&known["requests"], &known["counted"], &json["requests"]), (&6.into(), &6.into(), &12.into()));
    assert_eq!((&known["input_tokens"], &known["output_tokens_low"]), (&48.into(), &(6 * 256).into()));
    assert_eq!(known["output_tokens_high"], 6 * 16_384);
    assert_eq!(known["requests_without_max_tokens"], 6);
    assert_eq!(known["cost_pico_usd_high"], 48 * 2_500_000_u64 + 6 * 16_384 * 10_000_000_u64);
    assert_eq!(json["cost_pico_usd_low"], known["cost_pico_usd_low"]);
    for null in [&unknown["cost_usd_low"], &unknown["output_tokens_high"], &unknown["cost_pico_usd_high"]] {
        assert!(null.is_null(), "{unknown}");
    }
    assert_eq!((&unknown["unpriced"][0], &json["requests_of_unknown_cost"]), (&"mystery".into(), &6.into()));
}

#[test]
fn the_cheapest_and_the_dearest_deployment_are_the_ends() {
    let desk = Desk::new();
    desk.write("in.csv", "prompt\nhi\n");
    desk.write(
        "gristmill.yaml",
        "model_list:\n\
         - {model_name: fast, litellm_params: {model: openai/gpt-4o-mini, api_key: x}}\n\
         - {model_name: fast, litellm_params: {model: openai/gpt-4o, api_key: x}}\n\
         - {model_name: fast, litellm_params: {model: openai/own, api_base: http://127.0.0.1:9/v1, api_key: x}}\n",
    );
    let arguments = ["estimate", "in.csv", "--model", "fast", "--set", "max_tokens=100", "--json"];
    let json = desk.run(&arguments).ends_with(0).json();
    let model = &json["models"][0];
    // 8 tokens at $0.15 and 100 at $0.60 a million; 8 at $2.50 and 100 at $10.00.
    assert_eq!(
        (&model["cost_pico_usd_low"], &model["cost_pico_usd_high"]),
        (&61_200_000.into(), &1_020_000_000.into())
    );
    assert_eq!((model["prices"].as_array().unwrap().len(), model["unpriced"].as_array().unwrap().len()), (2, 1));
}

#[test]
fn earlier_calls_say_how_long_answers_are() {
    let desk = Desk::with_jobs();
    let provider = Provider::start(&[]);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--api-base", &provider.url]).ends_with(0);
    let lines = desk.lines("out.jsonl");
    let output: u64 = lines.iter().map(|line| line["gristmill"]["output_tokens"].as_u64().unwrap()).sum();
    let json = desk.run(&["estimate", "in.jsonl", "--json"]).ends_with(0).json();
    let model = &json["models"][0];
    let mean = output.div_ceil(40);
    assert_eq!(model["history"], serde_json::json!({ "calls": 40, "mean_output_tokens": mean }));
    assert_eq!(model["output_tokens_low"], 40 * mean);
    let said = desk.run(&["estimate", "in.jsonl"]).ends_with(0);
    assert!(said.out.contains("each, as 40 earlier calls gave on average\n"), "{}", said.out);
}

#[test]
fn a_dry_run_of_a_large_file_shows_an_estimate_from_a_sample() {
    let desk = Desk::new();
    desk.write("in.jsonl", input(0..6_000));
    let said = desk.run(&["submit", "in.jsonl", "--dry-run", "--set", "max_tokens=10"]).ends_with(0);
    let lines: Vec<&str> = said.err.lines().collect();
    let count = |text: &str| -> u64 { text.replace(',', "").parse().unwrap() };
    let sample = lines[2].strip_prefix("extrapolated from ").unwrap();
    // A slow machine reads less of it within the time for a look.
    let counted = count(sample.strip_suffix(" of 6,000 requests").unwrap());
    assert!((1..=4_000).contains(&counted), "{counted}");
    // Up to three digits are a token, which is 10 a request, and four are two.
    let head = counted.min(2_000);
    let of_head = 10 * head + head.saturating_sub(1_000);
    let tokens = if counted > head { of_head + 4_000 * 11 } else { (of_head * 6_000 + head / 2) / head };
    let (told, cost) =
        lines[1].strip_prefix("estimate: 6,000 requests, ").unwrap().split_once(" tokens in, $").unwrap();
    assert_eq!(count(told), tokens);
    // At $2.50 and $10.00 a million.
    let usd = (tokens as f64).mul_add(2.5e-6, 60_000.0 * 10e-6);
    assert!((cost.parse::<f64>().unwrap() - usd).abs() <= 0.001, "{cost} for {usd}");
    let all = desk.run(&["estimate", "in.jsonl", "--json"]).ends_with(0).json();
    let exact = all["models"][0]["input_tokens"].as_u64().unwrap();
    assert!(exact.abs_diff(65_000) < 650, "{exact}");
    let json = desk.run(&["submit", "in.jsonl", "--dry-run", "--json"]).ends_with(0).json();
    assert_eq!(json["estimate"]["requests"], 6_000);
    assert!(json["estimate"]["counted"].as_u64().is_some_and(|counted| (1..=4_000).contains(&counted)), "{json}");
    // Nobody is at the terminal: nobody is asked, and nothing is shown.
    let said = desk.run(&["submit", "in.jsonl"]).ends_with(0);
    assert!(!said.err.contains("estimate"), "{said:?}");
}
