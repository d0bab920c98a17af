use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A PNG's first bytes, of 1024 × 1024 pixels.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAABAAAAAQACAIAAADwf7zU";

fn read(provider: &str, model: &str, body: &Value) -> Request {
    Request::read(body.to_string().as_bytes(), &Model::of(provider, model)).unwrap()
}

fn rough(body: &Value) -> u64 {
    read("groq", "llama", body).input_tokens
}

/// The first is the example of OpenAI's cookbook, for which its API counts 129 in gpt-4 and 124 in gpt-4o
/// (<https://developers.openai.com/cookbook/examples/how_to_count_tokens_with_tiktoken>, read 2026-11).
#[cfg(feature = "exact")]
#[test]
fn requests_of_openais_models_are_counted_as_openai_does() {
    let example = |name: &str, content: &str| json!({"role": "system", "name": name, "content": content});
    let body = json!({"messages": [
        {"role": "system", "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
        example("example_user", "New synergies will help drive top-line growth."),
        example("example_assistant", "Things working well together will increase revenue."),
        example("example_user", "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."),
        example("example_assistant", "Let's talk later when we're less busy about how to do better."),
        {"role": "user", "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
    ]});
    assert_eq!(read("openai", "gpt-4", &body).input_tokens, 129);
    assert_eq!(read("openai", "gpt-4o", &body).input_tokens, 124);
    for (model, body, wanted) in [
        ("gpt-4o", json!({"messages": [{"role": "user", "content": "hello world"}]}), 3 + 1 + 2 + 3),
        ("gpt-4o", json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "hello world"}]}]}), 9),
        ("gpt-4o", json!({"input": "hello world"}), 8),
        (
            "gpt-4o",
            json!({"instructions": "hello world", "input": [{"role": "user", "content": "hello"}]}),
            5 + 3 + 2 + 3,
        ),
        ("text-embedding-3-small", json!({"input": "hello world"}), 2),
        ("text-embedding-3-small", json!({"input": ["hello world", "hello"]}), 3),
        ("text-embedding-3-small", json!({"input": [1, 2, 3]}), 3),
        ("text-embedding-3-small", json!({"input": [[1, 2, 3], [4]]}), 4),
        ("gpt-3.5-turbo-instruct", json!({"prompt": ["hello world"]}), 2),
        ("gpt-4o", json!({"messages": []}), 1),
    ] {
        assert_eq!(read("openai", model, &body).input_tokens, wanted, "{body}");
    }
}

#[test]
fn an_image_counts_by_its_pixels_and_never_as_text() {
    let data = format!("data:image/png;base64,{PNG}{}", "A".repeat(40_000));
    let message = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    for (provider, model, part, wanted) in [
        ("openai", "gpt-4o", json!({"type": "image_url", "image_url": {"url": data, "detail": "high"}}), 765),
        ("openai", "gpt-4o", json!({"type": "image_url", "image_url": {"detail": "low", "url": data}}), 85),
        ("openai", "gpt-4o", json!({"type": "input_image", "image_url": data, "detail": "low"}), 85),
        ("openai", "gpt-4o", json!({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}), 765),
        (
            "anthropic",
            "claude-sonnet-4-5",
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data[22..]}}),
            1_369,
        ),
        (
            "anthropic",
            "claude-sonnet-4-5",
            json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data[22..]}}),
            1_000,
        ),
        ("groq", "llama", json!({"type": "image_url", "image_url": {"url": data}}), 1_000),
        ("groq", "llama", json!({"type": "file", "file": {"file_data": data}}), 1_000),
        ("groq", "llama", json!({"type": "unheard_of", "whatever": data}), 1_000),
    ] {
        let counted = read(provider, model, &message(part.clone()));
        let frame = 3 + 1 + 3;
        assert_eq!(counted.input_tokens, wanted + frame, "{model} {}", part["type"]);
        assert!(counted.input_bytes < 8_000);
    }
}

#[test]
fn anthropics_bodies_are_counted() {
    let body = json!({
        "model": "claude-sonnet-4-5",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "abcdefgh", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "abcdefgh"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_0123456789", "name": "tool", "input": {"city": "Rome", "days": 3}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_0123456789", "content": "warm"}]},
        ],
    });
    let counted = read("anthropic", "claude-sonnet-4-5", &body);
    let (system, first, second, third) = (3 + 2, 3 + 1 + 2, 3 + 3 + 1 + (1 + 2 + 1) + (1 + 2 + 1), 3 + 1 + 1);
    assert_eq!(counted.input_tokens, system + first + second + third + 3);
    assert_eq!(counted.most_output_tokens, Some(100));
}

