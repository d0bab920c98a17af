//! P9: no key, no password and no configured endpoint ever reaches a message, a row, a log or an error text.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::process::Command;
use std::time::Duration;

use gristmill_common::job::{LaneKey, Priority};
use gristmill_common::outcome::Status;
use gristmill_tests::fleet::{Fleet, KEY, MODEL, eventually};
use gristmill_tests::rabbit;
use gristmill_worker::simulate::{self, Simulator};
use lapin::options::BasicGetOptions;
use secrecy::ExposeSecret as _;
use sqlx::AssertSqlSafe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

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
    let paused = eventually("the pause is told", async || {
        fleet.store.paused_deployments().await.unwrap().into_iter().find_map(|report| report.paused)
    })
    .await;
    assert!(paused.contains("api_base"), "{paused}");
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
