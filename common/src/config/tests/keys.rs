//! Which key goes where.

use super::*;

#[test]
fn without_a_model_list_every_group_goes_to_the_one_endpoint() {
    const OPENAI: &str = "https://api.openai.com/v1";
    let key = ("OPENAI_API_KEY", "sk-openai");
    for (variables, flags, group, wanted) in [
        (vec![key], vec![], "gpt-4o", routed(OPENAI, "gpt-4o", Some("sk-openai"))),
        // LiteLLM's way to write it; at other hosts a slash belongs to the name.
        (vec![key], vec![], "openai/gpt-4o", routed(OPENAI, "gpt-4o", Some("sk-openai"))),
        (
            vec![("OPENAI_BASE_URL", "http://vllm:8000/v1")],
            vec![],
            "openai/gpt-oss-20b",
            routed("http://vllm:8000/v1", "openai/gpt-oss-20b", None),
        ),
        (vec![key, ("OPENAI_BASE_URL", "http://h/v1")], vec![], "m", routed("http://h/v1", "m", Some("sk-openai"))),
        (vec![key, ("OPENAI_API_BASE", "http://h/v1")], vec![], "m", routed("http://h/v1", "m", Some("sk-openai"))),
        (vec![key], vec![("api_base", "http://h/v1")], "m", routed("http://h/v1", "m", Some("sk-openai"))),
        // A key goes only where it belongs.
        (vec![key, ("GRISTMILL_API_BASE", "http://h/v1")], vec![], "m", routed("http://h/v1", "m", None)),
        (vec![key, ("LITELLM_API_BASE", "http://h/v1")], vec![], "m", routed("http://h/v1", "m", None)),
        (
            vec![key, ("LITELLM_API_BASE", "http://h/v1"), ("LITELLM_API_KEY", "sk-litellm")],
            vec![],
            "openai/m",
            routed("http://h/v1", "m", Some("sk-litellm")),
        ),
        (vec![key, ("LITELLM_API_KEY", "sk-litellm")], vec![], "m", routed(OPENAI, "m", Some("sk-openai"))),
        (
            vec![("LITELLM_API_BASE", "http://l/v1"), ("LITELLM_API_KEY", "sk-litellm")],
            vec![("api_base", "http://h/v1")],
            "m",
            routed("http://h/v1", "m", None),
        ),
        (
            vec![key, ("GRISTMILL_API_BASE", "http://h/v1"), ("GRISTMILL_API_KEY", "sk-own")],
            vec![],
            "m",
            routed("http://h/v1", "m", Some("sk-own")),
        ),
        (vec![key, ("GRISTMILL_API_BASE", OPENAI)], vec![], "m", routed(OPENAI, "m", Some("sk-openai"))),
    ] {
        let config = Given { env: &variables, flags: &flags, ..Given::default() }.load().unwrap();
        assert_eq!(config.groups(), None);
        assert_eq!(route(&config, group), wanted, "{variables:?} {flags:?}");
    }
}

#[test]
fn each_group_gets_one_deployment_named_after_it() {
    let config = env(&[("OPENAI_BASE_URL", "http://h/v1"), ("LITELLM_MODEL", "a")]);
    let deployments = config.deployments_for(&["a", "b", "a"]).unwrap();
    let names: Vec<_> = deployments.iter().map(|deployment| (&*deployment.name, &*deployment.group)).collect();
    assert_eq!(names, [("a", "a"), ("b", "b")]);
    assert_eq!(config.model.as_deref(), Some("a"));
    assert_eq!(config.deployments().unwrap().len(), 1);
}

#[test]
fn a_missing_key_is_a_fault_of_the_set_up_and_says_what_to_set() {
    for (variables, note) in [
        (vec![], ""),
        (vec![("LITELLM_API_KEY", "canary")], "LITELLM_API_KEY is sent to LITELLM_API_BASE only"),
        (vec![("GRISTMILL_API_KEY", "canary")], "GRISTMILL_API_KEY is sent to"),
    ] {
        let error = env(&variables).deployments_for(&["gpt-4o"]).unwrap_err();
        let text = error.to_string();
        assert!(error.is_setup_fault() && text.contains("set OPENAI_API_KEY") && text.contains(note), "{text}");
        assert!(!text.contains("canary"));
    }
}

