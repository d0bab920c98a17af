//! How far a run is, for people who wait: a bar on a terminal, plain lines elsewhere, or JSON.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use gristmill_common::store::{DeploymentReport, ErrorCount};
use gristmill_producer::{ModelPace, Status, Submission};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Global;
use super::pace;
use super::table::{count, duration, money};
use super::ui;

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Between two lines of JSON.
const JSON_EVERY: Duration = Duration::from_secs(1);
/// The time over which the rate is taken.
const RATE_OVER: Duration = Duration::from_secs(15);
/// Columns of a terminal that tells no width.
const WIDTH: usize = 80;
/// Columns below which there is no room for the bar.
const NARROW: usize = 60;
/// Columns of the bar itself, at least and at most.
const BAR: std::ops::RangeInclusive<usize> = 8..=24;

/// Models that have a line of their own at most.
const SHOWN_MODELS: usize = 8;

/// What a batch waits for that nobody works.
const NO_WORKER: &str = "a worker: start one with `gristmill worker`";

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Style {
    /// A bar on a terminal, else plain lines
    Auto,
    /// A bar, with what keeps it or the most frequent error below
    Bar,
    /// A plain line every few seconds
    Plain,
    /// A line of JSON every second and at the end, and nothing but JSON on standard error
    Json,
    /// Nothing
    None,
}

/// What is known of a run now; its JSON is what `--progress json` writes.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct View {
    /// What people call the batch.
    pub(super) batch: String,
    /// Jobs of the input.
    pub(super) total: u64,
    pub(super) done: u64,
    pub(super) succeeded: u64,
    /// Those that ended in any other way.
    pub(super) failed: u64,
    /// Calls under way.
    pub(super) running: u64,
    /// Jobs a second, lately.
    pub(super) rate_per_s: f64,
    /// Seconds to go at that rate, or at what limits allow if that is less.
    pub(super) eta_s: Option<u64>,
    pub(super) top_error: Option<String>,
    /// What keeps it from going on.
    pub(super) waiting_for: Option<String>,
    /// How its models go.
    pub(super) models: Vec<ModelPace>,
    /// How often a job was called so far.
    #[serde(skip)]
    pub(super) calls_per_job: f64,
    /// Those of `done` that had ended before this began.
    #[serde(skip)]
    pub(super) before: u64,
    /// Workers that are alive.
    #[serde(skip)]
    pub(super) workers: u64,
    /// `None` while no call's cost is known.
    #[serde(skip)]
    pub(super) cost_usd: Option<f64>,
}

impl View {
    /// Makes the view of a submission that nobody follows: what is recorded is done.
    pub(super) fn of_submission(batch: &str, total: u64, submission: &Submission) -> Self {
        let done = submission.recorded_now + submission.already_there;
        let waiting_for = submission.waiting_for.clone();
        Self { batch: batch.to_owned(), total, done, waiting_for, workers: 1, ..Self::default() }
    }

    /// Makes the view of a batch that is looked at from outside.
    pub(super) fn of_status(status: &Status) -> Self {
        let Status { batch, held, errors, paused, workers, in_flight, models, .. } = status;
        let counters = &batch.counters;
        let no_worker = (*workers == 0).then(|| NO_WORKER.to_owned());
        Self {
            batch: batch.name.clone(),
            total: batch.total.unwrap_or(batch.recorded),
            done: counters.done(),
            succeeded: counters.succeeded,
            failed: counters.done() - counters.succeeded,
            running: (*held).min(*in_flight),
            top_error: errors.first().map(top_error),
            waiting_for: paused.first().and_then(DeploymentReport::reason).or_else(|| held_up(models)).or(no_worker),
            models: models.clone(),
            calls_per_job: batch.calls_per_job(),
            workers: *workers as u64,
            cost_usd: batch.cost_usd(),
            ..Self::default()
        }
    }

    /// Takes what the submission says, and what keeps the batch from going on.
    pub(super) fn fill(&mut self, submission: &Submission, paused: Option<String>) {
        let no_worker = (submission.batch.is_some() && self.workers == 0).then(|| NO_WORKER.to_owned());
        self.waiting_for = submission.waiting_for.clone().or(paused).or_else(|| held_up(&self.models)).or(no_worker);
    }

