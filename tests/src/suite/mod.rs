//! The conformance suites of the seams: each behaviour is one function, written once and run on every back end.

pub mod broker;
pub mod store;
