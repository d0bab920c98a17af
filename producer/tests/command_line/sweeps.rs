//! Formats and sweeps from the input to the output, and that running on pays for nothing twice.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::desk::{Desk, Provider, Said, wait_until};

/// OpenAI's and Azure's documented samples (see `input::tests::formats`), and a request that fails.
const SAMPLES: &str = r#"{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-3.5-turbo-0125", "messages": [{"role": "system", "content": "You are a helpful assistant."},{"role": "user", "content": "Hello world!"}],"max_tokens": 1000}}
{"custom_id": "task-0", "method": "POST", "url": "/chat/completions", "body": {"model": "REPLACE-WITH-MODEL-DEPLOYMENT-NAME", "messages": [{"role": "system", "content": "You are an AI assistant that helps people find information."}, {"role": "user", "content": "When was Microsoft founded?"}]}}
{"custom_id": "refused", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4o", "messages": [{"role": "user", "content": "simulate:400"}]}}
"#;

fn lines(desk: &Desk, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(desk.path(name)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(desk: &Desk, name: &str) -> Vec<String> {
    let mut ids: Vec<String> =
        lines(desk, name).iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// A desk with a provider that keeps a log of its calls.
struct Bench {
    desk: Desk,
    provider: Provider,
}

impl Bench {
    fn new() -> Self {
        let desk = Desk::new();
        let log = desk.path("calls.jsonl");
        let provider = Provider::start(&["--output-tokens", "5", "--log", log.to_str().unwrap()]);
        Self { desk, provider }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let base = ["-o", "out.jsonl", "--api-base", &self.provider.url];
        self.desk.run(&[&["run"], arguments, &base[..]].concat())
    }

    /// Counts the calls, once there are as many as there should be: the simulator writes them down a moment later.
    fn calls(&self, wanted: usize) -> usize {
        let count = || std::fs::read_to_string(self.desk.path("calls.jsonl")).unwrap_or_default().matches('\n').count();
        wait_until("the calls are written down", || count() >= wanted);
        count()
    }
}

#[test]
fn a_script_for_openais_results_reads_ours() {
    let desk = Desk::new();
    desk.write("in.jsonl", SAMPLES);
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--simulate", "-q"]).ends_with(3);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/read_results.py");
    let files = ["out.jsonl", "out.errors.jsonl"].map(|name| desk.path(name));
    let said = Said::from(Command::new("python3").arg(script).args(files).output().unwrap()).ends_with(0);
    let told: BTreeMap<&str, &str> = said.out.lines().map(|line| line.split_once('\t').unwrap()).collect();
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), ["refused", "request-1", "task-0"]);
    assert!(told["refused"].starts_with("failed: ") && !told["task-0"].starts_with("failed: "), "{told:?}");
}

#[test]
fn vllms_command_line_is_taken_and_gzip_from_standard_input() {
    use std::io::Write as _;

    let bench = Bench::new();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"prompt,answer\nhi,1\nho,2\n").unwrap();
    std::fs::write(bench.desk.path("in"), packed.finish().unwrap()).unwrap();
    let url = bench.provider.url.as_str();
    let arguments =
        ["run", "-i", "-", "-o", "out.jsonl", "--model", "m", "--prompt-column", "prompt", "--api-base", url];
    let mut command = bench.desk.command(&arguments);
    command.stdin(std::fs::File::open(bench.desk.path("in")).unwrap());
    Said::from(command.output().unwrap()).ends_with(0);
    assert_eq!(ids(&bench.desk, "out.jsonl"), ["row-2", "row-3"]);
    let underscored =
        ["run", "--input_file", "in", "--output_file", "two.jsonl", "--model", "m", "--prompt-column", "prompt"];
    bench.desk.run(&[&underscored[..], &["--api-base", url]].concat()).ends_with(0);
    assert_eq!(ids(&bench.desk, "two.jsonl"), ["row-2", "row-3"]);
    let answers = lines(&bench.desk, "out.jsonl");
    assert!(answers.iter().all(|line| line["gristmill"]["metadata"]["answer"].is_string()), "{answers:?}");
}

