//! What is written is what is read, whatever it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gristmill_common::failure::{Cause, EarlierAttempt, ErrorClass, ErrorRecord, FellBack, SCHEMA_VERSION};
use gristmill_common::job::{CacheMode, CachePolicy, Job, Metadata};
use gristmill_common::outcome::{AttemptRecord, CostBasis, JobResult, Status, Usage};
use gristmill_common::store::{End, Settlement};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::{LONG, Lab, Submitted, attempt, now, request, settle, success, ticket};

/// Text that databases and encodings have stumbled over; model output contains all of it.
const TEXTS: &[&str] = &[
    "",
    " ",
    "plain",
    "zero \u{0} byte",
    "\u{0}",
    "gr\u{fc}\u{df}e \u{4f60}\u{597d} \u{1f600} \u{1f468}\u{200d}\u{1f469}",
    "quote ' \" ` \\ $1 ?1 :a @b %s; DROP TABLE result; --",
    "line\nbreak\r\n\ttab",
    "{\"json\": null}",
    "\u{feff}bom \u{fffd} \u{10ffff}",
];

fn full(text: &str) -> JobResult {
    JobResult {
        status: Status::Succeeded,
        provider: Some("azure".into()),
        deployment: Some("eu \u{1f600}".into()),
        served_model: Some(text.to_owned()),
        finish_reason: Some(text.to_owned()),
        output_text: Some(text.to_owned()),
        response: Some(Bytes::from(serde_json::json!({ text: [text] }).to_string())),
        usage: Usage {
            input_tokens: Some(2_000_000_000),
            cached_input_tokens: Some(1),
            cache_write_tokens: Some(2),
            output_tokens: Some(3),
            reasoning_tokens: Some(4),
        },
        cost_pico_usd: Some(1_234_567_890_123_456),
        cached: true,
        saved_pico_usd: Some(1),
        attempts: 17,
        queued_at: Some(now()),
        started_at: Some(now()),
        finished_at: now(),
        ttft_ms: Some(1),
        latency_ms: Some(86_400_000),
        request_id: Some(text.to_owned()),
        error: None,
    }
}

fn error(class: ErrorClass, text: &str) -> ErrorRecord {
    ErrorRecord {
        v: SCHEMA_VERSION,
        class,
        message: text.to_owned(),
        status: Some(429),
        code: Some(text.to_owned()),
        kind: Some(text.to_owned()),
        param: Some(text.to_owned()),
        provider: Some("openai".to_owned()),
        model: Some("gpt-4o".to_owned()),
        deployment: Some("eu".to_owned()),
        request_id: Some(text.to_owned()),
        retry_after_ms: Some(u64::from(u32::MAX) * 7),
        headers: BTreeMap::from([("x-ratelimit-remaining".to_owned(), text.to_owned())]),
        body: Some(text.to_owned()),
        underlying: Some(ErrorClass::Overloaded),
        partial_output: Some("so \u{0} far \u{1f600}".to_owned()),
        body_truncated: true,
        causes: vec![Cause { kind: "tls".to_owned(), message: text.to_owned() }],
        retryable: true,
        verdict: Some(text.to_owned()),
        earlier: vec![EarlierAttempt {
            message: text.to_owned(),
            underlying: Some(ErrorClass::Overloaded),
            times: 12,
            fell_back: Some(FellBack { to: "other".to_owned(), attempts: 2 }),
            ..EarlierAttempt::new(1, ErrorClass::Other("QuantumError".to_owned()))
        }],
        extra: serde_json::Map::from_iter([("region".to_owned(), serde_json::json!({"deep": [text, 1.5]}))]),
    }
}

/// Ends each job with one of the results and reads them back.
async fn comes_back(lab: &Lab, submitted: &Submitted, results: Vec<JobResult>) {
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let settlements: Vec<_> = held.iter().zip(&results).map(|(job, result)| settle(job, result.clone())).collect();
    let flushed = lab.store.flush(worker, &settlements).await.unwrap();
    assert_eq!((flushed.results, flushed.rejected), (u64::try_from(results.len()).unwrap(), 0));
    let mut rows = lab.rows(submitted.id, results.len()).await;
    rows.sort_by_key(|row| row.job_id);
    for (row, result) in rows.into_iter().zip(results) {
        assert_eq!(kept(row.result), kept(result));
    }
}

