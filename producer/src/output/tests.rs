use super::*;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::outcome::{JobResult, ResultRow, Status, Usage};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Write as _;

fn time() -> DateTime<chrono::Utc> {
    DateTime::from_timestamp_millis(1_795_400_000_000).unwrap()
}

/// Makes a successful row of the job at an ordinal.
pub(crate) fn row(batch: BatchId, ordinal: u32) -> ResultRow {
    let mut result = JobResult::without_answer(Status::Succeeded, ErrorRecord::new(ErrorClass::Api, "none"), 1, time());
    result.error = None;
    result.response = Some(Bytes::from_static(br#"{"id":"chatcmpl-1","choices":[]}"#));
    ResultRow {
        job_id: JobId::derive(batch, ordinal),
        run: 1,
        batch_id: batch,
        custom_id: format!("job-{ordinal}"),
        endpoint: "/v1/chat/completions".to_owned(),
        model: "gpt-4o".to_owned(),
        tags: std::collections::BTreeMap::new(),
        metadata: None,
        simulated: false,
        result,
    }
}

fn failed(batch: BatchId, ordinal: u32, run: u32, status: Status, error: ErrorRecord) -> ResultRow {
    ResultRow { run, result: JobResult::without_answer(status, error, 1, time()), ..row(batch, ordinal) }
}

fn read(bytes: &[u8]) -> Value {
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn an_answer_is_a_line_of_openais_format_with_ours_beside_it() {
    let mut row = row(BatchId::new(time()), 7);
    row.result.cost_pico_usd = Some(1_234_500_000);
    row.result.usage = Usage { input_tokens: Some(12), output_tokens: Some(3), ..Usage::default() };
    row.result.queued_at = Some(time());
    row.result.started_at = Some(time() + TimeDelta::milliseconds(40));
    row.result.latency_ms = Some(210);
    row.result.request_id = Some("req_1".to_owned());
    row.result.provider = Some("openai".into());
    let text = String::from_utf8(line(&row)).unwrap();
    assert!(text.contains(
        r#""response":{"status_code":200,"request_id":"req_1","body":{"id":"chatcmpl-1","choices":[]}},"error":null"#
    ));
    assert!(text.contains(r#""cost_usd":0.0012345,"#), "exact, and a number: {text}");
    let line = read(text.as_bytes());
    assert!(line["id"].as_str().unwrap().starts_with("batch_req_"));
    assert_eq!(line["custom_id"], "job-7");
    let ours = &line["gristmill"];
    assert_eq!(ours["queue_ms"], 40);
    assert_eq!(
        (&ours["status"], &ours["input_tokens"], &ours["simulated"]),
        (&json!("succeeded"), &json!(12), &json!(false))
    );
}

#[test]
fn a_tag_that_is_ours_stands_in_no_line() {
    let mut options = gristmill_common::job::JobOptions::default();
    options.tags.insert("sweep".to_owned(), "7".to_owned());
    options.set_stream(gristmill_common::job::StreamId::random(time()));
    let row = ResultRow { tags: options.tags, ..row(BatchId::new(time()), 1) };
    assert_eq!(read(&line(&row))["gristmill"]["tags"], json!({"sweep": "7"}));
}

#[test]
fn a_body_keeps_its_text_and_loses_its_line_breaks() {
    let mut row = row(BatchId::new(time()), 0);
    let body = "{\n  \"b\" : 1.50,\r\n\t\"a\": \"x  \\\"\\\\\\n  y\"\n}\n";
    row.result.response = Some(Bytes::from_static(body.as_bytes()));
    let text = String::from_utf8(line(&row)).unwrap();
    assert!(text.contains(r#""body":{"b" : 1.50,"a": "x  \"\\\n  y"}}"#), "{text}");
    let value: Value = serde_json::from_str(body).unwrap();
    assert_eq!(read(text.as_bytes())["response"]["body"], value);
    row.result.response = Some(Bytes::from_static(b"<html>"));
    assert_eq!(read(&line(&row))["response"]["body"], "<html>");
}

#[test]
fn metadata_comes_back_as_it_was_written_but_on_one_line() {
    let text = "{\"z\":12345678901234567890123,\n  \"a\":1.10}";
    let metadata = gristmill_common::job::Metadata::from_json(text.to_owned());
    let text = String::from_utf8(line(&ResultRow { metadata, ..row(BatchId::new(time()), 0) })).unwrap();
    assert!(text.contains(r#""metadata":{"z":12345678901234567890123,"a":1.10}"#), "{text}");
    read(text.as_bytes());
}

#[test]
fn an_error_of_the_provider_stands_in_the_response() {
    let batch = BatchId::new(time());
    let mut error = ErrorRecord::new(ErrorClass::BadRequest, "no such parameter");
    error.status = Some(400);
    error.param = Some("temperatur".to_owned());
    error.request_id = Some("req_9".to_owned());
    let line1 = read(&line(&failed(batch, 0, 1, Status::Failed, error.clone())));
    assert_eq!(line1["error"], Value::Null);
    assert_eq!(line1["response"]["status_code"], 400);
    assert_eq!(line1["response"]["request_id"], "req_9");
    assert_eq!(line1["response"]["body"]["error"]["message"], "no such parameter");
    assert_eq!(line1["response"]["body"]["error"]["param"], "temperatur");
    assert_eq!(line1["gristmill"]["error"], serde_json::to_value(&error).unwrap(), "the whole record");

    let error = error.with_body(br#"{"error":{"message":"its own words","code":7}}"#);
    let line2 = read(&line(&failed(batch, 0, 1, Status::Failed, error)));
    assert_eq!(line2["response"]["body"]["error"], json!({"message": "its own words", "code": 7}));
}

#[test]
fn what_got_no_answer_has_an_error_and_no_response() {
    let batch = BatchId::new(time());
    let cases = [
        (Status::Cancelled, ErrorClass::Cancelled, "batch_cancelled"),
        (Status::Expired, ErrorClass::DeadlineExceeded, "batch_expired"),
        (Status::Failed, ErrorClass::Timeout, "Timeout"),
    ];
    for (status, class, code) in cases {
        let line = read(&line(&failed(batch, 0, 1, status, ErrorRecord::new(class, "why"))));
        assert_eq!((&line["response"], &line["error"]), (&Value::Null, &json!({"code": code, "message": "why"})));
    }
}

#[test]
fn dollars_are_exact() {
    for (pico, text) in [
        (0, "0"),
        (1, "0.000000000001"),
        (-2_500_000_000_000, "-2.5"),
        (7_000_000_000_000, "7"),
        (i64::MAX, "9223372.036854775807"),
    ] {
        assert_eq!(usd(pico), text);
    }
}

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_files_hold_the_latest_run_of_each_job(
        events in proptest::collection::vec((0u32..12, any::<bool>(), any::<bool>()), 0..60),
        combined: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("out.jsonl"), combined);
        let batch = BatchId::new(time());
        let mut files = Files::create(&paths, batch).unwrap();
        let mut latest: std::collections::BTreeMap<u32, (u32, bool)> = Default::default();
        for (ordinal, succeeds, settle) in events {
            let run = latest.get(&ordinal).map_or(1, |(run, _)| run + 1);
            let row = if succeeds {
                ResultRow { run, ..row(batch, ordinal) }
            } else {
                failed(batch, ordinal, run, Status::Failed, ErrorRecord::new(ErrorClass::Timeout, "late"))
            };
            files.write(std::slice::from_ref(&row)).unwrap();
            files.write(&[row]).unwrap();
            latest.insert(ordinal, (run, succeeds));
            if settle {
                files.settle().unwrap();
            }
        }
        files.settle().unwrap();
        let expected = |wanted: Option<bool>| -> Vec<(String, u32)> {
            let fits = latest.iter().filter(|(_, (_, succeeds))| wanted.is_none_or(|wanted| *succeeds == wanted));
            let mut all: Vec<_> = fits.map(|(ordinal, (run, _))| (format!("job-{ordinal}"), *run)).collect();
            all.sort();
            all
        };
        let found = |path: &std::path::Path| -> Vec<(String, u32)> {
            let one = |line: &Value| {
                let run = line["gristmill"]["run"].as_u64().unwrap();
                (line["custom_id"].as_str().unwrap().to_owned(), u32::try_from(run).unwrap())
            };
            let mut all: Vec<_> = lines(path).iter().map(one).collect();
            all.sort();
            all
        };
        prop_assert_eq!(found(&paths.answers), expected((!combined).then_some(true)));
        if let Some(errors) = &paths.errors {
            prop_assert_eq!(found(errors), expected(Some(false)));
            prop_assert_eq!(files.errors_path().is_some(), !expected(Some(false)).is_empty());
            prop_assert_eq!(errors.exists(), files.errors_path().is_some(), "only where there are errors");
        }
    }
}

#[test]
fn files_of_others_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.jsonl");
    let paths = Paths::new(path.clone(), false);
    let (ours, other) = (BatchId::new(time()), BatchId::new(time()));
    assert!(Files::check(&paths, None).is_ok());
    std::fs::write(&path, "my thesis\n").unwrap();
    assert!(matches!(Files::create(&paths, ours), Err(WriteError::Foreign { .. })));
    std::fs::write(&path, line(&row(other, 0))).unwrap();
    assert!(
        matches!(Files::create(&paths, ours), Err(WriteError::OtherBatch { line: 1, batch, .. }) if batch == other)
    );
    assert!(Files::create(&paths, other).is_ok());
    std::fs::write(&path, line(&ResultRow { simulated: true, ..row(other, 0) })).unwrap();
    assert!(Files::create(&paths, ours).is_ok());
    std::fs::write(paths.errors.as_ref().unwrap(), "notes\n").unwrap();
    assert!(Files::create(&paths, ours).is_err());
    assert!(Files::probe(&Paths::new(dir.path().join("no/out.jsonl"), false)).is_err());
    assert!(Files::probe(&Paths::new(dir.path().to_owned(), false)).is_err());
}

#[test]
fn a_foreign_line_anywhere_keeps_a_file_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("out.jsonl"), false);
    let (batch, other) = (BatchId::new(time()), BatchId::new(time()));
    let ours = |ordinal| line(&row(batch, ordinal));
    let simulated = line(&ResultRow { simulated: true, ..row(other, 0) });
    let cut = ours(7)[..40].to_vec();
    let notes = b"{\"note\":1}\n".to_vec();
    let refused: [(Vec<Vec<u8>>, u64); 7] = [
        (vec![ours(0), notes.clone(), ours(1)], 2),
        (vec![simulated.clone(), notes], 2),
        (vec![simulated.clone(), line(&row(other, 1))], 2),
        (vec![ours(0), line(&row(other, 1))], 2),
        (vec![ours(0), b"my thesis".to_vec()], 2),
        (vec![b"my thesis".to_vec()], 1),
        (vec![cut.clone(), b"\n".to_vec(), ours(1)], 1),
    ];
    for (lines, at) in refused {
        let text = lines.concat();
        for path in [&paths.answers, paths.errors.as_ref().unwrap()] {
            std::fs::write(path, &text).unwrap();
            let found = match Files::resume(&paths, batch, |_, _| true) {
                Err(WriteError::Foreign { line, .. } | WriteError::OtherBatch { line, .. }) => line,
                other => panic!("must be refused: {other:?}"),
            };
            assert_eq!((found, std::fs::read(path).unwrap()), (at, text.clone()));
            assert!(Files::check(&paths, Some(batch)).is_err());
            std::fs::remove_file(path).unwrap();
        }
    }
    // Real results behind simulated ones stay; a cut line, also alone, is written anew.
    std::fs::write(&paths.answers, [simulated, ours(0), cut.clone()].concat()).unwrap();
    let mut files = Files::resume(&paths, batch, |_, _| true).unwrap();
    files.settle().unwrap();
    assert_eq!(std::fs::read(&paths.answers).unwrap(), ours(0));
    drop(files);
    for text in [&cut[..], &cut[..5]] {
        std::fs::write(&paths.answers, text).unwrap();
        Files::resume(&paths, batch, |_, _| true).unwrap();
        assert_eq!(std::fs::read(&paths.answers).unwrap(), b"");
    }
}

#[cfg(unix)]
#[test]
fn links_and_modes_outlast_the_leaving_out_of_lines() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    let (link, target) = (dir.path().join("out.jsonl"), dir.path().join("real/data"));
    symlink("real/data", &link).unwrap();
    let paths = Paths::new(link.clone(), true);
    Files::probe(&paths).unwrap();
    assert!(!target.exists(), "trying leaves nothing behind");
    let batch = BatchId::new(time());
    let mut files = Files::create(&paths, batch).unwrap();
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o640)).unwrap();
    files.write(&[row(batch, 0), ResultRow { run: 2, ..row(batch, 0) }]).unwrap();
    files.settle().unwrap();
    files.write(&[row(batch, 1)]).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(lines(&target).len(), 2);
}

#[cfg(unix)]
#[test]
fn what_is_no_file_takes_errors_too() {
    assert_eq!(Paths::new("/dev/null".into(), false).errors, None);
}

#[test]
fn the_errors_file_is_named_after_the_answers() {
    let errors = |path: &str| Paths::new(path.into(), false).errors.unwrap().to_string_lossy().into_owned();
    assert_eq!(errors("a/out.jsonl"), "a/out.errors.jsonl");
    assert_eq!(errors("out"), "out.errors.jsonl");
    assert_eq!(Paths::new("out.jsonl".into(), true).errors, None);
}

#[test]
fn files_of_an_earlier_process_are_taken_up_where_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("out.jsonl"), false);
    let errors = paths.errors.clone().unwrap();
    let batch = BatchId::new(time());
    let late = |ordinal, run| {
        let error = ErrorRecord::new(ErrorClass::Timeout, "late");
        failed(batch, ordinal, run, Status::Failed, error)
    };
    let mut files = Files::create(&paths, batch).unwrap();
    let rows = [row(batch, 0), late(1, 1), row(batch, 2), late(3, 1), row(batch, 4)];
    files.write(&rows).unwrap();
    // The process dies within a line, and before it has left out what a later run replaced.
    files.write(&[ResultRow { run: 2, ..row(batch, 1) }]).unwrap();
    drop(files);
    let half = &line(&row(batch, 5))[..30];
    std::fs::OpenOptions::new().append(true).open(&paths.answers).unwrap().write_all(half).unwrap();
    let answers = std::fs::read(&paths.answers).unwrap();

    let mut files = Files::resume(&paths, batch, |job, _| job.ordinal() != 2).unwrap();
    assert_eq!(std::fs::read(&paths.answers).unwrap(), answers[..answers.len() - 30], "only what was cut off is gone");
    files.write(rows.iter().filter(|row| row.job_id.ordinal() != 2)).unwrap();
    assert_eq!(lines(&paths.answers).len(), 4, "nothing is written twice");
    files.write(&[row(batch, 5), ResultRow { run: 2, ..row(batch, 3) }]).unwrap();
    files.settle().unwrap();
    let found: Vec<(String, u64)> = lines(&paths.answers)
        .iter()
        .map(|line| (line["custom_id"].as_str().unwrap().to_owned(), line["gristmill"]["run"].as_u64().unwrap()))
        .collect();
    let expected = [("job-0", 1), ("job-4", 1), ("job-1", 2), ("job-5", 1), ("job-3", 2)];
    assert_eq!(found, expected.map(|(name, run)| (name.to_owned(), run)));
    assert!(!errors.exists() && files.errors_path().is_none());
}

