//! What an entry of `model_list` says.

use super::*;

#[test]
fn an_entry_says_how_it_is_spoken_to() {
    let config = Given {
        yaml: Some(
            "litellm_settings: {drop_params: true}\n\
             model_list:\n\
             - model_name: a\n  \
               litellm_params:\n    \
                 {model: m, api_base: 'http://h/v1', api_version: v, stream: true, max_tokens: 99, organization: org-1,\n    \
                  extra_headers: {X-Tenant: os.environ/TENANT}}\n\
             - {model_name: b, litellm_params: {model: m, api_base: 'http://h/v1', drop_params: false}}\n",
        ),
        env: &[("TENANT", "t-7")],
        ..Given::default()
    }
    .load()
    .unwrap();
    let wire = config.deployments_for(&["a"]).unwrap().remove(0).wire;
    assert!(wire.drop_params && wire.stream);
    assert_eq!((wire.api_version.as_deref(), wire.max_tokens), (Some("v"), Some(99)));
    let headers: Vec<_> = wire.headers.iter().map(|header| (&*header.name, header.value.expose_secret())).collect();
    assert_eq!(headers, [("openai-organization", "org-1"), ("x-tenant", "t-7")]);
    let wire = config.deployments_for(&["b"]).unwrap().remove(0).wire;
    assert!(!wire.drop_params && !wire.stream);
    let error = yaml("model_list: [{model_name: a, litellm_params: {model: m, stream: maybe}}]").unwrap_err();
    assert!(error.to_string().contains("must be true or false, not `maybe`"), "{error}");
}

const LIST: &str = "
model_list:
- model_name: gpt-4o
  litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY, rpm: 60}
- model_name: gpt-4o
  model_info: {id: spare}
  litellm_params: {model: gpt-4o-2024-11-20, api_base: 'http://spare/v1', api_key: sk-literal, num_retries: 9}
- model_name: gpt-4o
  litellm_params: {model: openai/gpt-4o, api_base: 'http://third/v1', timeout: 20, max_parallel_requests: 7}
- model_name: mini
  litellm_params: {model: openai/gpt-4o-mini}
- model_name: claude
  litellm_params: {model: anthropic/claude-sonnet-4, api_key: os.environ/ANTHROPIC_API_KEY}
- model_name: keyless
  litellm_params: {model: m, api_base: 'http://local/v1'}
- model_name: own-key
  litellm_params: {model: m, api_key: os.environ/OTHER_KEY}
";

#[test]
fn entries_of_a_model_list_keep_their_own_keys_and_endpoints() {
    let given = Given {
        yaml: Some(LIST),
        env: &[("OPENAI_API_KEY", "sk-openai"), ("OTHER_KEY", "sk-other"), ("OPENAI_BASE_URL", "http://proxy/v1")],
        ..Given::default()
    };
    let config = given.load().unwrap();
    let deployments = config.deployments_for(&["gpt-4o"]).unwrap();
    let seen: Vec<_> = deployments
        .iter()
        .map(|d| {
            let key = d.api_key.as_ref().map(|key| key.expose_secret().to_owned());
            (d.name.to_string(), d.model.to_string(), d.api_base.0.to_string(), key)
        })
        .collect();
    let row = |name: &str, model: &str, base: &str, key: Option<&str>| {
        (name.to_owned(), model.to_owned(), base.to_owned(), key.map(str::to_owned))
    };
    assert_eq!(
        seen,
        [
            row("gpt-4o", "gpt-4o", "http://proxy/v1", Some("sk-openai")),
            row("spare", "gpt-4o-2024-11-20", "http://spare/v1", Some("sk-literal")),
            row("gpt-4o#3", "gpt-4o", "http://third/v1", None),
        ]
    );
    assert_eq!(deployments[0].key_source.as_deref(), Some("OPENAI_API_KEY"));
    assert_eq!(deployments[1].key_source.as_deref(), Some("model_list[1].litellm_params.api_key in gristmill.yaml"));
    assert_eq!((deployments[1].num_retries, deployments[2].limits.max_parallel_requests), (Some(9), Some(7)));
    assert_eq!((deployments[2].timeouts.total.as_secs(), deployments[2].timeouts.idle.as_secs()), (20, 20));

    assert_eq!(route(&config, "mini"), routed("http://proxy/v1", "gpt-4o-mini", Some("sk-openai")));
    assert_eq!(route(&config, "keyless"), routed("http://local/v1", "m", None));
    // Another key was not meant for the endpoint in OPENAI_BASE_URL.
    assert_eq!(route(&config, "own-key"), routed("https://api.openai.com/v1", "m", Some("sk-other")));
    assert_eq!(deployments[0].limits.rpm, Some(60));
}

#[test]
fn faults_of_an_entry_matter_only_to_who_asks_for_it() {
    let config = Given { yaml: Some(LIST), env: &[("OPENAI_API_KEY", "k")], ..Given::default() }.load().unwrap();
    assert!(config.deployments_for(&["mini", "keyless"]).is_ok());
    let error = config.deployments_for(&["own-key"]).unwrap_err();
    assert!(error.is_setup_fault() && error.to_string().contains("variable OTHER_KEY, which is not set"), "{error}");
    assert!(config.deployments_for(&["claude"]).unwrap_err().to_string().contains("variable ANTHROPIC_API_KEY"));
    assert!(config.deployments().is_err());
    let groups: Vec<_> = config.groups().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(groups, ["gpt-4o", "mini", "claude", "keyless", "own-key"]);
}

