//! Sums of calls and results: what statistics and costs are read from, instead of every row.
//!
//! Owns what is added up and under which keys, and how durations are counted. Pure: a store writes the sums of a flush in the
//! flush's own transaction, so that they are exactly those of its rows, and the keeper adds up old ones. Money is in picodollars.

mod fold;
mod histogram;
mod sums;

pub use fold::{By, Fold, Part};
pub use histogram::Histogram;
pub use sums::{Key, Sums, Tallies};
