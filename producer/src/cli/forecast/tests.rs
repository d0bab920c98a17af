use super::*;

fn plan(model: &str, history: Option<History>) -> Plan {
    let prices = gristmill_common::price::Prices::shipped();
    let mut plan = Plan { choices: Vec::new(), history, priced: Vec::new(), unpriced: Vec::new(), unserved: None };
    plan.choose(&"d".into(), Some("openai"), model, prices.find("openai", model), None);
    plan
}

fn job(body: &'static str) -> NewJob {
    NewJob {
        custom_id: "a".into(),
        endpoint: "/v1/chat/completions".into(),
        model: "m".into(),
        body: body.into(),
        options: gristmill_common::job::JobOptions::default(),
    }
}

#[test]
fn output_lies_between_what_calls_gave_and_what_they_may_give() {
    let at = DateTime::UNIX_EPOCH;
    let estimate = |plan: &Plan, body| plan.estimate(&job(body), &mut Vec::new(), at);
    let known = plan("gpt-4o", Some(History { calls: 9, mean: 100 }));
    let sums = estimate(&known, r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":500,"n":2}"#);
    assert_eq!((sums.low_tokens, sums.high_tokens, sums.bounded_by_model), (200, 1_000, 0));
    // 8 tokens at $2.50, 200 and 1,000 at $10.00 a million.
    assert_eq!((sums.input_tokens, sums.low_pico_usd, sums.high_pico_usd), (8, 2_020_000_000, 10_020_000_000));
    let sums = estimate(&known, r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":5}"#);
    assert_eq!((sums.low_tokens, sums.high_tokens), (5, 5));
    let sums = estimate(&plan("gpt-4o", None), r#"{"messages":[{"role":"user","content":"hi"}]}"#);
    assert_eq!((sums.low_tokens, sums.high_tokens, sums.bounded_by_model), (USUAL_OUTPUT.into(), 16_384, 1));
}

#[test]
fn what_has_no_price_or_no_bound_is_unknown_and_not_nothing() {
    let unknown = plan("no-such-model", None);
    let body = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
    let sums = unknown.estimate(&job(body), &mut Vec::new(), DateTime::UNIX_EPOCH);
    let forecast = unknown.forecast(1, 1, sums);
    assert_eq!((forecast.cost(), forecast.most_output()), ((None, None), None));
    assert_eq!((forecast.unpriced.len(), forecast.priced.len()), (1, 0));
}

#[test]
fn a_service_tier_counts_and_embeddings_give_nothing() {
    let flex = plan("gpt-5.5", None);
    let plain = r#"{"input":"hi there","max_output_tokens":10}"#;
    let tier = r#"{"input":"hi there","max_output_tokens":10,"service_tier":"flex"}"#;
    let cost = |body| flex.estimate(&job(body), &mut Vec::new(), DateTime::UNIX_EPOCH).high_pico_usd;
    assert_eq!(cost(tier) * 2, cost(plain));
    let embedding = plan("text-embedding-3-small", None);
    let job = NewJob { endpoint: "/v1/embeddings".into(), ..job(r#"{"input":"hi there"}"#) };
    let sums = embedding.estimate(&job, &mut Vec::new(), DateTime::UNIX_EPOCH);
    assert_eq!((sums.input_tokens, sums.low_tokens, sums.high_tokens, sums.unbounded), (2, 0, 0, 0));
    assert_eq!(sums.high_pico_usd, 40_000);
}

#[test]
fn sums_are_scaled_to_all_requests() {
    let sums = Sums { requests: 3, input_tokens: 10, high_pico_usd: 7, ..Sums::default() };
    let all = sums.scaled(30);
    assert_eq!((all.requests, all.input_tokens, all.high_pico_usd), (30, 100, 70));
}
