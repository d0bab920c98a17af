//! The simulator over loopback, as its callers see it.

mod alike;
mod anthropic;
mod azure;
mod conduct;
mod failing;
mod late;
mod limiting;
mod outages;
mod steering;
mod streaming;

use std::future::Future;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::{Limits, Options, Simulator};

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

/// Reads limits as a command line has them; nothing is no limits.
fn limits(text: &str) -> Limits {
    if text.is_empty() { Limits::default() } else { text.parse().unwrap() }
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

/// A way to call, for what must hold in all of them.
#[derive(Debug, Clone, Copy)]
struct Api {
    name: &'static str,
    path: &'static str,
}

/// One of each kind of text.
const APIS: [Api; 5] = [
    Api { name: "chat", path: "/v1/chat/completions" },
    Api { name: "text", path: "/v1/completions" },
    Api { name: "responses", path: "/v1/responses" },
    Api { name: "azure", path: "/openai/deployments/prod/chat/completions?api-version=2024-10-21" },
    Api { name: "messages", path: "/v1/messages" },
];

impl Api {
    /// Makes a request with a prompt, of which the job is the marker.
    fn request(self, simulator: &Simulator, job: &str, prompt: &str, fields: Value) -> RequestBuilder {
        let mut body = json!({ "model": "m", "max_tokens": 1000, "metadata": { "gristmill_job": job } });
        match self.name {
            "text" => body["prompt"] = prompt.into(),
            "responses" => {
                body["input"] = prompt.into();
                let max_tokens = body.as_object_mut().unwrap().remove("max_tokens").unwrap();
                body["max_output_tokens"] = max_tokens;
            }
            _ => body["messages"] = json!([{ "role": "user", "content": prompt }]),
        }
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        let request = client().post(format!("http://{}{}", simulator.addr(), self.path)).body(body.to_string());
        if self.name == "messages" { request.header("anthropic-version", "2023-06-01") } else { request }
    }

    /// Asks and returns the answer.
    async fn ask(self, simulator: &Simulator, prompt: &str, fields: Value) -> Response {
        self.request(simulator, "job", prompt, fields).send().await.unwrap()
    }

    /// Returns the text of a whole answer.
    fn text(self, body: &Value) -> String {
        let text = match self.name {
            "text" => &body["choices"][0]["text"],
            "responses" => &body["output"][0]["content"][0]["text"],
            "messages" => &body["content"][0]["text"],
            _ => &body["choices"][0]["message"]["content"],
        };
        text.as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
    }

    /// Returns the text that an event carries.
    fn piece(self, event: &Value) -> Option<&str> {
        match self.name {
            "text" => event["choices"][0]["text"].as_str().filter(|text| !text.is_empty()),
            "responses" => event["delta"].as_str(),
            "messages" => event["delta"]["text"].as_str(),
            _ => event["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()),
        }
    }
}

/// Returns the data of the events of a stream; one that is no JSON is the end.
fn events(stream: &str) -> Vec<Value> {
    let blocks = stream.split("\n\n").flat_map(|block| block.lines().find_map(|line| line.strip_prefix("data: ")));
    blocks.filter_map(|data| serde_json::from_str(data).ok()).collect()
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