/// A text column need not take NUL: it may hold U+FFFD instead. JSON keeps it, escaped.
fn kept(result: JobResult) -> JobResult {
    let text = |text: String| text.replace('\u{0}', "\u{fffd}");
    JobResult {
        served_model: result.served_model.map(text),
        finish_reason: result.finish_reason.map(text),
        output_text: result.output_text.map(text),
        request_id: result.request_id.map(text),
        ..result
    }
}

pub async fn results_come_back_as_they_were(lab: Lab) {
    let count = u32::try_from(TEXTS.len()).unwrap();
    let submitted = lab.submitted("sweep", count).await;
    comes_back(&lab, &submitted, TEXTS.iter().map(|text| full(text)).collect()).await;
}

pub async fn an_empty_result_comes_back_empty(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let bare = JobResult {
        status: Status::Succeeded,
        error: None,
        ..JobResult::without_answer(Status::Failed, ErrorRecord::new(ErrorClass::Api, ""), 0, now())
    };
    let free = JobResult { cost_pico_usd: Some(0), saved_pico_usd: Some(0), ..bare.clone() };
    comes_back(&lab, &submitted, vec![bare, free]).await;
}

pub async fn every_class_of_error_comes_back_with_all_its_fields(lab: Lab) {
    let classes = classes();
    let submitted = lab.submitted("sweep", u32::try_from(classes.len()).unwrap()).await;
    let results = classes.into_iter().zip(TEXTS.iter().cycle()).map(|(class, text)| {
        let status = Status::ALL[text.len() % 3 + 1];
        JobResult { error: Some(Box::new(error(class, text))), ..full("a\u{0}b") }.with(status)
    });
    comes_back(&lab, &submitted, results.collect()).await;
}

fn classes() -> Vec<ErrorClass> {
    let mut classes = ErrorClass::KNOWN.to_vec();
    classes.push(ErrorClass::Other("ErrorOfALaterVersion".to_owned()));
    classes
}

