//! The broker seam on RabbitMQ.
//!
//! Owns two connections, one that publishes and one that consumes and manages: RabbitMQ stops reading from a connection that
//! publishes while it is short of memory or disk, and acks must go through all the same
//! (<https://www.rabbitmq.com/docs/alarms>). Does not use lapin's recovery: each connection has a supervisor that connects
//! again and rebuilds exchanges, queues, windows and consumers, so that callers see waiting, not errors.
//!
//! When the process dies, RabbitMQ gives back whatever was not acknowledged. When RabbitMQ dies, everything confirmed is on
//! its disk; what was under way is published again, which may make copies.

mod acker;
mod aside;
mod client;
mod consumer;
mod drift;
mod failure;
mod header;
mod lane;
mod link;
mod management;
mod options;
mod pieces;
mod publisher;
mod topology;
mod watchdog;

pub use client::RabbitBroker;
pub use options::RabbitOptions;
