//! The two passes: every line is checked, then the lines become jobs.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use gristmill_common::job::JobOptions;
use tokio::sync::mpsc;

use super::line::{self, Bad, Request};
use super::reader::{Lines, Next};
use super::{BadLine, BadLines, Error, MAX_LINE_BYTES, SHOWN_LINES, Source};
use crate::submit::NewJob;

/// Most different models of one input; more are a mistake.
const MAX_MODELS: usize = 1_000;
/// Most hashes that occur twice and are looked at again; beyond, they are too many to be chance.
const MAX_VERIFIED: usize = 10_000;
/// Jobs that are handed over at once at most.
const HANDOVER_JOBS: usize = 256;
/// Bytes of lines that are handed over at once at most.
const HANDOVER_BYTES: usize = 1024 * 1024;

/// What holds for every line of an input.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// The model group that answers all lines, whatever they name.
    pub model: Option<Arc<str>>,
    /// Options of every job.
    pub options: JobOptions,
}

/// An input of which every line can be sent.
#[derive(Debug)]
pub struct Checked {
    source: Arc<Source>,
    defaults: Defaults,
    /// How many requests it holds.
    pub jobs: u64,
    /// How many requests ask for each model group.
    pub models: BTreeMap<Arc<str>, u64>,
}

/// Checks every line of an input. Blocks.
///
/// # Errors
///
/// [`Error::Lines`] with every bad line counted and the first ones told; [`Error::Kind`] if there is no line at all.
pub fn check(source: Source, defaults: Defaults) -> Result<Checked, Error> {
    let mut lines = Lines::new(source.reader()?);
    let mut text = Vec::new();
    let mut bad = Bads::default();
    let mut hashes = Vec::new();
    let mut models: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    let mut count = 0;
    loop {
        let number = match lines.next(&mut text).map_err(|source_error| failed(&source, source_error))? {
            Next::End => break,
            Next::TooLong(number, bytes) => {
                count += 1;
                bad.add(number, format!("has {bytes} bytes, at most {MAX_LINE_BYTES} are taken"));
                continue;
            }
            Next::Line(number) => number,
        };
        count += 1;
        match line::read(&text, defaults.model.is_none()) {
            Ok(request) => {
                hashes.push(hash(&request.custom_id));
                let Some(model) = defaults.model.as_deref().or(request.model.as_deref()) else { continue };
                if let Some(count) = models.get_mut(model) {
                    *count += 1;
                } else if models.len() < MAX_MODELS {
                    models.insert(model.into(), 1);
                } else {
                    bad.add(number, format!("asks for one more model, after {MAX_MODELS} different ones"));
                }
            }
            Err(Bad { custom_id, reason }) => {
                hashes.extend(custom_id.as_deref().map(hash));
                bad.add(number, reason);
            }
        }
    }
    if count == 0 {
        return Err(Error::Kind { path: source.path().to_owned(), what: "holds no requests" });
    }
    find_duplicates(&source, hashes, &mut bad)?;
    if bad.total > 0 {
        let Bads { mut shown, total } = bad;
        shown.sort();
        shown.truncate(SHOWN_LINES);
        return Err(Error::Lines(BadLines { path: source.path().to_owned(), shown, total, lines: count }));
    }
    Ok(Checked { source: Arc::new(source), defaults, jobs: count, models })
}

#[derive(Default)]
struct Bads {
    shown: Vec<BadLine>,
    total: u64,
}

impl Bads {
    fn add(&mut self, number: u64, reason: String) {
        self.total += 1;
        self.show(number, reason);
    }

    /// Keeps a line to show, if it can be among the first of its kind.
    fn show(&mut self, number: u64, reason: String) {
        if self.shown.len() < 2 * SHOWN_LINES {
            self.shown.push(BadLine { number, reason });
        }
    }
}

fn failed(source: &Source, error: std::io::Error) -> Error {
    Error::Io { path: source.path().to_owned(), source: error }
}

fn hash(custom_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    custom_id.hash(&mut hasher);
    hasher.finish()
}

