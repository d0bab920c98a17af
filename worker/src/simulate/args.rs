//! The command line of `gristmill simulate`. One of the few files that name `clap`.

use std::env;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::fault::FaultRule;
use super::options::Options;
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

    /// Limit the requests per minute, with a burst of one second's worth
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..))]
    pub rpm: Option<u32>,

    /// Limit the tokens per minute, with a burst of one second's worth
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub tpm: Option<u32>,

    /// Refuse calls without the key that this environment variable holds
    #[arg(long, value_name = "NAME")]
    pub require_key_env: Option<String>,

    /// Append a JSON line for each call to this file: time, job's marker, outcome
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
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
        Ok(Options {
            listen: self.listen,
            seed: self.seed,
            latency: self.latency,
            jitter: self.jitter,
            output_tokens: self.output_tokens,
            token_latency: Duration::ZERO,
            rpm: self.rpm,
            tpm: self.tpm,
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
        assert_eq!((options.rpm, options.tpm), (Some(600), Some(9_000)));
        assert_eq!(options.faults.iter().map(FaultRule::rate).sum::<f64>(), 0.03);
        assert_eq!(options.log, Some("calls.jsonl".into()));
    }

    #[test]
    fn a_wrong_flag_is_refused_with_its_reason() {
        for (flags, reason) in [
            (["--fault", "200:1"], "`200` is no fault"),
            (["--latency", "5"], "write it like 200ms, 1.5s or 2m"),
            (["--rpm", "0"], "0 is not in 1.."),
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
