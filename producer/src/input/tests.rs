use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use proptest::prelude::*;

mod attachments;
mod formats;

use super::reader::{Lines, Next};
use super::*;
use crate::submit::NewJob;

const GOOD: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}}"#;

fn write(text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.jsonl");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn checked(text: impl AsRef<[u8]>, model: Option<&str>) -> Result<Checked, Error> {
    let (_dir, path) = write(text);
    check(Source::open(&path)?, Defaults { sweep: asking(model), ..Defaults::default() })
}

fn asking(model: Option<&str>) -> Sweep {
    Sweep { models: model.map(Arc::from).into_iter().collect(), ..Sweep::default() }
}

fn reasons(text: impl AsRef<[u8]>) -> Vec<(u64, String)> {
    match checked(text, None) {
        Err(Error::Lines(bad)) => bad.shown.into_iter().map(|line| (line.number, line.reason)).collect(),
        other => panic!("must be bad lines: {other:?}"),
    }
}

async fn jobs(text: impl AsRef<[u8]>) -> Vec<NewJob> {
    let (_dir, path) = write(text);
    let checked = check(Source::open(&path).unwrap(), Defaults::default()).unwrap();
    checked.stream().map(Result::unwrap).collect().await
}

#[test]
fn bad_lines_are_told_with_a_reason() {
    let line = |custom_id: &str, method: &str, url: &str, body: &str| {
        format!(r#"{{"custom_id":{custom_id},"method":{method},"url":{url},"body":{body}}}"#)
    };
    let chat = r#""/v1/chat/completions""#;
    let body = r#"{"model":"m","messages":[1]}"#;
    let cases = [
        ("hello".to_owned(), "is not JSON: expected value at column 1"),
        ("7".to_owned(), "is not a JSON object"),
        (r#"{"a":1"#.to_owned(), "is not JSON: it ends too early, at column 6"),
        (r#"{"a":1} x"#.to_owned(), "is not JSON: trailing characters at column 9"),
        ("{}".to_owned(), "is no request: it has no prompt, no messages, no body"),
        (r#"{"body":{}}"#.to_owned(), "has no custom_id, no method, no url"),
        (r#"{"custom_id":"a","params":null,"method":"POST"}"#.to_owned(), "has no url, no body"),
        (r#"{"prompt":"hi","custom_id":"a"}"#.to_owned(), "has no model; add it, or give --model"),
        (r#"{"prompt":["hi"],"model":"m"}"#.to_owned(), r#"prompt is ["hi"], it must be a text"#),
        (r#"{"prompt":" ","model":"m"}"#.to_owned(), "prompt is empty"),
        (r#"{"prompt":"hi","messages":[1],"model":"m"}"#.to_owned(), "has both prompt and messages"),
        (r#"{"messages":[],"model":"m"}"#.to_owned(), "messages is empty"),
        (r#"{"custom_id":7,"prompt":"hi"}"#.to_owned(), "custom_id is 7, it must be a string"),
        (r#"{"params":{}}"#.to_owned(), "has no custom_id"),
        (
            r#"{"custom_id":"a","params":{"model":"m","messages":[1]}}"#.to_owned(),
            "params has no max_tokens, which Anthropic's API needs",
        ),
        (
            r#"{"custom_id":"a","params":{"max_tokens":9,"messages":[1]}}"#.to_owned(),
            "params has no model; add it, or give --model",
        ),
        (line("7", r#""POST""#, chat, body), "custom_id is 7, it must be a string"),
        (line(r#""""#, r#""POST""#, chat, body), "custom_id is empty"),
        (line(r#""\u0000""#, r#""POST""#, chat, body), "custom_id holds a NUL character"),
        (line(r#""\ud800""#, r#""POST""#, chat, body), "custom_id is no valid string"),
        (
            line(&format!("\"{}\"", "x".repeat(600)), r#""POST""#, chat, body),
            "custom_id has 600 bytes, at most 512 are taken",
        ),
        (line(r#""a""#, r#""GET""#, chat, body), r#"method is "GET", it must be "POST""#),
        (
            line(r#""a""#, r#""POST""#, r#""/v1/chat""#, body),
            r#"url is "/v1/chat", it must be one of /v1/chat/completions, /v1/responses, /v1/completions, /v1/embeddings, /v1/messages"#,
        ),
        (line(r#""a""#, r#""POST""#, chat, "null"), "has no body"),
        (line(r#""a""#, r#""POST""#, chat, "[]"), "body is [], it must be an object"),
        (line(r#""a""#, r#""POST""#, chat, r#"{"messages":[1]}"#), "body has no model; add it, or give --model"),
        (line(r#""a""#, r#""POST""#, chat, r#"{"model":4,"messages":[1]}"#), "body.model is 4, it must be a name"),
        (line(r#""a""#, r#""POST""#, chat, r#"{"model":"m"}"#), "body has no messages"),
        (
            line(r#""a""#, r#""POST""#, chat, r#"{"model":"m","messages":"hi"}"#),
            r#"body.messages is "hi", it must be an array"#,
        ),
        (line(r#""a""#, r#""POST""#, chat, r#"{"model":"m","messages":[ ]}"#), "body.messages is empty"),
        (line(r#""a""#, r#""POST""#, r#""/embeddings""#, r#"{"model":"m"}"#), "body has no input"),
        (
            line(r#""a""#, r#""POST""#, chat, r#"{"model":"m","model":"n","messages":[1]}"#),
            "body: duplicate field `model`",
        ),
        (r#"{"custom_id":"a","custom_id":"b"}"#.to_owned(), "duplicate field `custom_id`"),
    ];
    for (text, reason) in cases {
        assert_eq!(reasons(&text), [(1, reason.to_owned())], "{text}");
    }
    assert_eq!(
        reasons(b"{\"custom_id\":\"\xff\"}"),
        [(1, "is not UTF-8 at byte 15; convert the file, for example with iconv".to_owned())]
    );
}

#[test]
fn good_lines_pass() {
    let with = |custom_id: &str, url: &str, rest: &str| {
        format!(
            r#"{{"custom_id":"{custom_id}","method":"POST","url":"{url}","body":{{"model":"m"{rest}}},"extra":[1]}}"#
        )
    };
    let text = [
        GOOD.to_owned(),
        with("b", "/chat/completions", r#","messages":[{}],"stream":true"#),
        with("c", "/v1/embeddings", r#","input":"x""#),
        with("d", "/responses", r#","input":"x""#),
        with("e", "/v1/completions", ""),
    ]
    .join("\n");
    let checked = checked(text, None).unwrap();
    assert_eq!(checked.jobs, 5);
    assert_eq!(
        checked.models.iter().map(|(model, count)| (&**model, *count)).collect::<Vec<_>>(),
        [("gpt-4o", 1), ("m", 4)]
    );
}

#[tokio::test]
async fn jobs_carry_the_body_byte_for_byte() {
    let body = r#"{ "model":"m" ,"messages":[ {"content":"\u00e9é \u0000"} ], "temperature":1.0}"#;
    let text = r#" {"url":"chat","custom_id":"x"}"#
        .replace(r#""url":"chat""#, &format!(r#""body":  {body}  , "method":"POST","url":"/chat/completions/""#));
    let jobs = jobs(format!("\u{feff}{GOOD}\r\n\n  \r\n{text}")).await;
    assert_eq!(jobs.len(), 2);
    assert_eq!((&*jobs[0].custom_id, &*jobs[0].model), ("a", "gpt-4o"));
    assert_eq!((&*jobs[1].custom_id, &*jobs[1].model), ("x", "m"));
    assert_eq!(jobs[1].body, body);
    assert_eq!(&*jobs[1].endpoint, "/v1/chat/completions");
}

#[test]
fn the_model_of_the_command_wins() {
    let text = r#"{"custom_id":"a","method":"POST","url":"/v1/completions","body":{}}"#;
    let checked = checked(format!("{text}\n{}", GOOD.replace("\"a\"", "\"b\"")), Some("mine")).unwrap();
    assert_eq!(checked.models.keys().map(|model| &**model).collect::<Vec<_>>(), ["mine"]);
}

#[test]
fn every_bad_line_is_counted_and_the_first_are_shown() {
    let mut text = String::new();
    for number in 0..60 {
        text.push_str(if number % 2 == 0 { "oops\n" } else { "\n" });
    }
    text.push_str(GOOD);
    let Err(Error::Lines(bad)) = checked(&text, None) else { panic!("must be bad lines") };
    assert_eq!((bad.total, bad.lines, bad.shown.len()), (30, 31, SHOWN_LINES));
    assert_eq!(bad.shown[1].number, 3, "blank lines count as lines");
    assert!(bad.to_string().ends_with("and 10 more"), "{bad}");
}

#[test]
fn custom_ids_that_occur_twice_are_told() {
    let line = |id: usize| GOOD.replace("\"a\"", &format!("\"job-{id}\""));
    let text = [line(0), line(1), "oops".to_owned(), line(1), line(2), line(0), line(1)].join("\n");
    assert_eq!(
        reasons(&text),
        [
            (3, "is not JSON: expected value at column 1".to_owned()),
            (4, "custom_id \"job-1\" is on line 2 already".to_owned()),
            (6, "custom_id \"job-0\" is on line 1 already".to_owned()),
            (7, "custom_id \"job-1\" is on line 2 already".to_owned()),
        ]
    );
    let twice: Vec<String> = (0..2).flat_map(|_| (0..200).map(line)).collect();
    let Err(Error::Lines(bad)) = checked(twice.join("\n"), None) else { panic!("must be bad lines") };
    assert_eq!((bad.total, bad.shown[0].number), (200, 201));
}

#[test]
fn what_is_no_text_is_told_apart() {
    let kind = |text: &[u8]| checked(text, None).unwrap_err().to_string();
    for (text, end) in [
        (&b""[..], "holds no requests"),
        (b"\n\r\n  \n", "holds no requests"),
        (b"\xef\xbb\xbf", "holds no requests"),
        (b"\xff\xfe{\x00", "is UTF-16; save it as UTF-8"),
        (b" [{\n", "is one JSON array; write one object a line, for example with jq -c '.[]'"),
        (b"PK\x03\x04", "is a zip archive; unpack it first"),
        (b"PAR1\x15", "is Parquet; save it as JSON lines or CSV"),
        (b"\x7fELF\x02\x01\x00\x00", "holds binary data; give JSON lines or CSV, plain or packed by gzip or zstd"),
    ] {
        assert!(kind(text).ends_with(end), "{}", kind(text));
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Source::open(dir.path()), Err(Error::Kind { .. })));
    assert!(matches!(Source::open(&dir.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn a_line_beyond_the_limit_is_passed_over() {
    let mut text = vec![b'x'; MAX_LINE_BYTES + 5];
    text.push(b'\n');
    text.extend_from_slice(GOOD.as_bytes());
    assert_eq!(reasons(&text), [(1, format!("has {} bytes, at most 16777216 are taken", MAX_LINE_BYTES + 6))]);
}

#[tokio::test]
async fn a_file_that_changes_between_the_passes_is_noticed() {
    let (_dir, path) = write(format!("{GOOD}\n{}", GOOD.replace("\"a\"", "\"b\"")));
    let checked = check(Source::open(&path).unwrap(), Defaults::default()).unwrap();
    std::fs::write(&path, GOOD).unwrap();
    let jobs: Vec<_> = checked.stream().collect().await;
    assert!(matches!(jobs.last(), Some(Err(Error::Changed { .. }))));
}

#[cfg(unix)]
#[tokio::test]
async fn what_can_be_read_only_once_is_spooled() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let writer = fifo.clone();
    let writing = tokio::task::spawn_blocking(move || std::fs::write(writer, GOOD).unwrap());
    let source = tokio::task::spawn_blocking(move || Source::open(Path::new(&fifo))).await.unwrap().unwrap();
    writing.await.unwrap();
    let checked = check(source, Defaults { sweep: asking(Some("m")), ..Defaults::default() }).unwrap();
    assert_eq!(checked.stream().collect::<Vec<_>>().await.len(), 1);
}

proptest! {
    #[test]
    fn lines_are_what_stands_between_line_breaks(
        parts in proptest::collection::vec("[a-z {}]{0,30}", 0..20),
        crlf: bool,
        end: bool,
    ) {
        let mut text = parts.join(if crlf { "\r\n" } else { "\n" });
        if end {
            text.push('\n');
        }
        let mut lines = Lines::new(text.as_bytes());
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        while let Next::Line(number) = lines.next(&mut buffer).unwrap() {
            found.push((number, String::from_utf8(buffer.clone()).unwrap()));
        }
        let expected: Vec<(u64, String)> = parts
            .iter()
            .zip(1..)
            .map(|(part, number)| (number, part.trim_end().to_owned()))
            .filter(|(_, part)| !part.is_empty())
            .collect();
        prop_assert_eq!(found, expected);
    }
}
