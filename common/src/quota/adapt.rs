//! What the refusals and overloads of a provider teach where nobody said its limits.
//!
//! Two quantities, each over the whole fleet. The *pace*, in calls per minute: unknown until a provider refuses; then what it
//! took while it refused, which is its limit, tried again by a cubic curve that is steep far from the last refusal and flat
//! around it (after RFC 9438, CUBIC for TCP, <https://www.rfc-editor.org/rfc/rfc9438>, read 2026-11). The *window*, in calls at once: it doubles from
//! [`FIRST_WINDOW`] while it is full, and is cut when the provider is overloaded. Pure: time comes in with every call.

use serde::{Deserialize, Serialize};

use super::Micros;
use crate::outcome::Usage;

/// Calls at once with which an account begins of which nothing is known.
pub(super) const FIRST_WINDOW: f64 = 32.0;
/// How much a cut leaves of the pace that was taken.
const PACE_LEFT: f64 = 0.95;
/// How much a cut leaves of the calls that ran.
const WINDOW_LEFT: f64 = 0.7;
/// Where the curve is flat, of what was refused: calls do not come as evenly as they are started.
const PLATEAU: f64 = 0.98;
/// Seconds from a cut until the curve is there.
const PLATEAU_S: f64 = 4.0;
/// The curve's steepness, from the two above.
const STEEPNESS: f64 = (1.0 - PACE_LEFT) / (PLATEAU_S * PLATEAU_S * PLATEAU_S);
/// What was sent before a cut of the window comes back after it: that is the same episode.
const EPISODE: Micros = 2_000_000;
/// Refusals that mean something; one stray refusal among many does not.
const SEVERAL: f64 = 2.0;
/// How long nothing is refused when an episode is over.
const QUIET: Micros = 1_500_000;
/// How long an episode lasts at most: what goes on is measured anew, at the pace that is tried by then.
const LONGEST: Micros = 2_000_000;
/// How long an episode is watched before its measure counts.
const WATCH: Micros = 150_000;
/// How far below the share that was not refused a pace is not cut.
const MARGIN: f64 = 0.02;
/// How often the window grows.
const STEP: Micros = 250_000;
/// How long a server's error holds growth up.
const CALM: Micros = 2_000_000;
/// How fast calls are forgotten that were counted.
const MEMORY_S: f64 = 1.0;
/// Most that a step of the curve adds, as a factor.
const MOST_GROWTH: f64 = 1.5;

/// What was learnt of one account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Adapt {
    /// Calls per minute at the last refusal; none before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_at: Option<f64>,
    /// How long the curve has run since the last cut.
    run: Micros,
    /// Calls at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<f64>,
    /// Whether it doubles yet.
    slow: bool,
    window_cut_at: Micros,
    grown_at: Micros,
    troubled_at: Micros,
    counted_at: Micros,
    /// Calls of about the last second.
    started: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    episode: Option<Episode>,
}

/// A time in which the provider refuses: what it takes meanwhile is its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Episode {
    since: Micros,
    /// The last refusal.
    until: Micros,
    /// The pace that was tried.
    tried: f64,
    started: f64,
    refused: f64,
    /// Calls since the last refusal; they count if another one follows.
    pending: f64,
}

/// What was heard of an account since the last time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Calls that were started.
    pub started: u64,
    /// Calls that were refused for their rate.
    pub refused: u64,
    /// Calls that were refused since the provider is overloaded.
    pub overloaded: u64,
    /// Calls that ended with an error of the server.
    pub troubled: u64,
    /// Tokens of input of calls that ended.
    pub input_tokens: u64,
    /// Tokens of output of calls that ended.
    pub output_tokens: u64,
}

impl Heard {
    /// Counts the tokens of a call that ended.
    pub fn count(&mut self, usage: &Usage) {
        self.input_tokens += u64::from(usage.input_tokens.unwrap_or_default());
        self.output_tokens += u64::from(usage.output_tokens.unwrap_or_default());
    }
}

