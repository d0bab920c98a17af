//! The two passes: every line is checked, then the lines become jobs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::{Stream, StreamExt as _};
use gristmill_common::cache::is_left_out;
use gristmill_common::job::{CachePolicy, JobOptions, Metadata};
use gristmill_common::splice::Members;
use tokio::sync::mpsc;

use super::attachment::Gone;
use super::duplicate::{self, Duplicates, Ids};
use super::line::Bad;
use super::requests::{Item, Requests};
use super::sweep::Sweep;
use super::{BadLine, BadLines, Error, SHOWN_LINES, Source};
use crate::submit::NewJob;

/// Most different models of one input; more are a mistake.
const MAX_MODELS: usize = 1_000;
/// Jobs that are handed over at once at most.
const HANDOVER_JOBS: usize = 256;
/// Bytes of bodies that are handed over at once at most.
const HANDOVER_BYTES: usize = 1024 * 1024;
/// Keys that mean a parameter where they stand in a body; beside a plain prompt they are metadata, which may surprise.
const PARAMETERS: [&str; 12] = [
    "frequency_penalty",
    "max_completion_tokens",
    "max_tokens",
    "n",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tools",
    "top_p",
];

/// What holds for every line of an input.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// What is made of each line.
    pub sweep: Sweep,
    /// Options of every job.
    pub options: JobOptions,
    /// The key or column of plain prompts. Default `prompt`; where it is given, an input that is no JSON is CSV.
    pub prompt_column: Option<String>,
    /// Leaves out lines that cannot be sent.
    pub skip_invalid: bool,
    /// Reads only so many requests.
    pub limit: Option<u64>,
}

/// An input of which every line can be sent, or is left out.
#[derive(Debug)]
pub struct Checked {
    source: Arc<Source>,
    defaults: Arc<Defaults>,
    /// Lines that are left out since their custom id is on an earlier one, in order.
    repeated: Arc<[u64]>,
    /// How many jobs it makes.
    pub jobs: u64,
    /// How many jobs ask for each model group.
    pub models: BTreeMap<Arc<str>, u64>,
    /// The APIs that are asked for.
    pub endpoints: BTreeSet<&'static str>,
    /// The lines that are left out, if any.
    pub skipped: Option<BadLines>,
    /// Keys that look like parameters and are kept as metadata.
    pub unsent: BTreeSet<&'static str>,
    /// Jobs that were handed over and that the response cache leaves out, since their answer is random.
    left_out: Arc<AtomicU64>,
}

/// Checks every line of an input. Blocks.
///
/// # Errors
///
/// [`Error::Lines`] with every bad line counted and the first ones told, unless they are to be left out and others remain;
/// [`Error::Kind`] if there is no line at all.
pub fn check(source: Source, defaults: Defaults) -> Result<Checked, Error> {
    let mut found = Found::default();
    let mut requests = Requests::open(&source, &defaults)?;
    while let Some(item) = requests.next()? {
        found.take(item, &defaults);
        if found.models.len() > MAX_MODELS {
            let what = format!("asks for more than {MAX_MODELS} different models; give --model");
            return Err(Error::Kind { path: source.path().to_owned(), what });
        }
    }
    let (unit, is_cut_short) = (requests.unit(), requests.is_cut_short());
    let Found { good, lines, mut models, endpoints, mut bad, bad_total, last_bad, ids, unsent } = found;
    if lines == 0 {
        return Err(Error::Kind { path: source.path().to_owned(), what: "holds no requests".to_owned() });
    }
    let Duplicates { lines: repeated, shown, models: repeated_models } = ids.duplicates(&source, &defaults)?;
    for (model, count) in repeated_models {
        if let Some(counted) = models.get_mut(model.as_str()) {
            *counted = counted.saturating_sub(count);
        }
    }
    models.retain(|_, count| *count > 0);
    bad.extend(shown);
    bad.sort();
    bad.truncate(SHOWN_LINES);
    // That rows were not read must not go under among the others.
    bad.extend(last_bad.filter(|last| is_cut_short && !bad.contains(last)));
    let total = bad_total + repeated.len() as u64;
    let advice = source.advice(unit);
    let bad = BadLines { path: source.path().to_owned(), shown: bad, total, lines, unit, advice };
    let kept = good.saturating_sub(repeated.len() as u64);
    // Nobody asked to leave out rows that were never read.
    if total > 0 && (!defaults.skip_invalid || kept == 0 || is_cut_short) {
        return Err(Error::Lines(bad));
    }
    let sweep = &defaults.sweep;
    let models = if sweep.models.is_empty() {
        models.into_iter().map(|(model, count)| (model, count.saturating_mul(sweep.jobs_per_model()))).collect()
    } else {
        let count = kept.saturating_mul(sweep.jobs_per_model());
        sweep.models.iter().map(|model| (Arc::clone(model), count)).collect()
    };
    Ok(Checked {
        jobs: kept.saturating_mul(sweep.jobs_per_line()),
        models,
        endpoints,
        skipped: (total > 0).then_some(bad),
        unsent,
        left_out: Arc::default(),
        source: Arc::new(source),
        defaults: Arc::new(defaults),
        repeated: repeated.into(),
    })
}