#[test]
fn a_sweep_grows_and_nothing_is_asked_twice() {
    let bench = Bench::new();
    bench.desk.write("in.jsonl", "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n");
    let sweep = |flags: &[&str]| {
        bench.run(&[&["in.jsonl", "--model", "m1", "--model", "m2"], flags].concat()).ends_with(0);
    };
    sweep(&["--limit", "1", "--set", "seed=1,2"]);
    assert_eq!((bench.calls(4), ids(&bench.desk, "out.jsonl").len()), (4, 4));
    sweep(&["--set", "seed=1,2"]);
    assert_eq!((bench.calls(8), ids(&bench.desk, "out.jsonl").len()), (8, 8));
    sweep(&["--set", "seed=1,2,3", "--tag", "team=x"]);
    assert_eq!((bench.calls(12), ids(&bench.desk, "out.jsonl").len()), (12, 12));
    sweep(&["--set", "seed=1,2,3", "--repeat", "2"]);
    assert_eq!((bench.calls(24), ids(&bench.desk, "out.jsonl").len()), (24, 24));
    sweep(&["--set", "seed=1,2,3", "--repeat", "2"]);
    assert_eq!(bench.calls(24), 24);
    let line = lines(&bench.desk, "out.jsonl").into_iter().find(|line| line["gristmill"]["tags"]["sample"] == "1");
    let line = line.unwrap();
    let tags = &line["gristmill"]["tags"];
    let id = format!("|seed={}|model={}|sample=1", tags["seed"].as_str().unwrap(), tags["model"].as_str().unwrap());
    assert!(line["custom_id"].as_str().unwrap().ends_with(&id), "{line}");
}

