//! Where prices come from in a process that runs for long: the shipped table, or a file that may change.
//!
//! A file that changed is read again after a while; one that cannot be read then leaves the prices as they are, with a warning.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{Error, Price, Prices};

/// The prices of a process.
#[derive(Debug)]
pub struct Book {
    file: Option<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// How long its prices are kept before it is looked at again.
    ttl: Duration,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    prices: Arc<Prices>,
    looked: Instant,
    written: Option<SystemTime>,
}

impl Book {
    /// Takes the table that is shipped.
    pub const fn shipped() -> Self {
        Self { file: None }
    }

    /// Takes a newer file of LiteLLM's, which is looked at again after `ttl`.
    ///
    /// # Errors
    ///
    /// As [`Prices::from_file`].
    pub fn open(path: PathBuf, ttl: Duration) -> Result<Self, Error> {
        let written = written(&path);
        let prices = Arc::new(Prices::from_file(&path)?);
        let read = Mutex::new(Read { prices, looked: Instant::now(), written });
        Ok(Self { file: Some(File { path, ttl, read }) })
    }

    /// Returns the prices that count at an instant. Where it is time to look at the file again and it has changed, this takes as
    /// long as reading it, some ten milliseconds.
    pub fn prices(&self, now: Instant) -> Arc<Prices> {
        let Some(file) = &self.file else { return Prices::shipped() };
        let mut read = file.read.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(read.looked) >= file.ttl {
            read.looked = now;
            file.look_again(&mut read);
        }
        Arc::clone(&read.prices)
    }
}

impl File {
    fn look_again(&self, read: &mut MutexGuard<'_, Read>) {
        let written = written(&self.path);
        if written.is_some() && written == read.written {
            return;
        }
        match Prices::from_file(&self.path) {
            Ok(prices) => {
                (read.prices, read.written) = (Arc::new(prices), written);
                tracing::info!(path = %self.path.display(), "prices read again");
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "prices are kept as they were"),
        }
    }
}

fn written(path: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// How the price of one deployment is found: by its provider and model, or the row that it names, with rates of its own.
#[derive(Debug, Clone)]
pub struct Tariff(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    book: Arc<Book>,
    provider: String,
    model: String,
    base_model: Option<String>,
    overrides: BTreeMap<String, String>,
    found: Mutex<Option<Found>>,
}

/// What was found last, and in which table.
#[derive(Debug)]
struct Found {
    table: Arc<Prices>,
    price: Option<Arc<Price>>,
}

impl Tariff {
    /// Makes the one of a provider's model in a book.
    ///
    /// `base_model` names the row where the model's name does not, as Azure's deployments need it; `overrides` are rates of the
    /// deployment's own, as [`Price::with_overrides`] takes them.
    pub fn new(
        book: Arc<Book>,
        provider: &str,
        model: &str,
        base_model: Option<&str>,
        overrides: BTreeMap<String, String>,
    ) -> Self {
        Self(Arc::new(Inner {
            book,
            provider: provider.to_owned(),
            model: model.to_owned(),
            base_model: base_model.map(str::to_owned),
            overrides,
            found: Mutex::default(),
        }))
    }

    /// Returns the price that counts at an instant; `None` where none is known. Takes longer where [`Book::prices`] does.
    pub fn price(&self, now: Instant) -> Option<Arc<Price>> {
        let table = self.0.book.prices(now);
        let mut found = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found.as_ref().filter(|found| Arc::ptr_eq(&found.table, &table)) {
            return found.price.clone();
        }
        let price = self.find(&table);
        *found = Some(Found { table, price: price.clone() });
        price
    }

    fn find(&self, prices: &Prices) -> Option<Arc<Price>> {
        let Inner { provider, model, base_model, overrides, .. } = &*self.0;
        let row = match base_model {
            Some(base) => prices.at_key(base).or_else(|| prices.find(provider, base)),
            None => prices.find(provider, model),
        };
        if overrides.is_empty() {
            return row;
        }
        let texts = overrides.iter().map(|(field, text)| (field.as_str(), text.as_str()));
        match Price::with_overrides(row.as_deref(), &format!("{provider}/{model}"), texts) {
            Ok(price) => Some(Arc::new(price)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a deployment's own prices are not used");
                row
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rate: &str) -> String {
        format!(r#"{{"gpt-9": {{"litellm_provider": "openai", "input_cost_per_token": {rate}}}}}"#)
    }

    fn input(tariff: &Tariff, now: Instant) -> Option<String> {
        tariff.price(now)?.plain_rates().0.map(|rate| rate.to_string())
    }

    #[test]
    fn a_file_that_changed_is_read_again_after_its_time_and_kept_where_it_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prices.json");
        let write = |text: &str, seconds: u64| {
            std::fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        write(&table("0.1"), 0);
        let book = Arc::new(Book::open(path.clone(), Duration::from_secs(3_600)).unwrap());
        let tariff = Tariff::new(book, "openai", "gpt-9", None, BTreeMap::new());
        let later = |hours: u64| Instant::now() + Duration::from_secs(hours * 3_600);
        assert_eq!(input(&tariff, later(0)).as_deref(), Some("0.1"));
        write(&table("0.2"), 1);
        assert_eq!(input(&tariff, later(0)).as_deref(), Some("0.1"));
        assert_eq!(input(&tariff, later(1)).as_deref(), Some("0.2"));
        write("{", 2);
        assert_eq!(input(&tariff, later(3)).as_deref(), Some("0.2"));
        write(&table("0.3"), 3);
        assert_eq!(input(&tariff, later(5)).as_deref(), Some("0.3"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(input(&tariff, later(7)).as_deref(), Some("0.3"));
    }

    #[test]
    fn a_deployment_may_name_its_row_and_have_rates_of_its_own() {
        let book = Arc::new(Book::shipped());
        let own = BTreeMap::from([("input_cost_per_token".to_owned(), "1e-6".to_owned())]);
        for (model, base, overrides, wanted) in [
            ("my-deployment", None, BTreeMap::new(), None),
            ("my-deployment", Some("azure/gpt-4o"), BTreeMap::new(), Some("azure/gpt-4o@")),
            ("my-deployment", Some("gpt-4o"), BTreeMap::new(), Some("gpt-4o@")),
            ("gpt-4o", None, BTreeMap::new(), Some("azure/gpt-4o@")),
            ("my-deployment", None, own.clone(), Some("azure/my-deployment@custom-")),
            ("gpt-4o", None, own, Some("azure/gpt-4o@custom-")),
        ] {
            let tariff = Tariff::new(Arc::clone(&book), "azure", model, base, overrides);
            let reference = tariff.price(Instant::now()).map(|price| price.reference());
            match wanted {
                None => assert_eq!(reference, None, "{model} {base:?}"),
                Some(begin) => assert!(reference.as_ref().is_some_and(|it| it.starts_with(begin)), "{reference:?}"),
            }
        }
    }
}
