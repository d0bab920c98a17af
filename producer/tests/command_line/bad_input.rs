//! What the program says of wrong input, word for word, and that it then sends and makes nothing.

use std::io::Write as _;
use std::process::Command;

use crate::desk::{Desk, Said};

const GOOD: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}}"#;
const HINT: &str = "hint: a line looks like {\"custom_id\":\"1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\
                    \"body\":{\"model\":\"…\",\"messages\":[…]}}, or {\"prompt\":\"…\",\"model\":\"…\"}";

#[track_caller]
fn says(said: &Said, code: i32, text: &str) {
    assert_eq!((said.code, said.err.trim_end(), said.out.as_str()), (Some(code), text, ""));
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_that_are_no_requests_are_told_apart() {
    const DAMAGED_GZ: &str = "reading cut.jsonl.gz failed: the packed data is cut off or damaged; pack it again";
    const DAMAGED_ZST: &str = "reading cut.jsonl.zst failed: the packed data is cut off or damaged; pack it again";

    let cut = gzip(GOOD);
    let cases: &[(&str, &[u8], &str)] = &[
        ("empty.jsonl", b"", "empty.jsonl holds no requests"),
        ("blank.jsonl", b"\xef\xbb\xbf\r\n\r\n  \n", "blank.jsonl holds no requests"),
        ("heading.csv", b"prompt\n", "heading.csv holds no requests"),
        (
            "columns.csv",
            b"question,answer\nwhy?,so\n",
            "columns.csv has no column `prompt`; name one with --prompt-column: question, answer",
        ),
        (
            "junk.bin",
            b"\x7fELF\x02\x01\x00\x00",
            "junk.bin holds binary data; give JSON lines or CSV, plain or packed by gzip or zstd",
        ),
        ("in.zip", b"PK\x03\x04", "in.zip is a zip archive; unpack it first"),
        ("in.parquet", b"PAR1\x15\x04", "in.parquet is Parquet; save it as JSON lines or CSV"),
        ("in.txt", b"\xff\xfe{\x00", "in.txt is UTF-16; save it as UTF-8"),
        (
            "array.json",
            b"[\n{}\n]",
            "array.json is one JSON array; write one object a line, for example with jq -c '.[]'",
        ),
        ("cut.jsonl.gz", &cut[..cut.len() - 10], DAMAGED_GZ),
        ("cut.jsonl.zst", b"\x28\xb5\x2f\xfd\x04", DAMAGED_ZST),
    ];
    let desk = Desk::new();
    for (name, bytes, text) in cases {
        std::fs::write(desk.path(name), bytes).unwrap();
        let model = ["run", name, "-o", "out.jsonl", "--model", "m"];
        says(&desk.run(&model), 1, &format!("error: {text}"));
    }
    std::fs::create_dir(desk.path("folder")).unwrap();
    says(&desk.run(&["run", "folder", "-o", "out.jsonl"]), 1, "error: folder is a directory; name a file in it");
    let not_there =
        |name: &str| format!("error: reading {name} failed: No such file or directory (os error 2)\nhint: ");
    let run = |name: &str| desk.run(&["run", name, "-o", "out.jsonl"]);
    says(&run("emty.jsonl"), 1, &(not_there("emty.jsonl") + "did you mean empty.jsonl?"));
    let here = std::fs::canonicalize(desk.path(".")).unwrap();
    says(&run("something-else"), 1, &format!("{}it was looked for in {}", not_there("something-else"), here.display()));
    says(
        &run("data/in.jsonl"),
        1,
        &format!("{}there is no directory {}", not_there("data/in.jsonl"), here.join("data").display()),
    );
    assert!(!desk.path("out.jsonl").exists() && !desk.path(".gristmill").exists());
}

#[test]
fn every_bad_line_is_told_in_one_go() {
    let desk = Desk::new();
    let mut text = [
        GOOD,
        "oops",
        r#"{"custom_id":"b","method":"POST","url":"/v1/chat","body":{}}"#,
        r#"{"custom_id":"c","method":"POST","url":"/v1/chat/completions"}"#,
        r#"{"custom_id":"d","method":"POST","url":"/v1/chat/completions","body":{"messages":[1]}}"#,
        r#"{"custom_id":"e","params":{"model":"m","messages":[1]}}"#,
        GOOD,
        "",
    ]
    .join("\n")
    .into_bytes();
    text.resize(text.len() + 40 * 1024 * 1024, b'x');
    text.extend_from_slice(b"\n{\"prompt\":\"\xff\"}\n{\"question\":\"hi\"}\n");
    std::fs::write(desk.path("in.jsonl"), text).unwrap();
    let expected = format!(
        "error: in.jsonl: 9 of 10 lines cannot be sent, nothing was sent
  line 2: is not JSON: expected value at column 1
  line 3: url is \"/v1/chat\", it must be one of /v1/chat/completions, /v1/responses, /v1/completions, /v1/embeddings, /v1/messages
  line 4: has no body
  line 5: body has no model; add it, or give --model
  line 6: params has no max_tokens, which Anthropic's API needs
  line 7: custom_id \"a\" is on line 1 already
  line 8: has 41943041 bytes, at most 16777216 are taken
  line 9: is not UTF-8 at byte 12; convert the file, for example with iconv
  line 10: is no request: it has no prompt, no messages, no body
{HINT}"
    );
    says(&desk.run(&["run", "in.jsonl", "-o", "out.jsonl"]), 1, &expected);
    assert!(!desk.path("out.jsonl").exists() && !desk.path(".gristmill").exists());

    let said = desk.run(&["run", "in.jsonl", "--skip-invalid", "--simulate", "-o", "out.jsonl"]).ends_with(0);
    assert!(said.err.starts_with("warning: in.jsonl: 9 of 10 lines are left out\n  line 2: is not JSON"), "{said:?}");
    assert_eq!(std::fs::read_to_string(desk.path("out.jsonl")).unwrap().lines().count(), 1);
}

#[test]
fn bad_rows_are_told_as_rows() {
    let desk = Desk::new();
    desk.write("in.csv", "prompt,answer\nhi,1\nho\n,2\n");
    says(
        &desk.run(&["run", "in.csv", "-o", "out.jsonl", "--model", "m"]),
        1,
        "error: in.csv: 2 of 3 rows cannot be sent, nothing was sent\n  row 3: has 1 fields, the heading has 2\n  row 4: prompt is empty",
    );
}

#[test]
fn a_byte_order_mark_and_other_line_ends_are_no_fault() {
    let desk = Desk::new();
    desk.write("in.jsonl", format!("\u{feff}{GOOD}\r\n\r\n{}\r\n", GOOD.replace("\"a\"", "\"b\"")));
    let said = desk.run(&["submit", "in.jsonl", "--dry-run"]).ends_with(0);
    assert!(said.err.contains("the first of 2 jobs: 2 for gpt-4o"), "{said:?}");
}

#[test]
fn flags_that_do_not_go_together_are_told() {
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD);
    let run = ["run", "in.jsonl", "-o", "out.jsonl"];
    let cases: &[(&[&str], &str)] = &[
        (&["--append"], "error: the following required arguments were not provided:\n  --name <NAME>"),
        (&["--simulate", "--db", "x.db"], "error: the argument '--simulate' cannot be used with '--db <PATH>'"),
        (&["--repeat", "0"], "error: invalid value '0' for '--repeat <N>': 0 is not in 1..=10000"),
        (&["--limit", "0"], "error: invalid value '0' for '--limit <N>': 0 is not in 1..18446744073709551615"),
        (
            &["--set", "temperature"],
            "error: invalid value 'temperature' for '--set <NAME=VALUE,…>': write it as name=value or name=value,value, such as temperature=0,0.7",
        ),
        (
            &["--set", "model=a,b"],
            "error: invalid value 'model=a,b' for '--set <NAME=VALUE,…>': name models with --model, once for each",
        ),
        (
            &["--set", "n=1", "--set", "n=2"],
            "error: --set n is given twice\nhint: give its values together: --set n=A,B",
        ),
        (&["--model", "m", "--model", "m"], "error: --model m is given twice\nhint: --repeat N asks it N times"),
        (
            &["--set", "stop=[a,b]"],
            "error: invalid value 'stop=[a,b]' for '--set <NAME=VALUE,…>': the value [a,b] is not JSON; quote it for the shell, or write a text as \"[a,b]\"",
        ),
        (&["--model", ""], "error: invalid value '' for '--model <MODEL>': write the model's name, such as gpt-4o"),
        (&["--tag", "a=1", "--tag", "a=2"], "error: --tag a is given twice\nhint: a tag has one value: give it once"),
        (
            &["--tag", "n=1", "--set", "n=1,2"],
            "error: --tag n is a tag that this sweep sets itself\nhint: give the tag another name",
        ),
        (&["--tag", "team"], "error: invalid value 'team' for '--tag <NAME=VALUE>': write it as name=value"),
        (
            &["--deadline", "soon"],
            "error: invalid value 'soon' for '--deadline <TIME>': write it like 30m, 8h or 2d, or as a time with its zone, 2026-12-01T08:00:00Z",
        ),
        (
            &["--deadline", "2020-01-01T00:00:00Z"],
            "error: --deadline has passed already: every job would expire\nhint: give a later --deadline",
        ),
        (
            &["--deadline", "1h", "--not-before", "2h"],
            "error: --deadline lies before --not-before: every job would expire\nhint: give a later --deadline",
        ),
        (
            &["--fail-fast", "0"],
            "error: invalid value '0' for '--fail-fast <N|PCT>': write a number of failures, 10, or a share of what has ended, 5%",
        ),
        (
            &["--priority", "urgent"],
            "error: invalid value 'urgent' for '--priority <PRIORITY>': priority `urgent` is none of high, standard, bulk",
        ),
    ];
    for (flags, text) in cases {
        let said = desk.run(&[&run[..], flags].concat());
        assert_eq!(said.code, Some(1), "{said:?}");
        let told = said.err.split("\n\n").next().unwrap().trim_end();
        assert_eq!(told, *text);
    }
    says(
        &desk.run(&["submit", "in.jsonl", "--fail-fast", "3"]),
        1,
        "error: --fail-fast needs somebody to watch\nhint: give --wait or -o as well",
    );
    says(
        &desk.run(&["submit", "in.jsonl", "--name", "x", "--append", "-q"]),
        1,
        "error: there is no batch `x` to append to\nhint: leave --append away to begin it, or see `gristmill list`",
    );
}

