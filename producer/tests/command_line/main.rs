//! The program as people meet it: help, formats, wrong input, runs on its embedded database against the simulator, every command.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asking;
mod bad_input;
mod batch;
mod call;
mod checking;
mod desk;
mod embedded;
mod limiting;
mod meeting;
mod pruning;
mod settings;
mod sweeps;
mod watching;
