//! Streams of every dialect: what they hold, and when it comes.

use super::*;

const STREAM: &str = "stream";

#[tokio::test]
async fn a_stream_adds_up_to_the_whole_answer_everywhere() {
    let simulator = start(Options::default()).await;
    for api in APIS {
        let whole = api.text(&json(api.ask(&simulator, "Hello", json!({})).await).await);
        let response = api.ask(&simulator, "Hello", json!({ STREAM: true })).await;
        assert_eq!(header(&response, "content-type"), Some("text/event-stream; charset=utf-8"), "{api:?}");
        assert_eq!(header(&response, "content-length"), None, "{api:?}");
        let stream = response.text().await.unwrap();
        let events = events(&stream);
        let pieces: Vec<&str> = events.iter().filter_map(|event| api.piece(event)).collect();
        assert!(pieces.len() > 5, "{stream}");
        assert_eq!(pieces.concat(), whole, "{api:?}");
        let has_done = stream.ends_with("data: [DONE]\n\n");
        assert_eq!(has_done, !matches!(api.name, "responses" | "messages"), "{api:?}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn usage_ends_the_stream_where_it_is_asked_for() {
    let simulator = start(Options::default()).await;
    for api in &APIS[..2] {
        let usage = json(api.ask(&simulator, "Hello", json!({})).await).await["usage"].take();
        let options = json!({ STREAM: true, "stream_options": { "include_usage": true } });
        let events = events(&api.ask(&simulator, "Hello", options).await.text().await.unwrap());
        let (last, before) = events.split_last().unwrap();
        assert_eq!((&last["usage"], &last["choices"]), (&usage, &json!([])));
        assert!(before.iter().all(|event| event.get("usage") == Some(&Value::Null)), "{api:?}");
        let (finish, _) = before.split_last().unwrap();
        assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    }
    let events = events(&APIS[0].ask(&simulator, "Hello", json!({ STREAM: true })).await.text().await.unwrap());
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    simulator.shutdown().await;
}

#[tokio::test]
async fn every_choice_is_streamed() {
    let simulator = start(Options::default()).await;
    let whole = json(APIS[0].ask(&simulator, "Hello", json!({ "n": 2 })).await).await;
    let stream = APIS[0].ask(&simulator, "Hello", json!({ "n": 2, STREAM: true })).await.text().await.unwrap();
    for index in 0..2 {
        let events = events(&stream).into_iter().filter(|event| event["choices"][0]["index"] == index);
        let text: String = events.filter_map(|event| APIS[0].piece(&event).map(str::to_owned)).collect();
        assert_eq!(text, whole["choices"][index]["message"]["content"]);
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn azure_begins_with_what_its_filter_says() {
    let simulator = start(Options::default()).await;
    let stream = APIS[3].ask(&simulator, "Hello", json!({ STREAM: true })).await.text().await.unwrap();
    let events = events(&stream);
    assert_eq!((&events[0]["choices"], &events[0]["id"]), (&json!([]), &json!("")));
    assert_eq!(events[0]["prompt_filter_results"][0]["content_filter_results"]["hate"]["severity"], "safe");
    assert!(events[1..].iter().all(|event| event["model"] == "gpt-4o-2024-11-20"));
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_events_of_a_message_come_in_their_order() {
    let simulator = start(Options::default()).await;
    let thinking =
        json!({ STREAM: true, "max_tokens": 2000, "thinking": { "type": "enabled", "budget_tokens": 1024 } });
    let stream = APIS[4].ask(&simulator, "Hello", thinking).await.text().await.unwrap();
    let events = events(&stream);
    for (line, event) in stream.lines().filter_map(|line| line.strip_prefix("event: ")).zip(&events) {
        assert_eq!(event["type"], line);
    }
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    let wanted = [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(kinds, wanted);
    assert_eq!(events[0]["message"]["usage"]["output_tokens"], 1);
    assert_eq!(events[0]["message"]["content"], json!([]));
    let deltas: Vec<&str> = events.iter().filter_map(|event| event["delta"]["type"].as_str()).collect();
    assert!(deltas.starts_with(&["thinking_delta"]) && deltas.contains(&"signature_delta"), "{deltas:?}");
    let last = &events[events.len() - 2];
    assert_eq!(last["delta"]["stop_reason"], "end_turn");
    assert!(
        last["usage"]["output_tokens"].as_u64() > last["usage"]["output_tokens_details"]["thinking_tokens"].as_u64()
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_events_of_a_response_are_numbered_and_end_with_the_whole() {
    let simulator = start(Options::default()).await;
    let whole = json(APIS[2].ask(&simulator, "Hello", json!({})).await).await;
    let stream = APIS[2].ask(&simulator, "Hello", json!({ STREAM: true })).await.text().await.unwrap();
    let events = events(&stream);
    assert!((0..).zip(&events).all(|(number, event)| event["sequence_number"] == number));
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    let wanted = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds, wanted);
    let last = &events.last().unwrap()["response"];
    for field in ["output", "usage", "status", "model"] {
        let ids = |value: &Value| value.to_string().replace(whole["id"].as_str().unwrap(), "");
        if field != "output" {
            assert_eq!(ids(&last[field]), ids(&whole[field]), "{field}");
        }
    }
    assert_eq!(APIS[2].text(last), APIS[2].text(&whole));
    simulator.shutdown().await;
}

/// Functions in the shape of an API.
fn weather(api: Api) -> Value {
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string", "minLength": 40 } }, "required": ["city"] });
    match api.name {
        "messages" => json!([{ "name": "get_weather", "input_schema": schema }]),
        "responses" => json!([{ "type": "function", "name": "get_weather", "parameters": schema }]),
        _ => json!([{ "type": "function", "function": { "name": "get_weather", "parameters": schema } }]),
    }
}

#[tokio::test]
async fn functions_are_called_in_fragments_that_add_up() {
    let simulator = start(Options::default()).await;
    for api in [APIS[0], APIS[2], APIS[3], APIS[4]] {
        let ask = |stream: bool| {
            api.ask(&simulator, "What is the weather?", json!({ "tools": weather(api), STREAM: stream }))
        };
        let whole = json(ask(false).await).await;
        let (id, arguments, end) = match api.name {
            "messages" => {
                let block = &whole["content"][0];
                (block["id"].clone(), block["input"].clone(), whole["stop_reason"].clone())
            }
            "responses" => {
                let item = &whole["output"][0];
                let arguments = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
                (item["call_id"].clone(), arguments, whole["status"].clone())
            }
            _ => {
                let choice = &whole["choices"][0];
                assert_eq!(choice["message"]["content"], Value::Null);
                let call = &choice["message"]["tool_calls"][0];
                let arguments = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
                (call["id"].clone(), arguments, choice["finish_reason"].clone())
            }
        };
        assert!(id.as_str().unwrap().contains("_sim"), "{whole}");
        assert!(arguments["city"].as_str().unwrap().len() >= 40, "{whole}");
        let wanted = if api.name == "messages" { "tool_use" } else { "tool_calls" };
        assert!(end == wanted || end == "completed", "{whole}");

        let stream = ask(true).await.text().await.unwrap();
        let events = events(&stream);
        let fragments: Vec<&str> = events
            .iter()
            .filter_map(|event| match api.name {
                "messages" => event["delta"]["partial_json"].as_str(),
                "responses" => event["delta"].as_str(),
                _ => event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str(),
            })
            .collect();
        assert!(fragments.len() > 2, "{stream}");
        assert_eq!(serde_json::from_str::<Value>(&fragments.concat()).unwrap(), arguments, "{api:?}");
        let ids = events.iter().filter(|event| match api.name {
            "messages" => event["content_block"]["type"] == "tool_use",
            "responses" => event["type"] == "response.output_item.added",
            _ => event["choices"][0]["delta"]["tool_calls"][0]["id"].is_string(),
        });
        assert_eq!(ids.count(), 1, "{api:?}: only the first fragment names the call");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_first_token_comes_long_before_the_last() {
    let token_latency = Duration::from_millis(2);
    let simulator = start(Options { token_latency, ..Options::default() }).await;
    for api in APIS {
        let begin = Instant::now();
        let mut response = api.ask(&simulator, "Hello", json!({ STREAM: true })).await;
        let (mut first, mut stream) = (None, String::new());
        while let Some(chunk) = response.chunk().await.unwrap() {
            stream.push_str(std::str::from_utf8(&chunk).unwrap());
            if first.is_none() && events(&stream).iter().any(|event| api.piece(event).is_some()) {
                first = Some(begin.elapsed());
            }
        }
        let (first, whole) = (first.unwrap(), begin.elapsed());
        // At least 50 tokens, the first four of which come together.
        assert!(first >= token_latency * 4 && whole >= token_latency * 50, "{api:?}: {first:?} of {whole:?}");
        assert!(whole - first >= token_latency * 30, "{api:?}: {first:?} of {whole:?}");
    }
    // What is no stream comes when all of it is there.
    let begin = Instant::now();
    APIS[0].ask(&simulator, "Hello", json!({})).await;
    assert!(begin.elapsed() >= token_latency * 50);
    simulator.control().set_token_latency(Duration::ZERO);
    let settings = format!("http://{}/simulator/settings", simulator.addr());
    assert_eq!(client().post(settings).body(r#"{"token_ms":1}"#).send().await.unwrap().status(), 200);
    let begin = Instant::now();
    APIS[0].ask(&simulator, "Hello", json!({})).await;
    assert!(begin.elapsed() >= Duration::from_millis(50));
    simulator.shutdown().await;
}
