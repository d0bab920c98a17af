//! Which row counts, and what it says.

use super::*;

#[test]
fn the_shipped_table_is_read_in_full() {
    let prices = Prices::shipped();
    assert_eq!(prices.keys().count(), 3_653);
    assert!(prices.source().starts_with("litellm 1.109.1"));
    let without: Vec<&str> =
        prices.keys().filter(|key| !prices.at_key(key).is_some_and(|price| price.has_token_prices())).collect();
    assert_eq!(without.len(), 119, "{without:?}");
}

#[test]
fn a_model_is_found_by_its_provider_then_by_its_name_then_behind_its_first_slash() {
    let prices = Prices::shipped();
    for (provider, model, key) in [
        ("openai", "gpt-4o", Some("gpt-4o")),
        ("azure", "gpt-4o", Some("azure/gpt-4o")),
        ("azure", "azure/gpt-4o", Some("azure/gpt-4o")),
        ("anthropic", "claude-opus-5-5", Some("claude-opus-5-5")),
        ("gemini", "gemini-3.8-flash", Some("gemini/gemini-3.8-flash")),
        ("deepseek", "deepseek-flash", Some("deepseek/deepseek-flash")),
        ("openai", "openai/gpt-4o", Some("gpt-4o")),
        ("xai", "grok-4.3", Some("xai/grok-4.3")),
        ("openai", "no-such-model", None),
        // A server of one's own is not billed as OpenAI.
        ("hosted_vllm", "gpt-4o", None),
        ("bedrock", "global.openai.gpt-6-astra", Some("global.openai.gpt-6-astra")),
    ] {
        let found = prices.find(provider, model);
        assert_eq!(found.as_deref().map(Price::key), key, "{provider} {model}");
    }
}

#[test]
fn a_reference_names_the_row_and_changes_with_its_prices() {
    let price = shipped("openai", "gpt-4o");
    let (key, hash) = price.reference().split_once('@').map(|(key, hash)| (key.to_owned(), hash.to_owned())).unwrap();
    assert_eq!((key.as_str(), hash.len()), ("gpt-4o", 8));
    let own = Price::with_overrides(Some(&price), "x", [("input_cost_per_token", "0.000001")]).unwrap();
    assert!(own.reference().starts_with("gpt-4o@custom-") && !own.reference().ends_with(&hash));
    assert_eq!(price.reference(), shipped("openai", "gpt-4o").reference());
}

#[test]
fn a_row_has_what_bills_depend_on_and_no_more() {
    let row: serde_json::Value = serde_json::from_str(shipped("openai", "gpt-4o").row()).unwrap();
    assert!(row["input_cost_per_token"].is_number() && row.get("supports_vision").is_none(), "{row}");
    assert_eq!(shipped("openai", "gpt-4o").max_input_tokens(), Some(128_000));
    let titan = Prices::shipped().at_key("vercel_ai_gateway/amazon/titan-embed-text-v2").unwrap();
    assert_eq!(titan.max_input_tokens(), None);
}

#[test]
fn prices_of_a_deployments_own_stand_over_those_of_the_row() {
    let base = shipped("openai", "gpt-4o");
    let own = Price::with_overrides(Some(&base), "x", [("input_cost_per_token", "1e-6")]).unwrap();
    let usage = Usage { prompt_tokens: 1_000_000, completion_tokens: 1_000_000, ..Usage::default() };
    assert_eq!(own.bill(&usage, &Terms::at(noon())).unwrap().total, "11".parse().unwrap());
    assert_eq!(own.max_input_tokens(), Some(128_000));

    let alone = price(&[("output_cost_per_token", "0.00001")]);
    assert_eq!(alone.bill(&usage, &Terms::at(noon())).unwrap().total, "10".parse().unwrap());
    for (field, text) in [("input_cost_per_token", "-1"), ("input_cost_per_token", "cheap"), ("rpm", "1")] {
        let error = Price::with_overrides(None, "x", [(field, text)]).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

#[test]
fn a_newer_file_of_litellms_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prices.json");
    let text = r#"{
        "sample_spec": {"input_cost_per_token": 0, "litellm_provider": "one of https://docs.litellm.ai/docs/providers"},
        "fallback_generalizations": [{"pattern": "^gpt"}],
        "gpt-9": {
            "litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 2e-06, "something_new": {"a": [1]},
            "search_context_cost_per_query": { "search_context_size_medium": 0.01 }
        }
    }"#;
    std::fs::write(&path, text).unwrap();
    let prices = Prices::from_file(&path).unwrap();
    assert_eq!(prices.keys().collect::<Vec<_>>(), ["gpt-9"]);
    let price = prices.find("openai", "gpt-9").unwrap();
    assert_eq!(
        price.row(),
        r#"{"input_cost_per_token":2e-06,"litellm_provider":"openai","search_context_cost_per_query":{"search_context_size_medium":0.01}}"#
    );
    assert_eq!(prices.source(), path.display().to_string());

    for (text, wanted) in [("[]", "is not LiteLLM's table"), ("{", "is not LiteLLM's table"), ("{}", "names no model")]
    {
        std::fs::write(&path, text).unwrap();
        let error = Prices::from_file(&path).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("prices.json"), "{error}");
    }
    assert!(
        Prices::from_file(&directory.path().join("none")).unwrap_err().to_string().starts_with("reading the prices")
    );
}
