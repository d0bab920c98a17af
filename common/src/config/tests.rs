use secrecy::ExposeSecret as _;

use super::*;

/// A configuration loaded from a directory of its own.
#[derive(Default)]
struct Given<'a> {
    yaml: Option<&'a str>,
    dotenv: Option<&'a str>,
    env: &'a [(&'a str, &'a str)],
    flags: &'a [(&'static str, &'a str)],
}

impl Given<'_> {
    fn load(&self) -> Result<Config, Error> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("gristmill.yaml", self.yaml), (".env", self.dotenv)] {
            if let Some(text) = text {
                std::fs::write(directory.path().join(name), text).unwrap();
            }
        }
        let overrides = self.flags.iter().fold(Overrides::default(), |all, (name, value)| all.set(name, Some(*value)));
        Config::load(Sources {
            directory: directory.path().to_owned(),
            env: self.env.iter().copied().collect(),
            overrides,
            ..Sources::default()
        })
    }

    fn error(&self) -> String {
        let error = self.load().map(|config| format!("{config:?}")).unwrap_err().to_string();
        assert!(!error.contains('\n'), "one line: {error}");
        error
    }
}

fn env(env: &[(&str, &str)]) -> Config {
    Given { env, ..Given::default() }.load().unwrap()
}

fn yaml(text: &str) -> Result<Config, Error> {
    Given { yaml: Some(text), ..Given::default() }.load()
}

/// What a deployment sends where: host, model and key.
fn route(config: &Config, group: &str) -> (String, String, Option<String>) {
    let deployments = config.deployments_for(&[group]).unwrap();
    assert_eq!(deployments.len(), 1, "{group}");
    let key = deployments[0].api_key.as_ref().map(|key| key.expose_secret().to_owned());
    assert_eq!(key.is_some(), deployments[0].key_source.is_some());
    (deployments[0].api_base.0.to_string(), deployments[0].model.to_string(), key)
}

fn routed(base: &str, model: &str, key: Option<&str>) -> (String, String, Option<String>) {
    (base.to_owned(), model.to_owned(), key.map(str::to_owned))
}

#[test]
fn defaults_hold_where_nothing_is_set() {
    let config = env(&[]);
    assert_eq!((config.concurrency, config.num_retries, config.prefix.as_str()), (128, 5, "gristmill"));
    assert_eq!((config.lease_ttl, config.grace), (Duration::from_secs(15), Duration::from_secs(30)));
    assert_eq!(config.timeouts(), Timeouts::default());
    assert!(config.database_url.is_none() && config.amqp_url.is_none() && config.warnings().is_empty());
    assert_eq!(config.max_response_bytes, 64 * 1024 * 1024);
}

#[test]
fn later_layers_win() {
    let mut given = Given { yaml: Some("concurrency: 2\n"), ..Given::default() };
    assert_eq!(given.load().unwrap().concurrency, 2);
    given.dotenv = Some("GRISTMILL_CONCURRENCY=3\n");
    assert_eq!(given.load().unwrap().concurrency, 3);
    given.env = &[("GRISTMILL_CONCURRENCY", "4")];
    assert_eq!(given.load().unwrap().concurrency, 4);
    given.flags = &[("concurrency", "5")];
    assert_eq!(given.load().unwrap().concurrency, 5);
}

#[test]
fn litellm_names_set_the_same_options_and_ours_win() {
    let text = "litellm_settings: {num_retries: 1, request_timeout: 11}\n";
    let config = yaml(text).unwrap();
    assert_eq!((config.num_retries, config.timeouts().total.as_secs()), (1, 11));
    let config = yaml(&format!("{text}router_settings: {{num_retries: 2, timeout: 12}}\n")).unwrap();
    assert_eq!((config.num_retries, config.timeouts().total.as_secs()), (2, 12));
    let config = yaml(&format!("{text}num_retries: 3\ntimeout: 13s\n")).unwrap();
    assert_eq!((config.num_retries, config.timeouts().total.as_secs()), (3, 13));
    let config = env(&[("LITELLM_TIMEOUT", "14"), ("LITELLM_MAX_RETRIES", "4")]);
    assert_eq!((config.num_retries, config.timeouts().total.as_secs()), (4, 14));
    let config = env(&[("LITELLM_MAX_RETRIES", "4"), ("GRISTMILL_NUM_RETRIES", "6")]);
    assert_eq!(config.num_retries, 6);
}

#[test]
fn a_short_timeout_shortens_the_defaults_of_its_parts() {
    let timeouts = env(&[("GRISTMILL_TIMEOUT", "5")]).timeouts();
    let five = Duration::from_secs(5);
    assert_eq!(timeouts, Timeouts { connect: five, first_byte: five, idle: five, total: five });
}