#[test]
fn providers_that_are_not_built_in_are_named() {
    let config = env(&[("OPENAI_API_KEY", "k")]);
    let error = config.deployments_for(&["bedrock/claude-sonnet-4"]).unwrap_err();
    assert!(error.is_setup_fault());
    let text = error.to_string();
    assert!(
        text.starts_with("provider `bedrock` of model `bedrock/claude-sonnet-4` is not built in: built in are openai, azure, anthropic, ")
            && text.ends_with("; a server that speaks OpenAI's API is openai/<model> with its api_base"),
        "{text}"
    );
    let near = config.deployments_for(&["antropic/claude-opus-5-5"]).unwrap_err().to_string();
    assert!(near.contains("is not built in: did you mean anthropic? built in are"), "{near}");
    let vllm = env(&[("HOSTED_VLLM_API_BASE", "http://gpu:8000/v1")]);
    assert_eq!(route(&vllm, "hosted_vllm/meta-llama/Llama-3.1-8B").1, "meta-llama/Llama-3.1-8B");
    let named = env(&[("OPENAI_BASE_URL", "http://gpu:8000/v1")]);
    assert_eq!(route(&named, "meta-llama/Llama-3.1-8B").1, "meta-llama/Llama-3.1-8B");
}

#[test]
fn every_provider_has_its_own_endpoint_and_key() {
    let all = [
        ("OPENAI_API_KEY", "sk-openai"),
        ("ANTHROPIC_API_KEY", "sk-ant"),
        ("AZURE_API_KEY", "azure-key"),
        ("AZURE_API_BASE", "https://r.openai.azure.com"),
        ("AZURE_API_VERSION", "2024-10-21"),
        ("GROQ_API_KEY", "gsk"),
        ("OLLAMA_API_BASE", "http://gpu:11434"),
    ];
    let config = env(&all);
    for (group, base, model, key, dialect) in [
        ("gpt-4o", "https://api.openai.com/v1", "gpt-4o", Some("sk-openai"), Dialect::OpenAi),
        (
            "anthropic/claude-opus-5-5",
            "https://api.anthropic.com/",
            "claude-opus-5-5",
            Some("sk-ant"),
            Dialect::Anthropic,
        ),
        ("azure/mine", "https://r.openai.azure.com/", "mine", Some("azure-key"), Dialect::Azure),
        (
            "groq/llama-3.3-70b-versatile",
            "https://api.groq.com/openai/v1",
            "llama-3.3-70b-versatile",
            Some("gsk"),
            Dialect::OpenAi,
        ),
        ("ollama/llama3", "http://gpu:11434/", "llama3", None, Dialect::OpenAi),
    ] {
        assert_eq!(route(&config, group), routed(base, model, key), "{group}");
        let deployment = config.deployments_for(&[group]).unwrap().remove(0);
        assert_eq!(deployment.wire.dialect, dialect);
        assert_eq!(&*deployment.provider, group.split_once('/').map_or("openai", |(provider, _)| provider));
        assert_eq!(deployment.wire.api_version.as_deref(), (dialect == Dialect::Azure).then_some("2024-10-21"));
    }
    let error = |group: &str| config.deployments_for(&[group]).unwrap_err().to_string();
    assert_eq!(error("mistral/x"), "no key for api.mistral.ai: set MISTRAL_API_KEY (or MISTRAL_API_KEY_FILE)");
    let bare = env(&[]).deployments_for(&["azure/mine"]).unwrap_err();
    assert!(bare.is_setup_fault());
    assert_eq!(
        bare.to_string(),
        "no endpoint for provider `azure`: set AZURE_API_BASE, or api_base in its entry of model_list"
    );
}

#[test]
fn a_key_of_one_host_goes_to_no_other() {
    let variables = [
        ("AZURE_API_KEY", "azure-key"),
        ("AZURE_API_BASE", "https://mine.openai.azure.com"),
        ("ANTHROPIC_API_KEY", "sk-ant"),
        ("GROQ_API_KEY", "gsk"),
    ];
    let config = Given {
        yaml: Some(
            "model_list:\n\
             - {model_name: other, litellm_params: {model: azure/d, api_base: 'https://theirs.openai.azure.com'}}\n\
             - {model_name: proxy, litellm_params: {model: anthropic/c, api_base: 'http://proxy:4000'}}\n\
             - {model_name: fake, litellm_params: {model: groq/m, api_base: 'https://api.groq.com.evil.example/v1'}}\n\
             - {model_name: mine, litellm_params: {model: azure/d}}\n\
             - {model_name: token, litellm_params: {model: azure/d, api_base: 'https://theirs.openai.azure.com', azure_ad_token: t}}\n",
        ),
        env: &variables,
        ..Given::default()
    }
    .load()
    .unwrap();
    let error = config.deployments_for(&["other"]).unwrap_err().to_string();
    assert!(error.contains("AZURE_API_KEY is sent to AZURE_API_BASE only"), "{error}");
    assert_eq!(route(&config, "proxy").2, None);
    assert_eq!(route(&config, "fake").2, None);
    assert_eq!(route(&config, "mine").2.as_deref(), Some("azure-key"));
    let token = config.deployments_for(&["token"]).unwrap().remove(0);
    assert!(token.wire.bearer && token.api_key.is_some());
}

