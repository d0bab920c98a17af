//! What becomes of messages and their parts.

use super::*;

const PNG: &str = "iVBORw0KGgo=";
const JPEG: &str = "/9j/4AAQ";
const PDF: &str = "JVBERi0xLjc=";

fn sent_messages(model: &str, messages: Value) -> Value {
    sent(model, json!({"messages": messages}))
}

fn user(words: &str) -> Value {
    json!({"role": "user", "content": words})
}

fn said(role: &str, words: &[&str]) -> Value {
    json!({"role": role, "content": words.iter().map(|words| text(words)).collect::<Vec<_>>()})
}

fn call(id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}})
}

fn use_of(id: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": "f", "input": {}})
}

fn result(id: &str, words: &str) -> Value {
    json!({"type": "tool_result", "tool_use_id": id, "content": [text(words)]})
}

#[test]
fn instructions_at_the_head_become_the_system() {
    for (messages, system) in [
        (json!([{"role": "system", "content": "a"}, user("hi")]), Some(json!([text("a")]))),
        (json!([{"role": "developer", "content": "a"}, user("hi")]), Some(json!([text("a")]))),
        (
            json!([{"role": "system", "content": "a"}, {"role": "system", "content": ""},
                {"role": "developer", "content": [text("b"), text(" "), text("c")]}, user("hi")]),
            Some(json!([text("a"), text("b"), text("c")])),
        ),
        (json!([{"role": "system", "content": "  "}, user("hi")]), None),
        (json!([{"role": "system", "content": null}, user("hi")]), None),
        (json!([user("hi")]), None),
    ] {
        let sent = sent_messages(NEW, messages.clone());
        assert_eq!(sent.get("system"), system.as_ref(), "{messages}");
        assert_eq!(sent["messages"], json!([said("user", &["hi"])]), "{messages}");
    }
}

#[test]
fn later_instructions_stay_where_the_model_takes_them() {
    let note = "Operator note (not from the user): s";
    let system = json!({"role": "system", "content": "s"});
    let answer = json!({"role": "assistant", "content": "a"});
    for (model, messages, wanted) in [
        (NEW, json!([user("u"), system]), json!([said("user", &["u"]), said("system", &["s"])])),
        (
            NEW,
            json!([user("u"), system, answer, user("v")]),
            json!([said("user", &["u"]), said("system", &["s"]), said("assistant", &["a"]), said("user", &["v"])]),
        ),
        (NEW, json!([user("u"), system, system]), json!([said("user", &["u"]), said("system", &["s", "s"])])),
        // Behind an answer, or before more of the user, none may stand.
        (NEW, json!([user("u"), system, user("v")]), json!([said("user", &["u", note, "v"])])),
        (
            NEW,
            json!([user("u"), answer, system, user("v")]),
            json!([said("user", &["u"]), said("assistant", &["a"]), said("user", &[note, "v"])]),
        ),
        (
            NEW,
            json!([user("u"), answer, system]),
            json!([said("user", &["u"]), said("assistant", &["a"]), said("user", &[note])]),
        ),
        (MIDDLE, json!([user("u"), system]), json!([said("user", &["u", note])])),
        (MIDDLE, json!([user("u"), system, user("v")]), json!([said("user", &["u", note, "v"])])),
    ] {
        assert_eq!(sent_messages(model, messages.clone())["messages"], wanted, "{messages}");
    }
}

