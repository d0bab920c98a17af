//! What calls cost: LiteLLM's table of prices, and its rules, in exact decimals.
//!
//! Owns the table that is shipped (`common/data`), the usage that a bill is made from, and the bill. Pure but for reading a newer
//! table from a file: [`Prices::find`] gives the [`Price`] of a model, [`Price::bill`] the cost of one call's [`Usage`]. Rates and
//! sums are decimals without loss; a sum is rounded once, to whole picodollars. What is known of no price is not billed as nothing:
//! there is no bill then.

mod batch;
mod bill;
mod book;
mod decimal;
mod error;
mod field;
mod off_peak;
mod rates;
mod row;
mod split;
mod table;
mod tier;
mod usage;
mod usd;
mod wire;

pub use bill::{Bill, Call, Factor, Part, Term, Terms};
pub use book::{Book, Tariff};
pub use decimal::{Decimal, NotDecimal};
pub use error::Error;
pub use field::is_rate;
pub use row::Price;
pub use table::Prices;
pub use tier::ServiceTier;
pub use usage::Usage;
pub use usd::{NotDollars, PicoUsd};
pub use wire::Shape;

#[cfg(test)]
mod tests;
