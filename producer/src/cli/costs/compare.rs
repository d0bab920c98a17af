//! What the same tokens would have cost with another model. Pure, but for finding its price.

use std::sync::Arc;
use std::time::Instant;

use gristmill_common::config::Config;
use gristmill_common::price::{PicoUsd, Price, Usage};
use gristmill_common::tally::Sums;

use crate::cli::fault::Fault;
use crate::cli::price;

/// A model that costs are compared with.
#[derive(Debug, Clone)]
pub(super) struct Other {
    /// As the person wrote it.
    pub(super) name: String,
    pub(super) price: Arc<Price>,
}

impl Other {
    /// Finds a model: one of the configuration's own, at the price of its first deployment that has one, else the table's.
    pub(super) fn find(config: &Config, name: &str) -> Result<Self, Fault> {
        let now = Instant::now();
        let name = name.trim();
        let own = config.priced(name).into_iter().find_map(|priced| priced.tariff.price(now));
        let price = match own {
            Some(price) => price,
            None => price::find(&config.prices().prices(now), None, name)?,
        };
        if !price.has_token_prices() {
            return Err(Fault::new(format!(
                "{} has no price of tokens, so nothing can be compared with it",
                price.key()
            )));
        }
        Ok(Self { name: name.to_owned(), price })
    }

    /// Returns what sums of tokens cost at its plain rates.
    pub(super) fn cost(&self, sums: &Sums) -> Option<PicoUsd> {
        let tokens = |count: i64| u64::try_from(count).unwrap_or(0);
        let usage = Usage {
            prompt_tokens: tokens(sums.input_tokens),
            completion_tokens: tokens(sums.output_tokens),
            cached_tokens: tokens(sums.cached_input_tokens),
            cache_write_tokens: tokens(sums.cache_write_tokens),
            reasoning_tokens: tokens(sums.reasoning_tokens),
            ..Usage::default()
        };
        self.price.bill_sum(&usage).map(|bill| bill.total)
    }
}
