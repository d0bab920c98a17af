//! The table and the rules together.

mod edges;
mod properties;
mod table;
mod vectors;

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::*;

/// An hour at which the table's dearest rates count.
fn noon() -> DateTime<Utc> {
    "2026-11-23T09:00:00Z".parse().unwrap()
}

/// Makes a price of its own rates.
fn price(rates: &[(&str, &str)]) -> Price {
    Price::with_overrides(None, "own", rates.iter().copied()).unwrap()
}

fn shipped(provider: &str, model: &str) -> Arc<Price> {
    Prices::shipped().find(provider, model).unwrap_or_else(|| panic!("{provider}/{model} is not in the table"))
}
