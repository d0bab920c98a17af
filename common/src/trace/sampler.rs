//! Which traces are recorded, in the words of OpenTelemetry's environment variables
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>, read 2026-11). Pure.

use sha2::{Digest as _, Sha256};

use super::parent::{TraceId, Traceparent, first_bytes};

/// Decides whether a trace is recorded; every process that is told the same decides the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// The share of traces that is recorded.
    share: f64,
    /// Whether who began a trace elsewhere has decided for all.
    follows: bool,
}

impl Default for Sampler {
    /// The standard's: `parentbased_always_on`.
    fn default() -> Self {
        Self { share: 1.0, follows: true }
    }
}

/// What is wrong with the variables; the default holds then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// No such sampler.
    #[error(
        "OTEL_TRACES_SAMPLER names none of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, \
         parentbased_traceidratio; parentbased_always_on is used"
    )]
    Name,
    /// No such share.
    #[error("OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1; all traces are recorded")]
    Share,
}

impl Sampler {
    /// Reads the sampler's name and its argument.
    pub(super) fn read(name: Option<&str>, argument: Option<&str>) -> Result<Self, Error> {
        let Some(name) = name else { return Ok(Self::default()) };
        let name = name.trim().to_ascii_lowercase();
        let (follows, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, &*name),
        };
        let share = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => match argument.map(|argument| argument.trim().parse::<f64>()) {
                None => 1.0,
                Some(Ok(share)) if (0.0..=1.0).contains(&share) => share,
                Some(_) => return Err(Error::Share),
            },
            _ => return Err(Error::Name),
        };
        Ok(Self { share, follows })
    }

    /// Tells whether a trace is recorded; `begun` is what began it, if that was elsewhere.
    ///
    /// The id is hashed: those of jobs are a time and fixed bits where the usual rule looks for chance.
    pub(super) fn takes(&self, trace: TraceId, begun: Option<Traceparent>) -> bool {
        match begun {
            Some(begun) if self.follows => begun.sampled,
            _ if self.share >= 1.0 => true,
            _ => chance(trace) < self.share,
        }
    }
}

/// Returns a number of a trace, evenly spread from 0 to below 1.
fn chance(trace: TraceId) -> f64 {
    let mut hasher = Sha256::new();
    hasher.update("sample");
    hasher.update(trace.to_bytes());
    // As many bits as a float holds.
    (first_bytes(hasher) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::id::{BatchId, JobId};

    #[test]
    fn samplers_are_read_by_their_standard_names() {
        let sampler = |share, follows| Ok(Sampler { share, follows });
        for (name, argument, expected) in [
            (None, None, sampler(1.0, true)),
            (None, Some("0.5"), sampler(1.0, true)),
            (Some("always_on"), None, sampler(1.0, false)),
            (Some("always_off"), None, sampler(0.0, false)),
            (Some("Always_OFF "), None, sampler(0.0, false)),
            (Some("traceidratio"), Some("0.25"), sampler(0.25, false)),
            (Some("traceidratio"), None, sampler(1.0, false)),
            (Some("parentbased_always_on"), None, sampler(1.0, true)),
            (Some("parentbased_always_off"), None, sampler(0.0, true)),
            (Some("parentbased_traceidratio"), Some(" 0.1 "), sampler(0.1, true)),
            (Some("parentbased_traceidratio"), Some("2"), Err(Error::Share)),
            (Some("traceidratio"), Some("NaN"), Err(Error::Share)),
            (Some("traceidratio"), Some("some"), Err(Error::Share)),
            (Some("jaeger_remote"), None, Err(Error::Name)),
        ] {
            assert_eq!(Sampler::read(name, argument), expected, "{name:?} {argument:?}");
        }
    }

    #[test]
    fn a_share_of_jobs_is_taken_and_always_the_same() {
        let batch = BatchId::new(SystemClock.now());
        let some = Sampler { share: 0.25, follows: false };
        let traces = (0..4_000).map(|ordinal| TraceId::of(JobId::derive(batch, ordinal)));
        let taken = traces.filter(|trace| some.takes(*trace, None)).count();
        assert!((850..1_150).contains(&taken), "{taken} of 4000");
        let trace = TraceId::of(JobId::derive(batch, 0));
        assert_eq!(some.takes(trace, None), some.takes(trace, None));
        assert!(!Sampler { share: 0.0, follows: true }.takes(trace, None));
    }

    #[test]
    fn who_began_a_trace_elsewhere_decides_where_the_sampler_follows() {
        let batch = BatchId::new(SystemClock.now());
        let begun = |sampled| Traceparent::of(JobId::derive(batch, 0), sampled);
        let trace = begun(true).trace;
        for (share, follows, sampled, expected) in
            [(1.0, true, false, false), (0.0, true, true, true), (1.0, false, false, true), (0.0, false, true, false)]
        {
            assert_eq!(Sampler { share, follows }.takes(trace, Some(begun(sampled))), expected);
        }
    }
}
