//! How far a run is, for people who wait: a bar on a terminal, plain lines elsewhere, or JSON.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use gristmill_common::store::DeploymentReport;
use gristmill_producer::Submission;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Global;
use super::table::{count, duration, money};
use super::ui;

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Between two lines of JSON.
const JSON_EVERY: Duration = Duration::from_secs(1);
/// The time over which the rate is taken.
const RATE_OVER: Duration = Duration::from_secs(15);
/// Characters of a second line that fit everywhere.
const NOTE_WIDTH: usize = 76;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Style {
    /// A bar on a terminal, else plain lines
    Auto,
    /// A plain line every few seconds
    Plain,
    /// A line of JSON every second
    Json,
    /// Nothing
    None,
}

/// What is known of a run now.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct View {
    /// Jobs of the input.
    pub(super) total: u64,
    /// Jobs recorded so far, those recorded before included.
    pub(super) recorded: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    /// Calls or jobs that a worker holds.
    pub(super) running: u64,
    /// Jobs that wait for their time.
    pub(super) waiting: u64,
    /// Workers that are alive.
    pub(super) workers: u64,
    pub(super) cost_usd: f64,
    pub(super) top_error: Option<String>,
    pub(super) waits_for: Option<String>,
    /// Jobs a second, lately.
    pub(super) rate: f64,
    /// Seconds to go at that rate.
    pub(super) eta_s: Option<u64>,
}

impl View {
    /// Makes the view of a submission that nobody follows.
    pub(super) fn of_submission(total: u64, submission: &Submission) -> Self {
        let recorded = submission.recorded_now + submission.already_there;
        Self { total, recorded, waits_for: submission.waiting_for.clone(), workers: 1, ..Self::default() }
    }

    /// Takes what the submission says, and what keeps the batch from going on.
    pub(super) fn fill(&mut self, submission: &Submission, paused: &[DeploymentReport]) {
        self.recorded = submission.recorded_now + submission.already_there;
        let paused = paused.first().map(|report| {
            format!("deployment {} paused: {}", report.deployment, report.paused.as_deref().unwrap_or("unknown"))
        });
        let no_worker = (submission.batch.is_some() && self.workers == 0)
            .then(|| "waits for a worker: start one with `gristmill worker`".to_owned());
        let waiting_for = submission.waiting_for.as_ref().map(|server| format!("waits: {server}"));
        self.waits_for = waiting_for.or(paused).or(no_worker);
    }

    fn line(&self) -> String {
        let mut text = format!("{}/{} done", count(self.done), count(self.total));
        if self.failed > 0 {
            text.push_str(&format!(", {} failed", count(self.failed)));
        }
        if self.rate > 0.0 {
            text.push_str(&format!(", {:.1}/s", self.rate));
        }
        if let Some(eta) = self.eta_s.filter(|_| self.done < self.total) {
            let time = if eta < 60 { format!("{eta}s") } else { duration(Duration::from_secs(eta)) };
            text.push_str(&format!(", {time} to go"));
        }
        if self.cost_usd > 0.0 {
            text.push_str(&format!(", {}", money(self.cost_usd)));
        }
        text
    }

    fn note(&self) -> Option<&str> {
        self.waits_for.as_deref().or(self.top_error.as_deref())
    }
}

/// Shows progress.
#[derive(Debug)]
pub(super) struct Progress {
    kind: Kind,
    history: VecDeque<(Instant, u64)>,
    told: Option<Instant>,
    last_note: Option<String>,
}

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Plain,
    Json,
    None,
}

impl Progress {
    pub(super) fn new(style: Style, global: &Global) -> Self {
        let kind = match style {
            Style::None => Kind::None,
            _ if global.quiet => Kind::None,
            Style::Json => Kind::Json,
            Style::Auto if std::io::stderr().is_terminal() => Kind::Bar(bar()),
            Style::Auto | Style::Plain => Kind::Plain,
        };
        Self { kind, history: VecDeque::new(), told: None, last_note: None }
    }

    /// Shows how far it is, if it is time to.
    pub(super) fn show(&mut self, view: &mut View) {
        self.measure(view);
        let now = Instant::now();
        let due = |every| self.told.is_none_or(|told| now.duration_since(told) >= every);
        match &self.kind {
            Kind::None => return,
            Kind::Bar(bar) => {
                bar.set_length(view.total);
                bar.set_position(view.done);
                bar.set_message(view.line());
                bar.set_prefix(view.note().map_or_else(String::new, |note| shorten(note, NOTE_WIDTH)));
                return;
            }
            Kind::Plain if due(PLAIN_EVERY) => {
                ui::tell(&format!("  {}", view.line()));
                let note = view.note().map(str::to_owned);
                if let Some(new) = note.as_deref().filter(|_| note != self.last_note) {
                    ui::tell(&format!("  {new}"));
                }
                self.last_note = note;
            }
            Kind::Json if due(JSON_EVERY) => {
                if let Ok(text) = serde_json::to_string(view) {
                    ui::tell(&text);
                }
            }
            Kind::Plain | Kind::Json => return,
        }
        self.told = Some(now);
    }

    fn measure(&mut self, view: &mut View) {
        let now = Instant::now();
        self.history.push_back((now, view.done));
        while self.history.len() > 2 && self.history.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER)
        {
            self.history.pop_front();
        }
        let Some((start, before)) = self.history.front() else { return };
        let seconds = now.duration_since(*start).as_secs_f64();
        if seconds < 0.5 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
        let (done, left) = (view.done.saturating_sub(*before) as f64, view.total.saturating_sub(view.done) as f64);
        view.rate = done / seconds;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate; casts saturate")]
        let eta = (left / view.rate).ceil() as u64;
        view.eta_s = (view.rate > 0.0).then_some(eta);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            ui::set_bar(None);
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    // The template is a constant; a wrong one only costs looks.
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {msg}\n{prefix}") {
        bar.set_style(style.progress_chars("━━─"));
    }
    ui::set_bar(Some(bar.clone()));
    bar
}

fn shorten(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(width) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_counts() {
        let mut view = View { total: 12_500, done: 1_200, ..View::default() };
        assert_eq!(view.line(), "1,200/12,500 done");
        view = View { failed: 3, rate: 61.25, eta_s: Some(185), cost_usd: 0.0123, ..view };
        assert_eq!(view.line(), "1,200/12,500 done, 3 failed, 61.2/s, 3m05s to go, $0.0123");
    }

    #[test]
    fn what_it_waits_for_comes_before_errors() {
        let mut view = View { top_error: Some("2 × Timeout: late".into()), workers: 1, ..View::default() };
        assert_eq!(view.note(), Some("2 × Timeout: late"));
        let paused = DeploymentReport {
            deployment: "gpt-4o".into(),
            group: "gpt-4o".into(),
            paused: Some("401".into()),
            class: None,
        };
        view.fill(&Submission::default(), &[paused]);
        assert_eq!(view.note(), Some("deployment gpt-4o paused: 401"));
        let submission = Submission { waiting_for: Some("no broker".into()), ..Submission::default() };
        view.fill(&submission, &[]);
        assert_eq!(view.note(), Some("waits: no broker"));
    }
}
