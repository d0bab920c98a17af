//! Which prices a deployment's calls have.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::price::{self, Book, Price, Tariff};

use super::file::Section;
use super::options::Options;
use super::{Env, Error};

/// The table of prices of all deployments.
#[derive(Debug, Clone)]
pub(super) struct Table {
    book: Arc<Book>,
    /// Whether calls have costs.
    tracks: bool,
}

impl Table {
    /// Opens the table that the options name; a path counts from `directory`.
    pub(super) fn open(options: &Options, directory: &Path) -> Result<Self, Error> {
        let book = match &options.prices {
            Some(path) => Book::open(directory.join(path), options.price_ttl)?,
            None => Book::shipped(),
        };
        Ok(Self { book: Arc::new(book), tracks: options.cost_tracking })
    }

    pub(super) const fn book(&self) -> &Arc<Book> {
        &self.book
    }
}

/// How the calls of a deployment are billed, whether or not it can be called from here.
#[derive(Debug, Clone)]
pub struct Priced {
    /// The deployment's name.
    pub deployment: Arc<str>,
    /// The provider's name.
    pub provider: &'static str,
    /// The model's name at the provider.
    pub model: String,
    /// How its price is found.
    pub tariff: Tariff,
    /// Where its data stays, if that changes the price.
    pub data_residency: Option<&'static str>,
}

/// What an entry says of its prices.
#[derive(Debug, Clone, Default)]
pub(super) struct Pricing {
    /// The row, where the model's name does not say it.
    base_model: Option<String>,
    /// Rates of its own, by their fields.
    overrides: BTreeMap<String, String>,
}

impl Pricing {
    /// Reads `model_info.base_model` and every price of `litellm_params`, else of `model_info`.
    pub(super) fn read(params: &Section<'_>, info: &Section<'_>, env: &Env) -> Result<Self, Error> {
        let mut overrides = BTreeMap::new();
        for section in [info, params] {
            for name in section.names().filter(|name| price::is_rate(name)) {
                let Some(text) = section.text(name, env)? else { continue };
                let origin = section.origin(name);
                if let Err(price::Error::Override { problem, .. }) = Price::with_overrides(None, "", [(name, &*text)]) {
                    return Err(Error::Invalid { origin, problem });
                }
                overrides.insert(name.to_owned(), text);
            }
        }
        Ok(Self { base_model: info.text("base_model", env)?, overrides })
    }

    /// Returns how a model's price is found, if calls have costs, and the tokens of input that the model takes, if the table says so.
    pub(super) fn of(&self, table: &Table, provider: &str, model: &str) -> (Option<Tariff>, Option<u64>) {
        let tariff = self.tariff(table, provider, model);
        let window = tariff.price(Instant::now()).and_then(|price| price.max_input_tokens());
        (table.tracks.then_some(tariff), window)
    }

    /// Returns how a model's price is found.
    pub(super) fn tariff(&self, table: &Table, provider: &str, model: &str) -> Tariff {
        Tariff::new(Arc::clone(&table.book), provider, model, self.base_model.as_deref(), self.overrides.clone())
    }
}