    /// Says how far it is in at most `width` columns, the most telling first.
    fn line(&self, width: usize) -> String {
        let mut parts = vec![format!("{}/{} done", count(self.done), count(self.total))];
        if self.failed > 0 {
            parts.push(format!("{} failed", count(self.failed)));
        }
        if self.rate_per_s > 0.0 {
            parts.push(format!("{:.1}/s", self.rate_per_s));
        }
        if let Some(eta) = self.eta_s.filter(|_| self.done < self.total) {
            let time = if eta < 60 { format!("{eta}s") } else { duration(Duration::from_secs(eta)) };
            parts.push(format!("{time} to go"));
        }
        if self.running > 0 {
            parts.push(format!("{} running", count(self.running)));
        }
        if let [pace] = &self.models[..] {
            parts.extend(pace::share(pace));
        }
        parts.extend(pace::waits(&self.models));
        parts.extend(pace::tokens(ModelPace::sum(&self.models, |pace| pace.tokens_per_s)));
        if let Some(usd) = self.cost_usd.filter(|usd| *usd > 0.0) {
            parts.push(money(usd));
        }
        let mut line = String::new();
        for part in parts {
            let longer = if line.is_empty() { part } else { format!("{line}, {part}") };
            if columns(&longer) > width && !line.is_empty() {
                break;
            }
            line = longer;
        }
        cut(&line, width)
    }

    fn note(&self) -> Option<String> {
        let waits = self.waiting_for.as_ref().map(|what| format!("waits: {what}"));
        waits.or_else(|| self.top_error.clone())
    }

    /// Draws a bar, what is known beside it and the note below, for a terminal of `width` columns.
    fn drawing(&self, width: usize) -> String {
        // In a narrow terminal the words count more than the bar.
        let mut text = if width < NARROW {
            self.line(width)
        } else {
            let line = self.line(width - BAR.start() - 1);
            format!("{} {line}", self.bar((width - columns(&line) - 1).min(*BAR.end())))
        };
        if let Some(note) = self.note() {
            text.push('\n');
            text.push_str(&cut(&note, width));
        }
        for line in self.model_lines() {
            text.push('\n');
            text.push_str(&cut(&line, width));
        }
        text
    }

    /// Says of each of several models how it goes; of one alone, the line does.
    fn model_lines(&self) -> Vec<String> {
        let shown = if self.models.len() > 1 { &self.models[..self.models.len().min(SHOWN_MODELS)] } else { &[] };
        shown.iter().map(|pace| format!("{}: {}", pace.model, pace::describe(pace))).collect()
    }

    fn bar(&self, width: usize) -> String {
        let share = u128::from(self.done.min(self.total)) * width as u128 / u128::from(self.total.max(1));
        let full = usize::try_from(share).unwrap_or(width);
        format!("{}{}", "━".repeat(full), "─".repeat(width - full))
    }
}

/// Says which day's limits keep all models from going on; of pauses, deployments tell.
fn held_up(models: &[ModelPace]) -> Option<String> {
    let all: Option<Vec<&String>> =
        models.iter().map(|pace| pace.held_up.as_ref().filter(|_| pace.is_used_up)).collect();
    all?.first().map(|why| (*why).clone())
}

/// Says an error with how often it came.
pub(super) fn top_error(error: &ErrorCount) -> String {
    format!("{} × {}: {}", count(error.count), error.class, error.example)
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
            Style::Bar => Kind::Bar(bar()),
            // A terminal that cannot move its cursor shows lines.
            Style::Auto
                if std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb") =>
            {
                Kind::Bar(bar())
            }
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
                // The last column stays free: some terminals break the line there.
                bar.set_message(view.drawing(terminal_width().saturating_sub(1)));
                return;
            }
            Kind::Plain if due(PLAIN_EVERY) => {
                ui::tell(&format!("  {}", view.line(usize::MAX)));
                let note = view.note().map(|note| cut(&note, usize::MAX));
                if let Some(new) = note.as_ref().filter(|_| note != self.last_note) {
                    ui::tell(&format!("  {new}"));
                }
                self.last_note = note;
                view.model_lines().iter().for_each(|line| ui::tell(&format!("  {}", cut(line, usize::MAX))));
            }
            Kind::Json if due(JSON_EVERY) => {
                ui::event(view);
            }
            Kind::Plain | Kind::Json => return,
        }
        self.told = Some(now);
    }

    /// Shows for machines how it ended; people read the summary.
    pub(super) fn finish(&mut self, view: &mut View) {
        if matches!(self.kind, Kind::Json) {
            self.measure(view);
            ui::event(view);
        }
    }

    fn measure(&mut self, view: &mut View) {
        let now = Instant::now();
        let done_now = view.done.saturating_sub(view.before);
        self.history.push_back((now, done_now));
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
        let done = done_now.saturating_sub(*before) as f64;
        view.rate_per_s = done / seconds;
        let left = view.total.saturating_sub(view.done);
        let to_go = ModelPace::to_go(&view.models, left, view.calls_per_job, view.rate_per_s);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate; casts saturate")]
        let whole = |to_go: Duration| to_go.as_secs_f64().ceil() as u64;
        view.eta_s = to_go.map(whole);
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
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    ui::set_bar(Some(bar.clone()));
    bar
}

