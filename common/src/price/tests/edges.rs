//! Cases that the vectors do not have.

use super::*;

const MILLION: u64 = 1_000_000;

fn total(price: &Price, usage: &Usage, terms: &Terms<'_>) -> String {
    price.bill(usage, terms).unwrap().total.to_string()
}

#[test]
fn what_has_no_price_is_unknown_and_what_is_free_costs_nothing() {
    let usage = Usage { prompt_tokens: 5, completion_tokens: 7, ..Usage::default() };
    let copilot = Prices::shipped();
    let key = copilot.keys().find(|key| key.starts_with("chatgpt/")).unwrap();
    assert_eq!(copilot.at_key(key).unwrap().bill(&usage, &Terms::at(noon())), None);
    let free = price(&[("input_cost_per_token", "0"), ("output_cost_per_token", "0")]);
    assert_eq!(total(&free, &usage, &Terms::at(noon())), "$0.00");
}

#[test]
fn a_tier_without_a_rate_has_the_plain_one() {
    let price = price(&[
        ("input_cost_per_token", "2e-6"),
        ("input_cost_per_token_flex", "1e-6"),
        ("output_cost_per_token", "4e-6"),
        ("input_cost_per_token_above_200k_tokens", "3e-6"),
        ("input_cost_per_token_priority", "9e-6"),
    ]);
    let usage = |prompt| Usage { prompt_tokens: prompt, completion_tokens: 100_000, ..Usage::default() };
    for (prompt, tier, wanted) in [
        (100_000, None, "$0.60"),
        (100_000, Some("flex"), "$0.50"),
        (100_000, Some("priority"), "$1.30"),
        (100_000, Some("fast"), "$1.30"),
        (100_000, Some("ultrafast"), "$0.60"),
        // The plain rate above a threshold counts, also where it is lower than the tier's.
        (1_000_000, Some("priority"), "$3.40"),
        (200_000, None, "$0.80"),
        (200_001, None, "$1.000003"),
    ] {
        let terms = Terms { requested_tier: tier, ..Terms::at(noon()) };
        assert_eq!(total(&price, &usage(prompt), &terms), wanted, "{prompt} {tier:?}");
    }
    let deepseek = Terms { requested_tier: Some("flex"), provider: Some("deepseek"), ..Terms::at(noon()) };
    assert_eq!(total(&price, &usage(100_000), &deepseek), "$0.60");
}

#[test]
fn a_batch_has_its_own_rates_or_half_of_the_plain_ones() {
    let usage = Usage {
        prompt_tokens: MILLION,
        cached_tokens: 400_000,
        cache_write_tokens: 100_000,
        completion_tokens: MILLION,
        ..Usage::default()
    };
    let plain = [("input_cost_per_token", "2e-6"), ("output_cost_per_token", "4e-6")];
    let batch = Terms { call: Call::Batch, requested_tier: Some("priority"), ..Terms::at(noon()) };
    for (more, wanted) in [
        // (500,000 + 100,000) x 1, reads without a price free, and 2 for the output.
        (&[][..], "$2.60"),
        (&[("cache_read_input_token_cost", "1e-6")][..], "$2.80"),
        (&[("input_cost_per_token_batches", "0.5e-6")][..], "$2.50"),
        (&[("input_cost_per_token_batches", "0.5e-6"), ("cache_read_input_token_cost_batches", "0")][..], "$2.30"),
        (&[("output_cost_per_token_batches", "1e-6")][..], "$1.60"),
    ] {
        let price = price(&[&plain[..], more].concat());
        assert_eq!(total(&price, &usage, &batch), wanted, "{more:?}");
    }
}

#[test]
fn what_the_provider_says_it_cost_counts_where_it_is_known_to_bill_that() {
    let price = price(&[("input_cost_per_token", "1e-6")]);
    let usage = Usage { prompt_tokens: MILLION, cost_pico_usd: Some(PicoUsd(77)), ..Usage::default() };
    for (provider, wanted) in
        [("openrouter", PicoUsd(77)), ("xai", PicoUsd(77)), ("openai", PicoUsd(1_000_000_000_000))]
    {
        let terms = Terms { provider: Some(provider), ..Terms::at(noon()) };
        let bill = price.bill(&usage, &terms).unwrap();
        assert_eq!((bill.total, bill.is_reported), (wanted, provider != "openai"), "{provider}");
    }
    assert_eq!(Bill::reported(&Usage::default(), "openrouter"), None);
}