#[test]
fn an_unknown_group_is_named_with_the_near_one() {
    let config = Given { yaml: Some(LIST), ..Given::default() }.load().unwrap();
    let near = config.deployments_for(&["gpt4o"]).unwrap_err().to_string();
    assert_eq!(near, "no entry of model_list serves model `gpt4o`; did you mean `gpt-4o`?");
    let far = config.deployments_for(&["llama-3-70b"]).unwrap_err().to_string();
    assert!(far.ends_with("it has `claude`, `gpt-4o`, `keyless`, `mini`, `own-key`"), "{far}");
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let entry = "{model_name: a, model_info: {id: x}, litellm_params: {model: a, api_base: 'http://h'}}";
    let error = yaml(&format!("model_list: [{entry}, {entry}]")).unwrap_err().to_string();
    assert!(error.contains("model_list[1].model_info.id in gristmill.yaml is `x`, which another entry has"), "{error}");
}

/// The first deployment of group a, of whose entry this is a part.
fn entry(part: &str) -> Result<Deployment, Error> {
    let config = yaml(&format!("model_list: [{{model_name: a, {part}}}]"))?;
    Ok(config.deployments_for(&["a"])?.remove(0))
}

#[test]
fn an_entry_says_how_it_shares_the_groups_work() {
    let plain = entry("litellm_params: {model: m, api_base: 'http://h'}").unwrap();
    assert_eq!((plain.weight, plain.order, plain.tags.len(), plain.defaults.len()), (1, 1, 0, 0));
    assert_eq!((plain.max_input_tokens, plain.cooldown, plain.allowed_fails), (None, None, None));
    let full = entry(
        "litellm_params: {model: m, api_base: 'http://h', weight: 4, order: 2, tags: [free, eu]}, \
         model_info: {max_input_tokens: 8192, cooldown_time: 30, allowed_fails: 5}",
    )
    .unwrap();
    assert_eq!((full.weight, full.order), (4, 2));
    assert_eq!(full.tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["free", "eu"]);
    assert_eq!(full.max_input_tokens, Some(8192));
    assert_eq!((full.cooldown, full.allowed_fails), (Some(Duration::from_secs(30)), Some(5)));
}

#[test]
fn weights_follow_the_limits_where_there_are_none() {
    let config = yaml(
        "model_list:\n\
         - {model_name: a, litellm_params: {model: m, api_base: 'http://h', rpm: 900}}\n\
         - {model_name: a, litellm_params: {model: m, api_base: 'http://h', rpm: 100}}\n\
         - {model_name: b, litellm_params: {model: m, api_base: 'http://h', rpm: 5, weight: 0}}\n\
         - {model_name: b, litellm_params: {model: m, api_base: 'http://h', weight: 2}}\n",
    )
    .unwrap();
    let weights: Vec<_> = config.deployments().unwrap().iter().map(|d| d.weight).collect();
    assert_eq!(weights, [900, 100, 0, 2]);
}

#[test]
fn parameters_become_defaults_of_the_body() {
    let given = Given {
        yaml: Some(
            "model_list: [{model_name: a, litellm_params: {model: m, api_base: 'http://h', temperature: 0.2, seed: 7, \
             max_tokens: 99, stop: [x], extra_body: {top_k: os.environ/K, guided: {regex: os.environ/R}, seed: 8, \
             messages: []}}}]",
        ),
        env: &[("K", "40"), ("R", "a+")],
        ..Given::default()
    };
    let config = given.load().unwrap();
    let deployment = config.deployments().unwrap().remove(0);
    assert_eq!(
        serde_json::Value::Object((*deployment.defaults).clone()),
        serde_json::json!({
            "temperature": 0.2, "max_tokens": 99, "stop": ["x"], "seed": 8, "top_k": 40, "guided": {"regex": "a+"},
        })
    );
    assert_eq!(deployment.wire.max_tokens, Some(99));
    assert_eq!(
        config.warnings(),
        ["gristmill.yaml sets keys that have no effect here: model_list[].litellm_params.extra_body.messages"]
    );
    // People see what is written.
    assert_eq!(config.routes()[0].defaults["top_k"], "os.environ/K");
    assert_eq!(config.routes()[0].origin.as_deref(), Some("model_list[0] in gristmill.yaml"));
}

#[test]
fn deployments_of_one_account_share_its_limits() {
    let list = |one: &str, two: &str| {
        yaml(&format!(
            "router_settings: {{default_max_parallel_requests: 9}}\nmodel_list:\n\
             - {{model_name: a, litellm_params: {{model: m, api_base: 'http://h'{one}}}, model_info: {{limit_account: x}}}}\n\
             - {{model_name: b, litellm_params: {{model: n, api_base: 'http://h'{two}}}, model_info: {{limit_account: x}}}}\n\
             - {{model_name: c, litellm_params: {{model: n, api_base: 'http://h', max_parallel_requests: 3}}}}\n"
        ))
    };
    for (one, two) in [(", rpm: 60", ""), ("", ", rpm: 60"), (", rpm: 60", ", rpm: 60")] {
        let config = list(one, two).unwrap();
        let shared = Limits { rpm: Some(60), max_parallel_requests: Some(9), ..Limits::default() };
        let own = Limits { max_parallel_requests: Some(3), ..Limits::default() };
        let deployments = config.deployments().unwrap();
        let seen: Vec<_> = deployments.iter().map(|d| (&*d.account, d.limits)).collect();
        assert_eq!(seen, [("x", shared), ("x", shared), ("c", own)], "{one} {two}");
        assert_eq!(config.limits(), [("x".into(), shared), ("c".into(), own)]);
    }
    let error = list(", rpm: 60", ", rpm: 61, tpm: 1000").unwrap_err().to_string();
    assert_eq!(
        error,
        "`a` (60 rpm) and `b` (61 rpm, 1000 tpm) share the limits of account `x` and have different ones; write them into \
         one of the entries, or the same into each"
    );
}
