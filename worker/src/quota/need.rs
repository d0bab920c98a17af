//! What a call takes of its account's limits, before it is made and once its usage is known.
//!
//! Each provider counts by a rule of its own. OpenAI takes, at admission, the larger of the maximum of the answer and an
//! estimate of the request (<https://developers.openai.com/api/docs/guides/rate-limits>, read 2026-11); Azure takes both
//! (<https://learn.microsoft.com/azure/ai-services/openai/how-to/quota>, read 2026-11); Anthropic counts input without what its
//! cache gave, and output as it is produced (<https://platform.claude.com/docs/en/api/rate-limits>, read 2026-11).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gristmill_common::config::{Deployment, Dialect};
use gristmill_common::outcome::Usage;
use gristmill_common::quota::{Dimension, PerDimension};
use serde_json::Value;

use super::{Need, Size};

/// Output that is reserved for a model of which no answer was seen yet.
const FIRST_OUTPUT: f64 = 256.0;
/// The part of an estimate of input by which it may be too high: one in so many.
const DOUBT: u64 = 5;
/// How slowly estimates follow what is measured.
const INERTIA: f64 = 0.05;

/// What was learnt of the models' counts.
#[derive(Debug, Default)]
pub(crate) struct Estimator(Mutex<BTreeMap<Arc<str>, Learnt>>);

#[derive(Debug, Clone, Copy)]
struct Learnt {
    /// Tokens that the provider counts for one that was estimated.
    ratio: f64,
    /// Tokens of the usual answer.
    output: f64,
}

impl Estimator {
    /// Returns what a call of this size takes when it starts.
    pub(crate) fn need(&self, deployment: &Deployment, size: Size) -> Need {
        let learnt = self.learnt(&deployment.model);
        need(deployment, size, scaled(size.input, learnt.ratio), whole(learnt.output))
    }

    /// Returns the least that a call of this size may take, as far as can be known: a fifth of its estimated input less, an answer
    /// of one token, and what it reserves for an answer by itself.
    pub(crate) fn least(&self, deployment: &Deployment, size: Size) -> Need {
        let less = |tokens: u64| tokens - tokens / DOUBT;
        let input = less(scaled(size.input, self.learnt(&deployment.model).ratio));
        need(deployment, Size { by_length: size.by_length.map(less), ..size }, input, 1)
    }

    /// Returns what a call has taken, by the usage that its provider told: what was taken at admission stays taken where the
    /// provider's rule is so.
    pub(crate) fn used(&self, deployment: &Deployment, taken: &Need, usage: &Usage) -> Need {
        let (Some(input), Some(output)) = (usage.input_tokens, usage.output_tokens) else { return *taken };
        let cached = u64::from(usage.cached_input_tokens.unwrap_or_default());
        let (input, output) = (u64::from(input).saturating_sub(cached), u64::from(output));
        let at_admission = admits_by_length(deployment) || deployment.wire.dialect == Dialect::Azure;
        PerDimension::from_fn(|dimension| match dimension {
            Dimension::Requests => 1,
            Dimension::Tokens if at_admission => taken[Dimension::Tokens],
            Dimension::Tokens => input + output,
            Dimension::InputTokens => input,
            Dimension::OutputTokens => output,
        })
    }

    /// Learns from an answer how its model counts: from a request that was counted here as later ones will be.
    pub(crate) fn learn(&self, deployment: &Deployment, size: Size, usage: &Usage) {
        let (Some(input), Some(output)) = (usage.input_tokens, usage.output_tokens) else { return };
        let mut learnt = self.lock();
        let entry = learnt.entry(Arc::clone(&deployment.model)).or_insert(Learnt::FIRST);
        if size.by_length.is_some() {
            let ratio = f64::from(input) / real(size.input.max(1));
            entry.ratio += INERTIA * (ratio.clamp(0.1, 10.0) - entry.ratio);
        }
        entry.output += INERTIA * (f64::from(output) - entry.output);
    }

