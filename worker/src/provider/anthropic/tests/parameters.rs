//! What becomes of parameters.

use super::*;

#[test]
fn max_tokens_is_never_left_out() {
    for (members, wanted) in [
        (json!({}), u64::from(DEFAULT_MAX_TOKENS)),
        (json!({"max_tokens": null}), u64::from(DEFAULT_MAX_TOKENS)),
        (json!({"max_tokens": 7}), 7),
        (json!({"max_completion_tokens": 8}), 8),
        (json!({"max_tokens": 7, "max_completion_tokens": 8}), 8),
        (json!({"max_tokens": 7.0}), 7),
    ] {
        assert_eq!(sent(NEW, members.clone())["max_tokens"], wanted, "{members}");
    }
    for (members, param) in [
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_completion_tokens": 1.5}), "max_completion_tokens"),
        (json!({"max_completion_tokens": "9"}), "max_completion_tokens"),
    ] {
        let refusal = refused(NEW, members.clone());
        assert_eq!((refusal.class, refusal.param.as_deref()), (ErrorClass::BadRequest, Some(param)), "{members}");
    }
    let options = Options { default_max_tokens: 0, ..options(NEW) };
    assert_eq!(translate(&request(json!({})), &options).unwrap().0["max_tokens"], 1);
}

#[test]
fn effort_becomes_adaptive_thinking() {
    let adaptive = json!({"type": "adaptive", "display": "summarized"});
    for (model, effort, level) in [
        (NEW, "minimal", "low"),
        (NEW, "low", "low"),
        (NEW, "medium", "medium"),
        (NEW, "high", "high"),
        (NEW, "xhigh", "xhigh"),
        (NEW, "max", "max"),
        (MIDDLE, "xhigh", "high"),
        (MIDDLE, "max", "max"),
        (UNFORCED, "low", "low"),
        ("some-alias", "high", "high"),
    ] {
        let sent = sent(model, json!({"reasoning_effort": effort}));
        assert_eq!(
            (&sent["thinking"], &sent["output_config"]),
            (&adaptive, &json!({"effort": level})),
            "{model} {effort}"
        );
    }
    for (model, thinking) in
        [(NEW, None), (BUDGET, None), (OLDEST, None), (UNFORCED, None), (THINKING, Some(json!({"type": "disabled"})))]
    {
        let sent = sent(model, json!({"reasoning_effort": "none"}));
        assert_eq!(sent.get("thinking"), thinking.as_ref(), "{model}");
        assert_eq!(sent.get("output_config"), None, "{model}");
    }
}

#[test]
fn effort_becomes_a_budget_below_the_limit() {
    for (effort, limit, budget, max_tokens) in [
        ("minimal", None, Some(1024), 64_000),
        ("low", None, Some(1024), 64_000),
        ("medium", None, Some(2048), 64_000),
        ("high", None, Some(4096), 64_000),
        ("xhigh", None, Some(8192), 64_000),
        ("max", None, Some(16_384), 64_000),
        ("high", Some(10_000), Some(4096), 10_000),
        ("high", Some(4096), Some(4095), 4096),
        ("high", Some(2000), Some(1999), 2000),
        ("high", Some(1025), Some(1024), 1025),
        ("high", Some(1024), None, 1024),
        ("high", Some(1), None, 1),
    ] {
        let sent = sent(BUDGET, json!({"reasoning_effort": effort, "max_tokens": limit}));
        let thinking = budget.map(|budget| json!({"type": "enabled", "budget_tokens": budget}));
        assert_eq!(sent.get("thinking"), thinking.as_ref(), "{effort} {limit:?}");
        assert_eq!(sent["max_tokens"], max_tokens, "{effort} {limit:?}");
        assert_eq!(sent.get("output_config"), None, "{effort}");
    }
    // A default that is too small makes room.
    let options = Options { default_max_tokens: 1000, ..options(BUDGET) };
    let (sent, _) = translate(&request(json!({"reasoning_effort": "max"})), &options).unwrap();
    assert_eq!((&sent["max_tokens"], &sent["thinking"]["budget_tokens"]), (&json!(20_480), &json!(16_384)));
}

#[test]
fn effort_that_a_model_cannot_give_is_lost() {
    let forced = json!({"reasoning_effort": "high", "tools": [tool("f")], "tool_choice": "required"});
    for (model, members) in [(OLDEST, json!({"reasoning_effort": "low"})), (BUDGET, forced.clone())] {
        let refusal = refused(model, members.clone());
        let wanted = (ErrorClass::UnsupportedParams, Some("reasoning_effort"));
        assert_eq!((refusal.class, refusal.param.as_deref()), wanted, "{members}");
        assert_eq!(sent_or_dropped(model, members).get("thinking"), None);
    }
    // Adaptive thinking goes with a forced call.
    assert_eq!(sent(NEW, forced)["thinking"]["type"], "adaptive");
    for effort in [json!("much"), json!(3)] {
        let refusal = refused(NEW, json!({"reasoning_effort": effort}));
        assert_eq!((refusal.class, refusal.param.as_deref()), (ErrorClass::BadRequest, Some("reasoning_effort")));
    }
}