#[test]
fn wrong_values_say_where_they_stand_and_what_to_write() {
    for (given, wanted) in [
        (Given { flags: &[("concurrency", "many")], ..Given::default() }, "--concurrency must be a whole number"),
        (
            Given { env: &[("GRISTMILL_CONCURRENCY", "-1")], ..Given::default() },
            "GRISTMILL_CONCURRENCY must be a whole number",
        ),
        (Given { yaml: Some("lease_ttl: soon"), ..Given::default() }, "lease_ttl in gristmill.yaml must be seconds"),
        (Given { yaml: Some("concurrency: 0"), ..Given::default() }, "concurrency must be at least 1"),
        (
            Given { yaml: Some("max_response_bytes: 268435457"), ..Given::default() },
            "max_response_bytes must be at most 268435456 (256 MiB): more fits in no row",
        ),
        (Given { yaml: Some("prefix: a.b"), ..Given::default() }, "prefix must be 1 to 60 letters"),
        (
            Given { yaml: Some("lease_ttl: 9\nrenew_interval: 3"), ..Given::default() },
            "lease_ttl (9s) must be longer than three times renew_interval (3s)",
        ),
        (
            Given { yaml: Some("timeout: 10\nfirst_byte_timeout: 20"), ..Given::default() },
            "first_byte_timeout (20s) is longer than timeout (10s)",
        ),
        (Given { yaml: Some("timeout: 0"), ..Given::default() }, "timeout must be longer than zero"),
        (Given { yaml: Some("concurency: 3"), ..Given::default() }, "did you mean `concurrency`?"),
        (
            Given { yaml: Some("router_settings: 3"), ..Given::default() },
            "router_settings in gristmill.yaml must be a mapping",
        ),
        (
            Given { env: &[("OPENAI_BASE_URL", "localhost:8000")], ..Given::default() },
            "OPENAI_BASE_URL must be an address",
        ),
        (
            Given { env: &[("GRISTMILL_CONFIG", "/nonexistent.yaml")], ..Given::default() },
            "reading /nonexistent.yaml failed",
        ),
        (
            Given {
                yaml: Some("model_list: [{model_name: a, litellm_params: {api_base: 'http://h'}}]"),
                ..Given::default()
            },
            "model_list[0].litellm_params.model in gristmill.yaml is missing",
        ),
        (
            Given {
                yaml: Some(
                    "model_list: [{model_name: a, litellm_params: {model: a, api_base: 'http://h', timeout: 5, idle_timeout: 6}}]",
                ),
                ..Given::default()
            },
            "model_list[0].litellm_params.timeout in gristmill.yaml: idle_timeout (6s) is longer than timeout (5s)",
        ),
        (
            Given {
                yaml: Some("model_list: [{model_name: '*', litellm_params: {model: 'openai/*'}}]"),
                ..Given::default()
            },
            "`*` is not supported",
        ),
    ] {
        let error = given.error();
        assert!(error.contains(wanted), "{error}\n  should contain {wanted}");
    }
}

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

#[test]
fn a_key_file_that_is_not_there_matters_only_to_who_needs_it() {
    let config = env(&[("OPENAI_API_KEY_FILE", "/nowhere/key"), ("GROQ_API_KEY", "gsk")]);
    assert_eq!(route(&config, "groq/m").2.as_deref(), Some("gsk"));
    let error = config.deployments_for(&["gpt-4o"]).unwrap_err();
    assert!(error.is_setup_fault() && error.to_string().contains("/nowhere/key"), "{error}");
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

#[test]
fn the_simulator_takes_every_group_and_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::load(Sources {
        directory: directory.path().to_owned(),
        env: Env::from_iter([("OPENAI_API_KEY", "sk-openai"), ("OPENAI_BASE_URL", "http://h/v1")]),
        simulator: Some("http://127.0.0.1:9/v1".parse().unwrap()),
        ..Sources::default()
    })
    .unwrap();
    let deployments = config.deployments_for(&["gpt-4o", "anything/else"]).unwrap();
    assert!(deployments.iter().all(|d| d.simulated && d.api_key.is_none() && d.model == d.group));
}

#[test]
fn unknown_variables_of_ours_are_warned_of() {
    let config = env(&[
        ("GRISTMILL_CONCURENCY", "4"),
        ("GRISTMILL_LOG", "debug"),
        ("GRISTMILL_TEST_AMQP_URL", "x"),
        ("GRISTMILL_DATABASE_URL_FILE", ""),
        ("OTHER", "x"),
    ]);
    assert_eq!(
        config.warnings(),
        ["the environment variable GRISTMILL_CONCURENCY is not one of ours; did you mean GRISTMILL_CONCURRENCY?"]
    );
}

#[test]
fn secrets_and_endpoints_never_show() {
    let list = "model_list: [{model_name: a, litellm_params: {model: a, api_base: 'http://canary-host/v1', api_key: canary-key}}]\n\
                general_settings: {master_key: canary-master}\n";
    let given = Given {
        yaml: Some(list),
        env: &[
            ("DATABASE_URL", "postgres://u:canary-db@h/d"),
            ("AMQP_URL", "amqp://u:canary-mq@h"),
            ("OPENAI_API_KEY", "canary-openai"),
        ],
        flags: &[("api_base", "http://canary-flag/v1")],
        ..Given::default()
    };
    let config = given.load().unwrap();
    let shown = format!("{config:?} {:?} {:?}", config.deployments().unwrap(), config.warnings());
    assert!(!shown.contains("canary"), "{shown}");
    assert!(!format!("{:?}", Overrides::default().set("database_url", Some("canary"))).contains("canary"));
    assert_eq!(config.database_url.as_ref().unwrap().expose_secret(), "postgres://u:canary-db@h/d");
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