    fn learnt(&self, model: &str) -> Learnt {
        self.lock().get(model).copied().unwrap_or(Learnt::FIRST)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Learnt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Learnt {
    const FIRST: Self = Self { ratio: 1.0, output: FIRST_OUTPUT };
}

/// Tells whether a deployment's provider takes a request for as large as its text is long, and leaves it at that.
pub(crate) fn admits_by_length(deployment: &Deployment) -> bool {
    deployment.wire.dialect == Dialect::OpenAi && &*deployment.provider == "openai"
}

/// Counts what a call takes, by its tokens of input and of the usual answer.
fn need(deployment: &Deployment, size: Size, input: u64, usual: u64) -> Need {
    let most_output = most_output(deployment, size);
    let output = most_output.map_or(usual, |most| most.min(usual.max(1)));
    let tokens = match deployment.wire.dialect {
        _ if admits_by_length(deployment) => {
            // OpenAI's admission does not count: it looks at the length.
            size.by_length.unwrap_or(input).max(most_output.unwrap_or_default())
        }
        // Others count what was used in the end.
        Dialect::OpenAi => input.saturating_add(output),
        Dialect::Azure => input.saturating_add(most_output.unwrap_or(usual)),
        Dialect::Anthropic => input.saturating_add(output),
    };
    PerDimension::from_fn(|dimension| match dimension {
        Dimension::Requests => 1,
        Dimension::Tokens => tokens,
        Dimension::InputTokens => input,
        Dimension::OutputTokens => output,
    })
}

/// Returns the most tokens of output of a request as the deployment sends it on: with its defaults, where the request says nothing.
fn most_output(deployment: &Deployment, size: Size) -> Option<u64> {
    let number = |name| deployment.defaults.get(name).and_then(Value::as_u64);
    let choices = || number("n").unwrap_or(1).max(1);
    match size.most_output {
        // It was counted for the choices that it names.
        Some(most) if size.choices.is_none() => Some(most.saturating_mul(choices())),
        None if size.is_open => {
            let most = number("max_completion_tokens").or_else(|| number("max_tokens"))?;
            Some(most.saturating_mul(size.choices.unwrap_or_else(choices)))
        }
        most => most,
    }
}

#[expect(clippy::cast_precision_loss, reason = "tokens of a request are far below 2^52")]
const fn real(tokens: u64) -> f64 {
    tokens as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens, never below zero")]
const fn whole(tokens: f64) -> u64 {
    tokens.ceil() as u64
}

fn scaled(tokens: u64, ratio: f64) -> u64 {
    whole(real(tokens) * ratio).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(provider: &str, dialect: Dialect) -> Deployment {
        let mut deployment = Deployment::new("m", provider, "m", "http://localhost/v1".parse().unwrap());
        deployment.wire.dialect = dialect;
        deployment
    }

    fn four(need: Need) -> [u64; 4] {
        Dimension::ALL.map(|dimension| need[dimension])
    }

    #[test]
    fn each_provider_takes_by_its_own_rule() {
        let estimator = Estimator::default();
        let size = Size { input: 100, by_length: Some(120), most_output: Some(500), ..Size::default() };
        let open = Size { most_output: None, ..size };
        for (provider, wanted) in [("openai", [1, 120, 100, 256]), ("groq", [1, 356, 100, 256])] {
            assert_eq!(four(estimator.need(&deployment(provider, Dialect::OpenAi), open)), wanted, "{provider}");
        }
        for (provider, dialect, wanted) in [
            ("openai", Dialect::OpenAi, [1, 500, 100, 256]),
            ("azure", Dialect::Azure, [1, 600, 100, 256]),
            ("anthropic", Dialect::Anthropic, [1, 356, 100, 256]),
        ] {
            assert_eq!(four(estimator.need(&deployment(provider, dialect), size)), wanted, "{provider}");
        }
    }

    #[test]
    fn a_deployments_own_bound_is_reserved_where_the_request_names_none() {
        let estimator = Estimator::default();
        let with = |provider, dialect, defaults: &str| Deployment {
            defaults: Arc::new(serde_json::from_str(defaults).unwrap()),
            ..deployment(provider, dialect)
        };
        let open = Size { input: 100, by_length: Some(120), is_open: true, ..Size::default() };
        let two = Size { choices: Some(2), ..open };
        let bounded = Size { most_output: Some(300), is_open: false, ..open };
        let other = Size { is_open: false, ..open };
        for (provider, dialect, defaults, size, wanted) in [
            ("openai", Dialect::OpenAi, r#"{"max_tokens":2000}"#, open, [1, 2000, 100, 256]),
            ("openai", Dialect::OpenAi, r#"{"max_tokens":2000}"#, two, [1, 4000, 100, 256]),
            ("openai", Dialect::OpenAi, r#"{"max_tokens":2000}"#, bounded, [1, 300, 100, 256]),
            ("openai", Dialect::OpenAi, r#"{"max_tokens":2000}"#, other, [1, 120, 100, 256]),
            ("openai", Dialect::OpenAi, r#"{"max_tokens":9,"max_completion_tokens":700}"#, open, [1, 700, 100, 256]),
            ("openai", Dialect::OpenAi, r#"{"n":3}"#, bounded, [1, 900, 100, 256]),
            ("azure", Dialect::Azure, r#"{"max_tokens":2000}"#, open, [1, 2100, 100, 256]),
            ("groq", Dialect::OpenAi, r#"{"max_tokens":50}"#, open, [1, 150, 100, 50]),
            ("groq", Dialect::OpenAi, r#"{"max_tokens":50,"n":3}"#, open, [1, 250, 100, 150]),
            ("anthropic", Dialect::Anthropic, r#"{"max_tokens":50}"#, open, [1, 150, 100, 50]),
        ] {
            let need = estimator.need(&with(provider, dialect, defaults), size);
            assert_eq!(four(need), wanted, "{provider} {defaults} {size:?}");
        }
    }

    #[test]
    fn the_least_that_a_call_may_take_doubts_what_is_guessed_and_nothing_that_is_asked_for() {
        let estimator = Estimator::default();
        let size = Size { input: 100, by_length: Some(600), most_output: Some(500), ..Size::default() };
        let open = Size { most_output: None, ..size };
        for (provider, dialect, size, wanted) in [
            ("openai", Dialect::OpenAi, size, [1, 500, 80, 1]),
            ("openai", Dialect::OpenAi, open, [1, 480, 80, 1]),
            ("azure", Dialect::Azure, size, [1, 580, 80, 1]),
            ("anthropic", Dialect::Anthropic, size, [1, 81, 80, 1]),
        ] {
            assert_eq!(four(estimator.least(&deployment(provider, dialect), size)), wanted, "{provider} {size:?}");
        }
    }

    #[test]
    fn usage_settles_what_the_provider_counts_and_not_what_it_took_at_admission() {
        let estimator = Estimator::default();
        let usage = Usage {
            input_tokens: Some(120),
            cached_input_tokens: Some(80),
            output_tokens: Some(30),
            ..Usage::default()
        };
        let taken = PerDimension::from_fn(|_| 500);
        for (provider, dialect, wanted) in [
            ("openai", Dialect::OpenAi, [1, 500, 40, 30]),
            ("groq", Dialect::OpenAi, [1, 70, 40, 30]),
            ("azure", Dialect::Azure, [1, 500, 40, 30]),
            ("anthropic", Dialect::Anthropic, [1, 70, 40, 30]),
        ] {
            assert_eq!(four(estimator.used(&deployment(provider, dialect), &taken, &usage)), wanted, "{provider}");
        }
        let unknown = estimator.used(&deployment("groq", Dialect::OpenAi), &taken, &Usage::default());
        assert_eq!(unknown, taken, "without usage nothing comes back");
    }

    #[test]
    fn estimates_follow_what_answers_say() {
        let estimator = Estimator::default();
        let deployment = deployment("anthropic", Dialect::Anthropic);
        let size = Size { input: 100, by_length: Some(100), ..Size::default() };
        let usage = Usage { input_tokens: Some(150), output_tokens: Some(20), ..Usage::default() };
        for _ in 0..200 {
            estimator.learn(&deployment, size, &usage);
        }
        let need = estimator.need(&deployment, size);
        assert!((149..=151).contains(&need[Dimension::InputTokens]), "{need:?}");
        assert!((20..=21).contains(&need[Dimension::OutputTokens]), "{need:?}");
        for _ in 0..200 {
            estimator.learn(&deployment, Size::of_bytes(4_000), &usage);
        }
        assert_eq!(estimator.need(&deployment, size), need, "a length alone teaches nothing of how counts differ");
    }
}
