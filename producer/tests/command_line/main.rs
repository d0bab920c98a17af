//! The program as people meet it: help, formats, wrong input, runs on its embedded database against the simulator, every command.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asking;
mod bad_input;
mod batch;
mod call;
mod checking;
mod costs;
mod desk;
mod embedded;
mod estimate;
mod export;
mod figures;
mod history;
mod limiting;
mod meeting;
mod price;
mod pruning;
mod report;
mod settings;
mod stats;
mod sweeps;
mod watching;
