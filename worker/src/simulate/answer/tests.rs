use serde_json::Value;

use super::*;
use crate::simulate::random::Purpose;

fn answer(endpoint: Endpoint, body: &str) -> (Answer, Value) {
    let request = Request::parse(body.as_bytes()).unwrap();
    request.check(endpoint).unwrap();
    let random = Random::new(1, 2, 3, Purpose::Answer);
    let answer = Facts { id: 0xabc, created: 1_795_395_600, output_tokens: 40, random }.answer(endpoint, &request);
    let json = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    (answer, json)
}

const HI: &str = r#""messages":[{"role":"user","content":"hello there"}]"#;

#[test]
fn a_chat_answer_has_openais_shape() {
    let (answer, json) = answer(Endpoint::Chat, &format!(r#"{{"model":"a \"b\"","n":2,{HI}}}"#));
    assert_eq!(json["id"], "chatcmpl-sim0000000000000abc");
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "a \"b\"");
    assert_eq!(json["choices"].as_array().unwrap().len(), 2);
    let words: usize =
        [0, 1].map(|at| json["choices"][at]["message"]["content"].as_str().unwrap().split(' ').count()).iter().sum();
    assert_eq!(json["usage"]["completion_tokens"], words);
    assert_eq!(answer.completion_tokens, words as u64);
    assert_eq!(json["usage"]["prompt_tokens"], 3);
    assert_eq!(json["usage"]["total_tokens"], words + 3);
    assert_eq!(json["choices"][1]["finish_reason"], "stop");
}

#[test]
fn lengths_vary_around_the_mean() {
    let mut total = 0;
    for marker in 0..1_000 {
        let random = Random::new(1, marker, 1, Purpose::Answer);
        let request = Request::parse(br#"{"model":"m"}"#).unwrap();
        let facts = Facts { id: 0, created: 0, output_tokens: 40, random };
        let tokens = facts.answer(Endpoint::Chat, &request).completion_tokens;
        assert!((20..=60).contains(&tokens), "{tokens}");
        total += tokens;
    }
    assert!((38_000..42_000).contains(&total), "{total}");
}

#[test]
fn the_callers_maximum_cuts_the_answer() {
    let (_, json) = answer(Endpoint::Chat, &format!(r#"{{"model":"m","max_tokens":5,{HI}}}"#));
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    assert_eq!(json["usage"]["completion_tokens"], 5);
    let (_, json) = answer(Endpoint::Responses, r#"{"model":"m","max_output_tokens":5,"input":"hi"}"#);
    assert_eq!(json["status"], "incomplete");
    assert_eq!(json["incomplete_details"]["reason"], "max_output_tokens");
}

#[test]
fn a_json_answer_is_json() {
    let (_, json) =
        answer(Endpoint::Chat, &format!(r#"{{"model":"m","response_format":{{"type":"json_object"}},{HI}}}"#));
    let content: Value = serde_json::from_str(json["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(content["answer"].as_str().unwrap().ends_with('.'));
    assert!((0.5..1.0).contains(&content["confidence"].as_f64().unwrap()));
}

#[test]
fn completions_answer_every_prompt() {
    let (_, json) = answer(Endpoint::Completions, r#"{"model":"m","prompt":["a","b"],"n":2}"#);
    assert_eq!(json["object"], "text_completion");
    assert_eq!(json["choices"].as_array().unwrap().len(), 4);
    assert_eq!(json["choices"][3]["index"], 3);
}

#[test]
fn a_response_holds_one_message() {
    let (answer, json) = answer(
        Endpoint::Responses,
        r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}]}"#,
    );
    assert_eq!(json["object"], "response");
    assert_eq!(json["status"], "completed");
    assert_eq!(json["output"][0]["content"][0]["type"], "output_text");
    assert_eq!(json["usage"]["output_tokens"], answer.completion_tokens);
}

#[test]
fn embeddings_are_unit_vectors_in_both_encodings() {
    let (_, json) = answer(Endpoint::Embeddings, r#"{"model":"m","input":["a","b"],"dimensions":8}"#);
    let vector: Vec<f64> =
        json["data"][1]["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!((json["data"][1]["index"].as_u64(), vector.len()), (Some(1), 8));
    assert!((vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-3);
    let (_, json) =
        answer(Endpoint::Embeddings, r#"{"model":"m","input":"a","dimensions":8,"encoding_format":"base64"}"#);
    assert_eq!(json["data"][0]["embedding"].as_str().unwrap().len(), 44);
}

#[test]
fn a_stream_adds_up_to_the_whole_answer() {
    let (_, whole) = answer(Endpoint::Chat, &format!(r#"{{"model":"m",{HI}}}"#));
    let options = r#""stream":true,"stream_options":{"include_usage":true}"#;
    let (streamed, _) = answer(Endpoint::Chat, &format!(r#"{{"model":"m",{options},{HI}}}"#));
    let text = String::from_utf8(streamed.body).unwrap();
    let mut events: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let content: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], content);
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last["usage"], whole["usage"]);
    assert_eq!(last["choices"], serde_json::json!([]));
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null()));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
}
