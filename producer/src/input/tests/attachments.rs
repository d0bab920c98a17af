//! Files that requests name.

use super::*;
use crate::input::attachment::Attachments;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF";
const PDF: &[u8] = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3";
const WAV: &[u8] = b"RIFF\x24\0\0\0WAVEfmt ";
const MP3: &[u8] = b"ID3\x04\0\0\0\0\0\0";

/// A folder with files and an input.
struct Folder(tempfile::TempDir);

impl Folder {
    /// Makes one with a file of each kind, whose names tell nothing.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, bytes) in [("photo.x", PNG), ("scan.png", JPEG), ("paper", PDF), ("voice", WAV), ("song", MP3)] {
            folder.write(name, bytes);
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn checked(&self, text: &str) -> Result<Checked, Error> {
        self.write("in.jsonl", text);
        let defaults = Defaults { sweep: asking(Some("m")), ..Defaults::default() };
        check(Source::open(&self.path("in.jsonl")).unwrap(), defaults)
    }

    async fn jobs(&self, text: &str) -> Vec<NewJob> {
        self.checked(text).unwrap().stream().map(Result::unwrap).collect().await
    }

    /// Makes the one part of a message.
    async fn part(&self, part: &str) -> String {
        let jobs = self.jobs(&chat(part)).await;
        let text = std::str::from_utf8(&jobs[0].body).unwrap();
        let (head, tail) = (r#"{"messages":[{"role":"user","content":["#, "]}]}");
        text.strip_prefix(head).and_then(|text| text.strip_suffix(tail)).unwrap().to_owned()
    }

    /// Returns why the only line is refused.
    fn reason(&self, part: &str) -> String {
        let Err(Error::Lines(bad)) = self.checked(&chat(part)) else { panic!("{part} must be refused") };
        assert_eq!((bad.total, bad.shown[0].number), (1, 1));
        bad.shown[0].reason.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn chat(part: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#)
}

fn url(mime: &str, bytes: &[u8]) -> String {
    format!("data:{mime};base64,{}", STANDARD.encode(bytes))
}

#[tokio::test]
async fn every_place_of_a_file_gets_its_contents_and_all_else_stays() {
    let folder = Folder::new();
    let (png, pdf) = (url("image/png", PNG), url("application/pdf", PDF));
    let [png64, pdf64, wav64, mp364] = [PNG, PDF, WAV, MP3].map(|bytes| STANDARD.encode(bytes));
    for (part, expected) in [
        (
            r#"{ "type":"image_url", "image_url": {"detail":"low","url": "file:photo.x"} }"#,
            format!(r#"{{ "type":"image_url", "image_url": {{"detail":"low","url": "{png}"}} }}"#),
        ),
        (
            r#"{"type":"image_url","image_url":"file:photo.x"}"#,
            format!(r#"{{"type":"image_url","image_url":"{png}"}}"#),
        ),
        (
            r#"{"type":"image_url","image_url":"file:scan.png","\u00e9":1.0}"#,
            format!(r#"{{"type":"image_url","image_url":"{}","\u00e9":1.0}}"#, url("image/jpeg", JPEG)),
        ),
        (
            r#"{"type":"file","file":{"file_data":"file:paper"}}"#,
            format!(r#"{{"type":"file","file":{{"filename":"paper","file_data":"{pdf}"}}}}"#),
        ),
        (
            r#"{"type":"file","file":{"file_data":"file:paper","filename":"a.pdf"}}"#,
            format!(r#"{{"type":"file","file":{{"file_data":"{pdf}","filename":"a.pdf"}}}}"#),
        ),
        (
            r#"{"type":"input_audio","input_audio":{"data":"file:voice"}}"#,
            format!(r#"{{"type":"input_audio","input_audio":{{"format":"wav","data":"{wav64}"}}}}"#),
        ),
        (
            r#"{"type":"input_audio","input_audio":{"data":"file:song","format":"wav"}}"#,
            format!(r#"{{"type":"input_audio","input_audio":{{"data":"{mp364}","format":"mp3"}}}}"#),
        ),
        (
            r#"{"type":"image","source":{"type":"url","url":"file:photo.x"},"cache_control":{"type":"ephemeral"}}"#,
            format!(
                r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{png64}"}},"cache_control":{{"type":"ephemeral"}}}}"#
            ),
        ),
        (
            r#"{"type":"document","source":{"x":1,"type":"url","url":"file:paper"}}"#,
            format!(
                r#"{{"type":"document","source":{{"type":"base64","media_type":"application/pdf","data":"{pdf64}","x":1}}}}"#
            ),
        ),
        (
            r#"{"type":"image","source":{"type":"base64","media_type":"image/gif","data":"file:photo.x"}}"#,
            format!(r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{png64}"}}}}"#),
        ),
        (
            r#"{"type":"tool_result","tool_use_id":"a","content":[{"type":"image","source":{"type":"base64","data":"file:photo.x"}}]}"#,
            format!(
                r#"{{"type":"tool_result","tool_use_id":"a","content":[{{"type":"image","source":{{"media_type":"image/png","type":"base64","data":"{png64}"}}}}]}}"#
            ),
        ),
    ] {
        assert_eq!(folder.part(part).await, expected, "{part}");
    }
}

#[tokio::test]
async fn strings_elsewhere_are_left_alone() {
    let folder = Folder::new();
    for part in [
        r#"{"type":"text","text":"file:photo.x"}"#,
        r#"{"type":"text","text":"say \"file:photo.x\""}"#,
        r#"{"type":"image_url","image_url":{"url":"https://example.com/file:photo.x"}}"#,
        r#"{"type":"tool_use","id":"a","name":"f","input":{"source":{"type":"url","url":"file:none"}}}"#,
        r#"{"type":"search_result","source":"file:none","title":"t","content":[{"type":"text","text":"file:x"}]}"#,
        r#"{"type":"document","source":{"type":"text","media_type":"text/plain","data":"file:none"}}"#,
        r#"{"type":"image_url","image_url":7,"file":"file:none","source":["file:none"]}"#,
        r#""file:none""#,
    ] {
        assert_eq!(folder.part(part).await, part);
    }
    let tools = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"hi"}],"tools":[{"image_url":"file:none"}],"metadata":{"x":"file:none"}}}"#;
    let jobs = folder.jobs(tools).await;
    assert!(tools.contains(std::str::from_utf8(&jobs[0].body).unwrap()));
    let embeddings = r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"input":["file:none"]}}"#;
    assert_eq!(folder.jobs(embeddings).await.len(), 1);
}

#[tokio::test]
async fn responses_and_anthropics_batches_name_files_as_well() {
    let folder = Folder::new();
    let responses = json!({"custom_id": "r", "method": "POST", "url": "/v1/responses", "body": {"input": [
        {"role": "user", "content": [
            {"type": "input_image", "image_url": "file:photo.x"},
            {"type": "input_file", "file_data": "file:paper"},
        ]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "file:photo.x"}]},
    ]}});
    let anthropic = json!({"custom_id": "a", "params": {"max_tokens": 9, "messages": [{"role": "user", "content": [
        {"type": "document", "source": {"type": "content", "content": [
            {"type": "image", "source": {"type": "url", "url": "file:scan.png"}},
        ]}},
    ]}]}});
    let jobs = folder.jobs(&format!("{responses}\n{anthropic}")).await;
    let bodies: Vec<Value> = jobs.iter().map(|job| serde_json::from_slice(&job.body).unwrap()).collect();
    let input = &bodies[0]["input"];
    assert_eq!(input[0]["content"][0]["image_url"], url("image/png", PNG));
    assert_eq!(
        input[0]["content"][1],
        json!({"type": "input_file", "filename": "paper", "file_data": url("application/pdf", PDF)})
    );
    assert_eq!(input[1]["output"][0]["image_url"], url("image/png", PNG));
    assert_eq!(
        bodies[1]["messages"][0]["content"][0]["source"]["content"][0]["source"],
        json!({"type": "base64", "media_type": "image/jpeg", "data": STANDARD.encode(JPEG)})
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_path_is_relative_to_the_input_or_whole_and_may_be_a_link() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("a b")).unwrap();
    folder.write("a b/100%.png", PNG);
    std::os::unix::fs::symlink(folder.path("photo.x"), folder.path("link")).unwrap();
    let whole = folder.path("photo.x").display().to_string();
    for reference in [
        "file:./photo.x",
        "file:a b/100%.png",
        r"file:a b\/100%.png",
        "file:a b/../link",
        &format!("file:{whole}"),
        &format!("file://{whole}"),
        &format!("file://localhost{whole}"),
        &format!("file://{}/a%20b/100%25.png", folder.0.path().display()),
    ] {
        let part = format!(r#"{{"image_url":"{reference}"}}"#);
        assert_eq!(folder.part(&part).await, format!(r#"{{"image_url":"{}"}}"#, url("image/png", PNG)), "{reference}");
    }
    // Standard input has no place of its own.
    let source = Source::open(&folder.path("in.jsonl")).unwrap();
    assert_eq!(source.directory(), folder.0.path());
    let fifo = folder.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let writer = fifo.clone();
    let writing = tokio::task::spawn_blocking(move || std::fs::write(writer, "{\"prompt\":\"hi\"}").unwrap());
    let source = tokio::task::spawn_blocking(move || Source::open(&fifo)).await.unwrap().unwrap();
    writing.await.unwrap();
    assert_eq!(source.directory(), Path::new(""));
}

#[test]
fn a_file_that_cannot_be_taken_is_a_bad_line_that_names_it() {
    let folder = Folder::new();
    let image = |reference: &str| format!(r#"{{"type":"image_url","image_url":{{"url":"{reference}"}}}}"#);
    std::fs::create_dir(folder.path("folder")).unwrap();
    folder.write("notes.png", "only words");
    folder.write("nothing.png", "");
    let sparse = std::fs::File::create(folder.path("huge.png")).unwrap();
    sparse.set_len(MAX_FILE_BYTES + 1).unwrap();
    for (part, reason) in [
        (image("file:none.png"), "reading none.png failed: No such file or directory (os error 2)"),
        (image("file:photo.x/y.png"), "reading photo.x/y.png failed: Not a directory (os error 20)"),
        (image("file:folder"), "folder is a directory"),
        (image("file:///dev/null"), "/dev/null is no regular file"),
        (image("file:notes.png"), "notes.png is not PNG, JPEG, GIF or WebP"),
        (image("file:nothing.png"), "nothing.png is empty"),
        (image("file:paper"), "paper is PDF, not PNG, JPEG, GIF or WebP; give it as a file part"),
        (image("file:voice"), "voice is WAV, not PNG, JPEG, GIF or WebP"),
        (image("file:huge.png"), "huge.png has 20971521 bytes, at most 20971520 are taken"),
        (image("file:"), "file: names no file"),
        (
            image("file://photo.x"),
            "file://photo.x is on another machine; write file:photo.x, or file:///photo.x for a whole path",
        ),
        (image(r"file:\ud800"), "the name of a file is no valid string"),
        (
            r#"{"type":"file","file":{"file_data":"file:notes.png"}}"#.to_owned(),
            "notes.png is not PNG, JPEG, GIF, WebP, PDF, WAV or MP3",
        ),
        (r#"{"input_audio":{"data":"file:photo.x"}}"#.to_owned(), "photo.x is PNG, not WAV or MP3"),
        (r#"{"type":"document","source":{"type":"url","url":"file:photo.x"}}"#.to_owned(), "photo.x is PNG, not PDF"),
        (
            r#"{"type":"input_file","file_url":"file:paper"}"#.to_owned(),
            "file:paper stands in file_url, which takes addresses; write it into file_data",
        ),
    ] {
        assert_eq!(folder.reason(&part), reason, "{part}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_is_told() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = Folder::new();
    std::fs::set_permissions(folder.path("photo.x"), std::fs::Permissions::from_mode(0o000)).unwrap();
    // Who may read everything, as root, is not refused.
    if std::fs::File::open(folder.path("photo.x")).is_err() {
        let reason = folder.reason(r#"{"image_url":"file:photo.x"}"#);
        assert_eq!(reason, "reading photo.x failed: Permission denied (os error 13)");
    }
}

#[test]
fn the_files_of_a_body_must_fit_into_it() {
    let folder = Folder::new();
    let mut large = PNG.to_vec();
    large.resize(crate::submit::MAX_BODY_BYTES / 4, 0);
    folder.write("large.png", &large);
    let part = r#"{"image_url":"file:large.png"}"#;
    assert_eq!(folder.checked(&chat(&[part; 2].join(","))).unwrap().jobs, 1);
    let whole = part.replace("file:large.png", &url("image/png", &large));
    let bytes = chat(&[&*whole; 3].join(",")).len();
    let reason = folder.reason(&[part; 3].join(","));
    assert_eq!(reason, format!("its body has {bytes} bytes with the files, at most 16777216 are taken"));
}

#[tokio::test]
async fn a_repeated_key_is_changed_once() {
    let folder = Folder::new();
    let part = r#"{"image_url":"file:photo.x","image_url":"file:photo.x","file_data":"file:paper","file_data":"file:paper","filename":"a"}"#;
    let (png, pdf) = (url("image/png", PNG), url("application/pdf", PDF));
    assert_eq!(
        folder.part(part).await,
        format!(
            r#"{{"image_url":"{png}","image_url":"file:photo.x","file_data":"{pdf}","file_data":"file:paper","filename":"a"}}"#
        )
    );
    let deep =
        (0..5_000).fold(r#"{"image_url":"file:none"}"#.to_owned(), |inner, _| format!(r#"{{"content":[{inner}]}}"#));
    assert_eq!(folder.part(&deep).await, deep, "so deep nothing is looked for");
}

#[tokio::test]
async fn a_large_file_is_encoded_in_pieces_as_in_one() {
    let folder = Folder::new();
    for bytes in [48 * 1024 - 1, 48 * 1024, 48 * 1024 + 1, 100_000] {
        let image: Vec<u8> = PNG.iter().copied().chain((0..=255).cycle()).take(bytes).collect();
        folder.write("photo.x", &image);
        let part = folder.part(r#"{"image_url":"file:photo.x"}"#).await;
        assert_eq!(part, format!(r#"{{"image_url":"{}"}}"#, url("image/png", &image)), "{bytes}");
    }
}

#[tokio::test]
async fn lines_whose_files_are_bad_are_left_out_where_that_is_asked_for() {
    let folder = Folder::new();
    let line = |id: &str, name: &str| {
        let messages = json!([{"content": [{"image_url": format!("file:{name}")}]}]);
        json!({"custom_id": id, "model": "m", "messages": messages}).to_string()
    };
    // The id of a line that is left out may be used again.
    folder.write("in.jsonl", [line("a", "none"), line("a", "photo.x"), line("b", "scan.png")].join("\n"));
    let defaults = Defaults { skip_invalid: true, limit: Some(1), ..Defaults::default() };
    let checked = check(Source::open(&folder.path("in.jsonl")).unwrap(), defaults).unwrap();
    assert_eq!((checked.jobs, checked.skipped.as_ref().unwrap().total), (1, 1));
    let jobs: Vec<NewJob> = checked.stream().map(Result::unwrap).collect().await;
    assert_eq!(jobs.len(), 1);
    assert!(std::str::from_utf8(&jobs[0].body).unwrap().contains(&url("image/png", PNG)));
}

#[tokio::test]
async fn a_sweep_sets_parameters_beside_the_file_and_hands_over_as_it_goes() {
    let folder = Folder::new();
    let mut large = PNG.to_vec();
    large.resize(1024 * 1024, 0);
    folder.write("photo.x", &large);
    folder.write("in.jsonl", chat(r#"{"image_url":"file:photo.x"}"#));
    let sweep = Sweep { parameters: vec!["seed=1,2,3,4,5,6,7,8".parse().unwrap()], ..asking(Some("m")) };
    let source = Source::open(&folder.path("in.jsonl")).unwrap();
    let checked = check(source, Defaults { sweep, ..Defaults::default() }).unwrap();
    let mut jobs = Box::pin(checked.stream());
    let first = jobs.next().await.unwrap().unwrap();
    assert!(
        first.body.starts_with(br#"{"seed":1,"messages":[{"role":"user","content":[{"image_url":"data:image/png;"#)
    );
    assert_eq!(jobs.count().await, 7);
}

#[tokio::test]
async fn a_file_that_changes_between_the_passes_is_taken_as_it_is_then_or_noticed() {
    let folder = Folder::new();
    let part = r#"{"image_url":"file:photo.x"}"#;
    let checked = folder.checked(&chat(part)).unwrap();
    folder.write("photo.x", JPEG);
    let jobs: Vec<NewJob> = checked.stream().map(Result::unwrap).collect().await;
    assert!(std::str::from_utf8(&jobs[0].body).unwrap().contains(&url("image/jpeg", JPEG)));
    folder.write("photo.x", "only words");
    let jobs: Vec<_> = checked.stream().collect().await;
    assert!(matches!(jobs.last(), Some(Err(Error::Changed { line: 1, .. }))), "{jobs:?}");

    // While it is read.
    let body = Bytes::from(chat(part));
    let text = std::str::from_utf8(&body).unwrap();
    for change in [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDRmore"[..], b"\x89PNG\r\n\x1a\n", b"x89PNG\r\n\x1a\n\0\0\0\rIHD", b""]
    {
        folder.write("photo.x", PNG);
        let found = Attachments::find(text, CHAT, folder.0.path()).unwrap();
        folder.write("photo.x", change);
        let gone = found.put_into(&body).unwrap_err();
        assert!(gone.path == folder.path("photo.x") && gone.source.is_none(), "{gone:?}");
    }
    folder.write("photo.x", PNG);
    let found = Attachments::find(text, CHAT, folder.0.path()).unwrap();
    std::fs::remove_file(folder.path("photo.x")).unwrap();
    assert!(found.put_into(&body).unwrap_err().source.is_some());
}
