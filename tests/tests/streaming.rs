//! Answers that are shown as they come: from a worker through RabbitMQ to whoever waits, and from the provider to the worker.
//! The row is the truth, whatever becomes of the showing.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use gristmill_common::failure::ErrorClass;
use gristmill_common::id::BatchId;
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_producer::{BatchSpec, Control, Heard, NewJob, Output};
use gristmill_tests::fleet::{self, Fleet, MODEL, by_job, eventually};
use gristmill_worker::simulate;
use serde_json::Value;

/// An answer that takes 12 s, so that what happens within it can be seen.
const SLOW: &str = "simulate:slow:token=500ms";
/// An answer that is cut, and then one that takes 6 s: it is shown before its row is there.
const CUT: &str = "simulate:cut:after=3,slow:token=250ms";

fn simulator() -> simulate::Options {
    simulate::Options { output_tokens: 24, ..simulate::Options::default() }
}

/// A `gristmill call --stream` that runs.
struct Call {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Call {
    fn start(fleet: &Fleet, flags: &[&str], prompt: &str) -> Self {
        let mut command = fleet.command(&["call", "--stream", "--model", MODEL]);
        command.args(flags).arg(prompt).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Waits for what comes first, and returns it.
    fn first(&mut self) -> String {
        let bytes = self.stdout.fill_buf().unwrap().to_vec();
        self.stdout.consume(bytes.len());
        assert!(!bytes.is_empty(), "nothing was shown: {}", self.errors());
        String::from_utf8(bytes).unwrap()
    }

    /// Waits for the end; returns what else was shown, and what was told beside it.
    fn rest(mut self) -> (String, String) {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        let errors = self.errors();
        assert!(self.child.wait().unwrap().success(), "{errors}");
        (text, errors)
    }

    fn errors(&mut self) -> String {
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        errors
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a worker and waits until a call would find it.
async fn ready(fleet: &mut Fleet) -> usize {
    let number = fleet.worker(&[], &[]);
    fleet.serving().await;
    number
}

/// Returns the one batch that there is.
async fn only_batch(fleet: &Fleet) -> BatchId {
    let mut connection = fleet.database.connect().await;
    let id: uuid::Uuid =
        sqlx::query_scalar("SELECT batch_id FROM gristmill.batch").fetch_one(&mut connection).await.unwrap();
    BatchId::from_uuid(id)
}

async fn only_row(fleet: &Fleet) -> ResultRow {
    let batch = only_batch(fleet).await;
    fleet.finished(batch).await;
    fleet.rows(batch).await.pop().unwrap()
}

fn text(row: &ResultRow) -> &str {
    row.result.output_text.as_deref().unwrap_or_else(|| panic!("no text: {row:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_shown_while_the_answer_is_still_being_produced() {
    let mut fleet = Fleet::start(simulator()).await;
    ready(&mut fleet).await;
    let mut call = Call::start(&fleet, &[], SLOW);
    let first = call.first();
    // The provider has not said all of it, and there is no row.
    assert_eq!(fleet.simulator.control().stats().in_flight, 1, "the call goes on");
    let batch = only_batch(&fleet).await;
    assert!(fleet::everything(&*fleet.store, batch).await.is_empty());
    let (rest, _) = call.rest();
    let row = only_row(&fleet).await;
    assert_eq!(format!("{first}{rest}"), format!("{}\n", text(&row)), "what was shown is the row's");
    assert!(!rest.trim().is_empty());
    assert_eq!((row.result.attempts, fleet.calls().await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_in_mid_stream_is_followed_by_another_that_begins_anew() {
    let mut fleet = Fleet::start(simulator()).await;
    fleet.keeper(&[]).await;
    let dying = ready(&mut fleet).await;
    // The first call goes silent within its answer, for as long as it lives.
    let mut call = Call::start(&fleet, &[], "simulate:stall:after=3,slow:token=250ms");
    let first = call.first();
    fleet.kill(dying).await;
    fleet.worker(&[], &[]);
    let (rest, told) = call.rest();
    let row = only_row(&fleet).await;
    assert!(!first.is_empty() && rest.ends_with(&format!("\n{}\n", text(&row))), "{first:?}{rest:?}");
    assert!(told.contains("attempt 1 begins anew"), "{told}");
    assert_eq!(fleet.calls().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_is_retried_and_shown_anew() {
    let mut fleet = Fleet::start(simulator()).await;
    ready(&mut fleet).await;
    let (shown, told) = Call::start(&fleet, &[], CUT).rest();
    let row = only_row(&fleet).await;
    assert!(shown.ends_with(&format!("\n{}\n", text(&row))), "{shown:?}");
    assert!(told.contains("attempt 2 begins anew"), "{told}");
    assert_eq!(row.result.attempts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_killed_takes_nothing_with_it() {
    let mut fleet = Fleet::start(simulator()).await;
    ready(&mut fleet).await;
    let mut call = Call::start(&fleet, &[], SLOW);
    call.first();
    fleet::signal(&call.child, "KILL");
    call.child.wait().unwrap();
    let row = only_row(&fleet).await;
    assert_eq!(row.result.status, Status::Succeeded);
    assert_eq!(fleet.calls().await.len(), 1);
    eventually("its queue is gone", async || fleet.rabbit.listeners().await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_json_every_piece_is_a_line_and_the_last_line_is_the_answers() {
    let mut fleet = Fleet::start(simulator()).await;
    ready(&mut fleet).await;
    let (shown, _) = Call::start(&fleet, &["--json"], CUT).rest();
    let mut lines: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answer = lines.pop().unwrap();
    let reset = lines.iter().position(|line| line["reset"] == 2).unwrap();
    let joined = |lines: &[Value]| lines.iter().map(|line| line["text"].as_str().unwrap()).collect::<String>();
    let row = only_row(&fleet).await;
    // The row may be there before the last pieces are.
    let heard = joined(&lines[reset + 1..]);
    assert!(!heard.is_empty() && text(&row).starts_with(&heard), "{heard:?}");
    assert!(reset > 0, "something was shown of the first attempt");
    assert_eq!(answer["response"]["body"]["choices"][0]["message"]["content"], text(&row));
    assert_eq!(answer["gristmill"].get("tags"), None, "the stream's name is nobody's business");
    let show = fleet.command(&["show", &row.job_id.to_string(), "--json"]).output().unwrap();
    let show: Value = serde_json::from_slice(&show.stdout).unwrap();
    assert_eq!(show["request"]["options"].get("tags"), None, "{show}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_hears_a_job_and_gets_its_row() {
    let mut fleet = Fleet::start(simulator()).await;
    fleet.worker(&[], &[]);
    let producer = fleet.producer().await;
    let spec = BatchSpec { name: "heard".to_owned(), ..BatchSpec::default() };
    let mut streamed = producer.stream(spec, fleet::job("heard-0", SLOW), &Control::default()).await.unwrap();
    let mut heard = String::new();
    let mut pieces = 0;
    let row = loop {
        match streamed.next().await.unwrap().unwrap() {
            Output::Heard(Heard::Text(piece)) => {
                pieces += 1;
                heard.push_str(&piece);
            }
            Output::Heard(other) => panic!("{other:?}"),
            Output::Ended(row) => break row,
        }
    };
    assert!(pieces > 3, "{pieces}");
    // The row may be there before the last pieces are.
    assert!(text(&row).starts_with(&heard), "{heard:?}");
    assert_eq!(streamed.next().await.unwrap(), None);
    assert_eq!(row.batch_id, streamed.batch());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_drops_its_stream_leaves_the_job_to_the_queue() {
    let mut fleet = Fleet::start(simulator()).await;
    let producer = fleet.producer().await;
    let spec = BatchSpec { name: "left".to_owned(), ..BatchSpec::default() };
    let streamed = producer.stream(spec, fleet::job("left-0", "How many stones?"), &Control::default()).await.unwrap();
    let batch = streamed.batch();
    drop(streamed);
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, 1).await;
    assert_eq!(rows[0].result.status, Status::Succeeded);
}

/// Runs the same jobs with bodies and a configuration of this kind; returns their rows by name.
async fn sweep(config: Option<&str>, edit: impl Fn(&mut Value) + Send + Sync) -> (Vec<ResultRow>, Fleet) {
    let mut fleet = Fleet::start(simulator()).await;
    if let Some(config) = config {
        std::fs::write(fleet.dir.path().join("gristmill.yaml"), config).unwrap();
    }
    let batch = fleet
        .submit("sweep", 20, |n, job: &mut NewJob| {
            // Two in three say what goes wrong at first.
            let prompt = ["How many stones?", "simulate:cut:after=3,ok", "simulate:cut:after=4"][n % 3];
            *job = fleet::job(&job.custom_id, prompt);
            job.options.num_retries = Some(1);
            let mut body: Value = serde_json::from_slice(&job.body).unwrap();
            edit(&mut body);
            job.body = Bytes::from(body.to_string());
        })
        .await;
    fleet.worker(&[], &[]);
    let mut rows = fleet.agrees(batch, 20).await;
    rows.sort_by(|one, other| one.custom_id.cmp(&other.custom_id));
    (rows, fleet)
}

/// Reads an answer without what is the call's own, and without the places of what there is none of: a stream leaves them out.
fn answer(row: &ResultRow) -> Value {
    let mut body: Value = serde_json::from_slice(row.result.response.as_deref().unwrap()).unwrap();
    let object = body.as_object_mut().unwrap();
    object.remove("id");
    object.remove("created");
    for choice in body["choices"].as_array_mut().unwrap() {
        let says = |_: &String, value: &mut Value| !value.is_null() && *value != Value::Array(Vec::new());
        choice["message"].as_object_mut().unwrap().retain(says);
        choice.as_object_mut().unwrap().retain(says);
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_streams_from_the_provider_ends_in_the_rows_of_one_that_does_not() {
    let (plain, _) = sweep(None, |_| {}).await;
    let asked = sweep(None, |body| body["stream"] = Value::Bool(true)).await;
    let config = format!(
        "model_list: [{{model_name: {MODEL}, litellm_params: {{model: openai/{MODEL}, api_key: os.environ/OPENAI_API_KEY, stream: true}}}}]\n"
    );
    let configured = sweep(Some(&config), |_| {}).await;
    for (streamed, fleet) in [asked, configured] {
        for (row, plain) in streamed.iter().zip(&plain) {
            let (result, expected) = (&row.result, &plain.result);
            assert_eq!((&row.custom_id, result.status), (&plain.custom_id, expected.status), "{row:?}");
            assert_eq!(result.attempts, expected.attempts, "{}", row.custom_id);
            if result.status == Status::Succeeded {
                assert_eq!(answer(row), answer(plain));
                assert_eq!(result.usage, expected.usage);
                assert_eq!(result.finish_reason, expected.finish_reason);
                assert_eq!(result.output_text, expected.output_text);
                continue;
            }
            let error = result.error.as_deref().unwrap();
            assert_eq!(error.class, ErrorClass::MidStream, "{error:?}");
            assert!(error.partial_output.as_deref().is_some_and(|text| !text.is_empty()), "{error:?}");
            assert_eq!((error.earlier.len(), &error.earlier[0].class), (1, &ErrorClass::MidStream));
            assert_eq!(error.underlying, Some(ErrorClass::ApiConnection), "{error:?}");
        }
        let calls = fleet.calls().await;
        for (n, row) in streamed.iter().map(|row| (&row.custom_id, row.result.attempts)) {
            assert_eq!(by_job(&calls)[n.as_str()], row as usize, "a cut stream is called again by the queue alone");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_goes_silent_ends_with_what_came_and_the_limit_that_passed() {
    let mut fleet = Fleet::start(simulator()).await;
    fleet.worker(&[], &[("GRISTMILL_IDLE_TIMEOUT", "6s")]);
    let producer = fleet.producer().await;
    let mut job = fleet::job("silent-0", "simulate:stall:after=3");
    job.options.num_retries = Some(0);
    let spec = BatchSpec { name: "silent".to_owned(), ..BatchSpec::default() };
    let jobs = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(NewJob {
        body: Bytes::from(String::from_utf8(job.body.to_vec()).unwrap().replacen('{', "{\"stream\":true,", 1)),
        ..job
    })]);
    let batch = producer.submit(spec, jobs.boxed(), &Control::default()).await.unwrap().batch.id;
    let rows = fleet.agrees(batch, 1).await;
    let error = rows[0].result.error.as_deref().unwrap();
    assert_eq!((&error.class, &error.underlying), (&ErrorClass::MidStream, &Some(ErrorClass::Timeout)), "{error:?}");
    assert_eq!(error.causes[0].kind, "timeout.idle");
    assert!(error.partial_output.as_deref().is_some_and(|text| !text.is_empty()));
    assert!(Duration::from_millis(u64::from(rows[0].result.latency_ms.unwrap())) >= Duration::from_secs(6));
}