#[test]
fn an_output_that_cannot_be_written_is_told_before_anything_is_sent() {
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD);
    desk.write("thesis.txt", "my thesis\n");
    std::fs::create_dir(desk.path("folder")).unwrap();
    let run = |output: &str| desk.run(&["run", "in.jsonl", "--simulate", "-q", "-o", output]);
    says(
        &run("thesis.txt"),
        1,
        "error: thesis.txt exists and holds something that is not Gristmill's on line 1; nothing was changed\n\
         hint: give another file with -o, or move that one away",
    );
    says(
        &run("folder"),
        1,
        "error: writing folder failed: is a directory\nhint: name a file in it: -o folder/out.jsonl",
    );
    says(
        &run("none/out.jsonl"),
        1,
        "error: writing none/out.jsonl failed: its directory is not there\n\
         hint: make the directory none first, or give another file with -o",
    );
    assert_eq!(std::fs::read_to_string(desk.path("thesis.txt")).unwrap(), "my thesis\n");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_output_is_told() {
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD);
    let said = desk.run(&["run", "in.jsonl", "--simulate", "-q", "--combined", "-o", "/dev/full"]);
    says(
        &said,
        1,
        "error: writing /dev/full failed: No space left on device (os error 28)\n\
         hint: free space on that disk and run the same command again",
    );
}

