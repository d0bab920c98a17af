//! Before anything is sent: whether the deployments can serve the requests, and what the first one looks like.

use std::sync::Arc;

use futures_util::StreamExt as _;
use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::config::{Deployment, Dialect};
use gristmill_common::failure::ErrorClass;
use gristmill_common::id::{BatchId, JobId};
use gristmill_producer::NewJob;
use gristmill_producer::input::{Checked, MESSAGES};
use gristmill_worker::provider::{self, Call, Http};
use gristmill_worker::{Examined, examine};

use super::Global;
use super::estimate;
use super::fault::{Exit, Fault};
use super::forecast::Forecast;
use super::table::{count, plural};
use super::ui;

/// Jobs from which on a batch is worth a look at its deployments.
const LARGE: u64 = 100;

/// Refuses requests of an API that no deployment speaks.
pub(super) fn check_endpoints(checked: &Checked, deployments: &[Deployment]) -> Result<(), Fault> {
    let speaks = |deployment: &Deployment| deployment.simulated || deployment.wire.dialect == Dialect::Anthropic;
    if checked.endpoints.contains(MESSAGES) && !deployments.iter().any(speaks) {
        return Err(Fault::new(format!("no deployment serves {MESSAGES}, which is Anthropic's API"))
            .hint("name a deployment of Anthropic's, such as --model anthropic/claude-opus-5-5 with ANTHROPIC_API_KEY, or write these requests as /v1/chat/completions")
            .exit(Exit::Setup));
    }
    Ok(())
}

/// Looks at the deployments of a large batch; a fault that only a person can mend ends the run before it begins.
pub(super) async fn examine_deployments(
    global: &Global,
    checked: &Checked,
    deployments: &[Deployment],
) -> Result<(), Fault> {
    if checked.jobs < LARGE {
        return Ok(());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let looks = deployments.iter().map(|deployment| examine(deployment, Arc::clone(&clock), false));
    let found = futures_util::future::try_join_all(looks).await?;
    // Anything else may pass, or be the list's alone.
    let is_fault = |examined: &Examined| {
        matches!(examined, Examined::Faulty(ErrorClass::Authentication | ErrorClass::ApiConnection, _))
    };
    let works = |group: &str| {
        let examined = deployments.iter().zip(&found).filter(|(deployment, _)| &*deployment.group == group);
        examined.into_iter().any(|(_, examined)| !is_fault(examined))
    };
    for (deployment, examined) in deployments.iter().zip(&found) {
        let (Examined::Unlisted(text) | Examined::Faulty(_, text)) = examined else { continue };
        let text = format!("deployment {}: {text}", deployment.name);
        if let Examined::Faulty(class, _) = examined
            && is_fault(examined)
            && !works(&deployment.group)
        {
            return Err(Fault::new(text)
                .hint("nothing was sent: put it right and run the same command again")
                .class(class.clone())
                .exit(Exit::Setup));
        }
        if !global.quiet && (is_fault(examined) || matches!(examined, Examined::Unlisted(_))) {
            ui::tell(&format!("warning: {text}"));
        }
    }
    Ok(())
}

/// Shows the first request as it would be sent; without deployments, as a worker will get it.
pub(super) async fn dry_run(
    global: &Global,
    checked: &Checked,
    deployments: &[Deployment],
    forecast: Option<&Forecast>,
) -> Result<Exit, Fault> {
    let mut jobs = Box::pin(checked.stream());
    let Some(job) = jobs.next().await.transpose()? else { return Err(Fault::new("there is no request to show")) };
    let deployment = deployments.iter().find(|deployment| deployment.group == job.model);
    let (head, body) = match deployment {
        Some(deployment) => sent(&job, deployment)?,
        None => (vec![format!("POST {}", job.endpoint)], job.body.clone()),
    };
    let text = String::from_utf8_lossy(&body);
    if global.json {
        ui::json(&serde_json::json!({
            "custom_id": job.custom_id, "model": &*job.model, "endpoint": &*job.endpoint, "head": head, "body": text,
            "jobs": checked.jobs, "models": checked.models,
            "estimate": forecast.map(estimate::as_json),
        }))?;
    } else {
        ui::line(&format!("{}\n\n{}", head.join("\n"), without_base64(&text)))?;
    }
    if !global.quiet {
        let of_each = |(model, jobs): (&Arc<str>, &u64)| format!("{} for {model}", count(*jobs));
        let models: Vec<String> = checked.models.iter().map(of_each).collect();
        let (jobs, models) = (plural(checked.jobs, "job"), models.join(", "));
        ui::tell(&format!("dry run, nothing was sent; this is `{}`, the first of {jobs}: {models}", job.custom_id));
        if let Some(forecast) = forecast {
            ui::tell(estimate::brief(forecast).trim_end());
        }
    }
    Ok(Exit::Success)
}

/// Returns the head and the body of the call that a job makes.
fn sent(job: &NewJob, deployment: &Deployment) -> Result<(Vec<String>, bytes::Bytes), Fault> {
    let clock = Arc::new(SystemClock);
    let id = JobId::derive(BatchId::new(clock.now()), 0);
    let provider = provider::build(deployment, &Http::default(), clock).map_err(gristmill_worker::Error::from)?;
    let service_tier = job.options.service_tier.as_deref();
    let call = Call { endpoint: &job.endpoint, body: &job.body, job: id, deadline: None, service_tier, tokens: None };
    let preview = provider.preview(call).map_err(|error| Fault::new(error.message.clone()))?;
    let mut head = vec![format!("POST {}", preview.url)];
    head.extend(preview.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    Ok((head, preview.body))
}

/// Cuts what stands in base64 for files: it fills the screen, and nobody reads it.
fn without_base64(text: &str) -> String {
    // No word of any language is as long.
    const LONGEST: usize = 200;
    const SHOWN: usize = 24;

    let is_base64 = |character: char| character.is_ascii_alphanumeric() || matches!(character, '+' | '/' | '=');
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_base64) {
        let end = rest[start..].find(|character| !is_base64(character)).map_or(rest.len(), |length| start + length);
        let length = end - start;
        if length > LONGEST {
            shown.push_str(&rest[..start + SHOWN]);
            shown.push_str(&format!("… and {} more characters", count((length - SHOWN) as u64)));
        } else {
            shown.push_str(&rest[..end]);
        }
        rest = &rest[end..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_base64_is_cut_and_everything_else_is_shown() {
        let body = |data: &str| format!(r#"{{"url":"data:image/png;base64,{data}","text":"ü/é a+b"}}"#);
        assert_eq!(without_base64(&body("iVBORw0KGgo=")), body("iVBORw0KGgo="));
        let long = "iVBORw0KGgoAAAANSUhEUgAA".to_owned() + &"A".repeat(3_000);
        assert_eq!(without_base64(&body(&long)), body("iVBORw0KGgoAAAANSUhEUgAA… and 3,000 more characters"));
    }
}
