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

use super::{Need, Size};

/// Output that is reserved for a model of which no answer was seen yet.
const FIRST_OUTPUT: f64 = 256.0;
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
        let input = scaled(size.input, learnt.ratio);
        let usual = whole(learnt.output);
        let output = size.most_output.map_or(usual, |most| most.min(usual.max(1)));
        let tokens = match deployment.wire.dialect {
            Dialect::OpenAi if &*deployment.provider == "openai" => {
                // OpenAI's admission does not count: it looks at the length.
                size.by_length.unwrap_or(input).max(size.most_output.unwrap_or_default())
            }
            // Others count what was used in the end.
            Dialect::OpenAi => input.saturating_add(output),
            Dialect::Azure => input.saturating_add(size.most_output.unwrap_or(usual)),
            Dialect::Anthropic => input.saturating_add(output),
        };
        PerDimension::from_fn(|dimension| match dimension {
            Dimension::Requests => 1,
            Dimension::Tokens => tokens,
            Dimension::InputTokens => input,
            Dimension::OutputTokens => output,
        })
    }

    /// Returns what a call has taken, by the usage that its provider told: what was taken at admission stays taken where the
    /// provider's rule is so.
    pub(crate) fn used(&self, deployment: &Deployment, taken: &Need, usage: &Usage) -> Need {
        let (Some(input), Some(output)) = (usage.input_tokens, usage.output_tokens) else { return *taken };
        let cached = u64::from(usage.cached_input_tokens.unwrap_or_default());
        let (input, output) = (u64::from(input).saturating_sub(cached), u64::from(output));
        let at_admission = match deployment.wire.dialect {
            Dialect::OpenAi => &*deployment.provider == "openai",
            Dialect::Azure => true,
            Dialect::Anthropic => false,
        };
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
        let size = Size { input: 100, by_length: Some(120), most_output: Some(500) };
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
        let size = Size { input: 100, by_length: Some(100), most_output: None };
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
