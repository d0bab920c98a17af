//! A server on loopback that does one thing to every connection, well or badly.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gristmill_common::clock::SystemClock;
use gristmill_common::config::{Deployment, Endpoint};
use gristmill_common::id::JobId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::super::{Call, Http, Provider, build};
use super::*;

/// What the server does once it has read a request.
#[derive(Debug, Clone)]
pub(super) enum Script {
    /// Answers with these bytes and waits for the next request.
    Answer(String),
    /// Answers with these bytes and closes.
    AnswerAndClose(String),
    /// Answers with these bytes and resets the connection.
    AnswerAndReset(String),
    /// Answers with these bytes and then says nothing more.
    AnswerAndHang(String),
    /// Answers with the first bytes, then with a blank every 10 ms.
    Drip(String),
    /// Answers with the status, and the request's head in a header and in the body.
    Echo(u16),
    /// Says these bytes at once, whatever is asked, and then nothing.
    Shout(String),
    /// Accepts and reads nothing.
    Deaf,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Server {
    pub(super) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, script.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, state, _tasks: tasks }
    }

    pub(super) fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, script: Script, state: Arc<State>) {
    if matches!(script, Script::Deaf) {
        return std::future::pending().await;
    }
    if let Script::Shout(text) = &script {
        stream.write_all(text.as_bytes()).await.unwrap();
        return std::future::pending().await;
    }
    while let Some(request) = read_request(&mut stream).await {
        state.requests.lock().unwrap().push(request.clone());
        let text = match &script {
            Script::Answer(text) | Script::AnswerAndClose(text) | Script::AnswerAndReset(text) => text.clone(),
            Script::AnswerAndHang(text) | Script::Drip(text) => text.clone(),
            Script::Echo(status) => echo(*status, &request),
            Script::Shout(_) | Script::Deaf => unreachable!("handled above"),
        };
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        match script {
            Script::AnswerAndClose(_) => return,
            Script::AnswerAndReset(_) => return stream.set_zero_linger().unwrap(),
            Script::AnswerAndHang(_) => return std::future::pending().await,
            Script::Drip(_) => {
                let mut ticks = tokio::time::interval(Duration::from_millis(10));
                while stream.write_all(b" ").await.is_ok() {
                    ticks.tick().await;
                }
                return;
            }
            _ => {}
        }
    }
}

/// Answers as careless servers do: with what they were sent.
fn echo(status: u16, request: &str) -> String {
    let key = request.split("Bearer ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    let body =
        serde_json::json!({"error": {"message": request, "code": key, "type": key, "param": request}}).to_string();
    let host = request.split("host: ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
    format!(
        "HTTP/1.1 {status} X\r\nx-request-id: {key}\r\nx-ratelimit-limit-{status}: {host}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one request, head and body; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
            while bytes.len() < end + 4 + length {
                read_more(stream, &mut bytes).await?;
            }
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        read_more(stream, &mut bytes).await?;
    }
}

async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(bytes).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}

/// An answer with a body of known length.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

pub(super) const CHAT: &str = r#"{"id":"c","model":"m-2026","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;

pub(super) const KEY: &str = "sk-canary-0123456789";

pub(in crate::provider) fn deployment(base: &str) -> Deployment {
    Deployment {
        name: "d".into(),
        api_key: Some(KEY.to_owned().into()),
        key_source: Some("OPENAI_API_KEY".to_owned()),
        ..Deployment::new("m", "openai", "m", Endpoint(base.parse().unwrap()))
    }
}

pub(super) fn provider(deployment: &Deployment) -> Arc<dyn Provider> {
    crate::install_tls();
    build(deployment, &Http::without_proxy(64 * 1024), Arc::new(SystemClock)).unwrap()
}

pub(super) fn job() -> JobId {
    "019a0000-0000-7000-8000-000000000007".parse().unwrap()
}

pub(super) fn request_body() -> Bytes {
    Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#)
}

pub(super) async fn call(provider: &Arc<dyn Provider>) -> Reply {
    call_within(provider, None).await
}

pub(super) async fn call_within(provider: &Arc<dyn Provider>, deadline: Option<Duration>) -> Reply {
    let body = request_body();
    provider
        .call(Call {
            endpoint: "/v1/chat/completions",
            body: &body,
            job: job(),
            deadline,
            service_tier: None,
            tokens: None,
        })
        .await
}

/// Calls a server with this script once.
pub(super) async fn called(script: Script) -> Reply {
    let server = Server::start(script).await;
    call(&provider(&deployment(&server.base()))).await
}

pub(super) fn error(reply: &Reply) -> &ErrorRecord {
    reply.outcome.as_ref().expect_err("an error")
}
