//! A configuration of LiteLLM's as it is.

use super::*;

const LIST: &str = "model_list: [{model_name: a, litellm_params: {model: openai/a, rpm: 480, tpm: 9000}}]\n";

#[test]
fn the_example_loads_unchanged_with_one_warning() {
    let text = include_str!("../../../../examples/litellm.yaml");
    let config = litellm(
        text,
        &[
            ("AZURE_EU_BASE", "https://eu.openai.azure.com"),
            ("AZURE_EU_KEY", "sk-azure"),
            ("OPENAI_API_KEY", "sk-openai"),
            ("ANTHROPIC_API_KEY", "sk-ant"),
        ],
    )
    .unwrap();
    assert_eq!(config.warnings().len(), 1, "{:?}", config.warnings());
    assert!(config.warnings()[0].ends_with("no effect here: general_settings, model_list[].model_info.mode"));

    let group = config.deployments_for(&["gpt-4"]).unwrap();
    let seen: Vec<_> = group.iter().map(|d| (&*d.name, &*d.model, &*d.account, d.weight, d.limits.tpm)).collect();
    assert_eq!(
        seen,
        [("gpt-4", "gpt-4o-eu", "gpt-4o", 900, Some(150_000)), ("gpt-4#2", "gpt-4o", "gpt-4o#2", 300, Some(50_000)),]
    );
    assert_eq!(group[0].wire.api_version.as_deref(), Some("2024-10-21"));
    assert!(group.iter().all(|deployment| deployment.wire.drop_params));
    assert_eq!(route(&config, "openai/o3").1, "o3");
    assert_eq!((config.num_retries, config.timeouts().total.as_secs()), (3, 120));
    let routing = config.routing();
    assert_eq!(routing.retries_for("claude", &crate::failure::ErrorClass::RateLimit), Some(4));
    let next = |group, kind| routing.fallbacks_of(group, kind).iter().map(|group| &**group).collect::<Vec<_>>();
    assert_eq!(next("gpt-4o", FallbackKind::General), ["gpt-4o-mini", "claude"]);
    assert_eq!(next("gpt-4o-mini", FallbackKind::ContextWindow), ["claude"]);
    assert_eq!(
        config.notices(),
        [
            "gpt-4o: 900 rpm, 150000 tpm; gpt-4o#2: 300 rpm, 50000 tpm; enforced over all workers (LiteLLM takes rpm and \
             tpm as routing weights)",
            "`openai/*` of model_list: a worker serves those of these models that --model names",
        ]
    );
    // The page shows the file.
    assert!(include_str!("../../../../docs/litellm.md").contains(text.trim_end()));
}

#[test]
fn all_that_has_no_effect_is_named_in_one_warning() {
    let config = litellm(
        &format!(
            "{LIST}router_settings: {{zzz: 1, redis_host: h}}\nlitellm_settings: {{callbacks: [x]}}\nguardrails: []\n"
        ),
        &[("OPENAI_API_KEY", "k")],
    )
    .unwrap();
    assert_eq!(config.warnings().len(), 1);
    let warning = &config.warnings()[0];
    assert!(
        warning.ends_with(
            "litellm.yaml sets keys that have no effect here: guardrails, litellm_settings.callbacks, \
             router_settings.redis_host, router_settings.zzz"
        ),
        "{warning}"
    );
    let strict = yaml(&format!("{LIST}router_settings: {{zzz: 1}}")).unwrap_err();
    assert!(matches!(strict, Error::UnknownKey { .. }), "{strict}");
}

#[test]
fn what_differs_from_litellm_is_said() {
    let config = litellm(
        &format!("{LIST}router_settings: {{routing_strategy: usage-based-routing-v2}}\nenvironment_variables: {{A: '1', B: x}}\n"),
        &[("A", "2")],
    )
    .unwrap();
    assert_eq!(
        config.notices(),
        [
            "a: 480 rpm, 9000 tpm; enforced over all workers (LiteLLM takes rpm and tpm as routing weights)",
            "num_retries is 5 where nothing sets it (LiteLLM: 2)",
            "routing_strategy usage-based-routing-v2 is `weighted` here: the limits themselves keep calls off a busy deployment",
            "A of environment_variables: the environment's own value counts (LiteLLM takes the file's)",
        ]
    );
    assert!(yaml(LIST).unwrap().notices().is_empty(), "our own file means what our pages say");
}

#[test]
fn environment_variables_of_the_file_count_below_the_environment() {
    let text = "model_list:\n- {model_name: a, litellm_params: {model: openai/a}}\n\
                - {model_name: b, litellm_params: {model: groq/b, api_key: os.environ/MY_KEY}}\n\
                environment_variables: {OPENAI_API_KEY: sk-file, MY_KEY: os.environ/REAL_KEY, NONE: os.environ/NOTHING, \
                DATABASE_URL: 'postgres://litellm', GRISTMILL_CONCURRENCY: 3}\n";
    let config = litellm(text, &[("REAL_KEY", "sk-real")]).unwrap();
    assert_eq!(route(&config, "a").2.as_deref(), Some("sk-file"));
    assert_eq!(route(&config, "b").2.as_deref(), Some("sk-real"));
    // They are for models; LiteLLM's database is not ours.
    assert!(config.database_url.is_none());
    assert_eq!(config.concurrency, 128);
    let config = litellm(text, &[("REAL_KEY", "sk-real"), ("OPENAI_API_KEY", "sk-env")]).unwrap();
    assert_eq!(route(&config, "a").2.as_deref(), Some("sk-env"));
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
}