#[test]
fn thinking_in_anthropics_words_is_passed_on() {
    let thinking = json!({"type": "enabled", "budget_tokens": 70_000});
    let sent = sent(BUDGET, json!({"thinking": thinking, "reasoning_effort": "low"}));
    assert_eq!((&sent["thinking"], &sent["max_tokens"]), (&thinking, &json!(74_096)));
}

#[test]
fn samplers_keep_to_what_the_model_takes() {
    for (model, members, wanted) in [
        (OLD, json!({"temperature": 0}), json!({"temperature": 0})),
        (OLD, json!({"temperature": 1}), json!({"temperature": 1})),
        (OLD, json!({"temperature": 1.7}), json!({"temperature": 1})),
        (
            OLD,
            json!({"temperature": 0.2, "top_p": 0.9, "top_k": 5}),
            json!({"temperature": 0.2, "top_p": 0.9, "top_k": 5}),
        ),
        (MIDDLE, json!({"temperature": 0.2, "top_p": 1}), json!({"temperature": 0.2})),
        (MIDDLE, json!({"top_p": 0.9}), json!({"top_p": 0.9})),
        (NEW, json!({"temperature": 1, "top_p": 1.0}), json!({})),
        ("some-alias", json!({"temperature": 0.2, "top_p": 0.9}), json!({"temperature": 0.2, "top_p": 0.9})),
        (MIDDLE, json!({"reasoning_effort": "low", "temperature": 1}), json!({"temperature": 1})),
        (MIDDLE, json!({"reasoning_effort": "low", "top_p": 0.97}), json!({"top_p": 0.97})),
    ] {
        let sent = sent(model, members.clone());
        let sent: serde_json::Map<_, _> = ["temperature", "top_p", "top_k"]
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), sent.get(name)?.clone())))
            .collect();
        assert_eq!(Value::Object(sent), wanted, "{model} {members}");
    }
    for (model, members, params, class) in [
        (
            NEW,
            json!({"temperature": 0.5, "top_p": 0.5, "top_k": 5}),
            "temperature, top_p, top_k",
            ErrorClass::UnsupportedParams,
        ),
        (MIDDLE, json!({"temperature": 0.5, "top_p": 0.5}), "top_p", ErrorClass::UnsupportedParams),
        (
            MIDDLE,
            json!({"reasoning_effort": "low", "temperature": 0, "top_p": 0.5, "top_k": 5}),
            "temperature, top_p, top_k",
            ErrorClass::UnsupportedParams,
        ),
        (OLD, json!({"temperature": 2.5}), "temperature", ErrorClass::BadRequest),
        (OLD, json!({"temperature": -0.5}), "temperature", ErrorClass::BadRequest),
        (OLD, json!({"temperature": "hot"}), "temperature", ErrorClass::BadRequest),
        (OLD, json!({"top_p": 1.5}), "top_p", ErrorClass::BadRequest),
        (OLD, json!({"top_k": -1}), "top_k", ErrorClass::BadRequest),
    ] {
        let refusal = refused(model, members.clone());
        assert_eq!((&refusal.class, refusal.param.as_deref()), (&class, Some(params)), "{members}");
        if class == ErrorClass::UnsupportedParams {
            let sent = sent_or_dropped(model, members.clone());
            for param in params.split(", ") {
                assert_eq!(sent.get(param), None, "{members}");
            }
        }
    }
}

#[test]
fn what_anthropic_does_not_take_is_refused_or_dropped() {
    for (name, value) in [
        ("n", json!(2)),
        ("seed", json!(0)),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(3)),
        ("logit_bias", json!({"50256": -100})),
        ("frequency_penalty", json!(0.5)),
        ("presence_penalty", json!(-0.5)),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("audio", json!({"voice": "alloy", "format": "wav"})),
        ("modalities", json!(["text", "audio"])),
        ("web_search_options", json!({})),
        ("verbosity", json!("low")),
        ("moderation", json!({})),
        ("functions", json!([{"name": "f"}])),
        ("function_call", json!("auto")),
        ("service_tier", json!("flex")),
        ("service_tier", json!("priority")),
        ("stop", json!(" ")),
        ("stop", json!(["a", "\n"])),
    ] {
        let members = json!({name: value});
        let refusal = refused(MIDDLE, members.clone());
        let wanted = (ErrorClass::UnsupportedParams, Some(name));
        assert_eq!((refusal.class, refusal.param.as_deref()), wanted, "{members}");
        assert!(refusal.message.contains(&format!("`{name}`")) && refusal.message.contains("drop_params"));
        assert_eq!(sent_or_dropped(MIDDLE, members.clone()).get(name), None, "{members}");
    }
    let refusal = refused(NEW, json!({"seed": 1, "n": 3, "temperature": 0.5}));
    assert_eq!(refusal.param.as_deref(), Some("n, seed, temperature"));
    assert_eq!(sent_or_dropped(NEW, json!({"stop": ["a", " "]}))["stop_sequences"], json!(["a"]));
}

