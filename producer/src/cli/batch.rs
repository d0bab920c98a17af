//! What `run` and `submit` share: the input, the name, the output.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::job::{CachePolicy, JobOptions, Priority};
use gristmill_common::price::PicoUsd;
use gristmill_producer::input::{self, Checked, Defaults, Parameter, Source, Sweep};
use gristmill_producer::output::Paths;
use gristmill_producer::{BatchSpec, Submitted};
use sha2::{Digest as _, Sha256};

use super::Global;
use super::fault::Fault;
use super::table::{count, plural};
use super::ui;
use super::when::{self, FailFast, When};

/// Characters of a file's name that go into the batch's.
const LONGEST_STEM: usize = 100;

/// What is submitted, and as what.
#[derive(Debug, clap::Args)]
pub(super) struct BatchArgs {
    /// The requests: OpenAI or Anthropic batch lines, {"prompt": …} or {"messages": …} lines, or CSV; plain, gzip or zstd;
    /// `-` for standard input
    #[arg(value_name = "FILE", required_unless_present = "input_file")]
    file: Option<PathBuf>,
    /// The requests, as vLLM's run-batch names them
    #[arg(short = 'i', long, alias = "input_file", value_name = "FILE", conflicts_with = "file")]
    input_file: Option<PathBuf>,
    /// Ask this model, whatever the requests name; several times: ask each of them
    #[arg(long, value_name = "MODEL", value_parser = when::model)]
    model: Vec<String>,
    /// The CSV column, or the key of a plain line, that holds the prompt [default: prompt]
    #[arg(long, value_name = "NAME")]
    prompt_column: Option<String>,
    /// Leave out lines that cannot be sent, and list them
    #[arg(long)]
    skip_invalid: bool,
    /// Read the first N requests of the file only, however many jobs each of them makes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Show the first request as it would be sent, and send nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask whether to go on where the estimate is high
    #[arg(long, short = 'y')]
    pub(super) yes: bool,

    /// Set a parameter in every body; several values make a sweep: temperature=0,0.7
    #[arg(long, value_name = "NAME=VALUE,…", help_heading = "Sweep")]
    set: Vec<Parameter>,
    /// Ask N samples of every request
    #[arg(long, value_name = "N", default_value_t = 1, hide_default_value = true, help_heading = "Sweep",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,

    /// Name the batch; one of this name that exists is continued [default: from the file's name and place]
    #[arg(long, help_heading = "Batch")]
    name: Option<String>,
    /// Add these requests to the batch of that name, beside those that it has
    #[arg(long, requires = "name", help_heading = "Batch")]
    pub(super) append: bool,
    /// The project that costs are grouped by
    #[arg(long, help_heading = "Batch")]
    project: Option<String>,
    /// Tag every job
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = when::tag, help_heading = "Batch")]
    tags: Vec<(String, String)>,
    /// How urgent it is: high, standard, bulk
    #[arg(long, default_value = "standard", help_heading = "Batch")]
    priority: Priority,
    /// Ask the provider for this service tier; flex costs half at OpenAI and may be slow
    #[arg(long, value_name = "TIER", help_heading = "Batch")]
    service_tier: Option<String>,
    /// Answer from kept answers, and keep new ones: off, on, read-only, write-only; on+sampled also where the answer is random,
    /// that is where temperature is not 0 and there is no seed [default: as configured, else off]
    #[arg(long, value_name = "MODE", help_heading = "Batch")]
    pub(super) cache: Option<CachePolicy>,
    /// Start no call later than this; what is left ends as expired: 30m, 8h, 2026-12-01T08:00:00Z
    #[arg(long, value_name = "TIME", help_heading = "Batch")]
    deadline: Option<When>,
    /// Start no call before this
    #[arg(long, value_name = "TIME", help_heading = "Batch")]
    not_before: Option<When>,
    /// Spend at most so many US dollars on the batch; then its jobs wait until `gristmill budgets set` raises it
    #[arg(long, value_name = "DOLLARS", value_parser = super::budgets::dollars, help_heading = "Batch")]
    max_budget: Option<PicoUsd>,
    /// Run those of these requests again that failed, expired or were cancelled before
    #[arg(long, help_heading = "Batch")]
    pub(super) retry_failed: bool,
    /// Stop when this many jobs have failed, 10, or this share of those that ended, 5%; calls under way still finish, up to
    /// --concurrency of them
    #[arg(long, value_name = "N|PCT", help_heading = "Batch")]
    pub(super) fail_fast: Option<FailFast>,
}

