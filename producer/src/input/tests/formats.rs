//! The formats beside OpenAI's, and what a sweep makes of a line.

use super::*;
use gristmill_common::job::JobOptions;
use serde_json::{Value, json};

fn write_as(name: &str, text: impl AsRef<[u8]>) -> (tempfile::TempDir, Source) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let source = Source::open(&path).unwrap();
    (dir, source)
}

async fn made(name: &str, text: impl AsRef<[u8]>, defaults: Defaults) -> Vec<NewJob> {
    let (_dir, source) = write_as(name, text);
    let checked = check(source, defaults).unwrap();
    let jobs: Vec<NewJob> = checked.stream().map(Result::unwrap).collect().await;
    assert_eq!(checked.jobs, jobs.len() as u64);
    assert_eq!(checked.models.values().sum::<u64>(), checked.jobs);
    jobs
}

fn refused(name: &str, text: impl AsRef<[u8]>, defaults: Defaults) -> Error {
    let (_dir, source) = write_as(name, text);
    check(source, defaults).unwrap_err()
}

fn model(name: &str) -> Defaults {
    Defaults { sweep: asking(Some(name)), ..Defaults::default() }
}

fn body(job: &NewJob) -> &str {
    std::str::from_utf8(&job.body).unwrap()
}

fn metadata(job: &NewJob) -> Option<Value> {
    job.options.metadata.as_ref().map(|metadata| serde_json::from_str(metadata.get()).unwrap())
}