#[test]
fn parameters_that_say_nothing_are_left_out() {
    let silent = json!({
        "n": 1, "seed": null, "logprobs": false, "top_logprobs": 0, "logit_bias": {}, "frequency_penalty": 0.0,
        "presence_penalty": 0, "prediction": null, "audio": null, "modalities": ["text"], "verbosity": "medium",
        "functions": [], "stop": null, "tools": null, "tool_choice": null, "response_format": {"type": "text"},
        "store": true, "metadata": {"a": "b"}, "prompt_cache_key": "k", "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "explicit"}, "stream": true, "stream_options": {"include_usage": true},
        "temperature": null, "user": null, "something": null,
    });
    let wanted = json!({"model": NEW, "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": [text("hi")]}]});
    assert_eq!(sent(NEW, silent), wanted);
}

#[test]
fn what_only_anthropic_knows_is_passed_on() {
    let own = json!({"top_k": 5, "inference_geo": "us", "speed": "fast", "container": "c", "not_invented_yet": [1]});
    let sent = sent(OLD, own.clone());
    for (name, value) in own.as_object().unwrap() {
        assert_eq!(&sent[name], value, "{name}");
    }
    for (name, value) in [("system", json!("x")), ("stop_sequences", json!(["x"]))] {
        let refusal = refused(NEW, json!({name: value}));
        assert_eq!((refusal.class, refusal.param.as_deref()), (ErrorClass::BadRequest, Some(name)));
    }
}

#[test]
fn stop_is_a_list() {
    assert_eq!(sent(NEW, json!({"stop": "a"}))["stop_sequences"], json!(["a"]));
    assert_eq!(sent(NEW, json!({"stop": ["a", "b\n"]}))["stop_sequences"], json!(["a", "b\n"]));
    assert_eq!(sent(NEW, json!({"stop": []})).get("stop_sequences"), None);
    for stop in [json!(3), json!([3]), json!({})] {
        assert_eq!(refused(NEW, json!({"stop": stop})).class, ErrorClass::BadRequest);
    }
}

#[test]
fn users_are_named_unless_by_address_or_number() {
    for (members, wanted) in [
        (json!({"user": "u-17"}), Some("u-17")),
        (json!({"safety_identifier": "s-1"}), Some("s-1")),
        (json!({"user": "u-17", "safety_identifier": "s-1"}), Some("u-17")),
        (json!({"user": "5f0c8a52-9d0f-4f7e-a3c7-0f6b1d6c2e11"}), Some("5f0c8a52-9d0f-4f7e-a3c7-0f6b1d6c2e11")),
        (json!({"user": "name@host"}), Some("name@host")),
        (json!({"user": "ada@lovelace.example"}), None),
        (json!({"user": "+44 (20) 7946-0958"}), None),
        (json!({"user": "5551234567"}), None),
        (json!({"user": ""}), None),
    ] {
        let sent = sent(NEW, members.clone());
        assert_eq!(sent["metadata"]["user_id"].as_str(), wanted, "{members}");
        assert_eq!(sent.get("metadata").is_some(), wanted.is_some(), "{members}");
    }
    assert_eq!(refused(NEW, json!({"user": 5})).param.as_deref(), Some("user"));
}

#[test]
fn tiers_are_translated_and_what_is_asked_for_wins() {
    for (body, asked, wanted) in [
        (json!("auto"), None, Some("auto")),
        (json!("default"), None, Some("standard_only")),
        (json!("standard_only"), None, Some("standard_only")),
        (json!(null), None, None),
        (json!("flex"), Some("auto"), Some("auto")),
        (json!(null), Some("default"), Some("standard_only")),
    ] {
        let options = Options { service_tier: asked, ..options(NEW) };
        let (sent, _) = translate(&request(json!({"service_tier": body})), &options).unwrap();
        assert_eq!(sent["service_tier"].as_str(), wanted, "{body} {asked:?}");
    }
}

#[test]
fn the_caller_decides_on_streaming() {
    for stream in [true, false] {
        let options = Options { stream, ..options(NEW) };
        let (sent, _) = translate(&request(json!({"stream": !stream})), &options).unwrap();
        assert_eq!(sent.get("stream"), stream.then_some(&json!(true)));
    }
}