#[test]
fn turns_are_merged_and_never_empty() {
    for (messages, wanted) in [
        (json!([user("a"), user("b")]), json!([said("user", &["a", "b"])])),
        (
            json!([user("a"), {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}, user("d")]),
            json!([said("user", &["a"]), said("assistant", &["b", "c"]), said("user", &["d"])]),
        ),
        (json!([user("")]), json!([said("user", &["(empty message)"])])),
        (json!([{"role": "user"}]), json!([said("user", &["(empty message)"])])),
        (json!([{"role": "user", "content": [text("  ")]}]), json!([said("user", &["(empty message)"])])),
        (json!([user("a"), user("")]), json!([said("user", &["a"])])),
        (json!([user("a"), {"role": "assistant", "content": ""}, user("b")]), json!([said("user", &["a", "b"])])),
        (
            json!([user("a"), {"role": "assistant", "content": "It is \n"}]),
            json!([said("user", &["a"]), said("assistant", &["It is"])]),
        ),
        (json!([user("a"), {"role": "assistant", "content": " "}]), json!([said("user", &["a"])])),
        (
            json!([{"role": "assistant", "content": "a \u{1f600}\u{0}"}, user("b")]),
            json!([said("assistant", &["a \u{1f600}\u{0}"]), said("user", &["b"])]),
        ),
        (
            json!([user("a"), {"role": "assistant", "content": null, "refusal": "No."}, user("b")]),
            json!([said("user", &["a"]), said("assistant", &["No."]), said("user", &["b"])]),
        ),
        (
            json!([user("a"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, user("b")]),
            json!([said("user", &["a"]), said("assistant", &["No."]), said("user", &["b"])]),
        ),
    ] {
        assert_eq!(sent_messages(NEW, messages.clone())["messages"], wanted, "{messages}");
    }
}

#[test]
fn results_of_tools_stand_together_before_text() {
    let calls = json!({"role": "assistant", "content": "So.", "tool_calls": [call("1"), call("2")]});
    let messages = json!([
        user("a"), calls,
        {"role": "tool", "tool_call_id": "2", "content": "y"},
        user("b"),
        {"role": "tool", "tool_call_id": "1", "content": [text("x")]},
        {"role": "tool", "tool_call_id": "3", "content": "", "is_error": true},
    ]);
    let sent = sent(NEW, json!({"messages": messages, "tools": [tool("f")]}));
    let wanted = json!([
        said("user", &["a"]),
        {"role": "assistant", "content": [text("So."), use_of("1"), use_of("2")]},
        {"role": "user", "content": [result("2", "y"), result("1", "x"),
            {"type": "tool_result", "tool_use_id": "3", "is_error": true}, text("b")]},
    ]);
    assert_eq!(sent["messages"], wanted);
}

#[test]
fn arguments_become_objects_or_are_refused() {
    let calling = |arguments: Value| {
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        json!([user("a"), {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "x"}])
    };
    for (arguments, input) in [
        (json!(""), json!({})),
        (json!(" \n"), json!({})),
        (json!(null), json!({})),
        (json!("{}"), json!({})),
        (json!(r#"{"a":"\u00e9\n"}"#), json!({"a": "é\n"})),
        (json!({"a": 1}), json!({"a": 1})),
    ] {
        let sent = sent_messages(NEW, calling(arguments.clone()));
        assert_eq!(sent["messages"][1]["content"][0]["input"], input, "{arguments}");
    }
    for arguments in [json!("{\"a\":"), json!("[1]"), json!("3"), json!(3), json!("null")] {
        let refusal = refused(NEW, json!({"messages": calling(arguments.clone())}));
        let wanted = (ErrorClass::BadRequest, Some("messages[1].tool_calls[0].function.arguments"));
        assert_eq!((refusal.class, refusal.param.as_deref()), wanted, "{arguments}");
    }
}

#[test]
fn images_and_documents_become_blocks() {
    let image = |media_type: &str, data: &str| json!({"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}});
    let pdf = |title: Option<&str>| {
        let mut block =
            json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}});
        if let Some(title) = title {
            block["title"] = json!(title);
        }
        block
    };
    let url = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    for (part, wanted) in [
        (url(&format!("data:image/png;base64,{PNG}")), image("image/png", PNG)),
        (url(&format!("DATA:image/PNG;charset=x;base64,{PNG}")), image("image/png", PNG)),
        (json!({"type": "image_url", "image_url": format!("data:image/jpg;base64,{JPEG}")}), image("image/jpeg", JPEG)),
        // What the data is decides.
        (url(&format!("data:image/png;base64,{JPEG}")), image("image/jpeg", JPEG)),
        (url(&format!("data:application/octet-stream;base64,{PNG}")), image("image/png", PNG)),
        (
            url("https://x.example/a.png"),
            json!({"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}),
        ),
        (url(&format!("data:application/pdf;base64,{PDF}")), pdf(None)),
        (
            json!({"type": "file", "file": {"filename": "a.pdf", "file_data": format!("data:application/pdf;base64,{PDF}")}}),
            pdf(Some("a.pdf")),
        ),
        (json!({"type": "file", "file": {"file_data": PDF}}), pdf(None)),
        (
            json!({"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aMOp"}}),
            json!({"type": "document", "title": "a.txt",
                "source": {"type": "text", "media_type": "text/plain", "data": "hé"}}),
        ),
        (
            json!({"type": "file", "file": {"file_id": "file_1"}}),
            json!({"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
        ),
        (
            json!({"type": "file", "file": {"file_id": "https://x.example/a.pdf"}}),
            json!({"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}}),
        ),
        (
            json!({"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
            json!({"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
        ),
    ] {
        let sent = sent_messages(NEW, json!([{"role": "user", "content": [part, text("?")]}]));
        assert_eq!(sent["messages"][0]["content"], json!([wanted, text("?")]), "{part}");
        let answered = json!([user("a"), {"role": "assistant", "tool_calls": [call("1")]},
            {"role": "tool", "tool_call_id": "1", "content": [part]}]);
        let sent = sent_messages(NEW, answered);
        assert_eq!(sent["messages"][2]["content"][0]["content"], json!([wanted]), "{part}");
    }
}

#[test]
fn parts_that_cannot_be_sent_are_refused() {
    for (part, class, words) in [
        (json!({"type": "image_url", "image_url": {"url": "file:a.png"}}), ErrorClass::BadRequest, "data:image/png"),
        (json!({"type": "image_url", "image_url": {"url": "data:image/png,x"}}), ErrorClass::BadRequest, "base64"),
        (json!({"type": "image_url", "image_url": {"url": "data:image/png;base64"}}), ErrorClass::BadRequest, "base64"),
        (
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,§"}}),
            ErrorClass::BadRequest,
            "not base64",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}),
            ErrorClass::BadRequest,
            "declared as image/png",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}),
            ErrorClass::BadRequest,
            "declared as image/png",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": "data:image/bmp;base64,Qk0="}}),
            ErrorClass::BadRequest,
            "declared as image/bmp",
        ),
        (json!({"type": "image_url", "image_url": {}}), ErrorClass::BadRequest, "without a url"),
        (json!({"type": "image_url"}), ErrorClass::BadRequest, "`image_url`"),
        (
            json!({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}),
            ErrorClass::BadRequest,
            "UTF-8",
        ),
        (json!({"type": "file", "file": {"file_data": "aGVsbG8="}}), ErrorClass::BadRequest, "declared as nothing"),
        (json!({"type": "file", "file": {}}), ErrorClass::BadRequest, "file_data"),
        (
            json!({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
            ErrorClass::UnsupportedParams,
            "audio",
        ),
        (json!({"type": "text"}), ErrorClass::BadRequest, "`text`"),
        (json!({"type": "text", "text": 3}), ErrorClass::BadRequest, "`text`"),
        (json!({"type": "video"}), ErrorClass::BadRequest, "`video`"),
        (json!({}), ErrorClass::BadRequest, "none of text"),
        (json!("words"), ErrorClass::BadRequest, "a text, where a part"),
    ] {
        let messages = json!([user("a"), {"role": "user", "content": [text("b"), part]}]);
        let refusal = refused(NEW, json!({"messages": messages}));
        assert_eq!((&refusal.class, refusal.param.as_deref()), (&class, Some("messages[1].content[1]")), "{part}");
        assert!(refusal.message.contains(words), "{part}: {}", refusal.message);
        // Content is not a parameter: it is never left out.
        let options = Options { drop_params: true, ..options(NEW) };
        assert!(translate(&json!({"messages": messages}), &options).is_err(), "{part}");
    }
}

#[test]
fn messages_that_are_none_are_refused() {
    for (messages, param, words) in [
        (json!("hi"), "messages", "not a list"),
        (json!([]), "messages", "no message"),
        (json!([{"role": "system", "content": "a"}]), "messages", "only system messages"),
        (json!([{"role": "assistant", "content": ""}]), "messages", "no message"),
        (json!(["hi"]), "messages[0]", "a text"),
        (json!([{"content": "hi"}]), "messages[0].role", "none of system"),
        (json!([{"role": "robot", "content": "hi"}]), "messages[0].role", "none of system"),
        (json!([{"role": "function", "name": "f", "content": "hi"}]), "messages[0].role", "tool_call_id"),
        (json!([{"role": "user", "content": 3}]), "messages[0].content", "a number"),
        (json!([{"role": "system", "content": [{"type": "image", "source": {}}]}]), "messages[0].content", "no text"),
        (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id", "missing"),
        (json!([{"role": "assistant", "function_call": {}}]), "messages[0].function_call", "tool_calls"),
        (json!([{"role": "assistant", "tool_calls": "x"}]), "messages[0].tool_calls", "list of objects"),
        (json!([{"role": "assistant", "tool_calls": [{}]}]), "messages[0].tool_calls[0].id", "missing"),
        (
            json!([{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]}]),
            "messages[0].tool_calls[0].function",
            "functions only",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"id": "1", "function": {}}]}]),
            "messages[0].tool_calls[0].function.name",
            "missing",
        ),
        (json!([{"role": "assistant", "thinking_blocks": [1]}]), "messages[0].thinking_blocks", "list of objects"),
    ] {
        let refusal = refused(NEW, json!({"messages": messages}));
        let wanted = (ErrorClass::BadRequest, Some(param));
        assert_eq!((refusal.class, refusal.param.as_deref()), wanted, "{messages}");
        assert!(refusal.message.contains(words), "{messages}: {}", refusal.message);
    }
}

#[test]
fn cache_marks_are_passed_through() {
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    let marked = |mut value: Value| {
        value["cache_control"] = mark.clone();
        value
    };
    let messages = json!([
        marked(json!({"role": "system", "content": [text("a"), text("b")]})),
        {"role": "user", "content": [marked(text("c")), text("d"),
            marked(json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{PNG}")}}))]},
        {"role": "assistant", "tool_calls": [marked(call("1"))]},
        marked(json!({"role": "tool", "tool_call_id": "1", "content": "x"})),
        marked(json!({"role": "user", "content": [text("e"), marked(text("f"))]})),
    ]);
    let sent = sent(NEW, json!({"messages": messages, "tools": [marked(tool("f"))], "cache_control": mark}));
    assert_eq!(sent["system"], json!([text("a"), marked(text("b"))]));
    assert_eq!(sent["messages"][0]["content"][0], marked(text("c")));
    assert_eq!(sent["messages"][0]["content"][1], text("d"));
    assert_eq!(sent["messages"][0]["content"][2]["cache_control"], mark);
    assert_eq!(sent["messages"][1]["content"][0], marked(use_of("1")));
    assert_eq!(sent["messages"][2]["content"], json!([marked(result("1", "x")), text("e"), marked(text("f"))]));
    assert_eq!(sent["tools"][0]["cache_control"], mark);
    assert_eq!(sent["cache_control"], mark);
}

#[test]
fn thinking_returns_as_it_came() {
    let blocks = json!([{"type": "thinking", "thinking": "6*7", "signature": "EqQB"}, {"type": "redacted_thinking", "data": "Emw"}]);
    let messages = json!([user("a"), {"role": "assistant", "content": "42", "reasoning_content": "6*7",
        "thinking_blocks": blocks, "tool_calls": [call("1")]}, {"role": "tool", "tool_call_id": "1", "content": "x"}]);
    let sent = sent_messages(NEW, messages);
    let wanted = json!([blocks[0], blocks[1], text("42"), use_of("1")]);
    assert_eq!(sent["messages"][1]["content"], wanted);
}