/// What the first pass finds.
#[derive(Default)]
struct Found {
    good: u64,
    lines: u64,
    models: BTreeMap<Arc<str>, u64>,
    endpoints: BTreeSet<&'static str>,
    bad: Vec<BadLine>,
    bad_total: u64,
    last_bad: Option<BadLine>,
    ids: Ids,
    unsent: BTreeSet<&'static str>,
}

impl Found {
    fn take(&mut self, Item { number, request }: Item, defaults: &Defaults) {
        self.lines += 1;
        if let Some(custom_id) = duplicate::custom_id(&request, defaults) {
            self.ids.add(custom_id);
        }
        match request {
            Ok(request) => {
                self.good += 1;
                self.endpoints.insert(request.endpoint);
                if let Some(model) = request.model.filter(|_| defaults.sweep.models.is_empty()) {
                    self.count_model(&model);
                }
                if let Some(metadata) = &request.metadata {
                    self.unsent.extend(parameters(metadata));
                }
            }
            Err(Bad { reason, .. }) => {
                self.bad_total += 1;
                let bad = BadLine { number, reason };
                if self.bad.len() < SHOWN_LINES {
                    self.bad.push(bad.clone());
                }
                self.last_bad = Some(bad);
            }
        }
    }

    fn count_model(&mut self, model: &str) {
        match self.models.get_mut(model) {
            Some(count) => *count += 1,
            None => _ = self.models.insert(model.into(), 1),
        }
    }
}

/// Returns which of the keys mean a parameter elsewhere.
fn parameters(metadata: &Metadata) -> impl Iterator<Item = &'static str> {
    let mut members = Members::new(metadata.get()).ok();
    // It is an object, so no member fails.
    let keys = std::iter::from_fn(move || members.as_mut()?.next_member().ok().flatten());
    keys.filter_map(|(key, _)| PARAMETERS.into_iter().find(|name| *name == key))
}

impl Checked {
    /// Returns what people call the input.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns how many jobs each request makes.
    pub fn jobs_per_request(&self) -> u64 {
        self.defaults.sweep.jobs_per_line()
    }

    /// Sets what the response cache does for every job.
    #[must_use]
    pub fn with_cache(mut self, cache: CachePolicy) -> Self {
        Arc::make_mut(&mut self.defaults).options.cache = cache;
        self
    }

    /// Returns how many of the jobs that were read so far the response cache leaves out, since their answer is random.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Reads the input again, as jobs. Must be called within a Tokio runtime; reading stops when the stream is dropped.
    pub fn stream(&self) -> impl Stream<Item = Result<NewJob, Error>> + Send + use<> {
        self.hand_over(Pick::ALL)
    }

    /// Reads some of the input again: the first requests, then about `spread` of the others at even distances. Ends early at
    /// `until`. What must not be read twice at once, such as a copy of standard input, is free when the stream has ended.
    pub fn sample(
        &self,
        first: u64,
        spread: u64,
        until: Instant,
    ) -> impl Stream<Item = Result<NewJob, Error>> + Send + use<> {
        let others = (self.jobs / self.jobs_per_request().max(1)).saturating_sub(first);
        self.hand_over(Pick {
            first,
            passed_over: others.div_ceil(spread.max(1)).saturating_sub(1),
            until: Some(until),
        })
    }

