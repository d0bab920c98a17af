//! Custom ids that occur twice, found with 8 bytes a line.
//!
//! The first pass keeps a hash of each id. Those that occur twice are looked at again in a further pass, by a second hash
//! that shares nothing with the first: 128 bits agree by chance once in 10²⁵ inputs of 5 million lines.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::requests::Requests;
use super::{BadLine, Defaults, Error, SHOWN_LINES, Source};

/// Collects the ids of an input.
#[derive(Debug, Default)]
pub(super) struct Ids {
    hashes: Vec<u64>,
}

/// The good lines whose custom id is on an earlier line.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    /// All of them, in order.
    pub(super) lines: Vec<u64>,
    /// The first of them, with the reason.
    pub(super) shown: Vec<BadLine>,
    /// How many of them name each model.
    pub(super) models: BTreeMap<String, u64>,
}

/// An id that may occur twice, once its first line was met.
#[derive(Debug, Clone, Copy, Default)]
struct First {
    /// 0 until then.
    line: u64,
    check: u64,
}

impl Ids {
    pub(super) fn add(&mut self, custom_id: &str) {
        self.hashes.push(hash(0, custom_id));
    }

    /// Looks at the input again, if it must.
    pub(super) fn duplicates(self, source: &Source, defaults: &Defaults) -> Result<Duplicates, Error> {
        let suspects = self.suspects();
        let mut found = Duplicates::default();
        if suspects.is_empty() {
            return Ok(found);
        }
        let mut firsts = vec![First::default(); suspects.len()];
        let mut requests = Requests::open(source, defaults)?;
        while let Some(item) = requests.next()? {
            let Some(custom_id) = custom_id(&item.request, defaults) else { continue };
            let Ok(position) = suspects.binary_search(&hash(0, custom_id)) else { continue };
            let check = hash(1, custom_id);
            let first = &mut firsts[position];
            if first.line == 0 {
                *first = First { line: item.number, check };
            // A line that is wrong in another way is told once.
            } else if first.check == check
                && let Ok(request) = &item.request
            {
                found.lines.push(item.number);
                if let Some(model) = &request.model {
                    *found.models.entry(model.clone()).or_default() += 1;
                }
                if found.shown.len() < SHOWN_LINES {
                    let name = serde_json::Value::from(custom_id);
                    let reason = format!("custom_id {name} is on {} {} already", requests.unit().as_str(), first.line);
                    found.shown.push(BadLine { number: item.number, reason });
                }
            }
        }
        Ok(found)
    }

    /// Returns the hashes that occur more than once, in order.
    fn suspects(mut self) -> Vec<u64> {
        self.hashes.sort_unstable();
        let mut suspects: Vec<u64> =
            self.hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        suspects.dedup();
        suspects
    }
}

/// Returns the id that a line takes: where bad lines are left out, only good ones take one.
pub(super) fn custom_id<'a>(
    request: &'a Result<super::line::Request, super::line::Bad>,
    defaults: &Defaults,
) -> Option<&'a str> {
    match request {
        Ok(request) => Some(&request.custom_id),
        Err(bad) => bad.custom_id.as_deref().filter(|_| !defaults.skip_invalid),
    }
}

fn hash(seed: u8, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    text.hash(&mut hasher);
    hasher.finish()
}