#[tokio::test]
async fn the_documented_samples_are_read_as_they_stand() {
    // https://platform.openai.com/docs/guides/batch, read 2026-11.
    let openai = r#"{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo-0125", "messages": [{"role": "system", "content": "You are a helpful assistant."},{"role": "user", "content": "Hello world!"}],"max_tokens": 1000}}
{"custom_id": "request-2", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo-0125", "messages": [{"role": "system", "content": "You are an unhelpful assistant."},{"role": "user", "content": "Hello world!"}],"max_tokens": 1000}}
"#;
    let jobs = made("batchinput.jsonl", openai, Defaults::default()).await;
    assert_eq!(jobs.iter().map(|job| &*job.custom_id).collect::<Vec<_>>(), ["request-1", "request-2"]);
    // https://learn.microsoft.com/en-us/azure/ai-foundry/openai/how-to/batch, read 2026-11.
    let azure = r#"{"custom_id": "task-0", "method": "POST", "url": "/chat/completions", "body": {"model": "REPLACE-WITH-MODEL-DEPLOYMENT-NAME", "messages": [{"role": "system", "content": "You are an AI assistant that helps people find information."}, {"role": "user", "content": "When was Microsoft founded?"}]}}"#;
    let jobs = made("test.jsonl", azure, Defaults::default()).await;
    assert_eq!((&*jobs[0].endpoint, &*jobs[0].model), ("/v1/chat/completions", "REPLACE-WITH-MODEL-DEPLOYMENT-NAME"));
    // https://platform.claude.com/docs/en/build-with-claude/batch-processing, read 2026-11.
    let anthropic = r#"{"custom_id": "my-first-request", "params": {"model": "claude-opus-4-6", "max_tokens": 1024, "messages": [{"role": "user", "content": "Hello, world"}]}}"#;
    let jobs = made("requests.jsonl", anthropic, Defaults::default()).await;
    assert_eq!((&*jobs[0].endpoint, &*jobs[0].model), ("/v1/messages", "claude-opus-4-6"));
    assert_eq!(
        body(&jobs[0]),
        r#"{"model": "claude-opus-4-6", "max_tokens": 1024, "messages": [{"role": "user", "content": "Hello, world"}]}"#
    );
}

#[tokio::test]
async fn plain_lines_become_chats_with_the_rest_as_metadata() {
    let text = "{\"prompt\":\"2+2? \\u00e9\",\"answer\":4,\"temperature\":1}\n\n\
                {\"messages\": [ {\"role\":\"user\"} ],\"custom_id\":\"x\",\"model\":\"other\"}";
    let jobs = made("in.jsonl", text, model("m")).await;
    assert_eq!(body(&jobs[0]), r#"{"messages":[{"role":"user","content":"2+2? \u00e9"}]}"#);
    assert_eq!((&*jobs[0].custom_id, &*jobs[1].custom_id), ("line-1", "x"));
    assert_eq!(metadata(&jobs[0]), Some(json!({"answer": 4, "temperature": 1})));
    assert_eq!((body(&jobs[1]), &*jobs[1].model), (r#"{"messages":[ {"role":"user"} ]}"#, "m"));
    assert_eq!(jobs[1].options.metadata, None);

    let (_dir, source) = write_as("in.jsonl", text);
    let unsent = check(source, model("m")).unwrap().unsent;
    assert_eq!(unsent.into_iter().collect::<Vec<_>>(), ["temperature"], "it looks like a parameter");

    let defaults = Defaults { prompt_column: Some("question".into()), ..model("m") };
    let jobs = made("in.jsonl", r#"{"question":"why?","prompt":"p"}"#, defaults).await;
    assert_eq!(body(&jobs[0]), r#"{"messages":[{"role":"user","content":"why?"}]}"#);
    assert_eq!(metadata(&jobs[0]), Some(json!({"prompt": "p"})));
}

#[tokio::test]
async fn rows_become_chats_with_the_other_columns_as_metadata() {
    let text = "\u{feff}id,question,note\r\n1,\"Say \"\"hi\"\",\nthen go\",a\r\n\r\n2,Why?,\r\n";
    let defaults = || Defaults { prompt_column: Some("question".into()), ..model("m") };
    for (name, text) in [("in.csv", text.to_owned()), ("in", text.to_owned()), ("in.tsv", text.replace(',', "\t"))] {
        let jobs = made(name, text, defaults()).await;
        let contents: Vec<Value> = jobs
            .iter()
            .map(|job| serde_json::from_slice::<Value>(&job.body).unwrap()["messages"][0]["content"].take())
            .collect();
        let comma = if name.ends_with("tsv") { "\t" } else { "," };
        assert_eq!(contents, [json!(format!("Say \"hi\"{comma}\nthen go")), json!("Why?")], "{name}");
        assert_eq!(jobs.iter().map(|job| &*job.custom_id).collect::<Vec<_>>(), ["row-2", "row-4"], "{name}");
        assert_eq!(metadata(&jobs[0]), Some(json!({"id": "1", "note": "a"})));
    }
    let own = made("in.csv", "prompt,custom_id,model\nhi,a,m1\nho,b,m2\n", Defaults::default()).await;
    assert_eq!((&*own[0].custom_id, &*own[0].model, &*own[1].model), ("a", "m1", "m2"));
    assert_eq!(own[0].options.metadata, None);
}

#[test]
fn bad_rows_are_told_with_a_reason() {
    let kind = |text: &str| refused("in.csv", text, model("m")).to_string();
    assert!(kind("a,b\n1,2\n").ends_with("has no column `prompt`; name one with --prompt-column: a, b"));
    assert!(kind("prompt,a,a\n1,2,3\n").ends_with("has two columns `a`; rename one"));
    assert!(kind("prompt\n").ends_with("holds no requests"));
    assert!(kind("").ends_with("holds no requests"));
    let reasons = |text: &[u8], defaults| match refused("in.csv", text, defaults) {
        Error::Lines(bad) => bad.shown.into_iter().map(|line| format!("{}: {}", line.number, line.reason)).collect(),
        other => vec![other.to_string()],
    };
    assert_eq!(
        reasons(b"prompt,custom_id\nhi\n,b\nho,\nhe,c\nhe,c\n\xff,d\n", model("m")),
        [
            "2: has 1 fields, the heading has 2",
            "3: prompt is empty",
            "4: custom_id is empty",
            "6: custom_id \"c\" is on row 5 already",
            "7: prompt is not UTF-8 at byte 1; convert the file, for example with iconv",
        ]
    );
    assert_eq!(reasons(b"prompt\nhi\n", Defaults::default()), ["2: has no model; add it, or give --model"]);
    let mut open = b"prompt\nhi\n\"never closed\n".to_vec();
    open.resize(MAX_LINE_BYTES * 2, b'x');
    let unread = "the rows behind it were not read, for it cannot be told where they begin";
    let told = reasons(&open, model("m"));
    assert_eq!(
        told,
        [format!(
            "3: a quoted field that begins in this row does not end within 16 MiB; add the quote that is missing; {unread}"
        )]
    );
    let mut long = b"prompt\n".to_vec();
    long.resize(MAX_LINE_BYTES + 20, b'x');
    long.extend_from_slice(b"\r\nhi,ho\r\n");
    assert_eq!(
        reasons(&long, model("m")),
        ["2: has 16777229 bytes, at most 16777216 are taken", "3: has 2 fields, the heading has 1"]
    );
}

#[test]
fn a_quote_that_is_missing_or_too_many_loses_no_row_silently() {
    let unread = "the rows behind it were not read, for it cannot be told where they begin";
    let open = "a quoted field that begins in this row does not end; add the quote that is missing";
    let behind =
        "text stands behind a closing quote: a quote is missing before, or one within a field is not doubled (\"\")";
    let cases: [(&str, u64, &str); 7] = [
        ("prompt,a\nhi,1\n\"ho,2\nhe,3\n", 3, open),
        ("prompt,a\nhi,1\n\"ho,2\n\"he\",3\n", 3, behind),
        ("prompt,a\n\"hi \"you\" there\",1\nho,2\n", 2, behind),
        ("prompt,a\r\n\"hi\" ,1\r\n", 2, behind),
        ("prompt,a\n\n\nhi,\"1\n", 4, open),
        ("prompt,a\n\"l1\nl2\",1\r\n\"open", 3, open),
        ("prompt,a\n\"\"\",1\n", 2, open),
    ];
    for (text, row, reason) in cases {
        for skip_invalid in [false, true] {
            let Error::Lines(bad) = refused("in.csv", text, Defaults { skip_invalid, ..model("m") }) else {
                panic!("must be bad rows: {text}")
            };
            let last = bad.shown.last().unwrap();
            assert_eq!((last.number, &*last.reason), (row, &*format!("{reason}; {unread}")), "{text}");
        }
    }
    // It is told however many stand before it.
    let text = format!("prompt,a\n{}\"open,2\n", ",1\n".repeat(50));
    let Error::Lines(bad) = refused("in.csv", text, model("m")) else { panic!("must be bad rows") };
    assert_eq!((bad.total, bad.shown.len(), bad.shown.last().unwrap().number), (51, SHOWN_LINES + 1, 52));
}

#[tokio::test]
async fn rows_are_numbered_as_a_spreadsheet_does() {
    let text = "\u{feff}prompt,note,,\r\r\"two\r\nlines\",\"\"\"q\"\"\",,\n\r\nit is 5\" wide,,,\n\n\nlast,x";
    let jobs = made("in.csv", text, model("m")).await;
    assert_eq!(jobs.iter().map(|job| &*job.custom_id).collect::<Vec<_>>(), ["row-3", "row-5", "row-8"]);
    assert_eq!(body(&jobs[0]), r#"{"messages":[{"role":"user","content":"two\r\nlines"}]}"#);
    assert_eq!(metadata(&jobs[0]), Some(json!({"note": "\"q\""})));
    assert_eq!(body(&jobs[1]), r#"{"messages":[{"role":"user","content":"it is 5\" wide"}]}"#);
}

#[test]
fn columns_that_are_parted_by_something_else_are_told() {
    let kind = |name: &str, text: &str| refused(name, text, model("m")).to_string();
    let told = kind("in.csv", "prompt;answer\n1;2\n");
    assert!(
        told.ends_with(
            "has its columns parted by `;`, not by commas; save it as CSV with commas, or as .tsv with tabs"
        )
    );
    assert!(
        kind("in.tsv", "prompt,answer\n").contains("has its columns parted by commas, not by tabs, as .tsv has it;")
    );
    assert!(kind("in.csv", "prompt,\"a\"b\n").contains("has no heading that can be read: text stands behind"));
}

proptest! {
    #[test]
    fn what_is_written_as_csv_is_read_back(
        rows in proptest::collection::vec(proptest::collection::vec("[a,\"\r\n;é ]{0,6}", 3), 1..8),
        ends in proptest::sample::select(vec!["\n", "\r\n", "\r"]),
    ) {
        let field = |text: &String| format!("\"{}\"", text.replace('"', "\"\""));
        let row = |row: &Vec<String>| row.iter().map(field).collect::<Vec<_>>().join(",");
        let text = rows.iter().map(row).collect::<Vec<_>>().join(ends);
        let mut table = super::super::table::read_all(text.as_bytes(), b',');
        prop_assert_eq!(table.len(), rows.len());
        for (found, expected) in table.drain(..).zip(rows) {
            prop_assert_eq!(found, expected);
        }
    }
}

#[tokio::test]
async fn packed_files_are_read_in_both_passes() {
    use std::io::Write as _;

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(GOOD.as_bytes()).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(GOOD.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    for (name, bytes) in [("in.jsonl.gz", gzip.finish().unwrap()), ("in.jsonl.zst", zstd)] {
        let jobs = made(name, &bytes, Defaults::default()).await;
        assert_eq!(&*jobs[0].custom_id, "a");
        let (_dir, source) = write_as(name, &bytes);
        assert_eq!(source.plain_name(), "in.jsonl");
        std::fs::write(source.path(), &bytes[..bytes.len() - 6]).unwrap();
        let damaged = Source::open(source.path()).and_then(|source| check(source, Defaults::default()));
        assert!(matches!(damaged, Err(Error::Io { .. })));
    }
}

#[tokio::test]
async fn lines_that_cannot_be_sent_are_left_out_where_that_is_asked_for() {
    let line = |id: &str| GOOD.replace("\"a\"", &format!("\"{id}\""));
    let bad = r#"{"custom_id":"d","method":"POST","url":"/v1/x","body":{}}"#;
    let text = [line("a"), "oops".into(), line("b"), line("a"), bad.into(), line("d")].join("\n");
    let defaults = Defaults { skip_invalid: true, ..Defaults::default() };
    let (_dir, source) = write_as("in.jsonl", &text);
    let checked = check(source, defaults.clone()).unwrap();
    let skipped = checked.skipped.as_ref().unwrap();
    let numbers: Vec<u64> = skipped.shown.iter().map(|line| line.number).collect();
    assert_eq!((skipped.total, numbers), (3, vec![2, 4, 5]));
    assert!(skipped.left_out().contains("3 of 6 lines are left out\n  line 2: is not JSON"));
    let ids: Vec<String> = checked.stream().map(|job| job.unwrap().custom_id).collect().await;
    assert_eq!(ids, ["a", "b", "d"]);
    assert!(matches!(refused("in.jsonl", "oops", defaults), Error::Lines(_)), "nothing is left to send");
}

#[tokio::test]
async fn a_limit_takes_the_first_requests() {
    let text: String = (0..10).map(|id| GOOD.replace("\"a\"", &format!("\"{id}\"")) + "\n").collect();
    let defaults = Defaults { limit: Some(3), ..Defaults::default() };
    let jobs = made("in.jsonl", text.clone() + "oops", defaults).await;
    assert_eq!(jobs.iter().map(|job| &*job.custom_id).collect::<Vec<_>>(), ["0", "1", "2"]);
}

#[tokio::test]
async fn a_sweep_makes_every_combination_of_a_line() {
    let sweep = Sweep {
        models: vec!["m1".into(), "m2".into()],
        parameters: vec!["temperature=0,0.70".parse().unwrap(), "seed=7".parse().unwrap()],
        repeat: 2,
    };
    let options = JobOptions { tags: [("team".to_owned(), "x".to_owned())].into(), ..JobOptions::default() };
    let jobs = made("in.jsonl", r#"{"prompt":"hi"}"#, Defaults { sweep, options, ..Defaults::default() }).await;
    let told: Vec<(&str, &str, u32)> =
        jobs.iter().map(|job| (&*job.custom_id, &*job.model, job.options.sample)).collect();
    assert_eq!(
        told,
        [
            ("line-1|temperature=0|model=m1", "m1", 0),
            ("line-1|temperature=0|model=m1|sample=1", "m1", 1),
            ("line-1|temperature=0|model=m2", "m2", 0),
            ("line-1|temperature=0|model=m2|sample=1", "m2", 1),
            ("line-1|temperature=0.70|model=m1", "m1", 0),
            ("line-1|temperature=0.70|model=m1|sample=1", "m1", 1),
            ("line-1|temperature=0.70|model=m2", "m2", 0),
            ("line-1|temperature=0.70|model=m2|sample=1", "m2", 1),
        ]
    );
    assert_eq!(body(&jobs[4]), r#"{"temperature":0.70,"seed":7,"messages":[{"role":"user","content":"hi"}]}"#);
    let tags: Value = serde_json::to_value(&jobs[5].options.tags).unwrap();
    assert_eq!(tags, json!({"team": "x", "temperature": "0.70", "model": "m1", "sample": "1"}));
}

#[test]
fn parameters_are_json_or_strings() {
    let read = |text: &str| text.parse::<Parameter>();
    let values = |text: &str| {
        let sweep = Sweep { parameters: vec![read(text).unwrap()], ..Sweep::default() };
        sweep.jobs_per_line()
    };
    assert_eq!(values("stop=a,b"), 2);
    assert_eq!(values(r#"stop=["a","b"]"#), 1);
    assert_eq!(values(r#"reasoning={"effort":"low","x":[1,2]},{"effort":"high"}"#), 2);
    assert_eq!(values(r#"user="a,\"b,c","d""#), 2);
    assert_eq!(read("temperature").unwrap_err(), InvalidParameter::Shape);
    assert_eq!(read("temperature=0,").unwrap_err(), InvalidParameter::Shape);
    assert_eq!(read("=0").unwrap_err(), InvalidParameter::Shape);
    assert_eq!(read("model=x").unwrap_err(), InvalidParameter::Model);
    assert_eq!(read("stop=[\"a\",b]").unwrap_err(), InvalidParameter::NotJson(r#"["a",b]"#.into()));
    assert_eq!(read("f={type:x}").unwrap_err(), InvalidParameter::NotJson("{type:x}".into()));
    assert_eq!(read("t=1,2,1").unwrap_err(), InvalidParameter::Twice("1".into()));
}

#[test]
fn names_that_a_sweep_would_make_ambiguous_are_refused() {
    let line = |id: &str| GOOD.replace("\"a\"", &format!("\"{id}\""));
    let sweep = Sweep {
        models: vec!["m1".into(), "model-two".into()],
        parameters: vec!["temperature=0,0.70".parse().unwrap(), "seed=7".parse().unwrap()],
        repeat: 12,
    };
    // What it puts behind at most.
    let longest = "|temperature=0.70|model=model-two|sample=11".len();
    let (fits, long) = ("x".repeat(512 - longest), "y".repeat(512 - longest + 1));
    let text =
        [line("a|temperature=0"), line("b|model=m"), line("c|sample=1"), line("d|seed=7"), line(&fits), line(&long)]
            .join("\n");
    let Error::Lines(bad) = refused("in.jsonl", &text, Defaults { sweep, ..Defaults::default() }) else {
        panic!("must be bad lines")
    };
    let told: Vec<String> = bad.shown.iter().map(|line| format!("{}: {}", line.number, line.reason)).collect();
    let holds = "which this sweep puts behind custom_ids; rename it";
    assert_eq!(
        told,
        [
            format!("1: custom_id holds \"|temperature=\", {holds}"),
            format!("2: custom_id holds \"|model=\", {holds}"),
            format!("3: custom_id holds \"|sample=\", {holds}"),
            format!(
                "6: custom_id has {} bytes and this sweep adds up to {longest}, at most 512 are taken together",
                long.len()
            ),
        ]
    );
}

#[tokio::test]
async fn a_plain_line_may_call_its_metadata_what_it_likes() {
    let text = r#"{"prompt":"hi","url":"https://example.org","method":"GET","params":{"a":1},"custom_id":"p"}
{"messages":[1],"body":"text","custom_id":"q"}
{"custom_id":"r","prompt":"no","method":"POST","url":"/v1/completions","body":{"prompt":"x"}}
"#;
    let jobs = made("in.jsonl", text, model("m")).await;
    assert_eq!(metadata(&jobs[0]), Some(json!({"url": "https://example.org", "method": "GET", "params": {"a": 1}})));
    assert_eq!(metadata(&jobs[1]), Some(json!({"body": "text"})));
    assert_eq!((&*jobs[2].endpoint, body(&jobs[2])), ("/v1/completions", r#"{"prompt":"x"}"#));
}

#[tokio::test]
async fn a_line_that_is_left_out_counts_for_no_model() {
    let line = |id: &str, model: &str| GOOD.replace("\"a\"", &format!("\"{id}\"")).replace("gpt-4o", model);
    let text = [line("a", "m1"), line("a", "m2"), line("b", "m1"), line("b", "m1")].join("\n");
    let jobs = made("in.jsonl", &text, Defaults { skip_invalid: true, ..Defaults::default() }).await;
    assert_eq!(jobs.len(), 2);
    // Bad in two ways, told once.
    let wrong = line("a", "m1").replace("/v1/chat", "/v1/cat");
    let Error::Lines(bad) = refused("in.jsonl", [line("a", "m1"), wrong].join("\n"), Defaults::default()) else {
        panic!("must be bad lines")
    };
    assert_eq!((bad.total, bad.lines, bad.shown.len()), (1, 2, 1));
}

#[tokio::test]
async fn metadata_stays_as_it_was_written() {
    let text = r#"{"z":12345678901234567890123,"prompt":"hi","a":1.10,"b":[1e3, "\u00e9"],"a":2.50,"c\"":null}"#;
    let jobs = made("in.jsonl", text, model("m")).await;
    let kept = r#"{"z":12345678901234567890123,"b":[1e3, "\u00e9"],"a":2.50,"c\"":null}"#;
    assert_eq!(jobs[0].options.metadata.as_ref().unwrap().get(), kept);
}