    fn hand_over(&self, pick: Pick) -> impl Stream<Item = Result<NewJob, Error>> + Send + use<> {
        let (tx, rx) = mpsc::channel(2);
        let (source, defaults) = (Arc::clone(&self.source), Arc::clone(&self.defaults));
        let (repeated, expected) = (Arc::clone(&self.repeated), self.jobs);
        let left_out = Arc::clone(&self.left_out);
        left_out.store(0, Ordering::Relaxed);
        // Ends by itself when the receiver is dropped.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = hand_over(&source, &defaults, &repeated, pick, expected, (&tx, &left_out)) {
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

/// Which requests are read.
#[derive(Debug, Clone, Copy)]
struct Pick {
    /// So many at the beginning.
    first: u64,
    /// Behind these, so many are passed over before each that is read.
    passed_over: u64,
    /// When reading ends, wherever it is.
    until: Option<Instant>,
}

impl Pick {
    const ALL: Self = Self { first: u64::MAX, passed_over: 0, until: None };
}

type Handover = Result<Vec<Result<NewJob, Error>>, Error>;

fn hand_over(
    source: &Source,
    defaults: &Defaults,
    repeated: &[u64],
    pick: Pick,
    expected: u64,
    (tx, left_out): (&mpsc::Sender<Handover>, &AtomicU64),
) -> Result<(), Error> {
    let changed = |line| Error::Changed { path: source.path().to_owned(), line };
    let expansion = defaults.sweep.expansion(&defaults.options);
    let mut requests = Requests::open(source, defaults)?;
    let mut repeated = repeated.iter().copied().peekable();
    let mut words = Words::default();
    let (mut out, mut last, mut read) = (Outbox { tx, jobs: Vec::new(), bytes: 0, count: 0, left_out }, 0, 0);
    while let Some(Item { number, request }) = requests.next()? {
        last = number;
        while repeated.next_if(|line| *line < number).is_some() {}
        let mut request = match request {
            Ok(request) => request,
            Err(_) if defaults.skip_invalid => continue,
            Err(_) => return Err(changed(number)),
        };
        if repeated.next_if_eq(&number).is_some() {
            continue;
        }
        let attachments = std::mem::take(&mut request.attachments);
        request.body = attachments.put_into(&request.body).map_err(|Gone { path, source }| match source {
            Some(source) => Error::Io { path, source },
            None => Error::Changed { path, line: number },
        })?;
        let (endpoint, model) = (words.intern(request.endpoint), words.intern(request.model.as_deref().unwrap_or("")));
        let taken = expansion.jobs(&request, &endpoint, &model, |job| out.put(job)).map_err(|_| changed(number))?;
        if taken.is_break() {
            return Ok(());
        }
        read += 1;
        if pick.until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        if read >= pick.first {
            requests.skip(pick.passed_over)?;
        }
    }
    if pick.until.is_none() && out.count != expected {
        return Err(changed(last));
    }
    // Nobody listens any more: nothing is left to do.
    let _ = out.flush();
    Ok(())
}

/// Hands jobs over, several at once.
struct Outbox<'a> {
    tx: &'a mpsc::Sender<Handover>,
    jobs: Vec<Result<NewJob, Error>>,
    bytes: usize,
    /// Jobs that were put in.
    count: u64,
    /// Those of them that the response cache leaves out.
    left_out: &'a AtomicU64,
}

impl Outbox<'_> {
    /// Adds a job; breaks when nobody listens any more.
    fn put(&mut self, job: NewJob) -> ControlFlow<()> {
        self.bytes += job.body.len();
        self.count += 1;
        if is_left_out(&job.endpoint, &job.body, job.options.cache) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        self.jobs.push(Ok(job));
        if self.jobs.len() < HANDOVER_JOBS && self.bytes < HANDOVER_BYTES {
            return ControlFlow::Continue(());
        }
        self.flush()
    }

    fn flush(&mut self) -> ControlFlow<()> {
        self.bytes = 0;
        match self.tx.blocking_send(Ok(std::mem::take(&mut self.jobs))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// Keeps one copy of each word.
#[derive(Default)]
struct Words(HashMap<String, Arc<str>>);

impl Words {
    fn intern(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.0.get(word) {
            return Arc::clone(known);
        }
        let new: Arc<str> = word.into();
        self.0.insert(word.to_owned(), Arc::clone(&new));
        new
    }
}