fn terminal_width() -> usize {
    terminal_size::terminal_size_of(std::io::stderr()).map_or(WIDTH, |(width, _)| usize::from(width.0))
}

/// Cuts the first line of a text to a number of columns; what steers a terminal becomes blanks.
fn cut(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if columns(&clean) <= width {
        return clean;
    }
    let mut cut = String::new();
    let mut room = width.saturating_sub(1);
    for character in clean.chars() {
        let Some(left) = room.checked_sub(columns_of(character)) else { break };
        room = left;
        cut.push(character);
    }
    cut.push('…');
    cut
}

fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Returns the columns of a character, near enough: East Asian ones and emoji take two.
fn columns_of(character: char) -> usize {
    match character {
        '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}' => 2,
        '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{1f300}'..='\u{1faff}' | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            batch: "sweep-7".into(),
            total: 12_500,
            done: 1_200,
            failed: 3,
            running: 128,
            rate_per_s: 61.25,
            eta_s: Some(185),
            cost_usd: Some(0.0123),
            workers: 1,
            ..View::default()
        }
    }

    #[test]
    fn a_line_says_what_counts() {
        let fresh = View { total: 12_500, done: 1_200, ..View::default() };
        assert_eq!(fresh.line(99), "1,200/12,500 done");
        assert_eq!(view().line(99), "1,200/12,500 done, 3 failed, 61.2/s, 3m05s to go, 128 running, $0.0123");
    }

    #[test]
    fn the_limit_and_what_waits_for_it_are_told() {
        let one = View { models: vec![pace::of_a_busy_model()], ..view() };
        assert_eq!(
            one.line(199),
            "1,200/12,500 done, 3 failed, 61.2/s, 3m05s to go, 128 running, 98% of 600 rpm, 1,312 wait for quota, \
             12 wait for a retry, 4,100 tokens/s, $0.0123"
        );
        let other = ModelPace { model: "claude".to_owned(), ..ModelPace::default() };
        let two = View { models: vec![other, pace::of_a_busy_model()], ..view() };
        let drawing = two.drawing(79);
        let lines: Vec<&str> = drawing.lines().skip(1).collect();
        assert_eq!(lines[0], "claude: 0.0 calls/s");
        assert!(lines[1].starts_with("gpt-4o: 9.8 calls/s, 4,100 tokens/s, 98% of 600 rpm, 30 in flight"), "{drawing}");
        let why = "account a: the limit of 1000 calls a day is used up; it goes on in 1h00m".to_owned();
        let mut view = View {
            models: vec![ModelPace { held_up: Some(why.clone()), is_used_up: true, ..ModelPace::default() }],
            ..view()
        };
        view.fill(&Submission::default(), None);
        assert_eq!(view.waiting_for, Some(why));
    }

    #[test]
    fn a_drawing_fits_every_width() {
        let error =
            Some("7 × BadRequestError: 这个模型的最大上下文长度是 128000 tokens 🚧 \u{1b}[2Jand more".to_owned());
        let view = View { top_error: error, ..view() };
        for width in 0..140 {
            let drawing = view.drawing(width);
            assert_eq!(drawing.lines().count(), 2, "{width}");
            assert!(drawing.lines().all(|line| columns(line) <= width.max(1)), "{width}: {drawing}");
            assert!(!drawing.contains('\u{1b}'));
        }
        let lines = |width| view.drawing(width).lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            lines(119)[0],
            "━━────────────────────── 1,200/12,500 done, 3 failed, 61.2/s, 3m05s to go, 128 running, $0.0123"
        );
        assert_eq!(lines(79)[0], "──────── 1,200/12,500 done, 3 failed, 61.2/s, 3m05s to go, 128 running, $0.0123");
        assert_eq!(lines(30)[0], "1,200/12,500 done, 3 failed");
        assert_eq!(lines(10), ["1,200/12,…", "7 × BadRe…"]);
    }

    #[test]
    fn what_it_waits_for_comes_before_errors() {
        let mut view = View { top_error: Some("2 × Timeout: late".into()), workers: 1, ..View::default() };
        assert_eq!(view.note().as_deref(), Some("2 × Timeout: late"));
        view.fill(&Submission::default(), Some("deployment gpt-4o: set a key".into()));
        assert_eq!(view.note().as_deref(), Some("waits: deployment gpt-4o: set a key"));
        let submission = Submission { waiting_for: Some("no broker".into()), ..Submission::default() };
        view.fill(&submission, None);
        assert_eq!(view.note().as_deref(), Some("waits: no broker"));
    }

    #[test]
    fn machines_read_these_names() {
        let json = serde_json::to_value(view()).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "batch",
                "done",
                "eta_s",
                "failed",
                "models",
                "rate_per_s",
                "running",
                "succeeded",
                "top_error",
                "total",
                "waiting_for"
            ]
        );
    }
}