#[test]
fn a_key_file_that_is_not_there_matters_only_to_who_needs_it() {
    let config = env(&[("OPENAI_API_KEY_FILE", "/nowhere/key"), ("GROQ_API_KEY", "gsk")]);
    assert_eq!(route(&config, "groq/m").2.as_deref(), Some("gsk"));
    let error = config.deployments_for(&["gpt-4o"]).unwrap_err();
    assert!(error.is_setup_fault() && error.to_string().contains("/nowhere/key"), "{error}");
}

#[test]
fn a_key_file_that_is_missing_is_a_fault_of_the_deployments_that_need_it_alone() {
    let list = "model_list:\n  - {model_name: a, litellm_params: {model: openai/a, api_key: os.environ/OPENAI_API_KEY}}\n  \
                - {model_name: b, litellm_params: {model: openai/b, api_base: 'http://b/v1'}}\n";
    let missing = [("OPENAI_API_KEY_FILE", "/nonexistent/key")];
    for yaml in [Some(list), None] {
        let config = Given { yaml, env: &missing, ..Given::default() }.load().unwrap();
        let error = config.deployments_for(&["a"]).unwrap_err();
        assert!(error.to_string().starts_with("OPENAI_API_KEY_FILE names /nonexistent/key, which cannot be read"));
        assert!(error.is_setup_fault());
    }
    let config = Given { yaml: Some(list), env: &missing, ..Given::default() }.load().unwrap();
    assert_eq!(route(&config, "b"), routed("http://b/v1", "b", None));
    let address = Given { env: &[("DATABASE_URL_FILE", "/nonexistent/url")], ..Given::default() }.error();
    assert!(address.starts_with("DATABASE_URL_FILE names /nonexistent/url, which cannot be read"), "{address}");
}

#[test]
fn what_azure_lacks_is_named_by_what_is_set() {
    let key = ("AZURE_OPENAI_API_KEY", "azure-key");
    let base = ("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com");
    let (mine, account) = ("MY_KEY", "AZURE_API_KEY");
    let own_key = format!("model: azure/d, api_key: os.environ/{mine}");
    let account_key = format!("model: azure/d, api_key: os.environ/{account}");
    let own_base = "model: azure/d, api_base: 'https://theirs.openai.azure.com'";
    for (params, env, wanted) in [
        (
            own_key.as_str(),
            &[(mine, "k"), base][..],
            "no endpoint for provider `azure`: set api_base in its entry of model_list (its key, MY_KEY, is not sent to \
             AZURE_API_BASE or AZURE_OPENAI_ENDPOINT)",
        ),
        (
            &own_key,
            &[base],
            "model_list[0].litellm_params.api_key in gristmill.yaml refers to the environment variable MY_KEY, which is not \
             set; set it, or put it in ./.env",
        ),
        (
            &account_key,
            &[base],
            "model_list[0].litellm_params.api_key in gristmill.yaml refers to the environment variable AZURE_API_KEY, which \
             is not set; set it, or put it in ./.env",
        ),
        (
            &account_key,
            &[(account, "k")],
            "no endpoint for provider `azure`: set AZURE_API_BASE, or api_base in its entry of model_list",
        ),
        (
            own_base,
            &[key, base],
            "no key for theirs.openai.azure.com: set api_key in its entry of model_list (AZURE_OPENAI_API_KEY is sent to \
             AZURE_OPENAI_ENDPOINT only)",
        ),
        (
            own_base,
            &[],
            "no key for theirs.openai.azure.com: set AZURE_API_KEY (or AZURE_API_KEY_FILE, AZURE_OPENAI_API_KEY, \
             AZURE_AD_TOKEN)",
        ),
    ] {
        let yaml = format!("model_list:\n- {{model_name: m, litellm_params: {{{params}}}}}\n");
        let config = Given { yaml: Some(&yaml), env, ..Given::default() }.load().unwrap();
        assert_eq!(config.deployments_for(&["m"]).unwrap_err().to_string(), wanted, "{params}");
    }
}
