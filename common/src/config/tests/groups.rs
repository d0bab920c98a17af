//! Which entries serve a group: by its name, a pattern, or an alias.

use super::*;

const WILD: &str = "
model_list:
- {model_name: 'openai/*', litellm_params: {model: 'openai/*', api_key: sk-any, rpm: 60}}
- {model_name: 'openai/gpt-*', litellm_params: {model: 'openai/gpt-*', api_key: sk-gpt}, model_info: {id: gpts}}
- {model_name: openai/gpt-4o, litellm_params: {model: openai/gpt-4o-2024-11-20, api_key: sk-exact}}
- {model_name: 'local-*', litellm_params: {model: openai/llama, api_base: 'http://local/v1'}}
router_settings:
  model_group_alias: {gpt-4: openai/gpt-4o, o3: {model: openai/o3, hidden: true}, small: local-small}
";

#[test]
fn a_name_wins_over_patterns_and_a_long_pattern_over_a_short_one() {
    let config = yaml(WILD).unwrap();
    const OPENAI: &str = "https://api.openai.com/v1";
    for (group, wanted, name, account) in [
        ("openai/gpt-4o", routed(OPENAI, "gpt-4o-2024-11-20", Some("sk-exact")), "openai/gpt-4o", "openai/gpt-4o"),
        ("openai/gpt-5", routed(OPENAI, "gpt-5", Some("sk-gpt")), "gpts:openai/gpt-5", "gpts"),
        ("openai/o3-mini", routed(OPENAI, "o3-mini", Some("sk-any")), "openai/o3-mini", "openai/*"),
        ("local-7b", routed("http://local/v1", "llama", None), "local-7b", "local-*"),
        // Aliases are further groups.
        ("gpt-4", routed(OPENAI, "gpt-4o-2024-11-20", Some("sk-exact")), "gpt-4", "openai/gpt-4o"),
        ("o3", routed(OPENAI, "o3", Some("sk-any")), "o3", "openai/*"),
        ("small", routed("http://local/v1", "llama", None), "small", "local-*"),
    ] {
        assert_eq!(route(&config, group), wanted, "{group}");
        let deployment = config.deployments_for(&[group]).unwrap().remove(0);
        assert_eq!((&*deployment.name, &*deployment.group, &*deployment.account), (name, group, account));
    }
    let unknown = config.deployments_for(&["azure/gpt-4o"]).unwrap_err();
    assert!(matches!(unknown, Error::UnknownGroup { .. }), "{unknown}");
}

#[test]
fn the_provider_of_any_model_is_told_by_its_name() {
    let config = Given {
        yaml: Some("model_list: [{model_name: '*', litellm_params: {model: '*'}}]"),
        env: &[("ANTHROPIC_API_KEY", "sk-ant"), ("OPENAI_API_KEY", "sk-openai")],
        ..Given::default()
    }
    .load()
    .unwrap();
    assert_eq!(
        route(&config, "anthropic/claude-opus-5-5"),
        routed("https://api.anthropic.com/", "claude-opus-5-5", Some("sk-ant"))
    );
    assert_eq!(route(&config, "gpt-4o"), routed("https://api.openai.com/v1", "gpt-4o", Some("sk-openai")));
    let route = config.routes().remove(0);
    assert_eq!((route.provider.as_str(), route.endpoint.as_str(), route.problem), ("any", "each its own", None));
    assert!(config.deployments_for(&["groq/llama"]).unwrap_err().to_string().contains("GROQ_API_KEY"));
}

#[test]
fn a_worker_serves_what_has_a_name_and_is_told_the_names_of_the_rest() {
    let config = yaml(WILD).unwrap();
    let groups: Vec<_> = config.groups().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(groups, ["openai/*", "openai/gpt-*", "openai/gpt-4o", "local-*", "gpt-4", "small"]);
    let served: Vec<_> = config.deployments().unwrap().iter().map(|d| d.group.to_string()).collect();
    assert_eq!(served, ["openai/gpt-4o", "gpt-4", "o3", "small"]);
    assert_eq!(
        config.notices(),
        [
            "`openai/*`, `openai/gpt-*`, `local-*` of model_list: a worker serves those of these models that --model names"
        ]
    );

    let only = "model_list: [{model_name: 'openai/*', litellm_params: {model: 'openai/*', api_key: k}}]";
    let error = yaml(only).unwrap().deployments().unwrap_err();
    assert!(error.is_setup_fault());
    assert_eq!(
        error.to_string(),
        "`openai/*` of model_list stands for many models: name those that are to be served, each with --model openai/<name>"
    );
    let named = yaml(&format!("{only}\nmodel: openai/gpt-4o")).unwrap().deployments().unwrap();
    assert_eq!(&*named[0].group, "openai/gpt-4o");
    assert!(yaml(only).unwrap().deployments_for(&["openai/*"]).is_err());
}

#[test]
fn an_alias_wins_over_an_entry_of_its_name() {
    let list = "model_list:\n- {model_name: a, litellm_params: {model: a, api_base: 'http://a'}}\n\
                - {model_name: b, litellm_params: {model: b, api_base: 'http://b'}}\n\
                - {model_name: b, litellm_params: {model: c, api_base: 'http://c'}}\n";
    let config = yaml(&format!("{list}router_settings: {{model_group_alias: {{a: b}}}}")).unwrap();
    let deployments = config.deployments_for(&["a"]).unwrap();
    let seen: Vec<_> = deployments.iter().map(|d| (&*d.name, &*d.model, &*d.account)).collect();
    assert_eq!(seen, [("a", "b", "b"), ("a#2", "c", "b#2")]);
    assert_eq!(config.groups().unwrap().len(), 2);
}

#[test]
fn without_a_model_list_an_alias_names_the_model() {
    let config = Given {
        yaml: Some("router_settings: {model_group_alias: {fast: gpt-4o-mini}}"),
        env: &[("OPENAI_API_KEY", "k")],
        ..Given::default()
    }
    .load()
    .unwrap();
    let deployment = config.deployments_for(&["fast"]).unwrap().remove(0);
    assert_eq!((&*deployment.name, &*deployment.group, &*deployment.model), ("fast", "fast", "gpt-4o-mini"));
    assert_eq!(config.groups(), None);
}