#[test]
fn tools_calls_and_schemas_count() {
    let bare = json!({"messages": [{"role": "user", "content": "hi"}]});
    let with = |name: &str, value: Value| {
        let mut body = bare.clone();
        body[name] = value;
        rough(&body) - rough(&bare)
    };
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    assert!(with("tools", json!([{"type": "function", "function": {"name": "f", "parameters": schema}}])) > 20);
    assert!(
        with("response_format", json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}})) > 20
    );
    assert!(with("text", json!({"format": {"type": "json_schema", "schema": schema}})) > 15);
    assert_eq!(with("response_format", json!({"type": "json_object"})), 0);
    assert_eq!(with("metadata", json!({"a": "b".repeat(1_000)})), 0);
    let call = json!({"messages": [
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_0123456789", "type": "function", "function": {"name": "tool", "arguments": "{\"a\":1}"}},
        ]},
    ]});
    assert_eq!(rough(&call), 3 + 3 + 1 + 2 + 3);
}

#[test]
fn the_longest_answer_is_read_over_all_choices() {
    for (body, wanted) in [
        (json!({"max_tokens": 50, "n": 2}), Some(100)),
        (json!({"max_completion_tokens": 70, "max_tokens": 50}), Some(70)),
        (json!({"max_output_tokens": 30}), Some(30)),
        (json!({"max_tokens": null}), None),
        (json!({"max_tokens": u64::MAX, "n": 3}), Some(u64::MAX)),
    ] {
        assert_eq!(read("groq", "llama", &body).most_output_tokens, wanted, "{body}");
    }
}

#[test]
fn a_request_is_open_where_its_api_has_a_bound_and_it_names_none() {
    for (body, open, choices) in [
        (json!({"messages": [], "n": 2}), true, Some(2)),
        (json!({"prompt": "x", "n": 0}), true, Some(1)),
        (json!({"messages": [], "max_tokens": null}), false, None),
        (json!({"messages": [], "max_completion_tokens": 7}), false, None),
        (json!({"input": "x"}), false, None),
    ] {
        let counted = read("groq", "llama", &body);
        assert_eq!((counted.is_open, counted.choices), (open, choices), "{body}");
    }
}

#[test]
fn what_is_no_body_is_not_counted_and_odd_ones_are() {
    let model = Model::of("groq", "llama");
    for body in ["", "no json", "[]", "7", "{", "\u{0}"] {
        assert_eq!(Request::read(body.as_bytes(), &model), None, "{body}");
    }
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Request::read(deep.as_bytes(), &model).unwrap().input_tokens > 1_000);
    let twice = r#"{"max_tokens":1,"max_tokens":2,"messages":"hello","input":{"a":7},"prompt":null,"n":"x"}"#;
    assert_eq!(Request::read(twice.as_bytes(), &model).unwrap().most_output_tokens, Some(2));
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        "(data:image/png;base64,|data:|)\\PC{0,20}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("messages"),
        Just("input"),
        Just("content"),
        Just("image_url"),
        Just("url"),
        Just("source"),
        Just("type"),
        Just("data"),
        Just("name"),
        Just("role"),
        Just("tools"),
        Just("system"),
        Just("x"),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((name.clone(), inner), 0..5).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_body_has_a_count(body in json_value()) {
        for (provider, model) in [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("groq", "llama")] {
            let counted = Request::read(body.to_string().as_bytes(), &Model::of(provider, model));
            prop_assert_eq!(counted.is_some(), body.is_object());
            prop_assert!(counted.is_none_or(|counted| (1..100_000).contains(&counted.input_tokens)));
        }
    }

    #[test]
    fn more_text_is_never_fewer_tokens_by_estimate(first in "\\PC{0,60}", second in "\\PC{0,60}") {
        let body = |text: &str| json!({"messages": [{"role": "user", "content": format!("t {text}")}]});
        let both = [first.as_str(), second.as_str()].concat();
        prop_assert!(rough(&body(&first)) <= rough(&body(&both)));
    }
}