impl Adapt {
    /// Takes in what was heard. `full`: as many calls run as may, or the pace is used up; `known`: somebody said the limits.
    /// Returns what changed, for people.
    pub(super) fn hear(
        &mut self,
        now: Micros,
        heard: Heard,
        in_flight: u64,
        full: bool,
        known: bool,
    ) -> Option<String> {
        let before = self.counted_at;
        self.count(now, heard);
        if heard.troubled > 0 || heard.overloaded > 0 {
            self.troubled_at = now;
        }
        let mut changed = None;
        if self.is_refused(before.max(now - STEP), now, heard) {
            changed = self.cut_pace();
        }
        if heard.overloaded > 0 && now - self.window_cut_at >= EPISODE {
            changed = Some(self.cut_window(now, in_flight));
        }
        if self.window.is_none() && !known {
            (self.window, self.slow, self.grown_at) = (Some(FIRST_WINDOW), true, now);
        }
        let step = now - self.grown_at;
        if step >= STEP {
            if full && now - self.troubled_at >= CALM {
                self.grow(now, step.min(2 * STEP));
            }
            self.grown_at = now;
        }
        changed
    }

    /// Returns the calls per minute that seem to be allowed; none where nothing was refused.
    #[expect(clippy::cast_precision_loss, reason = "seconds since a cut")]
    pub(super) fn pace(&self) -> Option<f64> {
        let refused_at = self.refused_at?;
        let off = self.run as f64 / 1e6 - PLATEAU_S;
        Some(refused_at * PLATEAU * STEEPNESS.mul_add(off * off * off, 1.0))
    }

    /// Returns the calls that may run at once; none where no bound is known.
    pub(super) const fn window(&self) -> Option<f64> {
        self.window
    }

    /// Forgets the pace: somebody said the limit, and it is kept.
    pub(super) fn forget_pace(&mut self) {
        self.refused_at = None;
    }

    /// Moves with the store's clock, where that was set back.
    pub(super) fn shift(&mut self, by: Micros) {
        self.episode = None;
        for at in [&mut self.window_cut_at, &mut self.grown_at, &mut self.troubled_at, &mut self.counted_at] {
            *at -= by;
        }
    }

    /// Follows the episode of refusals, if there is one; returns whether it has just shown more.
    #[expect(clippy::cast_precision_loss, reason = "calls of a second")]
    fn is_refused(&mut self, before: Micros, now: Micros, heard: Heard) -> bool {
        let (started, refused) = (heard.started as f64, heard.refused as f64);
        if self.episode.is_some_and(|episode| now - episode.until >= QUIET || now - episode.since >= LONGEST) {
            self.episode = None;
        }
        if refused == 0.0 {
            if let Some(episode) = &mut self.episode {
                episode.pending += started;
            }
            return false;
        }
        let tried = self.pace().unwrap_or_else(|| self.started / MEMORY_S * 60.0);
        let episode = self.episode.get_or_insert_with(|| Episode { since: before, tried, ..Episode::default() });
        episode.until = now;
        episode.started += started + std::mem::take(&mut episode.pending);
        episode.refused += refused;
        episode.refused >= SEVERAL && now - episode.since >= WATCH
    }

    /// Sets the pace to what the provider takes while it refuses: what was taken, or the share of what was tried, whichever is
    /// more, since a short time measures the one badly and a burst the other.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of an episode")]
    fn cut_pace(&mut self) -> Option<String> {
        let Episode { since, until, tried, started, refused, .. } = self.episode?;
        let share = (refused / started.max(refused)).min(1.0);
        let measured = (started - refused).max(0.0) / ((until - since) as f64 / 60e6);
        let refused_at = measured.max(tried * (1.0 - share - MARGIN)).clamp(1.0, tried.max(1.0));
        let is_news = self.run > 0 || self.refused_at.is_none();
        (self.refused_at, self.run) = (Some(refused_at), 0);
        let to = self.pace().unwrap_or_default();
        is_news.then(|| format!("{:.0} % of the calls refused: {to:.0} calls per minute now", share * 100.0))
    }

    #[expect(clippy::cast_precision_loss, reason = "calls at once")]
    fn cut_window(&mut self, now: Micros, in_flight: u64) -> String {
        let ran = self.window.map_or(in_flight as f64, |window| window.min(in_flight.max(1) as f64));
        let window = (ran * WINDOW_LEFT).max(1.0);
        (self.window, self.slow, self.window_cut_at) = (Some(window), false, now);
        format!("overloaded: {window:.0} calls at once now")
    }

