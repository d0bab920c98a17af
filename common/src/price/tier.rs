//! Which service tier a call is billed at, of what was asked for and what was served.

/// A service tier with prices of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceTier {
    /// Slower and cheaper.
    Flex,
    /// Between flex and the plain one.
    Balanced,
    /// Faster and dearer.
    Priority,
    /// Another name of priority, at its prices.
    Fast,
    /// The fastest.
    Ultrafast,
}

/// Providers whose prices know no tiers (LiteLLM 1.109.1, `cost_calculator.py`; with the other names of Alibaba's).
const WITHOUT_TIERS: [&str; 8] =
    ["deepseek", "fireworks_ai", "xai", "dashscope", "qwencloud", "qwen_ai_platform", "perplexity", "tencent"];

impl ServiceTier {
    /// Finds the tier that a call is billed at; `None` is the plain price.
    ///
    /// What was served counts. Where the provider does not say, or says what has no price, what was asked for does.
    pub fn resolve(requested: Option<&str>, served: Option<&str>) -> Option<Self> {
        match served {
            Some("default" | "standard") => None,
            served => served.and_then(Self::named).or_else(|| requested.and_then(Self::named)),
        }
    }

    /// Finds a tier by its name; `auto`, `default` and names without a price of their own are none.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "flex" => Some(Self::Flex),
            "balanced" => Some(Self::Balanced),
            "priority" => Some(Self::Priority),
            "fast" => Some(Self::Fast),
            "ultrafast" => Some(Self::Ultrafast),
            _ => None,
        }
    }

    /// Returns what ends the names of its prices.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Flex => "_flex",
            Self::Balanced => "_balanced",
            Self::Priority | Self::Fast => "_priority",
            Self::Ultrafast => "_ultrafast",
        }
    }

    /// Tells whether a provider's prices know tiers.
    pub(super) fn counts_at(provider: &str) -> bool {
        !WITHOUT_TIERS.contains(&provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_served_counts_and_else_what_was_asked_for() {
        use ServiceTier::{Fast, Flex, Priority};
        for (requested, served, tier) in [
            (None, None, None),
            (None, Some("flex"), Some(Flex)),
            (Some("priority"), Some("default"), None),
            (Some("priority"), Some("standard"), None),
            (Some("fast"), Some("priority"), Some(Priority)),
            (Some("fast"), None, Some(Fast)),
            (Some("priority"), None, Some(Priority)),
            (Some("auto"), None, None),
            (Some("auto"), Some("default"), None),
            (Some("flex"), Some("batch"), Some(Flex)),
            (Some("standard_only"), None, None),
            (None, Some("scale"), None),
        ] {
            assert_eq!(ServiceTier::resolve(requested, served), tier, "{requested:?} {served:?}");
        }
    }
}
