//! The examples do what they say, and what an embedding program adds harms no job but its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::duplicate_mod, reason = "each example has its own, and the tests use it too")]

use std::sync::{Arc, Mutex};

use gristmill_worker::common::config::Deployment;
use gristmill_worker::common::failure::{ErrorClass, ErrorRecord};
use gristmill_worker::common::outcome::{ResultRow, Status};
use gristmill_worker::hooks::{HookCall, Hooks, Observer, Transformer};
use gristmill_worker::provider::{self, Answer, Call, Provider, Reply};
use gristmill_worker::{Bytes, async_trait};
use serde_json::json;

#[path = "../examples/custom_provider.rs"]
#[expect(dead_code, reason = "its main is run by people")]
mod custom_provider;
#[path = "../examples/hooks.rs"]
#[expect(dead_code, reason = "its main is run by people")]
mod hooks;
#[path = "../examples/support/mod.rs"]
mod support;

use support::Say;

/// Answers with what it was asked, in this process.
#[derive(Debug)]
struct Parrot;

#[async_trait]
impl Provider for Parrot {
    async fn call(&self, call: Call<'_>) -> Reply {
        let request: serde_json::Value = serde_json::from_slice(call.body).unwrap();
        let content = request["messages"][0]["content"].as_str().unwrap();
        if let Some(what) = content.strip_prefix("fail ") {
            return Reply::new(Err(Box::new(ErrorRecord::new(ErrorClass::BadRequest, what))));
        }
        let answer = json!({
            "model": "parrot-1", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            "choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        });
        Reply::read(call.endpoint, Bytes::from(answer.to_string()))
    }
}

fn deployment(provider: &str) -> Deployment {
    Deployment::new("birds", provider, "parrot", "http://127.0.0.1:9".parse().unwrap())
}

async fn ask(hooks: Hooks, prompts: &[&str]) -> Vec<ResultRow> {
    let hooks = hooks.with_provider("parrot", |_| Ok(Parrot));
    support::ask(deployment("parrot"), hooks, prompts).await.unwrap()
}

/// Runs an example; returns what it made and what it told.
async fn told<T>(example: impl AsyncFnOnce(Say) -> anyhow::Result<T>) -> (T, Vec<String>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    let made = example(Arc::new(move |line| kept.lock().unwrap().push(line))).await.unwrap();
    let lines = lines.lock().unwrap().clone();
    (made, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_a_provider_signs_in_again_when_its_token_was_revoked() {
    let (attempts, told) = told(custom_provider::run).await;
    let signed: Vec<&String> = told.iter().filter(|line| line.starts_with("signing in")).collect();
    assert_eq!(signed, ["signing in: token 1", "signing in: token 2"], "{told:?}");
    let answered: Vec<&String> = told.iter().filter(|line| line.starts_with("the gateway")).collect();
    assert_eq!(answered, ["the gateway answered 401", "the gateway answered 200", "the gateway answered 200"]);
    assert_eq!(attempts.iter().sum::<u32>(), 3, "one of the two was called again: {told:?}");
    assert_eq!(told.iter().filter(|line| line.contains(": succeeded after ")).count(), 2, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_hooks_sees_every_step_and_changes_requests_and_answers() {
    let (answers, told) = told(hooks::run).await;
    let of = |job: &str| -> Vec<String> {
        let lines = told.iter().filter_map(|line| line.strip_prefix(&format!("{job}: ")));
        lines.map(str::to_owned).collect()
    };
    let retried = of("prompt-1");
    let steps = ["call 1 of millers", "status 500", "comes back after InternalServerError", "call 2 of millers"];
    assert_eq!(retried[..4], steps, "{told:?}");
    assert_eq!(retried[4..6], ["status 200", "succeeded after 2 calls"]);
    assert_eq!(of("prompt-0")[..3], ["call 1 of millers", "status 200", "succeeded after 1 calls"]);
    assert!(answers[2].contains("Which [removed] lies below?"), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_in_process_gives_a_row_like_any_other() {
    let rows = ask(Hooks::default(), &["hello", "fail on purpose"]).await;
    let answered = &rows[0].result;
    assert_eq!((answered.status, answered.output_text.as_deref()), (Status::Succeeded, Some("hello")));
    assert_eq!((answered.finish_reason.as_deref(), answered.usage.input_tokens), (Some("stop"), Some(3)));
    assert_eq!((answered.served_model.as_deref(), answered.provider.as_deref()), (Some("parrot-1"), Some("parrot")));
    let error = rows[1].result.error.as_deref().unwrap();
    assert_eq!((&error.class, error.message.as_str()), (&ErrorClass::BadRequest, "on purpose"));
    let place = (error.provider.as_deref(), error.model.as_deref(), error.deployment.as_deref());
    assert_eq!(place, (Some("parrot"), Some("parrot"), Some("birds")), "the worker says where it happened");
}

#[test]
fn a_body_that_is_no_answer_is_read_as_the_error_that_it_is() {
    for (body, class) in [
        ("", ErrorClass::ApiResponseValidation),
        ("<html><title>Sign in</title></html>", ErrorClass::ApiResponseValidation),
        (r#"{"error": {"message": "slow down", "code": 429}}"#, ErrorClass::RateLimit),
    ] {
        let error = Reply::read("/v1/chat/completions", Bytes::from(body)).outcome.unwrap_err();
        assert_eq!(error.class, class, "{body}: {error:?}");
    }
}

/// Which step of a job panics.
#[derive(Debug, Clone, Copy)]
enum Step {
    Before,
    After,
    Result,
    Request,
    Answer,
}

/// Panics at one step of the jobs that are called `prompt-1`.
#[derive(Debug)]
struct Clumsy(Step);

impl Clumsy {
    fn meets(&self, call: HookCall<'_>, at: impl Fn(Step) -> bool) {
        assert!(!(call.custom_id == "prompt-1" && at(self.0)), "a hook that panics");
    }
}

impl Observer for Clumsy {
    fn before_call(&self, call: HookCall<'_>) {
        self.meets(call, |step| matches!(step, Step::Before));
    }

    fn after_call(&self, call: HookCall<'_>, _: &Reply) {
        self.meets(call, |step| matches!(step, Step::After));
    }

    fn on_result(&self, call: HookCall<'_>, _: &gristmill_worker::common::outcome::JobResult) {
        self.meets(call, |step| matches!(step, Step::Result));
    }
}

#[async_trait]
impl Transformer for Clumsy {
    async fn request(&self, call: HookCall<'_>, body: Bytes) -> Result<Bytes, Box<ErrorRecord>> {
        self.meets(call, |step| matches!(step, Step::Request));
        Ok(body)
    }

    async fn answer(&self, call: HookCall<'_>, answer: Answer) -> Result<Answer, Box<ErrorRecord>> {
        self.meets(call, |step| matches!(step, Step::Answer));
        Ok(answer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transformer_that_panics_fails_its_job_and_an_observer_none() {
    for step in [Step::Before, Step::After, Step::Result, Step::Request, Step::Answer] {
        let hooks = Hooks::default().with_observer(Clumsy(step)).with_transformer(Clumsy(step));
        let rows = ask(hooks, &["one", "two", "three", "four"]).await;
        let statuses: Vec<Status> = rows.iter().map(|row| row.result.status).collect();
        let fails = matches!(step, Step::Request | Step::Answer);
        let second = if fails { Status::Failed } else { Status::Succeeded };
        assert_eq!(statuses, [Status::Succeeded, second, Status::Succeeded, Status::Succeeded], "{step:?}");
        if fails {
            let error = rows[1].result.error.as_deref().unwrap();
            assert_eq!(error.class, ErrorClass::WorkerCrashed, "{step:?}: {error:?}");
            // A call that was made is kept with what it took.
            let is_counted = rows[1].result.usage.input_tokens.is_some();
            assert_eq!(is_counted, matches!(step, Step::Answer), "{step:?}");
            assert_eq!(error.body.is_some(), matches!(step, Step::Answer), "{step:?}");
        }
    }
}

/// Refuses every request, or every answer.
#[derive(Debug)]
struct Strict {
    refuses_requests: bool,
}

#[async_trait]
impl Transformer for Strict {
    async fn request(&self, _: HookCall<'_>, body: Bytes) -> Result<Bytes, Box<ErrorRecord>> {
        if self.refuses_requests {
            Err(Box::new(ErrorRecord::new(ErrorClass::BadRequest, "not out")))
        } else {
            Ok(body)
        }
    }

    async fn answer(&self, _: HookCall<'_>, _: Answer) -> Result<Answer, Box<ErrorRecord>> {
        Err(Box::new(ErrorRecord::new(ErrorClass::ContentPolicyViolation, "not in")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transformer_refuses_ends_with_its_error_and_a_call_that_was_made_keeps_its_usage() {
    for (refuses_requests, message, input_tokens) in [(true, "not out", None), (false, "not in", Some(3))] {
        let rows = ask(Hooks::default().with_transformer(Strict { refuses_requests }), &["hello"]).await;
        let result = &rows[0].result;
        let error = result.error.as_deref().unwrap();
        assert_eq!((result.status, error.message.as_str()), (Status::Failed, message));
        assert_eq!(result.usage.input_tokens, input_tokens);
        assert_eq!(error.deployment.as_deref(), Some("birds"));
        // The answer was paid for.
        let kept = error.body.as_deref().is_some_and(|body| body.contains(r#""content":"hello""#));
        assert_eq!(kept, !refuses_requests, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_cannot_be_made_keeps_the_worker_from_starting() {
    let hooks = Hooks::default().with_provider("parrot", |deployment| -> Result<Parrot, provider::Error> {
        let reason = "it has flown; set PARROT_CAGE".to_owned();
        Err(provider::Error::Refused { deployment: deployment.name.to_string(), reason })
    });
    let error = support::ask(deployment("parrot"), hooks, &["hello"]).await.unwrap_err();
    assert_eq!(error.to_string(), "deployment `birds` cannot be called: it has flown; set PARROT_CAGE");
}