#[test]
fn regions_multiply_all_tokens() {
    let usage = Usage { prompt_tokens: MILLION, ..Usage::default() };
    let key = "vertex_ai/claude-opus-5-5";
    let vertex = Prices::shipped().at_key(key).unwrap();
    let bill = |residency| {
        let terms = Terms { provider: Some("vertex_ai"), data_residency: residency, ..Terms::at(noon()) };
        vertex.bill(&usage, &terms).unwrap()
    };
    assert_eq!(bill(Some("global")).total, bill(None).total);
    assert_eq!(bill(Some("europe-west1")).total.0 * 10, bill(None).total.0 * 11);
    assert_eq!(bill(Some("europe-west1")).factors[0].why, "endpoint in europe-west1");
}

#[test]
fn terms_say_what_was_billed_at_which_rate() {
    let usage = Usage { prompt_tokens: 1_000, cached_tokens: 400, completion_tokens: 10, ..Usage::default() };
    let bill = shipped("openai", "gpt-4o").bill(&usage, &Terms::at(noon())).unwrap();
    let terms: Vec<(&str, u64, String)> =
        bill.terms.iter().map(|term| (term.what, term.quantity, term.rate.to_string())).collect();
    assert_eq!(
        terms,
        [
            ("input", 600, "0.0000025".to_owned()),
            ("cached input", 400, "0.00000125".to_owned()),
            ("output", 10, "0.00001".to_owned())
        ]
    );
}

#[test]
fn amounts_that_nobody_has_stay_at_the_largest() {
    let price = price(&[("input_cost_per_token", "1000000"), ("output_cost_per_token", "1e20")]);
    let usage = Usage { prompt_tokens: u64::MAX, completion_tokens: u64::MAX, ..Usage::default() };
    assert_eq!(price.bill(&usage, &Terms::at(noon())).unwrap().total, PicoUsd(i64::MAX));
}

#[test]
fn the_summary_of_an_attempt_can_be_billed() {
    let summary = crate::outcome::Usage {
        input_tokens: Some(1_000),
        cached_input_tokens: Some(400),
        output_tokens: Some(10),
        ..crate::outcome::Usage::default()
    };
    let bill = shipped("openai", "gpt-4o").bill(&Usage::from(&summary), &Terms::at(noon())).unwrap();
    assert_eq!(bill.total.to_string(), "$0.0021");
}

#[test]
fn sums_of_many_calls_have_the_plain_rates() {
    let own = price(&[
        ("input_cost_per_token", "2e-6"),
        ("input_cost_per_token_above_200k_tokens", "4e-6"),
        ("output_cost_per_token", "10e-6"),
        ("output_cost_per_token_flex", "5e-6"),
        ("cache_read_input_token_cost", "2e-7"),
    ]);
    let sum = Usage {
        prompt_tokens: 1_000_000,
        cached_tokens: 500_000,
        completion_tokens: 100_000,
        service_tier: Some("flex".to_owned()),
        ..Usage::default()
    };
    assert_eq!(own.bill_sum(&sum).unwrap().total, "2.10".parse().unwrap());
    assert!(own.bill(&sum, &Terms::at(noon())).unwrap().total != own.bill_sum(&sum).unwrap().total);
    assert_eq!(price(&[]).bill_sum(&sum), None);
    let by_range = shipped("dashscope", "qwen3-coder-plus").bill_sum(&sum).unwrap();
    assert!(by_range.total > PicoUsd::ZERO, "the first range counts");
    let by_hour = shipped("deepseek", "deepseek-flash");
    assert_eq!(
        by_hour.bill_sum(&sum),
        Some(by_hour.bill(&Usage { service_tier: None, ..sum }, &Terms::at(noon())).unwrap())
    );
}
