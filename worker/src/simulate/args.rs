//! The command line of `gristmill simulate`. One of the few files that name `clap`.

use std::env;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::fault::FaultRule;
use super::limit::{LimitChange, LimitShape, Limits, ModelLimits};
use super::options::Options;
use super::outage::Outage;
use super::{Simulator, duration};

/// What a fault rule is, in full.
const FAULTS: &str = "Let calls fail, such as 429:0.02:retry-after=1.5 or reset:0.01; may be repeated

A rule is NAME, NAME:RATE or NAME:RATE:OPTION=VALUE. RATE is the share of calls from 0 to 1, by default 1; the rates add \
up. NAME is one of these.

Instead of an answer: a status from 400 to 599 (options retry-after=SECONDS, code=CODE), timeout (never answers), reset \
(TCP reset before any byte), close (closed before any byte), truncate (half of the body, then closed), drip (a byte every 20 ms; option every=5ms), html \
(an HTML page with status 502; option status=200), empty (status 200 without a body).

On the way of an answer, behind two pieces of a stream's output or after=PIECES: cut (ends early; options how=close, \
how=end or how=reset), error (an error follows status 200; status=529, code=CODE), stall (nothing more comes; for=30s). \
Before its first token: keep_alive (comments or pings; count=10 or count=endless, every=1s). All along: slow (token=50ms \
for each token, an option of the others too).

In the answer: refusal, content_filter, length (cut; option tokens=5), tool_call (of a function that need not be \
called), bad_json (JSON that does not fit the schema), no_json (half of the JSON), echo (the last user message).

A rule that ends in model=NAME is for the calls to one model alone: 503:1:model=gpt-4o.

A request can also bring its own script in its last user message, in \"user\" (for Anthropic \"metadata.user_id\") or in \
\"metadata.simulate\": simulate:500,429,ok fails the job's first two calls.";

/// An outage, in full.
const OUTAGES: &str = "Take the provider away for a while, such as 10s+60s; may be repeated

From 10 s after the first call, for 60 s, every call gets status 503, whatever its key. 10s+60s:refuse closes the \
connection without an answer, and 10s+60s:RULE does what a fault rule says: timeout, 529:0.9, 503:1:model=gpt-4o. No limit \
counts these calls. GET /simulator/stats tells how many there were, and how many at once.";

/// The limits of a model, in full.
const MODEL_LIMITS: &str = "Limit the calls to one model, beside all calls: MODEL=rpm:600,tpm:100000; may be repeated

The limits are rpm, tpm, itpm, otpm, rpd and max_parallel. At Azure the deployment stands for the model. Each model that is \
named has an audit of its own under GET /simulator/stats.";

