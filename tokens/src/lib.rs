//! Counts the tokens of requests before they are sent: exactly for the texts of OpenAI's models, by an estimate for others.
//!
//! Owns the tokenizers, whose tables take 65 MiB of memory from their first use on, and the cache of counts. Knows no limits, no
//! prices and no configuration. Everything here computes and nothing waits: a caller on an async thread asks [`Model::is_ready`]
//! and the length of its body first, and counts on a thread for blocking work if either says that it will take long.

#[cfg(feature = "exact")]
mod cache;
mod family;
mod image;
mod node;
mod request;
mod rough;
#[cfg(feature = "exact")]
mod text;
/// Stands for the tokenizers where they are left out: no model has a family then.
#[cfg(not(feature = "exact"))]
mod text {
    /// Estimates the tokens of a text: this build has no tokenizers.
    pub fn count(_: crate::Family, text: &str) -> usize {
        crate::estimate(text)
    }

    pub(crate) const fn is_ready(_: crate::Family) -> bool {
        true
    }
}

pub use family::Family;
pub use request::{Model, Request};
pub use rough::estimate;
pub use text::count;