#[test]
fn the_output_of_another_batch_is_kept() {
    let desk = Desk::new();
    let provider = crate::desk::Provider::start(&[]);
    desk.write("a.jsonl", GOOD);
    desk.write("b.jsonl", GOOD);
    let base = ["--api-base", &provider.url, "-q", "-o", "out.jsonl"];
    desk.run(&[&["run", "a.jsonl"], &base[..]].concat()).ends_with(0);
    let before = std::fs::read(desk.path("out.jsonl")).unwrap();
    let name = desk.run(&["status", "--json"]).ends_with(0).json()["name"].as_str().unwrap().to_owned();
    says(
        &desk.run(&[&["run", "b.jsonl"], &base[..]].concat()),
        1,
        &format!(
            "error: out.jsonl exists and holds results of another batch on line 1; nothing was changed\n\
             hint: give another file with -o, or move that one away\n\
             hint: or go on with that batch, whose name is {name}: add --name {name}"
        ),
    );
    assert_eq!(std::fs::read(desk.path("out.jsonl")).unwrap(), before);
}

/// Runs the program as somebody without rights, whoever runs the tests.
#[cfg(unix)]
#[test]
fn missing_rights_are_told() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;

    let desk = Desk::new();
    let allow = |name: &str, mode: u32| {
        std::fs::set_permissions(desk.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    desk.write("secret.jsonl", GOOD);
    desk.write("in.jsonl", GOOD);
    std::fs::create_dir(desk.path("closed")).unwrap();
    std::fs::create_dir(desk.path("open")).unwrap();
    // The program may lie where only its owner looks. Another process copies it: a program that another test starts meanwhile
    // would inherit the copy open for writing, and what is open for writing cannot be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_gristmill")).arg(desk.path("gristmill")).status();
    assert!(copied.unwrap().success());
    for (name, mode) in
        [("secret.jsonl", 0o000), ("closed", 0o555), ("open", 0o777), ("gristmill", 0o755), (".", 0o755)]
    {
        allow(name, mode);
    }
    let run = |arguments: &[&str]| {
        let mut command = Command::new(desk.path("gristmill"));
        command.args(arguments).current_dir(desk.path("open")).env_clear();
        if std::fs::metadata(desk.path(".")).unwrap().uid() == 0 {
            const NOBODY: u32 = 65_534;
            command.uid(NOBODY).gid(NOBODY);
        }
        Said::from(command.output().unwrap())
    };
    says(
        &run(&["run", "../secret.jsonl", "-o", "out.jsonl"]),
        1,
        "error: reading ../secret.jsonl failed: Permission denied (os error 13)\n\
         hint: allow yourself to read it, for example with chmod u+r",
    );
    says(
        &run(&["run", "../in.jsonl", "--simulate", "-q", "-o", "../closed/out.jsonl"]),
        1,
        "error: writing ../closed/out.jsonl failed: Permission denied (os error 13)\n\
         hint: give another place with -o where you may write, or allow it there",
    );
    assert!(!desk.path("open/.gristmill").exists(), "nothing was begun");
    let out_of_sight = run(&["run", "../in.jsonl", "--simulate", "-q", "-o", "out.jsonl"]);
    assert_eq!(out_of_sight.code, Some(0), "{out_of_sight:?}");
    allow(".", 0o755);
}

#[test]
fn what_looks_like_something_else_is_told_what_to_do() {
    let desk = Desk::new();
    let run = ["run", "-", "-o", "out.jsonl", "--model", "m"];
    let csv = desk.feed(&run, "question,answer\nwhy?,so\n").ends_with(1);
    assert!(
        csv.err.contains("\nhint: if it is CSV, name the column of the prompts: --prompt-column NAME\n"),
        "{csv:?}"
    );
    let pretty = desk.feed(&run, "{\n  \"prompt\": \"hi\"\n}\n").ends_with(1);
    assert!(
        pretty.err.contains("\nhint: an object must stand on one line: `jq -c . FILE` writes it so\n"),
        "{pretty:?}"
    );
    desk.write("in.csv", "prompt,,\nhi,,\n");
    let said = desk.run(&["run", "in.csv", "--model", "m", "-o", "-", "--simulate", "-q"]).ends_with(0);
    assert!(said.out.contains("\"custom_id\":\"row-2\""), "{said:?}");
    desk.write("open.csv", "prompt,a\nhi,1\n\"ho,2\nhe,3\n");
    let said = desk.run(&["run", "open.csv", "--model", "m", "-o", "-", "--simulate", "--skip-invalid"]);
    says(
        &said,
        1,
        "error: open.csv: 1 of 2 rows cannot be sent, nothing was sent\n  \
         row 3: a quoted field that begins in this row does not end; add the quote that is missing; the rows behind it \
         were not read, for it cannot be told where they begin",
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_standard_output_is_told() {
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = desk.command(&["run", "in.jsonl", "--simulate", "-q", "-o", "-"]);
    says(
        &Said::from(command.stdout(full).output().unwrap()),
        1,
        "error: writing to standard output failed: No space left on device (os error 28)\n\
         hint: free space on that disk and run the same command again",
    );
}

#[cfg(unix)]
#[test]
fn nothing_is_made_beside_what_is_no_file() {
    let desk = Desk::new();
    desk.write("in.jsonl", GOOD.replace("hi", "simulate:400"));
    std::os::unix::fs::symlink("/dev/null", desk.path("out.jsonl")).unwrap();
    desk.run(&["run", "in.jsonl", "--simulate", "-q", "-o", "out.jsonl"]).ends_with(3);
    assert!(!desk.path("out.errors.jsonl").exists());
    assert!(desk.path("out.jsonl").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn machines_read_wrong_usage_as_json() {
    let desk = Desk::new();
    for arguments in [&["run", "--json", "in.jsonl", "--limt", "3"][..], &["--json", "walk"], &["--json"]] {
        let said = desk.run(arguments).ends_with(1);
        let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
        assert_eq!((&error["error"]["exit_code"], said.out.as_str()), (&1.into(), ""), "{said:?}");
        assert!(error["error"]["message"].is_string(), "{said:?}");
    }
    let said = desk.run(&["run", "in.jsonl", "-o", "x", "--progress", "json", "--limt", "3"]).ends_with(1);
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["error"]["message"], "unexpected argument '--limt' found");
    assert_eq!(error["error"]["hint"], "a similar argument exists: '--limit'");
}
