//! Numbers and histograms by label. The sets of labels are closed, so what was counted once stays.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::family::Family;
use super::text::Page;

/// Values by their labels, in order.
#[derive(Debug)]
struct ByLabels<const N: usize, T>(Vec<([Box<str>; N], T)>);

impl<const N: usize, T> ByLabels<N, T> {
    /// Returns the value of these labels, which is made where it is the first.
    fn entry(&mut self, labels: [&str; N], new: impl FnOnce() -> T) -> &mut T {
        let found = self.0.binary_search_by(|(known, _)| known.iter().map(|label| &**label).cmp(labels));
        let index = found.unwrap_or_else(|index| {
            self.0.insert(index, (labels.map(Box::from), new()));
            index
        });
        &mut self.0[index].1
    }

    /// Shows each value with its labels.
    fn each(&self, mut show: impl FnMut(&[&str], &T)) {
        for (labels, value) in &self.0 {
            show(&labels.each_ref().map(|label| &**label), value);
        }
    }
}

/// A number for each set of `N` labels: a counter, or a gauge where it goes down as well.
#[derive(Debug)]
pub(crate) struct Tally<const N: usize>(Mutex<ByLabels<N, f64>>);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self(Mutex::new(ByLabels(Vec::new())))
    }
}

impl<const N: usize> Tally<N> {
    /// Counts one more.
    pub(crate) fn count(&self, labels: [&str; N]) {
        self.add(labels, 1.0);
    }

    /// Counts so many more; none makes the labels known, so that their first increase is seen as one.
    pub(crate) fn add(&self, labels: [&str; N], more: f64) {
        *lock(&self.0).entry(labels, || 0.0) += more;
    }

    pub(super) fn show(&self, page: &mut Page, family: &Family) {
        page.family(family, |samples| lock(&self.0).each(|labels, value| samples.value(labels, *value)));
    }
}

/// A histogram with `N` labels.
#[derive(Debug)]
pub(crate) struct Histogram<const N: usize> {
    bounds: &'static [f64],
    values: Mutex<ByLabels<N, Spread>>,
}

/// How values spread: how many were up to each bound and above the one before, and above the last one.
#[derive(Debug)]
struct Spread {
    counts: Vec<u64>,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    /// Makes one with these upper bounds, the lowest first.
    pub(super) const fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, values: Mutex::new(ByLabels(Vec::new())) }
    }

    /// Takes in a value.
    pub(crate) fn observe(&self, labels: [&str; N], value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        let mut values = lock(&self.values);
        let spread = values.entry(labels, || Spread { counts: vec![0; self.bounds.len() + 1], sum: 0.0 });
        spread.counts[index] += 1;
        spread.sum += value;
    }

    pub(super) fn show(&self, page: &mut Page, family: &Family) {
        page.family(family, |samples| {
            lock(&self.values)
                .each(|labels, spread| samples.histogram(labels, self.bounds, &spread.counts, spread.sum));
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::family::{CALL_DURATION, JOBS_ENDED};
    use super::super::text::Format;
    use super::*;

    fn samples(show: impl FnOnce(&mut Page)) -> String {
        let mut page = Page::new(Format::Prometheus);
        show(&mut page);
        let text = page.finish();
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn counts_add_up_by_their_labels() {
        let tally = Tally::default();
        tally.count(["m", "succeeded"]);
        tally.add(["a", "failed"], 0.0);
        tally.add(["m", "succeeded"], 2.0);
        assert_eq!(
            samples(|page| tally.show(page, &JOBS_ENDED)),
            "gristmill_jobs_ended_total{group=\"a\",status=\"failed\"} 0.0\n\
             gristmill_jobs_ended_total{group=\"m\",status=\"succeeded\"} 3.0\n"
        );
    }

    #[test]
    fn a_value_on_a_bound_is_below_it() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for value in [0.1, 0.5, 0.75, 3.0] {
            histogram.observe(["d"], value);
        }
        let name = CALL_DURATION.name;
        assert_eq!(
            samples(|page| histogram.show(page, &CALL_DURATION)),
            format!(
                "{name}_bucket{{deployment=\"d\",le=\"0.5\"}} 2.0\n\
                 {name}_bucket{{deployment=\"d\",le=\"1.0\"}} 3.0\n\
                 {name}_bucket{{deployment=\"d\",le=\"+Inf\"}} 4.0\n\
                 {name}_sum{{deployment=\"d\"}} 4.35\n\
                 {name}_count{{deployment=\"d\"}} 4.0\n"
            )
        );
    }
}
