//! What a LiteLLM configuration means here that it does not mean there, to be said at start.

use super::entry::Entry;
use super::file::File;
use super::models::limits;
use super::route::describe;
use super::routing::Routing;
use super::{Layer, Setting, is_pattern};

/// What notices are made of.
pub(super) struct Loaded<'a> {
    pub(super) file: &'a File,
    pub(super) entries: &'a [Entry],
    pub(super) routing: &'a Routing,
    pub(super) settings: &'a [Setting],
    /// Variables of the file that the environment has another value of.
    pub(super) kept_variables: &'a [String],
}

/// Returns one line for each difference. Our own file means what our pages say, but for patterns, which a worker must be told
/// about anyhow.
pub(super) fn notices(loaded: &Loaded<'_>) -> Vec<String> {
    let mut notices = Vec::new();
    if loaded.file.is_foreign() {
        notices.extend(enforced_limits(loaded.entries));
        notices.extend(default_retries(loaded.settings));
        notices.extend(usage_based(loaded.routing));
        if !loaded.kept_variables.is_empty() {
            notices.push(format!(
                "{} of environment_variables: the environment's own value counts (LiteLLM takes the file's)",
                loaded.kept_variables.join(", ")
            ));
        }
    }
    notices.extend(patterns(loaded.entries));
    notices
}

fn enforced_limits(entries: &[Entry]) -> Option<String> {
    let limited: Vec<String> = limits(entries)
        .iter()
        .filter(|(_, limits)| !limits.is_empty())
        .map(|(account, limits)| format!("{account}: {}", describe(limits)))
        .collect();
    (!limited.is_empty()).then(|| {
        format!("{}; enforced over all workers (LiteLLM takes rpm and tpm as routing weights)", limited.join("; "))
    })
}

fn default_retries(settings: &[Setting]) -> Option<String> {
    let retries = settings.iter().find(|setting| setting.name == "num_retries" && setting.layer == Layer::Default)?;
    Some(format!("num_retries is {} where nothing sets it (LiteLLM: 2)", retries.value.as_deref()?))
}

fn usage_based(routing: &Routing) -> Option<String> {
    let strategy = routing.written_strategy().filter(|strategy| strategy.starts_with("usage-based"))?;
    Some(format!(
        "routing_strategy {strategy} is `weighted` here: the limits themselves keep calls off a busy deployment"
    ))
}

fn patterns(entries: &[Entry]) -> Option<String> {
    let mut patterns: Vec<String> =
        entries.iter().filter(|entry| is_pattern(&entry.group)).map(|entry| format!("`{}`", entry.group)).collect();
    patterns.dedup();
    (!patterns.is_empty()).then(|| {
        format!("{} of model_list: a worker serves those of these models that --model names", patterns.join(", "))
    })
}
