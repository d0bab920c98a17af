//! One prompt through queue and worker, on the embedded database.

use std::process::Stdio;

use crate::desk::{Desk, Provider, Said, wait_until};

const REQUEST: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"What is a mill?"}]}"#;

#[test]
fn a_prompt_is_answered_on_standard_output() {
    let desk = Desk::new();
    let said = desk.run(&["call", "What is a mill?", "--model", "m", "--simulate"]).ends_with(0);
    assert!(said.out.len() > 20 && said.out.ends_with('\n') && said.err.is_empty(), "{said:?}");
    let said = desk.feed(&["call", "-", "--model", "m", "--simulate", "--max-tokens", "5"], "What is a mill?\n");
    assert_eq!(said.ends_with(0).err, "the answer was cut at its limit of tokens\n");
    assert!(!desk.path(".gristmill").exists(), "nothing is kept of a simulated call");
    assert_eq!(std::fs::read_dir(desk.path("")).unwrap().count(), 0, "nor anything else");
}

#[test]
fn a_whole_request_is_answered_with_one_line_of_the_batch_format() {
    let said = Desk::new().feed(&["call", "--json", "-", "--simulate"], REQUEST).ends_with(0);
    assert_eq!(said.out.lines().count(), 1);
    let line = said.json();
    assert_eq!((&line["response"]["status_code"], &line["error"]), (&200.into(), &serde_json::Value::Null));
    assert!(line["response"]["body"]["choices"][0]["message"]["content"].is_string(), "{line}");
    assert_eq!((&line["gristmill"]["model"], &line["gristmill"]["simulated"]), (&"gpt-4o".into(), &true.into()));
}

#[test]
fn a_call_that_fails_ends_with_3_and_tells_its_error() {
    let desk = Desk::new();
    let provider = Provider::start(&["--fault", "400:1"]);
    let call = ["call", "hi", "--model", "m", "--api-base", &provider.url];
    let said = desk.run(&call).ends_with(3);
    assert!(said.out.is_empty() && said.err.starts_with("error: BadRequestError"), "{said:?}");
    assert!(said.err.contains("hint: gristmill show "), "{said:?}");
    let said = desk.run(&[&call[..], &["--json"]].concat()).ends_with(3);
    let line = said.json();
    assert_eq!((&line["response"]["status_code"], said.err.as_str()), (&400.into(), ""));
    assert_eq!(line["gristmill"]["error"]["class"], "BadRequestError");
}

#[test]
fn calls_of_several_processes_at_once_are_all_answered() {
    let desk = Desk::new();
    let provider = Provider::start(&["--latency", "100ms"]);
    let calls: Vec<_> = (0..8)
        .map(|number| {
            let prompt = format!("number {number}");
            desk.command(&["call", "--json", &prompt, "--model", "m", "--api-base", &provider.url]).spawn().unwrap()
        })
        .collect();
    for call in calls {
        let said = Said::from(call.wait_with_output().unwrap()).ends_with(0);
        assert_eq!(said.json()["response"]["status_code"], 200);
    }
}

#[test]
fn a_server_that_is_not_there_ends_with_2_and_the_call_is_not_made_later() {
    let desk = Desk::new();
    let said = desk.run(&["call", "hi", "--model", "m", "--api-base", "http://127.0.0.1:9/v1"]).ends_with(2);
    assert!(
        said.err.contains("error: deployment m: check that the server") && said.err.contains("(APIConnectionError: "),
        "{said:?}"
    );
    assert!(said.err.ends_with("hint: the call is cancelled: put it right and call again\n"), "{said:?}");
    let batch = desk.run(&["status", "--json"]).ends_with(0).json();
    assert!(["cancelling", "cancelled"].contains(&batch["state"].as_str().unwrap()), "{batch}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_call_is_cancelled() {
    let desk = Desk::new();
    let provider = Provider::start(&["--latency", "30s"]);
    let call = desk.command(&["call", "hi", "--model", "m", "--api-base", &provider.url]).spawn().unwrap();
    wait_until("the call to run", || desk.run(&["status", "--json"]).out.contains("\"held\":1"));
    for _ in 0..2 {
        assert!(std::process::Command::new("kill").args(["-INT", &call.id().to_string()]).status().unwrap().success());
    }
    let said = Said::from(call.wait_with_output().unwrap()).ends_with(130);
    assert!(said.err.contains("error: the call was cancelled"), "{said:?}");
    assert_eq!(desk.run(&["status", "--json"]).json()["state"], "cancelling");
}

#[test]
fn what_cannot_be_asked_is_told_in_one_line() {
    let desk = Desk::new();
    desk.write("gristmill.yaml", "model_list:\n- {model_name: a, litellm_params: {model: openai/a, api_key: k}}\n- {model_name: b, litellm_params: {model: openai/b, api_key: k}}\n");
    for (arguments, text, code, error) in [
        (&["call", ""][..], "", 1, "error: the prompt is empty\n"),
        (&["call", "hi"], "", 1, "error: no model is named\nhint: add --model; there are a, b\n"),
        (&["call", "hi", "--model", "c"], "", 2, "error: no entry of model_list serves model `c`; "),
        (&["call", "--json", "-"], "{}", 1, r#"{"error":{"exit_code":1,"hint":"it looks like"#),
        (&["call", "--json", "-"], "oops", 1, r#"{"error":{"exit_code":1,"hint":"it looks like"#),
        (
            &["call", "--json", "-", "--system", "x"],
            REQUEST,
            1,
            r#"{"error":{"exit_code":1,"hint":null,"message":"--system does not go with --json -: put"#,
        ),
        (
            &["call", "hi", "--timeout", "soon"],
            "",
            1,
            "error: invalid value 'soon' for '--timeout <TIME>': must be seconds, or ",
        ),
    ] {
        let mut command = desk.command(arguments);
        let said = if text.is_empty() {
            Said::from(command.stdin(Stdio::null()).output().unwrap())
        } else {
            desk.feed(arguments, text)
        };
        assert!(said.err.starts_with(error), "{arguments:?}: {said:?}");
        said.ends_with(code);
    }
}
