use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::*;

mod groups;
mod keys;
mod litellm;
mod models;
mod prices;
mod routing;

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

/// Loads a file of another name than ours.
fn litellm(text: &str, env: &[(&str, &str)]) -> Result<Config, Error> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("litellm.yaml");
    std::fs::write(&file, text).unwrap();
    Config::load(Sources {
        directory: directory.path().to_owned(),
        file: Some(file),
        env: env.iter().copied().collect(),
        ..Sources::default()
    })
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
                yaml: Some("model_list: [{model_name: a, litellm_params: {model: 'openai/*'}}]"),
                ..Given::default()
            },
            "model_list[0].litellm_params.model in gristmill.yaml must be one model's name: `a` has no `*`",
        ),
    ] {
        let error = given.error();
        assert!(error.contains(wanted), "{error}\n  should contain {wanted}");
    }
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
