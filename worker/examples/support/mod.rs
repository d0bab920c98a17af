//! What both examples do around what they show: submit prompts to a throw-away database, and work them in this process.

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use gristmill_producer::{BatchSpec, Control, NewJob, Producer};
use gristmill_worker::common::backend::Backend;
use gristmill_worker::common::config::Deployment;
use gristmill_worker::common::job::JobOptions;
use gristmill_worker::common::outcome::ResultRow;
use gristmill_worker::common::store::Cursor;
use gristmill_worker::hooks::Hooks;
use gristmill_worker::{Bytes, CancellationToken, Options};

/// Where an example tells what happens.
pub(crate) type Say = std::sync::Arc<dyn Fn(String) + Send + Sync>;

/// Has prompts answered, one at a time, and returns their rows in the order of the prompts.
pub(crate) async fn ask(deployment: Deployment, hooks: Hooks, prompts: &[&str]) -> anyhow::Result<Vec<ResultRow>> {
    let directory = tempfile::tempdir()?;
    let backend = Backend::throw_away(&directory.path().join("jobs.db")).await?;
    let producer = Producer::on(&backend);
    let jobs = prompts.iter().enumerate().map(|(n, prompt)| {
        let body = serde_json::json!({ "messages": [{ "role": "user", "content": prompt }], "max_tokens": 20 });
        Ok::<_, std::convert::Infallible>(NewJob {
            custom_id: format!("prompt-{n}"),
            endpoint: "/v1/chat/completions".into(),
            model: deployment.group.clone(),
            body: Bytes::from(body.to_string()),
            options: JobOptions { num_retries: Some(3), ..JobOptions::default() },
        })
    });
    let jobs = stream::iter(jobs.collect::<Vec<_>>()).boxed();
    let spec = BatchSpec { name: "example".to_owned(), ..BatchSpec::default() };
    let batch = producer.submit(spec, jobs, &Control::default()).await?.batch.id;

    let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
    let broker = backend.broker.clone().context("a database that is worked has a queue")?;
    let options = Options {
        hooks,
        concurrency: 1,
        ..Options::new(backend.store.clone(), broker, backend.clock.clone(), vec![deployment])
    };
    let working = async { Ok(gristmill_worker::run(options, drain.clone(), abort).await?) };
    let reading = async {
        let mut results = producer.subscribe(batch, Cursor::default(), CancellationToken::new());
        let mut rows = Vec::new();
        while rows.len() < prompts.len() {
            rows.extend(results.next_page().await?.context("nobody stopped the reading")?.rows);
        }
        drain.cancel();
        anyhow::Ok(rows)
    };
    let ((), mut rows) = tokio::try_join!(working, reading)?;
    backend.close().await;
    rows.sort_by(|one, other| one.custom_id.cmp(&other.custom_id));
    Ok(rows)
}
