//! The simulator: a real HTTP server that answers like OpenAI, Azure and Anthropic.
//!
//! Tests, benchmarks and the first-run example call it over loopback. It owns latency, token counts, rate limits with
//! their audit, faults by rate and by script, and the log of what was really called. Whether the `n`-th call of a job
//! meets a fault, how long it takes and what it answers depend on the seed, the job and `n` alone. It keeps nothing: a
//! killed simulator has lost its counters and at most 25 ms of its log.
//!
//! A call goes one way, whatever its dialect: `route` finds the dialect, which reads the body into one `request`; `plan`
//! decides what becomes of it; `compose` makes one `answer`; the dialect renders it into a `body`; `delivery` and
//! `payload` bring it over the wire.
//!
//! - **OpenAI**: `POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/responses`, `GET /v1/models`, all
//!   of them also without `/v1`. Keys: `Authorization: Bearer`.
//! - **Azure**: `POST /openai/deployments/NAME/{chat/completions, completions, embeddings}?api-version=…`, the same and
//!   `responses` below `/openai/v1/` (no version needed) and `/openai/`. Keys: `api-key`, or bearer. Every deployment
//!   exists; a model of another name answers.
//! - **Anthropic**: `POST /v1/messages`, `/v1/messages/count_tokens`, and `GET /v1/models` where the header
//!   `anthropic-version` is there, which all need; also below `/anthropic`. Keys: `x-api-key`, or bearer. What the real
//!   one refuses is refused in its words; `metadata` may carry `gristmill_job` and `simulate` all the same.
//! - `GET /health`.
//! - **Streams** come for `"stream": true` from all of these but embeddings, at once or at the pace of `token_ms`.
//! - **Functions** are called when they must be, or when the last user message names one by a word of its name
//!   (`get_weather` by "weather"), with arguments that fit their schema; **JSON** fits its schema too. The prompt's
//!   beginning that Anthropic is to cache is written by a marker's first call and read by the later ones.
//! - A call's **marker** says which job it serves: `metadata.gristmill_job`, else `user` (Anthropic: `metadata.user_id`),
//!   else the first 64 characters of the last user message. Calls are numbered per marker where something depends on it:
//!   a log, faults, jitter, a script or a cache. Else each call counts as its marker's first.
//! - A **script** in `metadata.simulate`, `user` or the last user message decides call by call:
//!   `simulate:500,429:retry-after=0.2,ok` fails twice, and the last outcome repeats. Its outcomes are `ok` and those of
//!   [`FaultRule`], without rates. It overrides the fault rules. Calls that the key or the limits refuse do not use it up.
//! - **Limits** hold for all calls together and for those to single models, in the shape of a [`LimitShape`]: requests and
//!   tokens by the minute, tokens of input and of output apart as Anthropic has them, requests by the day, calls at once.
//!   A call counts for its model by the name that it asks for, at Azure by the deployment. The audit in [`Stats`] tells of
//!   each of these scopes what arrived and what was let in during any 60 s, against the limits that held in them.
//! - An [`Outage`] takes the provider away: its calls, and lists of models, meet a fault before keys, limits, scripts and
//!   other faults are looked at, and are counted apart. Planned outages and changes of limits run from the first call.
//! - **Steering** from outside: `GET /simulator/stats`, `GET` and `POST /simulator/faults` (a JSON list of
//!   [`FaultRule`]s), `POST /simulator/settings` (`latency_ms`, `jitter_ms`, `output_tokens`, `token_ms`,
//!   `limits: {rpm, tpm, itpm, otpm, rpd, max_parallel}`, `model_limits: {MODEL: limits}`, `outage: true`, `"refuse"`, a
//!   fault rule or `false`, `limit_headers`, `retry_after`). Limits are replaced as a whole.

pub mod args;

mod answer;
mod body;
mod call;
mod compose;
mod control;
mod delivery;
mod dialect;
mod duration;
mod embedding;
mod error;
mod fault;
mod image;
mod instance;
mod limit;
mod log;
mod options;
mod outage;
mod pattern;
mod payload;
mod plan;
mod prompt;
mod prose;
mod random;
mod refusal;
mod reply;
mod request;
mod route;
mod serve;
mod server;
mod shared;
mod socket;
mod stats;
mod tally;
#[cfg(test)]
mod tests;
mod timeline;

pub use args::{Args, run};
pub use control::Control;
pub use error::Error;
pub use fault::FaultRule;
pub use limit::{LimitChange, LimitShape, LimitStats, Limits, ModelLimits, ScopeStats, Second};
pub use options::Options;
pub use outage::{Outage, OutageStats};
pub use server::Simulator;
pub use stats::Stats;
