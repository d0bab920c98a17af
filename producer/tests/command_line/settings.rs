//! `config` and `models`.

use crate::desk::Desk;

const YAML: &str = "\
concurrency: 7
model_list:
- {model_name: gpt-4o, litellm_params: {model: openai/gpt-4o-2024-11-20, api_key: os.environ/MY_KEY}}
- {model_name: local, litellm_params: {model: openai/llama, api_base: \"http://localhost:8000/secret-path/v1\"}}
";

#[test]
fn config_shows_each_value_with_where_it_comes_from_and_no_secret() {
    let desk = Desk::new();
    desk.write("gristmill.yaml", YAML);
    desk.write(".env", "MY_KEY=sk-canary\nGRISTMILL_PREFIX=mill\n");
    let environment =
        [("AMQP_URL", "amqp://u:canary@h:5672/%2f"), ("LITELLM_TIMEOUT", "9"), ("OPENAI_API_KEY", "sk-canary")];
    let said = desk.run_with(&environment, &["config", "--database-url", "postgres://u:canary@h/d"]).ends_with(0);
    assert_eq!(said.err, "");
    for (option, value, from) in [
        ("database_url", "postgres://u:***@h/d", "flag: --database-url"),
        ("amqp_url", "amqp://u:***@h:5672/%2f", "env: AMQP_URL"),
        ("prefix", "mill", "env: GRISTMILL_PREFIX in .env"),
        ("concurrency", "7", "file: concurrency in gristmill.yaml"),
        ("timeout", "9", "env: LITELLM_TIMEOUT"),
        ("num_retries", "5", "default"),
    ] {
        let line = said.out.lines().find(|line| line.starts_with(option)).unwrap();
        let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, [option, value, from]);
    }
    assert!(said.out.contains("openai/gpt-4o-2024-11-20  https://api.openai.com  MY_KEY"), "{}", said.out);
    assert!(!said.out.contains("canary") && !said.out.contains("secret-path"), "{}", said.out);
    let json = desk.run_with(&environment, &["config", "--json"]).ends_with(0);
    assert!(!json.out.contains("canary") && !json.out.contains("secret-path"), "{}", json.out);
    assert_eq!(json.json()["models"][1]["endpoint"], "http://localhost:8000");
}

#[test]
fn models_are_listed_without_a_database_and_a_near_name_is_suggested() {
    let desk = Desk::new();
    desk.write("gristmill.yaml", YAML);
    let said = desk.run(&["models"]).ends_with(0);
    assert!(said.out.contains("gpt-4o") && said.out.contains("unusable: ") && said.out.contains("MY_KEY"), "{said:?}");
    assert!(said.out.contains("no worker serves it now"), "{said:?}");
    let said = desk.run(&["models", "gpt4o"]).ends_with(2);
    assert_eq!(said.err, "error: there is no model `gpt4o`\nhint: did you mean `gpt-4o`?\n");
    let one = desk.run(&["models", "local", "--json"]).ends_with(0).json();
    assert_eq!(one["models"]["local"]["configured"][0], "openai/llama at http://localhost:8000");
    let any = Desk::new().run_with(&[("OPENAI_API_KEY", "k")], &["models"]).ends_with(0);
    assert_eq!(any.out, "any other: openai at https://api.openai.com\n");
}

#[test]
fn config_shows_how_deployments_share_the_work_and_no_header() {
    let desk = Desk::new();
    desk.write(
        "litellm.yaml",
        "model_list:\n\
         - {model_name: a, litellm_params: {model: openai/a, api_base: 'http://h/v1', rpm: 480, weight: 3, tags: [eu],\n    \
            temperature: 0.5, extra_headers: {X-Tenant: canary}}, model_info: {limit_account: shared}}\n\
         - {model_name: 'local/*', litellm_params: {model: 'openai/*', api_base: 'http://h/v1'}}\n\
         router_settings: {routing_strategy: least-busy, model_group_alias: {b: a}}\n",
    );
    let said = desk.run(&["config", "--config", "litellm.yaml"]).ends_with(0);
    assert_eq!(said.err, "");
    for line in [
        "a           480 rpm (account shared)  3       1      eu    temperature=0.5, header x-tenant  model_list[0] in litellm.yaml",
        "local/*     -                         1       1      -     -                                 model_list[1] in litellm.yaml",
        "note: shared: 480 rpm; enforced over all workers (LiteLLM takes rpm and tpm as routing weights)",
    ] {
        assert!(said.out.lines().any(|shown| shown == line), "{line}\n{}", said.out);
    }
    assert!(said.out.contains("file: router_settings.routing_strategy in litellm.yaml"), "{}", said.out);
    let json = desk.run(&["config", "--config", "litellm.yaml", "--json"]).ends_with(0);
    assert!(!json.out.contains("canary") && !said.out.contains("canary"), "{}", json.out);
    let json = json.json();
    assert_eq!(json["models"][0]["limits"]["rpm"], 480);
    assert_eq!(json["models"][0]["defaults"]["temperature"], 0.5);
    assert_eq!(json["routing"][0]["value"], "least-busy");

    // What a pattern takes is known, and a worker is told it.
    let one = desk.run(&["models", "local/7b", "--json", "--config", "litellm.yaml"]).ends_with(0).json();
    assert_eq!(one["models"]["local/7b"]["configured"][0], "openai/7b at http://h");
    let checked = desk.run(&["check", "--config", "litellm.yaml"]);
    assert!(checked.out.contains("stands for many models; add --model to check one of them"), "{checked:?}");
}