/// Finds custom ids that occur twice: hashes first, then a second look at the lines whose hashes are the same.
fn find_duplicates(source: &Source, mut hashes: Vec<u64>, bad: &mut Bads) -> Result<(), Error> {
    hashes.sort_unstable();
    let mut repeats = 0;
    let mut suspects: Vec<u64> = Vec::new();
    for pair in hashes.windows(2).filter(|pair| pair[0] == pair[1]) {
        repeats += 1;
        if suspects.last() != Some(&pair[0]) && suspects.len() <= MAX_VERIFIED {
            suspects.push(pair[0]);
        }
    }
    drop(hashes);
    if suspects.is_empty() {
        return Ok(());
    }
    let all_suspects = suspects.len() <= MAX_VERIFIED;
    let mut first_lines: HashMap<String, u64> = HashMap::new();
    let mut lines = Lines::new(source.reader()?);
    let mut text = Vec::new();
    let mut verified = 0;
    let mut shown = Bads::default();
    loop {
        let number = match lines.next(&mut text).map_err(|error| failed(source, error))? {
            Next::End => break,
            Next::TooLong(..) => continue,
            Next::Line(number) => number,
        };
        let Some(custom_id) = line::custom_id(&text) else { continue };
        if suspects.binary_search(&hash(&custom_id)).is_err() {
            continue;
        }
        if let Some(first) = first_lines.get(&custom_id) {
            verified += 1;
            if shown.shown.len() < SHOWN_LINES {
                let name = serde_json::to_string(&custom_id).unwrap_or_default();
                shown.show(number, format!("custom_id {name} is on line {first} already"));
            }
            continue;
        }
        first_lines.insert(custom_id, number);
    }
    bad.shown.sort();
    bad.shown.truncate(SHOWN_LINES);
    bad.shown.extend(shown.shown);
    bad.total += if all_suspects { verified } else { repeats };
    Ok(())
}

impl Checked {
    /// Returns what people call the input.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Reads the input again, as jobs. Must be called within a Tokio runtime; reading stops when the stream is dropped.
    pub fn stream(&self) -> impl Stream<Item = Result<NewJob, Error>> + Send + use<> {
        let (tx, rx) = mpsc::channel(2);
        let (source, defaults, expected) = (Arc::clone(&self.source), self.defaults.clone(), self.jobs);
        // Ends by itself when the receiver is dropped.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = hand_over(&source, &defaults, expected, &tx) {
                let _ = tx.blocking_send(Err(error));
            }
        });
        futures_util::stream::unfold(rx, |mut rx| async move {
            let jobs: Vec<Result<NewJob, Error>> = match rx.recv().await? {
                Ok(jobs) => jobs,
                Err(error) => vec![Err(error)],
            };
            Some((futures_util::stream::iter(jobs), rx))
        })
        .flatten()
    }
}

type Handover = Result<Vec<Result<NewJob, Error>>, Error>;

fn hand_over(source: &Source, defaults: &Defaults, expected: u64, tx: &mpsc::Sender<Handover>) -> Result<(), Error> {
    let changed = |line| Error::Changed { path: source.path().to_owned(), line };
    let mut lines = Lines::new(source.reader()?);
    let mut words: HashMap<String, Arc<str>> = HashMap::new();
    let mut intern = |word: &str| match words.get(word) {
        Some(known) => Arc::clone(known),
        None => {
            let new: Arc<str> = word.into();
            words.insert(word.to_owned(), Arc::clone(&new));
            new
        }
    };
    let mut jobs = Vec::new();
    let mut bytes = 0;
    let mut count = 0;
    let mut last = 0;
    loop {
        let mut text = Vec::new();
        match lines.next(&mut text).map_err(|error| failed(source, error))? {
            Next::End => break,
            Next::TooLong(number, _) => return Err(changed(number)),
            Next::Line(number) => last = number,
        }
        let Ok(Request { custom_id, endpoint, model, body }) = line::read(&text, defaults.model.is_none()) else {
            return Err(changed(last));
        };
        let Some(model) = defaults.model.clone().or_else(|| model.as_deref().map(&mut intern)) else {
            return Err(changed(last));
        };
        count += 1;
        bytes += text.len();
        let body = Bytes::from(text).slice(body);
        jobs.push(Ok(NewJob { custom_id, endpoint: intern(endpoint), model, body, options: defaults.options.clone() }));
        if jobs.len() >= HANDOVER_JOBS || bytes >= HANDOVER_BYTES {
            bytes = 0;
            if tx.blocking_send(Ok(std::mem::take(&mut jobs))).is_err() {
                return Ok(());
            }
        }
    }
    if count != expected {
        return Err(changed(last));
    }
    // Nobody listens any more: nothing is left to do.
    let _ = tx.blocking_send(Ok(jobs));
    Ok(())
}