/// Run a stand-in for an LLM provider: an HTTP server like OpenAI's, Azure's and Anthropic's, with latency, limits and
/// faults on demand.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8010")]
    pub listen: SocketAddr,

    /// Time until an answer is sent, such as 200ms or 1.5s
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration::parse)]
    pub latency: Duration,

    /// Vary the latency evenly by this much to both sides
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration::parse)]
    pub jitter: Duration,

    /// Mean length of an answer, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 100)]
    pub output_tokens: u32,

    /// Seed of faults, latencies and answers: the same seed repeats them call by call
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,

    /// Let calls fail, such as 429:0.02:retry-after=1.5 or reset:0.01; may be repeated
    #[arg(long = "fault", value_name = "RULE", long_help = FAULTS)]
    pub faults: Vec<FaultRule>,

    /// Take the provider away for a while, such as 10s+60s; may be repeated
    #[arg(long = "outage", value_name = "OUTAGE", long_help = OUTAGES)]
    pub outages: Vec<Outage>,

    /// Limit the requests per minute
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..))]
    pub rpm: Option<u32>,

    /// Limit the tokens per minute, taken at arrival as each provider counts them
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub tpm: Option<u32>,

    /// Limit the tokens of input per minute, those read from a cache apart
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub itpm: Option<u32>,

    /// Limit the tokens of output per minute, taken when an answer ends
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub otpm: Option<u32>,

    /// Limit the requests per day
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..))]
    pub rpd: Option<u32>,

    /// Limit the calls under way at once
    #[arg(long, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_parallel: Option<u32>,

    /// Limit the calls to one model, beside all calls: MODEL=rpm:600,tpm:100000; may be repeated
    #[arg(long = "limit", value_name = "LIMITS", long_help = MODEL_LIMITS)]
    pub model_limits: Vec<ModelLimits>,

    /// Change limits in mid-run, such as 30s=rpm:3000 or 30s=MODEL=rpm:3000; may be repeated
    ///
    /// The time runs from the first call. What is not named stays as it is, and 0 lifts a limit. No caller is told. What
    /// was used of the old limit is used of the new one, in proportion.
    #[arg(long = "limit-at", value_name = "CHANGE")]
    pub limit_changes: Vec<LimitChange>,

    /// Enforce the limits as bucket, window, azure or azure:1s
    ///
    /// bucket fills evenly and holds a burst; window gives the whole quota at the start of every minute; azure looks at
    /// requests in windows of 10 seconds, azure:1s of one, and at tokens by the minute.
    #[arg(long, value_name = "SHAPE", default_value = "bucket")]
    pub limit_shape: LimitShape,

    /// What a full bucket holds, in seconds of its limit [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub limit_burst: Option<Duration>,

    /// Tell the limits in headers and errors
    #[arg(long, value_enum, value_name = "SWITCH", default_value = "on")]
    pub limit_headers: Switch,

    /// Tell calls that a limit refuses how long to wait
    #[arg(long, value_enum, value_name = "SWITCH", default_value = "on")]
    pub retry_after: Switch,

    /// Refuse calls without the key that this environment variable holds
    #[arg(long, value_name = "NAME")]
    pub require_key_env: Option<String>,

    /// Append a JSON line for each call to this file: time, job's marker, outcome
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Reads a number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("`{text}` is no number of seconds"))
}

impl Args {
    /// Reads the key from its environment variable and returns the options of a simulator.
    fn into_options(self) -> Result<Options, Error> {
        let require_key = match self.require_key_env {
            None => None,
            Some(name) => match env::var(&name) {
                Ok(key) if !key.is_empty() => Some(key),
                _ => return Err(Error::KeyNotSet { name }),
            },
        };
        let limit_shape = match (self.limit_shape, self.limit_burst) {
            (shape, None) => shape,
            (LimitShape::Bucket { .. }, Some(burst)) => LimitShape::Bucket { burst },
            (LimitShape::Window | LimitShape::Azure { .. }, Some(burst)) => {
                let (text, reason) = (burst.as_secs_f64().to_string(), "only a bucket has a burst".to_owned());
                return Err(Error::Setting { what: "--limit-burst", text, reason });
            }
        };
        Ok(Options {
            listen: self.listen,
            seed: self.seed,
            latency: self.latency,
            jitter: self.jitter,
            output_tokens: self.output_tokens,
            token_latency: Duration::ZERO,
            limits: Limits {
                rpm: self.rpm,
                tpm: self.tpm,
                itpm: self.itpm,
                otpm: self.otpm,
                rpd: self.rpd,
                max_parallel: self.max_parallel,
            },
            model_limits: self.model_limits,
            limit_changes: self.limit_changes,
            limit_shape,
            limit_headers: self.limit_headers == Switch::On,
            retry_after: self.retry_after == Switch::On,
            outages: self.outages,
            faults: self.faults,
            require_key,
            log: self.log,
        })
    }
}

