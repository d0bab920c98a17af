//! What happens on the way of an answer, in every dialect.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Asks with a script and reads as much of the answer as there is.
async fn scripted(api: Api, simulator: &Simulator, script: &str, stream: bool) -> (u16, String, bool) {
    let fields = json!({ "stream": stream, "metadata": { "simulate": script, "gristmill_job": script } });
    let mut response = api.ask(simulator, "Hello", fields).await;
    let status = response.status().as_u16();
    let mut text = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => text.extend_from_slice(&chunk),
            Ok(None) => return (status, String::from_utf8(text).unwrap(), true),
            Err(_) => return (status, String::from_utf8(text).unwrap(), false),
        }
    }
}

fn pieces(api: Api, stream: &str) -> usize {
    events(stream).iter().filter(|event| api.piece(event).is_some()).count()
}

#[tokio::test]
async fn a_cut_stream_ends_behind_its_pieces() {
    let simulator = start(Options::default()).await;
    for api in APIS {
        for (script, wanted, is_whole) in [
            ("cut", 2, false),
            ("cut:after=5", 5, false),
            ("cut:after=0", 0, false),
            ("cut:after=3:how=end", 3, true),
            ("cut:after=0:how=end", 0, true),
            ("cut:how=reset:after=1", 1, false),
        ] {
            let (status, stream, ended) = scripted(api, &simulator, script, true).await;
            assert_eq!((status, pieces(api, &stream), ended), (200, wanted, is_whole), "{api:?} {script}: {stream}");
            assert!(!stream.contains("[DONE]") && !stream.contains("message_stop"), "{api:?} {script}");
            assert!(!stream.contains("\"finish_reason\":\"stop\"") && !stream.contains("response.completed"));
        }
        let (_, half, ended) = scripted(api, &simulator, "cut", false).await;
        assert!(!ended && half.starts_with('{') && serde_json::from_str::<Value>(&half).is_err(), "{api:?}: {half}");
        let (_, half, ended) = scripted(api, &simulator, "cut:how=end", false).await;
        assert!(ended && serde_json::from_str::<Value>(&half).is_err(), "{api:?}: {half}");
    }
    let control = simulator.control();
    until("all calls have ended", || control.stats().in_flight == 0).await;
    assert_eq!(control.stats().by_outcome.get("cut"), Some(&40));
    simulator.shutdown().await;
}

#[tokio::test]
async fn an_error_comes_in_mid_stream_in_the_shape_of_the_dialect() {
    let simulator = start(Options::default()).await;
    for api in APIS {
        for after in [0, 2] {
            let script = format!("error:after={after}:status=503");
            let (status, stream, ended) = scripted(api, &simulator, &script, true).await;
            assert_eq!((status, pieces(api, &stream), ended), (200, after, true), "{api:?}: {stream}");
            let last = events(&stream).pop().unwrap();
            match api.name {
                "messages" => {
                    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("api_error")));
                    assert!(last["request_id"].is_string());
                    assert!(stream.contains("event: error\n"));
                }
                "responses" => {
                    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("server_is_overloaded")));
                    assert_eq!(last["sequence_number"], events(&stream).len() - 1);
                }
                "azure" => assert_eq!(last["error"]["code"], "503"),
                _ => assert_eq!(last["error"]["code"], "server_is_overloaded"),
            }
        }
        let (status, body, _) = scripted(api, &simulator, "error:status=429", false).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200);
        match api.name {
            "messages" => assert_eq!(body["error"]["type"], "rate_limit_error"),
            "responses" => {
                assert_eq!(
                    (&body["status"], &body["error"]["code"]),
                    (&json!("failed"), &json!("rate_limit_exceeded"))
                );
            }
            "azure" => assert_eq!(body["error"]["code"], "429"),
            _ => assert_eq!(body["error"]["type"], "requests"),
        }
    }
    // A response can also say itself that it failed.
    let (_, stream, _) = scripted(APIS[2], &simulator, "error:status=500", true).await;
    let last = events(&stream).pop().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(last["response"]["error"]["code"], "server_error");
    let (_, stream, _) = scripted(APIS[4], &simulator, "error:status=529", true).await;
    assert_eq!(events(&stream).pop().unwrap()["error"]["type"], "overloaded_error");
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_stall_hangs_until_the_caller_goes_or_ends_by_itself() {
    let simulator = start(Options::default()).await;
    let control = simulator.control();
    for (hung, api) in (1..).zip(APIS) {
        for (stream, name) in [(true, "stream"), (false, "whole")] {
            let job = format!("{} {name}", api.name);
            let fields = json!({ "stream": stream, "metadata": { "simulate": "stall:after=1", "gristmill_job": job } });
            let mut response = api.ask(&simulator, "Hello", fields).await;
            let mut text = String::new();
            while text.is_empty() || (stream && pieces(api, &text) == 0) {
                text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
            }
            assert_eq!(pieces(api, &text), usize::from(stream), "{api:?}: {text}");
            let more = tokio::time::timeout(Duration::from_millis(20), response.chunk()).await;
            assert!(more.is_err(), "{api:?}: {more:?} after {text}");
            until("it hangs", || control.stats().hung == 2 * hung - u64::from(stream)).await;
            assert_eq!(control.stats().in_flight, 1);
            drop(response);
            until("the call has ended", || control.stats().in_flight == 0).await;
        }
    }
    let begin = Instant::now();
    let (_, stream, ended) = scripted(APIS[0], &simulator, "stall:for=80ms", true).await;
    assert!(ended && stream.ends_with("data: [DONE]\n\n") && begin.elapsed() >= Duration::from_millis(80));
    let (_, body, _) = scripted(APIS[4], &simulator, "stall:for=5ms", false).await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["type"], "message");
    assert_eq!(control.stats().by_outcome.get("stall"), Some(&12));
    simulator.shutdown().await;
}

