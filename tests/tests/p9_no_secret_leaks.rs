//! P9: no key, no password and no configured endpoint ever reaches a message, a row, a log or an error text.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gristmill_common::job::{LaneKey, Priority};
use gristmill_common::outcome::Status;
use gristmill_tests::fleet::{Fleet, KEY, MODEL, eventually, gristmill};
use gristmill_tests::rabbit;
use gristmill_worker::simulate::{self, Simulator};
use lapin::options::BasicGetOptions;
use secrecy::ExposeSecret as _;
use sqlx::AssertSqlSafe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

const PASSWORD: &str = "canary-password-5e1f";

/// Everything that was written, by where.
#[derive(Debug, Default)]
struct Written(Vec<(String, String)>);

impl Written {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn run(&mut self, mut command: Command) -> std::process::Output {
        let output = command.output().unwrap();
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
        for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            self.add(format!("{stream} of {arguments:?}"), String::from_utf8_lossy(bytes));
        }
        output
    }

    fn text(&self, place: &str) -> String {
        self.0.iter().filter(|(written, _)| written.contains(place)).map(|(_, text)| text.as_str()).collect()
    }

    fn assert_without(&self, secret: &str) {
        for (place, text) in &self.0 {
            let leak = text.find(secret).map(|at| {
                let around = text.floor_char_boundary(at.saturating_sub(200))..text.ceil_char_boundary(at + 200);
                text[around.start..around.end.min(text.len())].to_owned()
            });
            assert_eq!(leak, None, "`{secret}` in {place}");
        }
    }
}

/// Dumps every table of the schema as text.
async fn dump(fleet: &Fleet, written: &mut Written) {
    let mut connection = fleet.database.connect().await;
    let tables = "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'gristmill'::regnamespace
                  AND c.relkind IN ('r', 'p', 'v') ORDER BY 1";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut connection).await.unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    for table in tables {
        let rows = AssertSqlSafe(format!("SELECT t::text FROM gristmill.{table} t"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut connection).await.unwrap();
        written.add(format!("table {table}"), rows.join("\n"));
    }
}

/// Takes what lies in the work queues, headers included.
async fn take_messages(fleet: &Fleet, written: &mut Written) {
    let connection = fleet.rabbit.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let aside = ["dead", "unrouted", "future"].map(|role| format!("{}.{role}", fleet.rabbit.prefix()));
    for queue in LaneKey::all(MODEL).map(|lane| fleet.rabbit.queue(&lane)).chain(aside) {
        while let Some(message) = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap() {
            let properties = format!("{:?}", message.properties);
            written.add(format!("message in {queue}"), String::from_utf8_lossy(&message.data) + properties.as_str());
        }
    }
}

/// Answers every call like a proxy that shows in its error page what it was sent, by turns as JSON and as HTML.
async fn echo(listener: TcpListener, calls: &std::sync::atomic::AtomicUsize) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let call = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let asked = read_request(&mut stream).await;
        let (status, kind, body) = if call.is_multiple_of(2) {
            let message = format!("cannot serve {asked}");
            let error = serde_json::json!({"error": {"message": message, "type": "invalid_request_error",
                                                     "code": KEY, "param": asked}});
            ("400 Bad Request", "application/json", error.to_string())
        } else {
            ("502 Bad Gateway", "text/html", format!("<html><body><h1>502</h1><pre>{asked}</pre></body></html>"))
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nx-request-id: {KEY}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        // A caller that went away hears nothing.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// Reads a request's head and body; returns the head.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.is_none_or(|length| body.len() >= length.trim().parse().unwrap()) {
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
            return String::from_utf8_lossy(&bytes[..end]).into_owned();
        }
    }
    String::new()
}

/// Returns a URL with this password in it.
fn with_password(url: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    url.to_string()
}