#[test]
fn files_move_between_one_and_two_when_they_are_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Paths::new(dir.path().join("out.jsonl"), true), Paths::new(dir.path().join("out.jsonl"), false));
    let batch = BatchId::new(time());
    let rows = [row(batch, 0), failed(batch, 1, 1, Status::Failed, ErrorRecord::new(ErrorClass::Timeout, "late"))];
    let write = |paths: &Paths| {
        let mut files = Files::resume(paths, batch, |_, _| true).unwrap();
        files.write(&rows).unwrap();
        files.settle().unwrap();
        lines(&paths.answers).len()
    };
    assert_eq!(write(&one), 2);
    assert_eq!(write(&two), 1);
    assert_eq!(lines(two.errors.as_ref().unwrap()).len(), 1);
    assert_eq!(write(&one), 2);
    assert!(!two.errors.as_ref().unwrap().exists(), "its rows stand in the one file");
    std::fs::write(two.errors.as_ref().unwrap(), "notes\n").unwrap();
    assert_eq!(write(&one), 2);
    assert!(two.errors.as_ref().unwrap().exists(), "which is not ours");
    let simulated = ResultRow { simulated: true, ..row(BatchId::new(time()), 0) };
    std::fs::write(&two.answers, line(&simulated)).unwrap();
    std::fs::write(two.errors.as_ref().unwrap(), line(&simulated)).unwrap();
    let files = Files::resume(&two, batch, |_, _| true).unwrap();
    assert_eq!((lines(&two.answers).len(), two.errors.as_ref().unwrap().exists()), (0, false), "{files:?}");
}
