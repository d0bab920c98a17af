//! What `run` and `submit` share: the input, the name, the output.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gristmill_common::job::{JobOptions, Priority};
use gristmill_producer::input::{self, Checked, Defaults, Source};
use gristmill_producer::output::Paths;
use gristmill_producer::{BatchSpec, Submitted};
use sha2::{Digest as _, Sha256};

use super::fault::Fault;
use super::table::count;

/// What is submitted, and as what.
#[derive(Debug, clap::Args)]
pub(super) struct BatchArgs {
    /// The requests: OpenAI Batch JSONL, `-` for standard input
    #[arg(value_name = "FILE", required_unless_present = "input_file")]
    file: Option<PathBuf>,
    /// The requests, as vLLM's run-batch names them
    #[arg(short = 'i', long, value_name = "FILE", conflicts_with = "file")]
    input_file: Option<PathBuf>,
    /// Ask this model, whatever the requests name
    #[arg(long, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// Name the batch; one of this name that exists is continued [default: from the file's name and place]
    #[arg(long)]
    name: Option<String>,
    /// How urgent it is: high, standard, bulk
    #[arg(long, default_value = "standard")]
    priority: Priority,
}

impl BatchArgs {
    /// Reads the whole input and refuses it if any line is wrong.
    pub(super) async fn check(&self, options: JobOptions) -> Result<Checked, Fault> {
        let path = self.file.clone().or_else(|| self.input_file.clone()).unwrap_or_else(|| "-".into());
        let defaults = Defaults { model: self.model.as_deref().map(Arc::from), options };
        // Standard input may never end: the reading is left behind when the process ends.
        let checking = tokio::task::spawn_blocking(move || input::check(Source::open(&path)?, defaults));
        let checked = checking.await.map_err(|error| Fault::new("checking the input failed").because(&error))?;
        Ok(checked?)
    }

    /// Returns what the batch is to be.
    pub(super) fn spec(&self, checked: &Checked, simulated: bool) -> BatchSpec {
        let name = self.name.clone().unwrap_or_else(|| default_name(checked.source(), self.model.as_deref()));
        BatchSpec { name, priority: self.priority, simulated, ..BatchSpec::default() }
    }
}

/// Returns the same name for the same file and model, and another for others: `sweep-1f09ab`.
fn default_name(source: &Source, model: Option<&str>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(source.key());
    hasher.update([0]);
    hasher.update(model.unwrap_or_default());
    let hash = hasher.finalize();
    let stem = source.path().file_stem().map_or_else(|| "batch".into(), |stem| stem.to_string_lossy());
    let plain: String = stem.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    format!("{plain}-{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2])
}

/// Returns where the results go; `None` is standard output.
pub(super) fn paths(output: &Path, combined: bool) -> Option<Paths> {
    (output != Path::new("-")).then(|| Paths::new(output.to_owned(), combined))
}

/// Says what a submission found.
pub(super) fn describe(submitted: &Submitted) -> String {
    let Submitted { batch, recorded_now, already_there, changed, .. } = submitted;
    let mut text = format!("{}: {} jobs submitted", batch.name, count(*recorded_now));
    if *already_there > 0 {
        text.push_str(&format!(", {} were there already", count(*already_there)));
    }
    if *changed > 0 {
        text.push_str(&format!(
            "; {} earlier jobs are not in this input any more (their lines were changed or removed)",
            count(*changed)
        ));
    }
    text
}
