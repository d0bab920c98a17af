//! Counts of texts that were counted before: the prompts of a sweep share most of their text.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::Family;

/// A bounded map from texts to their counts, by a hash that nobody can aim at: its seed is the process's own.
///
/// What was asked for lately stays. It holds two generations; a text of the old one moves to the young one when it is asked for,
/// and once the young one is full the old one goes.
#[derive(Debug)]
pub(crate) struct Cache {
    seed: RandomState,
    /// Entries of a generation.
    most: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, u32>,
    old: HashMap<u64, u32>,
}

impl Cache {
    /// Makes one of `most` entries at most.
    pub(crate) fn new(most: usize) -> Self {
        Self { seed: RandomState::new(), most: (most / 2).max(1), generations: Mutex::default() }
    }

    /// Returns a text's count, from `count` where it is not known. Who counts the same text at the same time counts it too.
    pub(crate) fn get_or(&self, family: Family, text: &str, count: impl FnOnce() -> usize) -> usize {
        let key = self.seed.hash_one((family, text));
        if let Some(known) = self.with(|generations| generations.get(key, self.most)) {
            return known as usize;
        }
        let counted = count();
        if let Ok(small) = u32::try_from(counted) {
            self.with(|generations| generations.put(key, small, self.most));
        }
        counted
    }

    fn with<T>(&self, look: impl FnOnce(&mut Generations) -> T) -> T {
        look(&mut self.generations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn get(&mut self, key: u64, most: usize) -> Option<u32> {
        if let Some(known) = self.young.get(&key) {
            return Some(*known);
        }
        let known = self.old.remove(&key)?;
        self.put(key, known, most);
        Some(known)
    }

    fn put(&mut self, key: u64, count: u32, most: usize) {
        if self.young.len() >= most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_counted_once() {
        let cache = Cache::new(10);
        let mut counted = 0;
        for _ in 0..5 {
            let known = cache.get_or(Family::O200k, "text", || {
                counted += 1;
                7
            });
            assert_eq!(known, 7);
        }
        assert_eq!(counted, 1);
        assert_eq!(cache.get_or(Family::Cl100k, "text", || 8), 8, "each family counts for itself");
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let cache = Cache::new(10);
        cache.get_or(Family::O200k, "shared", || 1);
        for n in 0..1_000 {
            cache.get_or(Family::O200k, &format!("own {n}"), || 2);
            cache.get_or(Family::O200k, "shared", || panic!("it was forgotten after {n}"));
            let size = cache.with(|generations| generations.young.len() + generations.old.len());
            assert!(size <= 10, "{size}");
        }
        assert_eq!(cache.get_or(Family::O200k, "own 0", || 3), 3);
    }
}