fn any_text() -> impl Strategy<Value = String> {
    let odd = proptest::sample::select(TEXTS).prop_map(str::to_owned);
    // Control characters and NUL among them, which `any::<String>()` leaves out.
    prop_oneof![odd, vec(any::<char>(), 0..24).prop_map(String::from_iter)]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // What digits cannot say exactly may come back as its neighbour.
        any::<i32>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any_text(), inner, 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_earlier() -> impl Strategy<Value = EarlierAttempt> {
    (any::<u32>(), proptest::sample::select(classes()), option::of(100u16..1000), any_text()).prop_map(
        |(attempt, class, status, message)| EarlierAttempt { status, message, ..EarlierAttempt::new(attempt, class) },
    )
}

/// Errors of a class with fields of any value.
fn any_error(class: ErrorClass) -> impl Strategy<Value = ErrorRecord> {
    let text = || option::of(any_text());
    let words = (any_text(), text(), text(), text(), text(), text(), text(), text());
    let numbers = (any::<u16>(), option::of(100u16..1000), option::of(any::<u64>()), any::<bool>(), any::<bool>());
    let wire = (btree_map("[a-z-]{1,20}", any_text(), 0..4), text(), text(), text());
    let chain = (
        vec((any_text(), any_text()).prop_map(|(kind, message)| Cause { kind, message }), 0..4),
        option::of(proptest::sample::select(classes())),
        vec(any_earlier(), 0..3),
        // No field of this version is called so.
        btree_map("x_[a-z]{1,8}", any_json(), 0..4),
    );
    (words, numbers, wire, chain).prop_map(move |(words, numbers, wire, chain)| {
        let (message, code, kind, param, provider, model, deployment, request_id) = words;
        let (v, status, retry_after_ms, body_truncated, retryable) = numbers;
        let (headers, body, partial_output, verdict) = wire;
        let (causes, underlying, earlier, extra) = chain;
        ErrorRecord {
            v,
            class: class.clone(),
            message,
            status,
            code,
            kind,
            param,
            provider,
            model,
            deployment,
            request_id,
            retry_after_ms,
            headers,
            body,
            body_truncated,
            causes,
            underlying,
            partial_output,
            retryable,
            verdict,
            earlier,
            extra: extra.into_iter().collect(),
        }
    })
}

/// Value to JSON to row to value, of results and of calls; what fails is shown whole.
pub async fn errors_of_every_class_with_any_fields_come_back_equal(lab: Lab) {
    const OF_EACH_CLASS: usize = 8;
    let mut runner = TestRunner::default();
    let mut errors = Vec::new();
    for class in classes() {
        let any = any_error(class);
        errors.extend((0..OF_EACH_CLASS).map(|_| any.new_tree(&mut runner).unwrap().current()));
    }
    for error in &errors {
        let text = serde_json::to_string(error).unwrap();
        assert_eq!(&serde_json::from_str::<ErrorRecord>(&text).unwrap(), error, "{text}");
    }
    let submitted = lab.submitted("sweep", u32::try_from(errors.len()).unwrap()).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let settlements: Vec<Settlement> = held
        .iter()
        .zip(&errors)
        .map(|(job, error)| {
            let error = Some(Box::new(error.clone()));
            let result = JobResult { status: Status::Failed, error: error.clone(), ..success("so far") };
            let attempts = vec![AttemptRecord { error, ..attempt(1) }];
            Settlement {
                job: job.clone(),
                tags: Arc::default(),
                spends: None,
                attempts,
                caching: None,
                end: End::Result(Box::new(result)),
            }
        })
        .collect();
    let flushed = lab.store.flush(worker, &settlements).await.unwrap();
    assert_eq!((flushed.results, flushed.rejected), (u64::try_from(errors.len()).unwrap(), 0));
    let mut rows = lab.rows(submitted.id, errors.len()).await;
    rows.sort_by_key(|row| row.job_id);
    for (row, error) in rows.iter().zip(&errors) {
        assert_eq!(row.result.error.as_deref(), Some(error));
    }
    for (job, error) in submitted.jobs.iter().zip(&errors).step_by(OF_EACH_CLASS) {
        let detail = lab.other.job(submitted.id, job.id).await.unwrap().unwrap();
        assert_eq!(detail.attempts[0].1.error.as_deref(), Some(error));
    }
}

trait With {
    fn with(self, status: Status) -> Self;
}

impl With for JobResult {
    fn with(self, status: Status) -> Self {
        Self { status, ..self }
    }
}

pub async fn bodies_of_a_megabyte_come_back(lab: Lab) {
    let megabyte = "\u{e9}".repeat(512 * 1024);
    let body = Bytes::from(serde_json::json!({"input": megabyte}).to_string());
    let submitted = lab
        .submitted_with("sweep", 2, |_, job| {
            job.body = body.clone();
        })
        .await;
    let verdicts = lab.store.admit(lab.worker(LONG).await, super::arrivals(&submitted.jobs)).await.unwrap();
    assert!(verdicts.iter().all(|verdict| ticket(verdict).request.body == body));
    let other = lab.submitted("other", 2).await;
    comes_back(&lab, &other, vec![full(&megabyte), success(&megabyte)]).await;
}

/// The text is kept, not the value: spaces, the order of keys, repeated keys, large numbers.
pub async fn json_is_kept_to_the_byte(lab: Lab) {
    let odd = "{ \"b\" : 1.50,\n\t\"a\":1e3, \"a\": 12345678901234567890123, \"z\":\"\\u0000\\ud83d\\ude00\" }";
    let submitted = lab
        .submitted_with("sweep", 1, |_, job| {
            job.body = Bytes::from_static(odd.as_bytes());
        })
        .await;
    let worker = lab.worker(LONG).await;
    let verdicts = lab.store.admit(worker, super::arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!(ticket(&verdicts[0]).request.body, odd);
    let result = JobResult { response: Some(Bytes::from_static(odd.as_bytes())), ..success("x") };
    lab.store.flush(worker, &[settle(&ticket(&verdicts[0]).job, result)]).await.unwrap();
    assert_eq!(lab.rows(submitted.id, 1).await[0].result.response.as_deref(), Some(odd.as_bytes()));
}

pub async fn requests_come_back_as_they_were(lab: Lab) {
    let count = u32::try_from(TEXTS.len()).unwrap();
    let edit = |ordinal: u32, job: &mut Job| {
        // A NUL stands in no request: JSON escapes it, and names are refused with it.
        let text = TEXTS[usize::try_from(ordinal).unwrap()].replace('\u{0}', "\u{2400}");
        job.custom_id = format!("{ordinal}{text}");
        job.endpoint = format!("/v1/{text}");
        job.body = Bytes::from(serde_json::json!({ "input": TEXTS[ordinal as usize] }).to_string());
        job.lane.group = format!("group {text}").into();
        job.lane.priority = gristmill_common::job::Priority::Bulk;
        job.options.tags = BTreeMap::from([(text.clone(), text.clone()), ("x".to_owned(), String::new())]);
        job.options.metadata = Metadata::from_json(
            serde_json::json!({ text.clone(): [null, true, 1.25, TEXTS[ordinal as usize]] }).to_string(),
        );
        job.options.service_tier = Some(text);
        job.options.sample = u32::from(u16::MAX);
        job.options.num_retries = Some(0);
        job.options.cache = [CachePolicy::ON, CachePolicy { mode: CacheMode::WriteOnly, sampled: true }]
            [usize::try_from(ordinal % 2).unwrap()];
        job.options.est_tokens = Some(2_000_000_000);
        job.options.deadline = Some(now() + LONG);
    };
    let submitted = lab.submitted_with("sweep", count, edit).await;
    let worker = lab.worker(LONG).await;
    let verdicts = lab.store.admit(worker, super::arrivals(&submitted.jobs)).await.unwrap();
    for (verdict, job) in verdicts.iter().zip(&submitted.jobs) {
        let ticket = ticket(verdict);
        assert_eq!((&ticket.request, &ticket.job.lane), (&request(job), &job.lane));
    }
    let settlements: Vec<_> = verdicts.iter().map(|verdict| settle(&ticket(verdict).job, success("ok"))).collect();
    lab.store.flush(worker, &settlements).await.unwrap();
    let mut rows = lab.rows(submitted.id, TEXTS.len()).await;
    rows.sort_by_key(|row| row.job_id);
    for (row, job) in rows.iter().zip(&submitted.jobs) {
        assert_eq!((row.job_id, row.batch_id, row.run, row.simulated), (job.id, job.batch, 1, false));
        assert_eq!((&row.custom_id, &row.endpoint), (&job.custom_id, &job.endpoint));
        assert_eq!(row.model.as_str(), &*job.lane.group);
        assert_eq!((&row.tags, &row.metadata), (&job.options.tags, &job.options.metadata));
    }
}

pub async fn attempts_of_every_shape_are_taken(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let mut attempts = Vec::new();
    for (number, text) in (1..).zip(TEXTS) {
        let mut full = attempt(number);
        full.model = format!("gpt {number} \u{fc}").into();
        full.served_model = Some((*text).to_owned());
        full.service_tier = Some((*text).to_owned());
        full.price_ref = Some("gpt-4o@0123abcd".into());
        full.request_id = Some((*text).to_owned());
        full.error = Some(Box::new(error(ErrorClass::Overloaded, text)));
        full.cost_basis = CostBasis::Estimated;
        full.bound_pico_usd = Some(9_000_000_000_001);
        full.billed = Some(r#"{"a":1}"#.to_owned());
        full.counted = false;
        attempts.push(full);
    }
    let bare = AttemptRecord {
        http_status: None,
        usage: Usage::default(),
        cost_pico_usd: None,
        cost_basis: CostBasis::Unknown,
        ..attempt(100)
    };
    attempts.push(bare);
    let count = u64::try_from(attempts.len()).unwrap();
    let settlement = Settlement {
        job: held[0].clone(),
        tags: Arc::default(),
        spends: None,
        attempts,
        caching: None,
        end: End::Result(Box::new(success("ok"))),
    };
    let flushed = lab.store.flush(worker, &[settlement]).await.unwrap();
    assert_eq!((flushed.attempts, flushed.rejected), (count, 0));
    assert_eq!(lab.batch(submitted.id).await.calls, count);
}
