//! Streams of made-up answers, put together to the answers that they were made of.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn assembled(api: Api, events: &[(&str, Value)]) -> (Assembled, Vec<Step>, String) {
    let mut assembler = Assembler::of(api, 1);
    let mut shown = String::new();
    let mut steps = Vec::new();
    for (name, data) in events {
        let data = if data == "[DONE]" { "[DONE]".to_owned() } else { data.to_string() };
        steps.push(assembler.event(Event { name, data: &data, is_unended: false, is_text: true }, &mut |delta| {
            match delta {
                Delta::Text(text) => shown.push_str(text),
                Delta::Reasoning(text) => shown.push_str(&format!("({text})")),
            }
        }));
    }
    (assembler.finish(), steps, shown)
}

fn chunks(chunks: &[Value]) -> (Value, bool, String) {
    let events: Vec<(&str, Value)> = chunks.iter().map(|chunk| ("", chunk.clone())).collect();
    let (assembled, _, shown) = assembled(Api::Chat, &events);
    (serde_json::from_slice(&assembled.body).unwrap(), assembled.is_whole, shown)
}

#[test]
fn several_choices_stand_apart_and_the_first_is_shown() {
    let (body, is_whole, shown) = chunks(&[
        json!({"choices": [{"index": 1, "delta": {"content": "b"}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "A"}, "logprobs": {"content": [{"token": "A"}]}}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    ]);
    assert!(!is_whole, "one choice goes on");
    assert_eq!(shown, "aA");
    assert_eq!(body["choices"][0]["message"]["content"], "aA");
    assert_eq!(body["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 2);
    assert_eq!(
        body["choices"][1],
        json!({"index": 1, "finish_reason": null, "message": {"role": "assistant", "content": "b"}})
    );
}

#[test]
fn calls_of_functions_are_put_together_by_their_index() {
    let call = |index: u64, call: Value| {
        let mut call = call;
        call["index"] = index.into();
        json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
    };
    let (body, is_whole, shown) = chunks(&[
        call(1, json!({"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}})),
        call(0, json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\""}})),
        call(0, json!({"id": null, "function": {"name": "", "arguments": ":1}"}})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        json!("[DONE]"),
    ]);
    assert!(is_whole && shown.is_empty());
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    assert_eq!(
        message["tool_calls"],
        json!([
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
        ])
    );
}

#[test]
fn what_ends_a_stream_makes_it_whole_and_nothing_else_does() {
    let text = json!({"choices": [{"index": 0, "delta": {"content": "a"}}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]});
    for (events, is_whole) in [
        (vec![], false),
        (vec![json!("[DONE]")], false),
        (vec![text.clone()], false),
        (vec![text.clone(), json!("[DONE]")], true),
        (vec![text, end], true),
    ] {
        assert_eq!(chunks(&events).1, is_whole, "{events:?}");
    }
}

#[test]
fn choices_that_were_asked_for_and_never_came_leave_it_cut() {
    let end = json!({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}).to_string();
    for (asked, is_whole) in [(1, true), (2, false)] {
        let mut assembler = Assembler::of(Api::Chat, asked);
        let event = |data| Event { name: "", data, is_unended: false, is_text: true };
        assembler.event(event(&end), &mut |_| {});
        assert_eq!(assembler.event(event(" "), &mut |_| {}), Step::More, "an empty event says nothing");
        assert_eq!(assembler.finish().is_whole, is_whole);
    }
}

#[test]
fn endless_choices_are_no_answer() {
    let mut assembler = Assembler::of(Api::Chat, 1);
    let mut step = Step::More;
    for index in 0..10_000 {
        let data = json!({"choices": [{"index": index}]}).to_string();
        step = assembler.event(Event { name: "", data: &data, is_unended: false, is_text: true }, &mut |_| {});
    }
    assert_eq!(step, Step::Unreadable);
}

#[test]
fn errors_are_told_wherever_they_stand() {
    for (api, name, data) in [
        (Api::Chat, "", json!({"error": {"message": "m"}})),
        (Api::Chat, "error", json!({"error": "m"})),
        (Api::Chat, "", json!({"object": "error", "message": "m"})),
        (Api::Chat, "", json!({"x_groq": {"error": "m"}, "choices": []})),
        (Api::Chat, "", json!({"choices": [{"index": 0, "error": {"message": "m"}}]})),
        (Api::Responses, "error", json!({"type": "error", "message": "m"})),
        (Api::Messages, "error", json!({"type": "error", "error": {"message": "m"}})),
    ] {
        let (_, steps, _) = assembled(api, &[(name, data.clone())]);
        assert!(matches!(steps[0], Step::Failed(_)), "{data}");
    }
    let (_, steps, _) =
        assembled(Api::Chat, &[("", json!({"error": {}})), ("", json!({"error": null})), ("", json!([]))]);
    assert_eq!(steps, [Step::More, Step::More, Step::Unreadable]);
}

#[test]
fn the_input_of_a_tool_comes_back_as_it_was_sent() {
    let block = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    for (pieces, wanted) in [
        (&["{\"zoo\": 1.50, ", "\"ape\": {\"y\":2,\"x\":12345678901234567890}}"][..], None),
        (&[], Some("{}")),
        (&["{\"zoo\": "], Some(r#""{\"zoo\": ""#)),
    ] {
        let mut events = vec![
            ("", json!({"type": "message_start", "message": {"type": "message", "content": [], "role": "assistant"}})),
            ("", json!({"type": "content_block_start", "index": 0, "content_block": block})),
        ];
        events.extend(pieces.iter().map(|piece| {
            ("", json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": piece}}))
        }));
        let (assembled, _, _) = assembled(Api::Messages, &events);
        let body = String::from_utf8(assembled.body.to_vec()).unwrap();
        let whole = pieces.concat();
        let wanted = wanted.unwrap_or(&whole);
        assert!(body.contains(&format!("\"input\":{wanted}")), "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["content"][0]["name"], &body["role"]), (&json!("f"), &json!("assistant")));
    }
}

#[test]
fn completions_have_text_and_no_message() {
    let (assembled, _, shown) = assembled(
        Api::Completions,
        &[
            ("", json!({"id": "c", "choices": [{"index": 0, "text": "a"}]})),
            ("", json!({"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]})),
        ],
    );
    let body: Value = serde_json::from_slice(&assembled.body).unwrap();
    assert_eq!((shown.as_str(), assembled.text.as_str()), ("ab", "ab"));
    assert_eq!(
        body,
        json!({"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "ab", "finish_reason": "stop"}]})
    );
}

proptest! {
    #[test]
    fn however_a_text_is_cut_it_comes_back(
        parts in proptest::collection::vec("[a-z\u{e9}\u{1f600}\"\\\\]{0,4}", 0..8),
        thoughts in proptest::collection::vec("[a-z]{0,3}", 0..4),
    ) {
        let (text, thought) = (parts.concat(), thoughts.concat());
        let delta = |delta: Value| ("", json!({"id": "c", "choices": [{"index": 0, "delta": delta}]}));
        let mut events: Vec<(&str, Value)> = thoughts.iter().map(|part| delta(json!({"reasoning_content": part}))).collect();
        events.extend(parts.iter().map(|part| delta(json!({"content": part}))));
        events.push(("", json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}})));
        let (chat, _, _) = assembled(Api::Chat, &events);
        let body: Value = serde_json::from_slice(&chat.body).unwrap();
        let message = &body["choices"][0]["message"];
        prop_assert_eq!(message["content"].as_str().unwrap_or(""), &text);
        prop_assert_eq!(message["reasoning_content"].as_str().unwrap_or(""), &thought);
        prop_assert_eq!((&chat.text, chat.began), (&text, !text.is_empty() || !thought.is_empty()));

        let mut events = vec![
            ("message_start", json!({"type": "message_start", "message": {"type": "message", "content": [], "usage": {"input_tokens": 1}}})),
            ("content_block_start", json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})),
        ];
        events.extend(parts.iter().map(|part| {
            ("content_block_delta", json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}))
        }));
        events.push(("message_stop", json!({"type": "message_stop"})));
        let (message, _, shown) = assembled(Api::Messages, &events);
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        prop_assert_eq!(body["content"][0]["text"].as_str().unwrap(), &text);
        prop_assert_eq!((shown, message.is_whole), (text, true));
    }
}
