//! The worker's metrics, for Prometheus.
//!
//! Owns the names, labels and meaning of every metric ([`FAMILIES`]), what is counted and the page that a scrape
//! gets. Where a number is kept elsewhere anyway, the page reads it there at the scrape; so asking costs no more than some locks
//! that are held for a moment, and never waits for the store or the broker. What is counted is counted where it is committed: a
//! crash forgets what the process counted and nothing else, and Prometheus takes the new process's counters for new ones.
//!
//! Labels come from the configuration and from closed sets of this program alone: no job, batch, tag or project, and no text that
//! a provider sent. [docs/metrics.md](../../../docs/metrics.md) is made of the same table. The text is written here, since the
//! well-kept crate for it (`prometheus-client` 0.25) speaks OpenMetrics alone.

mod collect;
mod count;
mod counts;
mod family;
mod process;
mod text;

pub use family::{FAMILIES, Family, Kind};

pub(crate) use collect::{Metrics, Parts};
pub(crate) use counts::{Counts, Kept};
pub(crate) use text::Format;

#[cfg(test)]
mod tests;