impl BatchArgs {
    /// Reads the whole input and refuses it if any line is wrong; `num_retries` is what every job is to say.
    pub(super) async fn check(&self, global: &Global, num_retries: Option<u16>) -> Result<Checked, Fault> {
        let path = self.file.clone().or_else(|| self.input_file.clone()).unwrap_or_else(|| "-".into());
        self.check_file(global, path, num_retries).await
    }

    /// As [`Self::check`], of another file.
    pub(super) async fn check_file(
        &self,
        global: &Global,
        path: PathBuf,
        num_retries: Option<u16>,
    ) -> Result<Checked, Fault> {
        let defaults = Defaults {
            sweep: self.sweep()?,
            options: JobOptions { num_retries, ..self.options(SystemClock.now())? },
            prompt_column: self.prompt_column.clone(),
            skip_invalid: self.skip_invalid,
            limit: self.limit,
        };
        // Standard input may never end: the reading is left behind when the process ends.
        let checking = tokio::task::spawn_blocking(move || input::check(Source::open(&path)?, defaults));
        let checked = checking.await.map_err(|error| Fault::new("checking the input failed").because(&error))??;
        if let Some(skipped) = checked.skipped.as_ref().filter(|_| !global.quiet) {
            ui::tell(&format!("warning: {}", skipped.left_out()));
        }
        if !checked.unsent.is_empty() && !global.quiet {
            let names: Vec<&str> = checked.unsent.iter().copied().collect();
            let names = names.join(", ");
            ui::tell(&format!("warning: beside a plain prompt, {names} is kept as metadata and not sent; use --set"));
        }
        Ok(checked)
    }

    fn sweep(&self) -> Result<Sweep, Fault> {
        let twice = |what: &str, name: &str| Fault::new(format!("{what} {name} is given twice"));
        if let Some(model) = first_repeated(&self.model) {
            return Err(twice("--model", model).hint("--repeat N asks it N times"));
        }
        let names: Vec<&str> = self.set.iter().map(Parameter::name).collect();
        if let Some(name) = first_repeated(&names) {
            return Err(twice("--set", name).hint(format!("give its values together: --set {name}=A,B")));
        }
        let models = self.model.iter().map(|model| Arc::from(model.as_str())).collect();
        let sweep = Sweep { models, parameters: self.set.clone(), repeat: self.repeat };
        let keys: Vec<&str> = self.tags.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(name) = first_repeated(&keys) {
            return Err(twice("--tag", name).hint("a tag has one value: give it once"));
        }
        if let Some(name) = sweep.dimensions().into_iter().find(|name| keys.contains(&name.as_str())) {
            return Err(Fault::new(format!("--tag {name} is a tag that this sweep sets itself"))
                .hint("give the tag another name"));
        }
        Ok(sweep)
    }

    fn options(&self, now: DateTime<Utc>) -> Result<JobOptions, Fault> {
        let (deadline, not_before) =
            (self.deadline.map(|when| when.from(now)), self.not_before.map(|when| when.from(now)));
        if deadline.is_some_and(|deadline| deadline <= now.max(not_before.unwrap_or(now))) {
            let what = if not_before > deadline { "lies before --not-before" } else { "has passed already" };
            return Err(
                Fault::new(format!("--deadline {what}: every job would expire")).hint("give a later --deadline")
            );
        }
        Ok(JobOptions {
            deadline,
            not_before,
            tags: self.tags.iter().cloned().collect(),
            service_tier: self.service_tier.clone(),
            ..JobOptions::default()
        })
    }