/// Answers every call with what it was sent, in all the ways in which an answer may come: by turns as errors, as a stream that
/// breaks, and as answers of success in both dialects.
async fn show_head(listener: TcpListener, calls: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let call = calls.fetch_add(1, Ordering::SeqCst);
        let asked = read_request(&mut stream).await;
        let error = serde_json::json!({"type": "error", "error": {"message": asked, "type": asked, "code": asked, "param": asked}});
        let chunk = serde_json::json!({"choices": [{"index": 0, "delta": {"content": asked}}]});
        let event = serde_json::json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": asked}});
        let start = r#"{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}"#;
        let (status, kind, body) = match call % 5 {
            0 => ("400 Bad Request", "application/json", error.to_string()),
            1 => ("502 Bad Gateway", "text/html", format!("<html><head><title>{asked}</title></head></html>")),
            2 => ("200 OK", "text/event-stream", format!("data: {chunk}\n\ndata: {error}\n\n")),
            3 => (
                "200 OK",
                "text/event-stream",
                format!("data: {start}\n\ndata: {event}\n\nevent: error\ndata: {error}\n\n"),
            ),
            _ => {
                let answer = serde_json::json!({
                    "id": "1", "object": "chat.completion", "created": 1, "model": "m", "type": "message", "role": "assistant",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": asked}}],
                    "content": [{"type": "text", "text": asked}], "stop_reason": "end_turn",
                    "usage": {},
                });
                ("200 OK", "application/json", answer.to_string())
            }
        };
        let shown: String = asked.lines().filter(|line| line.contains("canary")).collect();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nx-request-id: {shown}\r\n\
             x-ratelimit-limit-requests: {shown}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        // A caller that went away hears nothing.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_provider_are_written_nowhere_in_plain_and_streaming_calls() {
    // Lower case, as the heads that are shown.
    let secrets = [
        "azure-canary-0a1b2c3d4e",
        "sk-ant-canary-0a1b2c3d4e",
        "entra-canary-0a1b2c3d4e",
        "sk-canary-0a1b2c3d4e",
        "header-canary-0a1b2c3d4e",
        "ant-header-canary-0a1b2c3d4e",
        "bearer-canary-0a1b2c3d4e",
    ];
    let [azure, anthropic, entra, openai, header, other_header, bearer] = secrets;
    let groups = ["azure", "entra", "anthropic", "bearer", "openai"];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    // A task of its own: the programs are waited for without a pause in this one.
    let server = TaskTracker::new().spawn(show_head(listener, Arc::clone(&calls)));
    let simulator = Simulator::start(simulate::Options::default()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut written = Written::default();

    for (host, at) in [("proxy", proxy.to_string()), ("simulator", simulator.addr().to_string())] {
        let config = format!(
            "model_list:\n\
             - {{model_name: azure, litellm_params: {{model: azure/prod, api_base: \"http://{at}\", api_version: \"2024-10-21\", api_key: {azure}}}}}\n\
             - {{model_name: entra, litellm_params: {{model: azure/prod, api_base: \"http://{at}\", azure_ad_token: {entra}}}}}\n\
             - {{model_name: anthropic, litellm_params: {{model: anthropic/claude-sonnet-4-6, api_base: \"http://{at}\", api_key: {anthropic}, extra_headers: {{x-team: {other_header}}}}}}}\n\
             - {{model_name: bearer, litellm_params: {{model: anthropic/claude-sonnet-4-6, api_base: \"http://{at}\", api_key: os.environ/ANTHROPIC_AUTH_TOKEN}}}}\n\
             - {{model_name: openai, litellm_params: {{model: openai/gpt-4o, api_base: \"http://{at}/v1\", api_key: {openai}, extra_headers: {{x-gateway-key: {header}}}}}}}\n"
        );
        std::fs::write(dir.path().join("gristmill.yaml"), config).unwrap();
        let requests: String = (0..20)
            .map(|n| {
                let body = serde_json::json!({
                    "messages": [{"role": "user", "content": format!("hello {n}")}], "user": "simulate:echo",
                    "max_tokens": 100, "stream": n % 2 == 0,
                });
                let line = serde_json::json!({"custom_id": n.to_string(), "method": "POST", "url": "/v1/chat/completions", "body": body});
                format!("{line}\n")
            })
            .collect();
        std::fs::write(dir.path().join("in.jsonl"), requests).unwrap();
        for group in groups {
            let name = format!("{host}-{group}");
            let out = format!("{name}.jsonl");
            let command = |arguments: &[&str]| {
                let mut command = gristmill(dir.path());
                command.args(arguments).env("GRISTMILL_LOG", "trace").env("ANTHROPIC_AUTH_TOKEN", bearer);
                command
            };
            let run = [
                "run",
                "in.jsonl",
                "--model",
                group,
                "--name",
                &name,
                "-o",
                &out,
                "--combined",
                "--num-retries",
                "0",
                "--concurrency",
                "1",
            ];
            for arguments in [
                &run[..],
                &["results", &name, "--json"],
                &["status", &name, "--json"],
                &["check", "--model", group, "--call", "--json"],
                &["config"],
                &["models"],
                &["run", "in.jsonl", "--model", group, "--dry-run", "-o", "-"],
            ] {
                let command = command(arguments);
                // The servers are of this runtime.
                let ran = tokio::task::block_in_place(|| written.run(command));
                assert!(ran.status.code().is_some_and(|code| code < 100), "{arguments:?}: {ran:?}");
            }
            let lines = std::fs::read_to_string(dir.path().join(&out)).unwrap();
            assert_eq!(lines.lines().count(), 20, "{name}: {lines}");
            written.add(format!("output of {name}"), lines);
        }
    }
    server.abort();
    for entry in std::fs::read_dir(dir.path().join(".gristmill")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            written.add(format!("file {}", path.display()), String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
    }
    assert!(calls.load(Ordering::SeqCst) >= 100);
    for group in groups {
        let output = written.text(&format!("output of proxy-{group}"));
        assert!(output.contains("[key]"), "{group}: an echoed key was taken out: {output}");
        assert!(output.contains("\"finish_reason\":\"stop\""), "{group}: of answers too: {output}");
        assert!(output.contains("MidStreamError"), "{group}: {output}");
        assert!(written.text(&format!("output of simulator-{group}")).contains("hello 19"), "{group}");
    }
    assert!(written.text("output of proxy-openai").contains("[header]") && written.text("file").contains("[header]"));
    for secret in secrets {
        written.assert_without(secret);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_password_or_endpoint_is_written_anywhere_whatever_goes_wrong() {
    let faults = ["401:0.03", "500:0.1", "html:0.1", "reset:0.1", "truncate:0.1", "timeout:0.02"];
    let options = simulate::Options {
        faults: faults.iter().map(|rule| rule.parse().unwrap()).collect(),
        latency: Duration::from_millis(5),
        ..simulate::Options::default()
    };
    let mut fleet = Fleet::start(options).await;
    let simulator = fleet.simulator.addr();
    let mut written = Written::default();
    // Where the server trusts local users it takes any password.
    let database = with_password(fleet.database.url().expose_secret());
    let base_url = fleet.simulator.base_url();
    let env = [("GRISTMILL_LOG", "debug"), ("GRISTMILL_TIMEOUT", "500ms"), ("OPENAI_BASE_URL", &base_url)];

    // What a provider answers.
    let worker = fleet.worker(&["--concurrency", "16"], &env);
    let batch = fleet.submit("faults", 150, |_, job| job.options.num_retries = Some(1)).await;
    let rows = fleet.agrees(batch, 150).await;
    assert!(rows.iter().any(|row| row.result.status == Status::Failed), "faults happened");
    assert!(rows.iter().any(|row| row.result.status == Status::Succeeded), "and answers came");

    // Nobody answers.
    let other = Simulator::start(simulate::Options::default()).await.unwrap();
    std::mem::replace(&mut fleet.simulator, other).shutdown().await;
    fleet.submit("refused", 30, |_, _| {}).await;
    // A fault of before may be told first.
    eventually("the pause is told", async || {
        let paused = fleet.store.paused_deployments().await.unwrap();
        let is_told = paused.iter().any(|report| report.paused.as_ref().is_some_and(|text| text.contains("api_base")));
        is_told.then_some(())
    })
    .await;
    written.run(fleet.command(&["status", "refused"]));
    written.run(fleet.command(&["status", "refused", "--json"]));
    fleet.signal(worker, "TERM");
    fleet.ended(worker).await;

    // A proxy shows what it was sent.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let proxy_url = format!("http://{proxy}/v1");
    let env = [("GRISTMILL_LOG", "debug"), ("OPENAI_BASE_URL", &proxy_url), ("DATABASE_URL", &database)];
    let worker = fleet.worker(&["--concurrency", "4"], &env);
    let echoed = fleet.submit("echoed", 20, |_, job| job.options.num_retries = Some(0)).await;
    let rows = tokio::select! {
        rows = fleet.agrees(echoed, 20) => rows,
        () = echo(listener, &calls) => unreachable!("it serves until the rows are there"),
    };
    assert!(rows.iter().all(|row| row.result.status == Status::Failed));
    fleet.signal(worker, "TERM");
    fleet.ended(worker).await;

    // Servers that refuse the program's own passwords, and wrong settings.
    let wrong_broker = with_password(&rabbit::url());
    let mut refused = fleet.command(&["worker", "--model", MODEL]);
    written.run({
        refused.env("AMQP_URL", &wrong_broker).env("GRISTMILL_LOG", "debug");
        refused
    });
    let mut unreachable = fleet.command(&["status"]);
    written.run({
        unreachable.env("DATABASE_URL", format!("postgres://someone:{PASSWORD}@127.0.0.1:1/none"));
        unreachable
    });
    assert!(written.text("stderr").contains("refuse"), "{written:?}");

    // What lies about.
    fleet.submit_at(Priority::High, "queued", 20, |_, _| {}).await;
    for batch in ["faults", "echoed", "queued"] {
        assert!(written.run(fleet.command(&["status", batch, "--json"])).status.success());
        assert!(written.run(fleet.command(&["results", batch, "--json"])).status.success());
        written.run(fleet.command(&["results", batch, "-o", &format!("{batch}.out.jsonl")]));
    }
    for file in ["faults.out.jsonl", "faults.out.errors.jsonl", "echoed.out.errors.jsonl"] {
        written.add(file, std::fs::read_to_string(fleet.dir.path().join(file)).unwrap());
    }
    written.run(fleet.command(&["list", "--json"]));
    dump(&fleet, &mut written).await;
    take_messages(&fleet, &mut written).await;
    written.add("logs", fleet.logs());

    // It is all there to be looked through.
    assert!(written.text("table attempt").contains("APIConnectionError"), "connections were refused");
    assert!(written.text("table result").contains("502"), "pages were kept");
    assert!(written.text("message in").contains("queued-19"), "messages were kept");
    assert!(written.text("echoed.out.errors.jsonl").contains("[key]"), "an echoed key was taken out");
    assert!(written.text("logs").contains("DEBUG"));
    for secret in [KEY, PASSWORD, &simulator.to_string(), &proxy.to_string()] {
        written.assert_without(secret);
    }
}
