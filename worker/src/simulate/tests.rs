//! The simulator over loopback, as its callers see it.

mod conduct;
mod failing;
mod steering;

use std::future::Future;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::{Options, Simulator};

/// The longest that a test waits for something that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// Returns a client without kept connections, which would belong to the runtime of another test.
fn client() -> &'static Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| {
        // Another test of this crate may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder().timeout(DEADLINE).no_proxy().pool_max_idle_per_host(0).build().unwrap()
    });
    &CLIENT
}

async fn start(options: Options) -> Simulator {
    Simulator::start(options).await.unwrap()
}

/// Starts a simulator whose every call meets these fault rules.
async fn start_with_faults(rules: &[&str]) -> Simulator {
    start(Options { faults: rules.iter().map(|rule| rule.parse().unwrap()).collect(), ..Options::default() }).await
}

fn chat(job: &str) -> Value {
    json!({
        "model": "gpt-test",
        "metadata": { "gristmill_job": job },
        "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hello there." }],
    })
}

fn post(simulator: &Simulator, path: &str, body: &Value) -> RequestBuilder {
    client().post(format!("{}{path}", simulator.base_url())).body(body.to_string())
}

async fn ask(simulator: &Simulator, job: &str) -> reqwest::Result<Response> {
    post(simulator, "/chat/completions", &chat(job)).send().await
}

/// Asks and returns the status.
async fn status(simulator: &Simulator, job: &str) -> u16 {
    ask(simulator, job).await.unwrap().status().as_u16()
}

async fn json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn all<T>(calls: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures_util::future::join_all(calls).await
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
