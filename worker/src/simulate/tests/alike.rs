//! What the simulator owns holds for all dialects alike: answers, chance, limits, audit, counters and log.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn the_same_request_gets_the_same_answer_everywhere() {
    let simulator = start(Options::default()).await;
    let mut texts = Vec::new();
    for api in APIS {
        texts.push(api.text(&json(api.ask(&simulator, "Hello", json!({})).await).await));
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");

    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["title", "year"],
        "properties": { "title": { "type": "string" }, "year": { "type": "integer" } },
    });
    let mut objects = Vec::new();
    for api in [APIS[0], APIS[2], APIS[3], APIS[4]] {
        let form = match api.name {
            "messages" => json!({ "output_config": { "format": { "type": "json_schema", "schema": schema } } }),
            "responses" => json!({ "text": { "format": { "type": "json_schema", "name": "x", "schema": schema } } }),
            _ => {
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } } })
            }
        };
        let text = api.text(&json(api.ask(&simulator, "Hello", form.clone()).await).await);
        let object: Value = serde_json::from_str(&text).unwrap();
        assert!(object["title"].is_string() && object["year"].is_i64(), "{object}");
        objects.push(object);

        let mut spoilt = form;
        spoilt["metadata"] = json!({ "simulate": "bad_json" });
        let text = api.text(&json(api.ask(&simulator, "Hello", spoilt).await).await);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap().as_object().unwrap().len(), 1, "{api:?}");
    }
    assert!(objects.iter().all(|object| *object == objects[0]), "{objects:?}");

    let unicode = "Gr\u{fc}\u{df}e \u{1f600} \u{0}!";
    for api in APIS {
        let echo = json!({ "metadata": { "simulate": "echo" } });
        assert_eq!(api.text(&json(api.ask(&simulator, unicode, echo).await).await), unicode, "{api:?}");
    }
    simulator.shutdown().await;
}

/// What a caller sees of a run that must repeat: statuses, request ids and bodies, by dialect and job.
async fn record(
    seed: u64,
    jobs: impl Iterator<Item = u32>,
) -> BTreeMap<(&'static str, u32), Vec<(u16, String, String)>> {
    let faults = ["429:0.2", "refusal:0.2", "error:0.2", "cut:0.1:how=end"].map(|rule| rule.parse().unwrap()).into();
    let simulator = start(Options { seed, faults, output_tokens: 10, ..Options::default() }).await;
    let mut seen: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for job in jobs {
        for api in APIS {
            let request =
                api.request(&simulator, &format!("{} {job}", api.name), "Hello", json!({ "stream": job % 2 == 0 }));
            let response = request.send().await.unwrap();
            let id = header(&response, if api.name == "messages" { "request-id" } else { "x-request-id" })
                .unwrap()
                .to_owned();
            let status = response.status().as_u16();
            let body = response.text().await.unwrap();
            // The time of day is the one thing that differs.
            let body = events(&body).into_iter().chain(serde_json::from_str::<Value>(&body)).map(|mut value| {
                value["created"] = Value::Null;
                value["created_at"] = Value::Null;
                value["response"]["created_at"] = Value::Null;
                value.to_string()
            });
            seen.entry((api.name, job)).or_default().push((status, id, body.collect()));
        }
    }
    simulator.shutdown().await;
    seen
}

#[tokio::test]
async fn the_seed_decides_in_every_dialect() {
    let one = record(1, (0..10).flat_map(|job| [job, job])).await;
    assert_eq!(one, record(1, (0..10).rev().chain(0..10)).await);
    assert_ne!(one, record(2, (0..10).flat_map(|job| [job, job])).await);
    for api in APIS {
        let of_api = || one.iter().filter(|((name, _), _)| *name == api.name).flat_map(|(_, calls)| calls);
        assert!(of_api().any(|(status, ..)| *status == 429) && of_api().any(|(status, ..)| *status == 200), "{api:?}");
    }
}

#[tokio::test]
async fn a_script_decides_in_every_dialect() {
    let simulator = start(Options::default()).await;
    for api in APIS {
        let mut seen = Vec::new();
        for _ in 0..4 {
            let prompt = "Say hello. simulate:500,429:retry-after=2,529,ok";
            let request = api.request(&simulator, api.name, prompt, json!({}));
            let response = request.send().await.unwrap();
            seen.push((response.status().as_u16(), header(&response, "retry-after").map(str::to_owned)));
        }
        assert_eq!(seen, [(500, None), (429, Some("2".to_owned())), (529, None), (200, None)], "{api:?}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn one_audit_and_one_log_see_the_calls_of_all_dialects() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let options = Options { limits: limits("rpm:240,tpm:60000"), log: Some(path.clone()), ..Options::default() };
    let simulator = start(options).await;
    let mut statuses = Vec::new();
    for api in APIS {
        statuses.push(api.ask(&simulator, "12345678", json!({ "stream": true })).await.status().as_u16());
    }
    let embeddings = json!({ "input": "1234", "metadata": { "gristmill_job": "vectors" } });
    let url = format!("http://{}/openai/deployments/d/embeddings?api-version=2024-10-21", simulator.addr());
    statuses.push(client().post(url).body(embeddings.to_string()).send().await.unwrap().status().as_u16());
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");

    let control = simulator.control();
    until("all calls have ended", || control.stats().in_flight == 0).await;
    let stats = control.stats();
    assert_eq!((stats.received, stats.limits.rpm.peak_arrived), (6, 6));
    let limited = statuses.iter().filter(|status| **status == 429).count() as u64;
    assert_eq!(stats.refused, limited);
    // OpenAI counts the maximum, Azure the prompt too, Anthropic the prompt alone.
    assert_eq!(stats.limits.tpm.peak_arrived, 3 * 1_000 + 1_002 + 2 + 1);
    simulator.shutdown().await;
    let seen: Vec<_> = lines(&path)
        .iter()
        .map(|line| (line["dialect"].as_str().unwrap().to_owned(), line["path"].as_str().unwrap().to_owned()))
        .collect();
    let wanted = [
        ("openai", "/v1/chat/completions"),
        ("openai", "/v1/completions"),
        ("openai", "/v1/responses"),
        ("azure", "/v1/chat/completions"),
        ("anthropic", "/v1/messages"),
        ("azure", "/v1/embeddings"),
    ];
    assert_eq!(seen, wanted.map(|(dialect, path)| (dialect.to_owned(), path.to_owned())));
}

#[tokio::test]
async fn usage_and_log_tell_the_same_in_every_dialect() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let simulator = start(Options { log: Some(path.clone()), ..Options::default() }).await;
    let mut usages = Vec::new();
    for api in APIS {
        let usage = json(api.ask(&simulator, "12345678", json!({})).await).await["usage"].take();
        let tokens = |names: [&str; 2]| names.iter().find_map(|name| usage[*name].as_u64()).unwrap();
        usages.push((tokens(["prompt_tokens", "input_tokens"]), tokens(["completion_tokens", "output_tokens"])));
    }
    simulator.shutdown().await;
    let logged = lines(&path);
    let logged: Vec<_> = logged
        .iter()
        .map(|line| (line["prompt_tokens"].as_u64().unwrap(), line["completion_tokens"].as_u64().unwrap()))
        .collect();
    assert_eq!(logged, usages);
    assert!(usages.iter().all(|usage| usage.0 == 2));
}
