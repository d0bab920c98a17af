//! What every part of Gristmill shares: domain types, configuration, errors, retry policy, and the two seams,
//! [`broker`] and [`store`], with their back ends.
//!
//! This crate knows neither producers nor workers. Only `broker::rabbitmq` names `lapin`, only `store` and the embedded
//! broker name `sqlx`, only `retry` names `backoff`.

pub mod backend;
pub mod batch;
pub mod broker;
pub mod budget;
pub mod cache;
pub mod clock;
pub mod config;
pub mod envelope;
pub mod failpoint;
pub mod failure;
pub mod id;
pub mod job;
pub mod outcome;
pub mod piece;
pub mod price;
pub mod quota;
pub mod retry;
pub mod splice;
pub mod store;
pub mod tally;
pub mod telemetry;
pub mod trace;