    fn grow(&mut self, now: Micros, step: Micros) {
        if self.episode.is_none()
            && let Some(before) = self.pace()
        {
            self.run += step;
            // Far from the last refusal the curve is steep: no step is a leap.
            if self.pace().is_some_and(|pace| pace > before * MOST_GROWTH) {
                (self.refused_at, self.run) = (Some(before * MOST_GROWTH / PLATEAU), secs(PLATEAU_S));
            }
        }
        if now - self.window_cut_at < EPISODE {
            return;
        }
        if let Some(window) = &mut self.window {
            *window = if self.slow { *window * 2.0 } else { *window + (*window * 0.02).max(0.5) };
            *window = window.min(1e6);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "calls of a second")]
    fn count(&mut self, now: Micros, heard: Heard) {
        let kept = (-((now - self.counted_at).max(0) as f64) / 1e6 / MEMORY_S).exp();
        self.counted_at = now;
        self.started = self.started * kept + heard.started as f64;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a few seconds")]
fn secs(seconds: f64) -> Micros {
    (seconds * 1e6) as Micros
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(started: u64) -> Heard {
        Heard { started, ..Heard::default() }
    }

    fn refused(started: u64, refused: u64) -> Heard {
        Heard { started, refused, ..Heard::default() }
    }

    const TICK: Micros = 250_000;

    #[test]
    fn the_window_doubles_only_while_it_is_full() {
        let mut adapt = Adapt::default();
        let mut windows = Vec::new();
        for tick in 0..6 {
            adapt.hear(tick * TICK + 10_000_000, started(8), 32, tick != 3, false);
            windows.push(adapt.window().unwrap());
        }
        assert_eq!(windows, [32.0, 64.0, 128.0, 128.0, 256.0, 512.0]);
    }

    #[test]
    fn a_known_limit_needs_no_window() {
        let mut adapt = Adapt::default();
        adapt.hear(0, started(1), 500, true, true);
        assert_eq!(adapt.window(), None);
    }

    #[test]
    fn one_stray_refusal_changes_nothing() {
        let mut adapt = Adapt::default();
        assert_eq!(adapt.hear(10_000_000, refused(500, 1), 32, true, true), None);
        assert_eq!(adapt.pace(), None);
    }

    #[test]
    fn refusals_cut_the_pace_by_their_share() {
        let mut adapt = Adapt::default();
        for tick in 0..40 {
            adapt.hear(10_000_000 + tick * TICK, started(25), 32, true, true);
        }
        assert!(adapt.hear(20_000_000, refused(25, 12), 32, true, true).is_some());
        adapt.hear(20_250_000, refused(24, 12), 32, true, true);
        let pace = adapt.pace().unwrap();
        assert!((2_500.0..3_200.0).contains(&pace), "half of 6,000: {pace}");
        for tick in 4..20 {
            adapt.hear(20_000_000 + tick * TICK, started(10), 32, true, true);
        }
        let plateau = adapt.pace().unwrap();
        assert!((1.02..1.07).contains(&(plateau / pace)), "{pace} {plateau}");
    }

    #[test]
    fn overload_cuts_the_window_once_and_growth_waits() {
        let mut adapt = Adapt::default();
        adapt.hear(10_000_000, started(1), 32, true, false);
        let overloaded = Heard { started: 10, overloaded: 3, ..Heard::default() };
        assert!(adapt.hear(10_250_000, overloaded, 32, true, false).is_some());
        let cut = adapt.window().unwrap();
        assert!((22.0..23.0).contains(&cut), "{cut}");
        assert_eq!(adapt.hear(10_500_000, overloaded, 32, true, false), None);
        assert!((adapt.window().unwrap() - cut).abs() < 1e-9);
        for tick in 0..12 {
            adapt.hear(13_000_000 + tick * TICK, started(5), 23, true, false);
        }
        let grown = adapt.window().unwrap();
        assert!(grown > cut && grown < cut + 12.0, "it creeps: {grown}");
    }

    #[test]
    fn errors_of_the_server_hold_growth_up() {
        let mut adapt = Adapt::default();
        adapt.hear(10_000_000, started(1), 32, true, false);
        for tick in 1..8 {
            let troubled = Heard { started: 4, troubled: 1, ..Heard::default() };
            adapt.hear(10_000_000 + tick * TICK, troubled, 32, true, false);
        }
        assert_eq!(adapt.window(), Some(FIRST_WINDOW));
    }
}
