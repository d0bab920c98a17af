//! The simulator: a real HTTP server that answers like an OpenAI-compatible provider.
//!
//! Tests, benchmarks and the first-run example call it over loopback. It owns latency, token counts, rate limits with
//! their audit, faults by rate and by script, and the log of what was really called. Whether the `n`-th call of a job
//! meets a fault, how long it takes and what it answers depend on the seed, the job and `n` alone. It keeps nothing: a
//! killed simulator has lost its counters and at most 25 ms of its log.
//!
//! - Endpoints: `POST /v1/chat/completions` (`"stream": true` too), `/v1/completions`, `/v1/embeddings`,
//!   `/v1/responses`, `GET /v1/models`, all of them also without `/v1`, and `GET /health`.
//! - A call's **marker** says which job it serves: `metadata.gristmill_job`, else `user`, else the first 64 characters of
//!   the last user message. Calls are numbered per marker where something depends on it: a log, faults, jitter or a
//!   script. Else each call counts as its marker's first.
//! - A **script** in `metadata.simulate`, `user` or the last user message decides call by call:
//!   `simulate:500,429:retry-after=0.2,ok` fails twice, and the last outcome repeats. It overrides the fault rules. Calls
//!   that the key or the limits refuse do not use it up.
//! - **Steering** from outside: `GET /simulator/stats`, `GET` and `POST /simulator/faults` (a JSON list of
//!   [`FaultRule`]s), `POST /simulator/settings` (`latency_ms`, `jitter_ms`, `output_tokens`, `limits: {rpm, tpm}`).

pub mod args;

mod answer;
mod call;
mod control;
mod duration;
mod embedding;
mod error;
mod fault;
mod json;
mod limit;
mod log;
mod options;
mod payload;
mod plan;
mod prompt;
mod prose;
mod random;
mod refusal;
mod reply;
mod request;
mod serve;
mod server;
mod shared;
mod socket;
mod stats;
mod tally;
#[cfg(test)]
mod tests;

pub use args::{Args, run};
pub use control::Control;
pub use error::Error;
pub use fault::FaultRule;
pub use options::Options;
pub use server::Simulator;
pub use stats::Stats;