    /// Returns what the batch is to be.
    pub(super) fn spec(&self, checked: &Checked, simulated: bool) -> Result<BatchSpec, Fault> {
        let spec = BatchSpec {
            name: self.name.clone().unwrap_or_else(|| default_name(checked.source(), &self.model)),
            project: self.project.clone(),
            priority: self.priority,
            simulated,
            budget_pico_usd: self.max_budget.map(|PicoUsd(limit)| limit),
            tags: self.tags.iter().cloned().collect(),
            ..BatchSpec::default()
        };
        spec.validate()?;
        Ok(spec)
    }
}

fn first_repeated<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter().enumerate().find(|(at, item)| list[..*at].contains(item)).map(|(_, item)| item)
}

/// Returns the same name for the same file and model, and another for others: `sweep-1f09ab`.
///
/// Several models count as one choice, so that one more of them continues the batch.
fn default_name(source: &Source, models: &[String]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(source.key());
    hasher.update([0]);
    match models {
        [] => {}
        [model] => hasher.update(model),
        _ => hasher.update([0]),
    }
    let hash = hasher.finalize();
    format!("{}-{:02x}{:02x}{:02x}", plain(Path::new(&source.plain_name())), hash[0], hash[1], hash[2])
}

/// Returns a file's name as the beginning of a batch's name.
fn plain(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain: String = stem
        .chars()
        .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .take(LONGEST_STEM)
        .collect();
    match plain.trim_matches('-') {
        "" => "batch".to_owned(),
        plain => plain.to_owned(),
    }
}

/// Returns where the results go; `None` is standard output.
pub(super) fn paths(output: &Path, combined: bool) -> Option<Paths> {
    (![Path::new("-"), Path::new("/dev/stdout")].contains(&output)).then(|| Paths::new(output.to_owned(), combined))
}

/// Warns of jobs that the response cache leaves out.
pub(super) fn left_out(jobs: u64) -> String {
    let ask = if jobs == 1 { "asks" } else { "ask" };
    format!(
        "warning: {} {ask} for a random answer (temperature is not 0, and no seed is set), which is not cached; to cache it as \
         well, --cache on+sampled",
        plural(jobs, "job")
    )
}

/// Says what a submission found.
pub(super) fn describe(submitted: &Submitted, append: bool) -> String {
    let Submitted { batch, recorded_now, already_there, changed, changed_ids, .. } = submitted;
    let mut text = format!("{}: {} submitted", batch.name, plural(*recorded_now, "job"));
    if *already_there > 0 {
        let were = if *already_there == 1 { "was" } else { "were" };
        text.push_str(&format!(", {} {were} there already", count(*already_there)));
    }
    if *changed > 0 && !append {
        let are = if *changed == 1 { "is" } else { "are" };
        let jobs = plural(*changed, "earlier job");
        let names: Vec<String> = changed_ids.iter().map(|id| id.escape_debug().to_string()).collect();
        let more = match changed.saturating_sub(names.len() as u64) {
            0 => String::new(),
            more => format!(" and {} more", count(more)),
        };
        let names = names.join(", ");
        // Which of these it is would take the former input to tell.
        text.push_str(&format!(
            "; {jobs} {are} not in this input now (lines changed or removed, or left out by --limit, --model, --set, \
             --repeat or --skip-invalid): {names}{more}"
        ));
    }
    if batch.cancel_requested_at.is_some() {
        text.push_str(&format!(
            "; the batch was cancelled: to run what was open, `gristmill retry {} --status cancelled`",
            batch.name
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_gives_a_name_that_is_allowed() {
        for (path, expected) in [
            ("a/sweep 7.jsonl", "sweep-7"),
            ("-", "batch"),
            ("@last.jsonl", "last"),
            ("--x.jsonl", "x"),
            ("..", "batch"),
        ] {
            let name = plain(Path::new(path));
            assert_eq!(name, expected);
            assert!(BatchSpec { name, ..BatchSpec::default() }.validate().is_ok());
        }
        assert_eq!(plain(Path::new(&"é".repeat(300))).chars().count(), LONGEST_STEM);
    }
}
