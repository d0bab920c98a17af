//! Which prices and windows deployments have.

use std::time::Instant;

use super::*;

/// The reference of the price of group a's first deployment, of whose entry this is a part.
fn reference(given: &Given<'_>) -> Option<String> {
    let deployment = given.load().unwrap().deployments_for(&["a"]).unwrap().remove(0);
    Some(deployment.price?.price(Instant::now())?.reference())
}

fn of_entry(part: &str) -> Option<String> {
    let yaml = format!("model_list: [{{model_name: a, {part}}}]");
    reference(&Given { yaml: Some(&yaml), ..Given::default() })
}

#[test]
fn a_price_is_found_by_provider_and_model_or_by_the_base_model() {
    for (part, begin) in [
        ("litellm_params: {model: openai/gpt-4o, api_key: k}", Some("gpt-4o@")),
        ("litellm_params: {model: groq/openai/gpt-oss-120b, api_key: k}", Some("groq/openai/gpt-oss-120b@")),
        ("litellm_params: {model: anthropic/claude-opus-5-5, api_key: k}", Some("claude-opus-5-5@")),
        ("litellm_params: {model: azure/mine, api_base: 'http://h', api_key: k}", None),
        (
            "litellm_params: {model: azure/mine, api_base: 'http://h', api_key: k}, model_info: {base_model: azure/gpt-4o}",
            Some("azure/gpt-4o@"),
        ),
        ("litellm_params: {model: hosted_vllm/gpt-4o, api_base: 'http://h'}", None),
        (
            "litellm_params: {model: hosted_vllm/m, api_base: 'http://h', input_cost_per_token: 1e-7}",
            Some("hosted_vllm/m@custom-"),
        ),
        (
            "litellm_params: {model: openai/gpt-4o, api_key: k}, model_info: {output_cost_per_token_flex: 1e-7}",
            Some("gpt-4o@custom-"),
        ),
    ] {
        let found = of_entry(part);
        match begin {
            None => assert_eq!(found, None, "{part}"),
            Some(begin) => assert!(found.as_ref().is_some_and(|it| it.starts_with(begin)), "{part}: {found:?}"),
        }
    }
}

#[test]
fn prices_of_an_entry_are_used_and_those_that_are_none_refused() {
    let config = yaml(
        "model_list: [{model_name: a, litellm_params: {model: openai/gpt-4o, api_key: k, input_cost_per_token: 0.000001, \
         cache_read_input_token_cost: os.environ/RATE}, model_info: {input_cost_per_token: 5, output_cost_per_token: 0.5}}]",
    );
    assert!(config.unwrap_err().to_string().contains("cache_read_input_token_cost in gristmill.yaml refers to"));
    let deployment = yaml(
        "model_list: [{model_name: a, litellm_params: {model: openai/gpt-4o, api_key: k, input_cost_per_token: 0.000001}, \
         model_info: {input_cost_per_token: 5, output_cost_per_token: 0.5}}]",
    )
    .unwrap();
    assert!(deployment.warnings().is_empty(), "{:?}", deployment.warnings());
    let tariff = deployment.deployments_for(&["a"]).unwrap().remove(0).price.unwrap();
    let rates = tariff.price(Instant::now()).unwrap().plain_rates();
    assert_eq!([rates.0, rates.1].map(|rate| rate.unwrap().to_string()), ["0.000001", "0.5"]);

    let wrong = "model_list: [{model_name: a, litellm_params: {model: openai/gpt-4o, input_cost_per_token: free}}]";
    let error = yaml(wrong).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "model_list[0].litellm_params.input_cost_per_token in gristmill.yaml must be a number of dollars"
        ),
        "{error}"
    );
}

#[test]
fn the_window_is_the_tables_where_the_configuration_says_none() {
    let window = |part: &str| {
        let config = yaml(&format!("model_list: [{{model_name: a, {part}}}]")).unwrap();
        config.deployments_for(&["a"]).unwrap().remove(0).max_input_tokens
    };
    let params = "litellm_params: {model: openai/gpt-4o, api_key: k}";
    assert_eq!(window(params), Some(128_000));
    assert_eq!(window(&format!("{params}, model_info: {{max_input_tokens: 5000}}")), Some(5_000));
    assert_eq!(window("litellm_params: {model: openai/mine, api_base: 'http://h'}"), None);
}

#[test]
fn a_newer_table_is_taken_from_a_file_and_a_wrong_one_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prices.json");
    std::fs::write(&path, r#"{"gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 1e-6}}"#).unwrap();
    let path = path.to_str().unwrap();
    let of = |env: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        reference(&Given {
            yaml: Some("model_list: [{model_name: a, litellm_params: {model: gpt-4o, api_key: k}}]"),
            env,
            flags,
            ..Given::default()
        })
    };
    let shipped = of(&[], &[]);
    assert!(shipped.is_some());
    let newer = of(&[], &[("prices", path)]);
    assert!(newer.is_some() && newer != shipped);
    assert_eq!(of(&[("GRISTMILL_PRICES", path), ("LITELLM_COST_CACHE_TTL", "60")], &[]), newer);
    assert_eq!(of(&[("LITELLM_ENABLE_COST_TRACKING", "False")], &[]), None);

    let error = Given { flags: &[("prices", "none.json")], ..Given::default() }.load().unwrap_err().to_string();
    assert!(error.starts_with("reading the prices of ") && error.contains("none.json"), "{error}");
}
