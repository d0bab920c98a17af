//! `check`.

use crate::desk::{Desk, Provider};

#[test]
fn what_works_is_told_with_its_latency() {
    let desk = Desk::new();
    let provider = Provider::start(&[]);
    let check = ["check", "--model", "gpt-4o", "--api-base", &provider.url];
    let said = desk.run(&[&check[..], &["--call"]].concat()).ends_with(0);
    assert!(said.out.contains("database  note") && said.out.contains("gpt-4o    ok"), "{}", said.out);
    let json = desk.run(&[&check[..], &["--json", "--call"]].concat()).ends_with(0).json();
    assert_eq!(json["ok"], true);
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.last().unwrap()["latency_ms"].is_u64(), "{json}");
    desk.run(&["call", "hi", "--model", "m", "--api-base", &provider.url]).ends_with(0);
    let said = desk.run(&check).ends_with(0);
    assert!(said.out.contains("gristmill.db") && said.out.contains("of this version"), "{}", said.out);
}

#[test]
fn each_fault_is_told_with_its_remedy_and_ends_with_2() {
    let desk = Desk::new();
    let provider = Provider::start(&["--require-key-env", "RIGHT_KEY"]);
    desk.write(
        "gristmill.yaml",
        format!(
            "model_list:\n\
             - {{model_name: wrong-key, litellm_params: {{model: m, api_base: \"{0}\", api_key: wrong}}}}\n\
             - {{model_name: no-key, litellm_params: {{model: m, api_base: \"{0}\", api_key: os.environ/NOT_SET}}}}\n\
             - {{model_name: away, litellm_params: {{model: m, api_base: \"http://127.0.0.1:9/v1\", api_key: k}}}}\n",
            provider.url
        ),
    );
    let said = desk.run(&["check"]).ends_with(2);
    for (name, text) in [("wrong-key", "401"), ("no-key", "NOT_SET"), ("away", "refused")] {
        let line = said.out.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains("FAULT") && line.contains(text), "{line}");
    }
    let said = desk.run(&["check", "--db", "nothing.db"]).ends_with(2);
    assert!(
        said.out.contains("database") && said.out.contains("there is no database nothing.db; name one"),
        "{}",
        said.out
    );
}