/// Serves until cancelled, after one line on standard output that names the base URL.
pub async fn run(args: Args, cancel: CancellationToken) -> Result<(), Error> {
    let simulator = Simulator::start(args.into_options()?).await?;
    let mut out = io::stdout();
    writeln!(out, "simulating an OpenAI-compatible provider on {}", simulator.base_url()).map_err(Error::Output)?;
    out.flush().map_err(Error::Output)?;
    cancel.cancelled().await;
    simulator.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Command::try_parse_from([&["simulate"], args].concat()).map(|command| command.args)
    }

    #[test]
    fn flags_become_options() {
        let flags = "--listen 127.0.0.1:0 --latency 200ms --jitter 50ms --output-tokens 20 --seed 7 \
                     --fault 429:0.02:retry-after=1.5 --fault reset:0.01 --rpm 600 --tpm 9000 --log calls.jsonl";
        let args = parse(&flags.split_whitespace().collect::<Vec<_>>()).unwrap();
        let options = args.into_options().unwrap();
        assert_eq!((options.latency, options.jitter), (Duration::from_millis(200), Duration::from_millis(50)));
        assert_eq!((options.seed, options.output_tokens), (7, 20));
        assert_eq!((options.limits.rpm, options.limits.tpm), (Some(600), Some(9_000)));
        assert!(options.limit_headers && options.retry_after);
        assert_eq!(options.faults.iter().map(FaultRule::rate).sum::<f64>(), 0.03);
        assert_eq!(options.log, Some("calls.jsonl".into()));
    }

    #[test]
    fn flags_of_limits_become_options() {
        let flags = "--itpm 5 --otpm 6 --rpd 7 --max-parallel 8 --limit gpt-4o=rpm:600 --limit other=tpm:9 \
                     --limit-at 30s=rpm:3000 --limit-burst 2.5 --limit-headers off --retry-after off --outage 10s+60s";
        let options = parse(&flags.split_whitespace().collect::<Vec<_>>()).unwrap().into_options().unwrap();
        let Limits { rpm, tpm, itpm, otpm, rpd, max_parallel } = options.limits;
        assert_eq!((rpm, tpm, itpm, otpm, rpd, max_parallel), (None, None, Some(5), Some(6), Some(7), Some(8)));
        let models: Vec<_> = options.model_limits.iter().map(|of_model| of_model.model.as_str()).collect();
        assert_eq!(models, ["gpt-4o", "other"]);
        assert_eq!(options.limit_changes[0].limits.rpm, Some(3_000));
        assert_eq!(options.limit_shape, LimitShape::Bucket { burst: Duration::from_millis(2_500) });
        assert!(!options.limit_headers && !options.retry_after);
        assert_eq!(options.outages[0].lasts, Duration::from_secs(60));

        let args = parse(&["--limit-shape", "azure:1s"]).unwrap();
        let shape = args.into_options().unwrap().limit_shape;
        assert_eq!(shape, LimitShape::Azure { sub_window: Duration::from_secs(1) });
        let args = parse(&["--limit-shape", "window", "--limit-burst", "2"]).unwrap();
        let error = args.into_options().unwrap_err().to_string();
        assert_eq!(error, "--limit-burst `2` cannot be read: only a bucket has a burst");
    }

    #[test]
    fn a_wrong_flag_is_refused_with_its_reason() {
        for (flags, reason) in [
            (["--fault", "200:1"], "`200` is no fault"),
            (["--latency", "5"], "write it like 200ms, 1.5s or 2m"),
            (["--rpm", "0"], "0 is not in 1.."),
            (["--limit", "rpm:600"], "it is not MODEL=NAME:NUMBER"),
            (["--limit-at", "rpm:600"], "it is not TIME=NAME:NUMBER"),
            (["--limit-shape", "sliding"], "use bucket, window, azure or azure:1s"),
            (["--limit-burst", "1s"], "`1s` is no number of seconds"),
            (["--outage", "10s"], "it is not START+DURATION"),
        ] {
            let error = parse(&flags).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_not_set_is_refused_by_name() {
        let args = parse(&["--require-key-env", "GRISTMILL_NO_SUCH_KEY"]).unwrap();
        let error = args.into_options().unwrap_err().to_string();
        assert!(error.starts_with("the environment variable GRISTMILL_NO_SUCH_KEY is not set: "), "{error}");
    }
}
