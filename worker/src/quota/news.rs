//! Which changes of what is known of an account's limits people should hear of. Pure.

use gristmill_common::quota::{Dimension, Known};

/// By how much a learnt limit grows until that is news: it is tried a little higher all the time.
const MUCH_MORE: f64 = 1.25;
/// How little of a learnt limit a cut may leave that is no news.
const HARDLY_LESS: f64 = 0.98;
/// What the calls at once are called beside the dimensions.
const CONCURRENCY: &str = "concurrency";

/// A change of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// A dimension, or `concurrency`.
    pub(super) dimension: &'static str,
    pub(super) change: Change,
    pub(super) from: Option<u64>,
    pub(super) to: Option<u64>,
}

/// What changed a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Refusals or overloads taught it first.
    Learnt,
    /// They lowered it.
    Cut,
    /// It grew, since all is taken.
    Raised,
    /// It does not count any more.
    Forgotten,
    /// Headers told it.
    Told,
    /// Somebody wrote it down.
    Written,
}

impl Change {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Learnt => "learnt",
            Self::Cut => "cut",
            Self::Raised => "raised",
            Self::Forgotten => "forgotten",
            Self::Told => "told",
            Self::Written => "written",
        }
    }
}

/// Compares what is known with what was told of last, and takes in of it what is news.
pub(super) fn take(before: &mut Known, now: &Known) -> Vec<News> {
    let mut all = Vec::new();
    for dimension in Dimension::ALL {
        for (from, to, change) in [
            (&mut before.written[dimension], now.written[dimension], Change::Written),
            (&mut before.told[dimension], now.told[dimension], Change::Told),
        ] {
            if *from != to {
                let change = if to.is_none() { Change::Forgotten } else { change };
                all.push(News { dimension: dimension.as_str(), change, from: *from, to });
                *from = to;
            }
        }
    }
    for (dimension, from, to) in [
        (Dimension::Requests.as_str(), &mut before.learnt, now.learnt),
        (CONCURRENCY, &mut before.learnt_at_once, now.learnt_at_once),
    ] {
        if let Some(change) = learnt(*from, to) {
            all.push(News { dimension, change, from: *from, to });
            *from = to;
        }
    }
    all
}

#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
fn learnt(from: Option<u64>, to: Option<u64>) -> Option<Change> {
    let (from, to) = match (from, to) {
        (None, None) => return None,
        (None, Some(_)) => return Some(Change::Learnt),
        (Some(_), None) => return Some(Change::Forgotten),
        (Some(from), Some(to)) => (from as f64, to as f64),
    };
    if to < from * HARDLY_LESS {
        Some(Change::Cut)
    } else if to >= from * MUCH_MORE && to > from {
        Some(Change::Raised)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(learnt: Option<u64>) -> Known {
        Known { learnt, ..Known::default() }
    }

    #[test]
    fn cuts_and_large_steps_are_news_and_small_steps_are_once_they_add_up() {
        let mut before = pace(None);
        let mut changes = Vec::new();
        for learnt in
            [None, Some(1_000), Some(1_020), Some(1_100), Some(1_249), Some(1_250), Some(900), Some(890), None]
        {
            let news = take(&mut before, &pace(learnt));
            changes.push(news.first().map(|news| (news.change, news.from, news.to)));
        }
        let expected = [
            None,
            Some((Change::Learnt, None, Some(1_000))),
            None,
            None,
            None,
            Some((Change::Raised, Some(1_000), Some(1_250))),
            Some((Change::Cut, Some(1_250), Some(900))),
            None,
            Some((Change::Forgotten, Some(900), None)),
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn what_is_told_or_written_is_news_whatever_the_step() {
        let mut before = Known::default();
        let mut now = Known::default();
        now.told[Dimension::Tokens] = Some(10_000);
        now.written[Dimension::Requests] = Some(60);
        now.learnt_at_once = Some(32);
        let news = take(&mut before, &now);
        let shown: Vec<_> = news.iter().map(|news| (news.dimension, news.change.as_str(), news.to)).collect();
        assert_eq!(
            shown,
            [("requests", "written", Some(60)), ("tokens", "told", Some(10_000)), ("concurrency", "learnt", Some(32))]
        );
        assert_eq!(take(&mut before, &now), []);
        now.told[Dimension::Tokens] = None;
        assert_eq!(take(&mut before, &now)[0].change, Change::Forgotten);
    }
}
