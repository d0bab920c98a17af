//! Logs: the names of fields, and how they are set up. Prompts, completions, keys and bodies are never logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The field names that events use.
pub mod field {
    /// A job's id.
    pub const JOB_ID: &str = "job.id";
    /// A batch's id.
    pub const BATCH_ID: &str = "batch.id";
    /// A deployment's name.
    pub const DEPLOYMENT: &str = "deployment";
    /// The class of an error.
    pub const FAILURE_CODE: &str = "failure.code";
}

/// Crates of the HTTP client that log the addresses they call: they are silent whatever the filter says, since a configured
/// endpoint stands in no log.
const TELL_ENDPOINTS: [&str; 5] = ["reqwest", "hyper", "hyper_util", "h2", "rustls"];

/// Sends logs to standard error: text, or JSON lines where `json` is set.
///
/// `GRISTMILL_LOG` (else `RUST_LOG`) filters, in the syntax of `tracing-subscriber`; otherwise `default` does. A second call
/// changes nothing. What would log a provider's address stays silent.
pub fn init(default: &str, json: bool) {
    let filter = std::env::var("GRISTMILL_LOG")
        .or_else(|_| std::env::var("RUST_LOG"))
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok())
        // The drivers report what we report again, with what was done about it.
        .unwrap_or_else(|| EnvFilter::new(format!("{default},lapin=off,sqlx=off")));
    let silent = TELL_ENDPOINTS.iter().filter_map(|name| format!("{name}=off").parse().ok());
    let filter = silent.fold(filter, EnvFilter::add_directive);
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    // Fails only if a subscriber is set already, which then serves.
    let _ = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
}
