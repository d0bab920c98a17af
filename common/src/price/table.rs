//! The table of prices: which row a model's prices stand in.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde_json::value::RawValue;

use super::Error;
use super::row::{Fields, Price};

/// LiteLLM's table as it is shipped; where it comes from stands in `common/data/README.md`.
const SHIPPED: &str = include_str!("../../data/prices.json");
const SHIPPED_SOURCE: &str = "litellm 1.109.1, as shipped";

/// Entries of LiteLLM's file that are no models.
const NO_MODELS: [&str; 2] = ["sample_spec", "fallback_generalizations"];

/// The prices of all models. Rows are found at once, and read when they are asked for.
#[derive(Debug)]
pub struct Prices {
    text: Cow<'static, str>,
    /// Where each row stands in the text.
    rows: HashMap<String, Range<usize>>,
    source: String,
}

impl Prices {
    /// Returns the table that is shipped.
    pub fn shipped() -> Arc<Self> {
        static SHIPPED_PRICES: LazyLock<Arc<Prices>> = LazyLock::new(|| {
            let prices = Prices::index(Cow::Borrowed(SHIPPED), SHIPPED_SOURCE.to_owned());
            Arc::new(prices.expect("a test reads the shipped table"))
        });
        Arc::clone(&SHIPPED_PRICES)
    }

    /// Reads a newer file of LiteLLM's, `model_prices_and_context_window.json`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is not such a file, or names no model.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let problem = |problem: String| Error::File { path: path.to_owned(), problem };
        let prices = Self::index(Cow::Owned(text), path.display().to_string());
        let prices = prices.map_err(|error| problem(format!("is not LiteLLM's table of prices: {error}")))?;
        if prices.rows.is_empty() {
            return Err(problem("names no model with its prices".to_owned()));
        }
        Ok(prices)
    }

    fn index(text: Cow<'static, str>, source: String) -> Result<Self, serde_json::Error> {
        let entries: HashMap<String, &RawValue> = serde_json::from_str(&text)?;
        let start = text.as_ptr().addr();
        let is_row = |(key, raw): &(String, &RawValue)| {
            raw.get().starts_with('{') && !key.starts_with('_') && !NO_MODELS.contains(&key.as_str())
        };
        let place = |(key, raw): (String, &RawValue)| {
            let at = raw.get().as_ptr().addr() - start;
            (key, at..at + raw.get().len())
        };
        let rows = entries.into_iter().filter(is_row).map(place).collect();
        Ok(Self { text, rows, source })
    }

    /// Returns where the table comes from, for people.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the names of all rows, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.rows.keys().map(String::as_str)
    }

    /// Finds the prices of a provider's model: `provider/model`, else `model`, else what stands behind its first slash.
    ///
    /// A row that was found without the provider's name must be the same provider's: a server of one's own is not billed as
    /// OpenAI because its model has such a name.
    pub fn find(&self, provider: &str, model: &str) -> Option<Arc<Price>> {
        let full = self.at(&format!("{provider}/{model}"));
        let own = |key: &str| self.at(key).filter(|price| is_of(price, provider));
        full.or_else(|| own(model)).or_else(|| own(model.split_once('/')?.1)).map(Arc::new)
    }

    /// Finds the prices under exactly this name.
    pub fn at_key(&self, key: &str) -> Option<Arc<Price>> {
        self.at(key).map(Arc::new)
    }

    fn at(&self, key: &str) -> Option<Price> {
        let place = self.rows.get(key)?;
        let fields: Fields = serde_json::from_str(self.text.get(place.clone())?).ok()?;
        Some(Price::read(key, &fields, false))
    }
}

/// Tells whether a row is a provider's; one that names none is everybody's.
fn is_of(price: &Price, provider: &str) -> bool {
    let Some(own) = price.provider.as_deref() else { return true };
    // `vertex_ai-anthropic_models`, `bedrock_converse`, `cohere_chat`, `text-completion-openai` are parts of one provider.
    own == provider
        || own.strip_prefix(provider).is_some_and(|rest| rest.starts_with(['-', '_']))
        || own.strip_prefix("text-completion-") == Some(provider)
}
