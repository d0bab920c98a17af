//! `price`.

use crate::desk::Desk;

#[test]
fn the_cost_of_a_usage_is_shown_term_by_term() {
    let usage = r#"{"prompt_tokens":1000,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":400}}"#;
    let said = Desk::new().run(&["price", "gpt-4o", "--usage", usage]).ends_with(0);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with("gpt-4o@") && lines[0].ends_with("(litellm 1.109.1, as shipped)"), "{}", said.out);
    assert_eq!(
        lines[1..],
        [
            "",
            "              QUANTITY                RATE     COST",
            "input              600   $2.50 per million  $0.0015",
            "cached input       400   $1.25 per million  $0.0005",
            "output              10  $10.00 per million  $0.0001",
            "total                                       $0.0021",
        ]
    );
    let json = Desk::new().run(&["price", "gpt-4o", "--usage", usage, "--json"]).ends_with(0).json();
    assert_eq!(json["bill"]["total_pico_usd"], 2_100_000_000_u64);
    assert_eq!((&json["cost_usd"], &json["usage"]["cached_tokens"]), (&0.0021.into(), &400.into()));
    assert_eq!(json["bill"]["terms"][1]["rate"], "0.00000125");
}

#[test]
fn an_answer_is_read_from_standard_input_with_its_tier_call_and_hour() {
    let desk = Desk::new();
    let cost = |arguments: &[&str], text: &str| {
        let arguments = [&["price"], arguments, &["--usage", "-", "--json"]].concat();
        desk.feed(&arguments, text).ends_with(0).json()["bill"]["total_pico_usd"].as_u64().unwrap()
    };
    let answer = r#"{"id":"x","usage":{"prompt_tokens":1000000,"completion_tokens":0,"total_tokens":1000000}}"#;
    let usage = r#"{"prompt_tokens":1000,"completion_tokens":0}"#;
    let plain = cost(&["gpt-5.5"], usage);
    assert_eq!(cost(&["gpt-5.5", "--service-tier", "flex"], usage) * 2, plain);
    assert_eq!(cost(&["gpt-4o", "--call", "batch"], answer) * 2, cost(&["gpt-4o"], answer));
    let night = cost(&["deepseek-flash", "--at", "2026-11-23T00:30:00Z"], answer);
    assert_eq!(night * 2, cost(&["deepseek-flash", "--at", "2026-11-23T09:00:00Z"], answer));
    assert_eq!(cost(&["gpt-4o", "--provider", "azure"], answer), cost(&["azure/gpt-4o"], answer));
}

#[test]
fn without_a_usage_the_rates_are_shown() {
    let said = Desk::new().run(&["price", "gpt-4o"]).ends_with(0);
    assert!(said.out.contains("at most 128,000 tokens of input\n"), "{}", said.out);
    let line = said.out.lines().find(|line| line.starts_with("input_cost_per_token ")).unwrap();
    assert!(line.ends_with("  $2.50 per million"), "{line}");
    let json = Desk::new().run(&["price", "gpt-4o", "--json"]).ends_with(0).json();
    assert_eq!((&json["row"]["litellm_provider"], &json["max_input_tokens"]), (&"openai".into(), &128_000.into()));
}

#[test]
fn an_unknown_model_names_near_ones_and_one_without_prices_says_so() {
    let said = Desk::new().run(&["price", "gpt4o"]).ends_with(1);
    assert!(said.err.starts_with("error: litellm 1.109.1, as shipped has no model `gpt4o`\n"), "{}", said.err);
    assert!(said.err.contains("hint: did you mean `gpt-4o`"), "{}", said.err);
    let said = Desk::new().run(&["price", "chatgpt/gpt-5.4", "--usage", r#"{"prompt_tokens":1}"#]).ends_with(0);
    assert!(
        said.out.ends_with("chatgpt/gpt-5.4 has no price of tokens: what calls cost is not known\n"),
        "{}",
        said.out
    );
}

#[test]
fn wrong_usage_and_wrong_tables_are_told() {
    let desk = Desk::new();
    desk.run(&["price", "gpt-4o", "--usage", "{}"]).fails(
        1,
        "error: the JSON is no usage of a provider's\n\
         hint: it has prompt_tokens and completion_tokens, or input_tokens and output_tokens",
    );
    assert!(
        desk.run(&["price", "gpt-4o", "--usage", "{"]).ends_with(1).err.starts_with("error: the usage is not JSON: ")
    );
    desk.write("prices.json", "[]");
    let said = desk.run(&["price", "gpt-4o", "--prices", "prices.json"]).ends_with(1);
    assert!(said.err.starts_with("error: prices.json is not LiteLLM's table of prices: "), "{}", said.err);
    desk.write("prices.json", r#"{"gpt-9": {"litellm_provider": "openai", "input_cost_per_token": 1e-6}}"#);
    let said = desk.run_with(&[("GRISTMILL_PRICES", "prices.json")], &["price", "openai/gpt-9"]).ends_with(0);
    assert!(said.out.contains("(prices.json)") && said.out.contains("$1.00 per million"), "{}", said.out);
}