#[test]
fn more_requests_are_appended_to_a_batch() {
    let bench = Bench::new();
    bench.desk.write("in.jsonl", "{\"prompt\":\"a\",\"custom_id\":\"a\"}\n");
    bench.desk.write("more.jsonl", "{\"prompt\":\"b\",\"custom_id\":\"b\"}\n");
    bench.run(&["in.jsonl", "--model", "m", "--name", "x"]).ends_with(0);
    let said = bench.run(&["more.jsonl", "--model", "m", "--name", "x", "--append"]).ends_with(0);
    assert!(said.err.contains("x: 2 of 2 succeeded; 1 done before"), "{said:?}");
    assert_eq!((bench.calls(2), ids(&bench.desk, "out.jsonl")), (2, vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_file_that_a_line_names_is_sent_and_asked_again_when_it_changes() {
    const LINE: &str =
        r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:a.png"}}]}]}"#;

    let bench = Bench::new();
    std::fs::create_dir(bench.desk.path("data")).unwrap();
    bench.desk.write("data/in.jsonl", LINE);
    let ask = |flags: &[&str]| bench.run(&[&["data/in.jsonl", "--model", "m"], flags].concat());
    let refused = ask(&[]).ends_with(1);
    assert!(refused.err.contains("\n  line 1: reading data/a.png failed: No such file or directory"), "{refused:?}");
    let mut image = b"\x89PNG\r\n\x1a\n".to_vec();
    image.resize(3_000, 0);
    bench.desk.write("data/a.png", &image);
    let shown = ask(&["--dry-run", "-q"]).ends_with(0);
    assert!(
        shown.out.contains("data:image/png;base64,iVBORw0KGgoAAAAAAAAAAAAA… and 3,976 more characters\"}"),
        "{shown:?}"
    );
    let whole = ask(&["--dry-run", "--json"]).ends_with(0).json();
    assert!(whole["body"].as_str().unwrap().len() > 4_000 && whole["custom_id"] == "line-1");
    ask(&[]).ends_with(0);
    ask(&[]).ends_with(0);
    assert_eq!(bench.calls(1), 1);
    image.push(1);
    bench.desk.write("data/a.png", &image);
    ask(&[]).ends_with(0);
    assert_eq!(bench.calls(2), 2, "it is another request now");

    bench.desk.write("b.png", &image);
    let line = LINE.replace("file:a.png", "file:b.png");
    let fed = bench.desk.feed(&["run", "-", "-o", "-", "--model", "m", "--api-base", &bench.provider.url], &line);
    assert_eq!(fed.ends_with(0).json()["custom_id"], "line-1", "standard input's files are in the working directory");
}

#[test]
fn too_many_failures_stop_a_run_that_goes_on_later() {
    let bench = Bench::new();
    let bad: String = (0..6).map(|_| "{\"prompt\":\"simulate:400\"}\n").collect();
    let good: String = (0..200).map(|_| "{\"prompt\":\"hi\"}\n").collect();
    bench.desk.write("in.jsonl", &(bad + &good));
    let slow = ["in.jsonl", "--model", "m", "--concurrency", "2", "--fail-fast", "3"];
    let said = bench.run(&slow).ends_with(3);
    assert!(said.err.contains("error: stopped by --fail-fast: "), "{said:?}");
    assert!(said.err.contains("hint: look at the errors; the same command goes on"), "{said:?}");
    let said = bench.run(&["in.jsonl", "--model", "m", "--concurrency", "2"]).ends_with(3);
    assert!(said.err.contains("200 of 206 succeeded, 6 failed"), "{said:?}");
    assert_eq!(bench.calls(206), 206, "nothing was asked twice");
}

#[test]
fn a_failure_stops_a_run_before_the_next_calls() {
    let good: String = (0..2_000).map(|_| "{\"prompt\":\"hi\"}\n").collect();
    let calls = || {
        let bench = Bench::new();
        bench.desk.write("in.jsonl", format!("{{\"prompt\":\"simulate:400\"}}\n{good}"));
        let said = bench.run(&["in.jsonl", "--model", "m", "--concurrency", "1", "--fail-fast", "1"]).ends_with(3);
        assert!(said.err.contains("error: stopped by --fail-fast: 1 job failed"), "{said:?}");
        ids(&bench.desk, "out.jsonl").len()
    };
    // Looking four times a second would let hundreds through, at some milliseconds a call; a busy machine may, once.
    let made: Vec<usize> = (0..3).map(|_| calls()).collect();
    assert!(made.iter().any(|calls| *calls < 100), "{made:?} calls were made after the failure");
}

#[test]
fn a_large_batch_with_a_wrong_key_ends_before_it_begins() {
    let desk = Desk::new();
    let provider = Provider::start_with(&[("SIMULATOR_KEY", "sk-right-key")], &["--require-key-env", "SIMULATOR_KEY"]);
    desk.write("in.jsonl", "{\"prompt\":\"hi\"}\n".repeat(100));
    let arguments = ["run", "in.jsonl", "--model", "m", "-o", "out.jsonl", "--api-base", &provider.url];
    let said = desk.run_with(&[("OPENAI_API_KEY", "sk-wrong-key")], &arguments).ends_with(2);
    let told: Vec<&str> = said.err.trim_end().lines().collect();
    assert!(told[0].starts_with("error: deployment m: set OPENAI_API_KEY to a valid key (401 "), "{said:?}");
    assert_eq!(told[1..], ["hint: nothing was sent: put it right and run the same command again"]);
    assert!(!desk.path(".gristmill").exists() && !desk.path("out.jsonl").exists());
    desk.run_with(&[("OPENAI_API_KEY", "sk-right-key")], &arguments).ends_with(0);
}

#[test]
fn anthropics_requests_need_a_deployment_that_speaks_its_api() {
    let desk = Desk::new();
    let line = r#"{"custom_id":"a","params":{"model":"claude-opus-4-6","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}}"#;
    desk.write("in.jsonl", line);
    let said = desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--api-base", "http://127.0.0.1:9/v1"]).ends_with(2);
    assert!(
        said.err
            .starts_with("error: no deployment serves /v1/messages, which is Anthropic's API\nhint: name a deployment"),
        "{said:?}"
    );
    desk.run(&["run", "in.jsonl", "-o", "out.jsonl", "--simulate"]).ends_with(0);
    let lines = desk.lines("out.jsonl");
    assert_eq!(lines[0]["response"]["body"]["type"], "message", "{lines:?}");
    let said = desk.run(&["submit", "in.jsonl", "--dry-run", "-q"]).ends_with(0);
    assert!(said.out.starts_with("POST /v1/messages\n\n{\"model\":\"claude-opus-4-6\""), "{said:?}");
}

#[test]
fn a_run_leaves_other_jobs_to_others() {
    let bench = Bench::new();
    let lines = |names: &[&str]| -> String {
        let line = |name: &&str| format!("{{\"prompt\":\"{name}\",\"custom_id\":\"{name}\"}}\n");
        names.iter().map(line).collect()
    };
    let names: Vec<String> = (0..25).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.desk.write("other.jsonl", lines(&["x", "y", "z"]));
    bench.desk.write("in.jsonl", lines(&names));
    bench.desk.run(&["submit", "other.jsonl", "--name", "other", "--model", "m"]).ends_with(0);
    bench.desk.run(&["submit", "in.jsonl", "--name", "mine", "--model", "m"]).ends_with(0);
    // Messages hold ten jobs: one of them is taken in part.
    let said = bench.run(&["in.jsonl", "--name", "mine", "--model", "m", "--limit", "13"]).ends_with(0);
    assert!(said.err.contains("mine: 13 of 13 succeeded"), "{said:?}");
    assert_eq!((bench.calls(13), ids(&bench.desk, "out.jsonl").len()), (13, 13));
    let open = |name: &str| {
        let status = bench.desk.run(&["status", name, "--json"]).ends_with(0).json();
        status["recorded"].as_u64().unwrap() - status["succeeded"].as_u64().unwrap()
    };
    let shown = bench.desk.run(&["status", "other", "--json"]).ends_with(0).out;
    assert_eq!((open("other"), open("mine")), (3, 12), "{shown}");
    // The same again, with another 2 of them.
    bench.run(&["in.jsonl", "--name", "mine", "--model", "m", "--limit", "15"]).ends_with(0);
    assert_eq!((bench.calls(15), open("other"), open("mine")), (15, 3, 10));
    // A later run of all gets what is left, and a worker the rest.
    bench.run(&["in.jsonl", "--name", "mine", "--model", "m"]).ends_with(0);
    assert_eq!((bench.calls(25), open("other"), open("mine")), (25, 3, 0));
    let mut worker =
        bench.desk.command(&["worker", "--model", "m", "--api-base", &bench.provider.url]).spawn().unwrap();
    wait_until("the other batch", || open("other") == 0);
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(bench.calls(28), 28, "nothing was asked twice");
}

#[test]
fn only_the_inputs_failures_are_retried_and_told() {
    let bench = Bench::new();
    let bad = |id: &str, code: u16| format!("{{\"prompt\":\"simulate:{code}\",\"custom_id\":\"{id}\"}}\n");
    bench.desk.write("in.jsonl", [bad("a", 400), bad("b", 422), bad("c", 422)].concat());
    let run = |flags: &[&str]| {
        let said = bench.run(&[&["in.jsonl", "--model", "m", "--name", "x"], flags].concat()).ends_with(3);
        said.err
    };
    run(&[]);
    assert_eq!(bench.calls(3), 3);
    let said = run(&["--limit", "1", "--retry-failed"]);
    assert_eq!(bench.calls(4), 4, "the other two are none of this input's");
    assert!(said.contains("x: 0 of 1 succeeded, 1 failed;") && said.contains("  1 × BadRequestError: "), "{said}");
    assert_eq!(said.matches(" × ").count(), 1, "{said}");
    let left_out = "2 earlier jobs are not in this input now (lines changed or removed, or left out by --limit, --model, \
                    --set, --repeat or --skip-invalid): b, c";
    assert!(said.contains(left_out), "{said}");
    // What it left open goes on after a cancelled batch, too.
    bench.desk.run(&["cancel", "x"]).ends_with(0);
    run(&["--retry-failed"]);
    assert_eq!(bench.calls(7), 7);
}
