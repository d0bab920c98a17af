//! `check`.

use crate::desk::{Desk, Provider, Said};

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

#[test]
fn every_kind_of_provider_is_checked_in_its_own_way() {
    let desk = Desk::new();
    let provider = Provider::start(&["--require-key-env", "RIGHT_KEY", "--rpm", "600", "--tpm", "100000"]);
    let host = provider.url.strip_suffix("/v1").unwrap().to_owned();
    let host = host.as_str();
    let write = |keys: [&str; 3]| {
        let [azure, anthropic, token] = keys;
        desk.write(
            "gristmill.yaml",
            format!(
                "model_list:\n\
                 - {{model_name: az, litellm_params: {{model: azure/prod, api_base: \"{host}\", api_version: \"2024-10-21\", api_key: {azure}}}}}\n\
                 - {{model_name: ant, litellm_params: {{model: anthropic/claude-sonnet-4-6, api_base: \"{host}\", api_key: {anthropic}}}}}\n\
                 - {{model_name: entra, litellm_params: {{model: azure/prod, api_base: \"{host}\", azure_ad_token: {token}}}}}\n\
                 - {{model_name: az-env, litellm_params: {{model: azure/prod}}}}\n\
                 - {{model_name: ant-env, litellm_params: {{model: anthropic/claude-sonnet-4-6}}}}\n",
            ),
        );
    };
    let line = |said: &Said, name: &str| {
        let line = said.out.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("{name}: {said:?}")).to_owned()
    };
    let account = |key| {
        [("AZURE_API_BASE", host), ("AZURE_API_KEY", key), ("ANTHROPIC_API_BASE", host), ("ANTHROPIC_API_KEY", key)]
    };

    // A wrong key is told with the place that it came from.
    write(["wrong-azure-0f1e2d", "wrong-anthropic-0f1e2d", "wrong-token-0f1e2d"]);
    let said = desk.run_with(&account("wrong-account-0f1e2d"), &["check"]).ends_with(2);
    for (name, source) in [
        ("az", "model_list[0].litellm_params.api_key in gristmill.yaml"),
        ("ant", "model_list[1].litellm_params.api_key in gristmill.yaml"),
        ("entra", "model_list[2].litellm_params.azure_ad_token in gristmill.yaml"),
        ("az-env", "AZURE_API_KEY"),
        ("ant-env", "ANTHROPIC_API_KEY"),
    ] {
        let line = line(&said, name);
        assert!(line.contains(&format!("set {source} to a valid key (401 AuthenticationError: ")), "{line}");
    }
    assert!(!said.out.contains("0f1e2d") && !said.err.contains("0f1e2d"), "{said:?}");

    // One entry without an endpoint is no fault of the others.
    write(["right", "right", "right"]);
    let said = desk.run(&["check"]).ends_with(2);
    let missing = "no endpoint for provider `azure`: set AZURE_API_BASE, or api_base in its entry of model_list";
    assert!(line(&said, "az-env").contains(missing), "{said:?}");

    // With the right key, it is told what a list of models can tell; a call tells more.
    let said = desk.run_with(&account("right"), &["check"]).ends_with(0);
    let known =
        "reachable; it takes the key and does not tell whether it has the deployment `prod`; add --call to try one";
    for name in ["az", "entra", "az-env"] {
        assert!(line(&said, name).contains(known), "{said:?}");
    }
    assert!(line(&said, "ant").contains("it does not list `claude-sonnet-4-6` among 1 models"), "{said:?}");
    let said = desk.run_with(&account("right"), &["check", "--call"]).ends_with(0);
    for (name, model, limits) in [
        ("az", "prod", "of 600 requests left"),
        ("entra", "prod", "of 100000 tokens left"),
        ("ant", "claude-sonnet-4-6", "of 600 requests left"),
        ("ant-env", "claude-sonnet-4-6", "of 100000 tokens left"),
    ] {
        let line = line(&said, name);
        assert!(line.contains(&format!("`{model}` answered a call; limits: ")) && line.contains(limits), "{line}");
    }

    // Nobody is there.
    drop(provider);
    let said = desk.run_with(&account("right"), &["check"]).ends_with(2);
    for name in ["az", "ant", "entra", "az-env", "ant-env"] {
        let line = line(&said, name);
        assert!(line.contains("FAULT") && line.contains("check that the server of its api_base runs"), "{line}");
    }
}
