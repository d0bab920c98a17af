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