#[tokio::test]
async fn signs_of_life_come_before_the_first_token() {
    let simulator = start(Options::default()).await;
    for api in APIS {
        let sign =
            if api.name == "messages" { "event: ping\ndata: {\"type\": \"ping\"}\n\n" } else { ": keep-alive\n\n" };
        let begin = Instant::now();
        let (_, stream, ended) = scripted(api, &simulator, "keep_alive:count=4:every=10ms", true).await;
        assert!(ended && begin.elapsed() >= Duration::from_millis(40), "{api:?}");
        assert!(stream.starts_with(&sign.repeat(4)) && pieces(api, &stream) > 5, "{api:?}: {stream}");
        let (_, body, _) = scripted(api, &simulator, "keep_alive:every=1ms", false).await;
        assert!(body.starts_with("\n\n\n{") && serde_json::from_str::<Value>(&body).is_ok(), "{api:?}: {body}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn endless_signs_of_life_end_with_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let simulator = start(Options { log: Some(path.clone()), ..Options::default() }).await;
    let control = simulator.control();
    let body = json!({
        "model": "m", "stream": true, "messages": [{ "role": "user", "content": "simulate:keep_alive:count=endless:every=1ms" }],
    })
    .to_string();
    let mut stream = TcpStream::connect(simulator.addr()).await.unwrap();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut seen = String::new();
    while seen.matches(": keep-alive").count() < 20 {
        let mut bytes = [0; 4_096];
        let length = stream.read(&mut bytes).await.unwrap();
        assert_ne!(length, 0, "closed after {seen}");
        seen.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    assert!(!seen.contains("data:"), "{seen}");
    drop(stream);
    until("the call has ended", || control.stats().in_flight == 0).await;
    assert_eq!(control.stats().hung, 1);
    simulator.shutdown().await;
    let line = &lines(&path)[0];
    assert_eq!((&line["outcome"], &line["client_gone"]), (&json!("keep_alive"), &json!(true)));
}

#[tokio::test]
async fn a_rule_can_set_the_pace_and_a_cut_counts_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let simulator = start(Options { log: Some(path.clone()), ..Options::default() }).await;
    let begin = Instant::now();
    scripted(APIS[0], &simulator, "slow:token=1ms", true).await;
    assert!(begin.elapsed() >= Duration::from_millis(50));
    let begin = Instant::now();
    scripted(APIS[4], &simulator, "cut:after=3:token=5ms", true).await;
    assert!(begin.elapsed() >= Duration::from_millis(60));
    simulator.shutdown().await;
    let lines = lines(&path);
    assert_eq!((&lines[0]["outcome"], &lines[1]["outcome"]), (&json!("slow"), &json!("cut")));
    assert_eq!(lines[1]["completion_tokens"], 12);
}
