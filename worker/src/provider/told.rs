//! What a provider tells of its rate limits in the headers of an answer.

use http::HeaderMap;

/// A limit as a provider tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// What is limited, in the provider's word: `requests`, `tokens`, `input-tokens` …
    pub dimension: String,
    /// How much may be used.
    pub limit: u64,
    /// How much of it is left, where that is told.
    pub remaining: Option<u64>,
}

/// Reads the limits of an answer, sorted by dimension.
///
/// OpenAI and those like it send `x-ratelimit-limit-requests`, Anthropic `anthropic-ratelimit-requests-limit`. What is no
/// number, such as Azure's -1 for what nobody has counted, tells nothing.
pub(super) fn limits(headers: &HeaderMap) -> Vec<Limit> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    let mut limits: Vec<Limit> = headers
        .keys()
        .filter_map(|name| {
            let name = name.as_str();
            let (dimension, remaining) = if let Some(dimension) = name.strip_prefix("x-ratelimit-limit-") {
                (dimension, format!("x-ratelimit-remaining-{dimension}"))
            } else {
                let dimension = name.strip_prefix("anthropic-ratelimit-")?.strip_suffix("-limit")?;
                (dimension, format!("anthropic-ratelimit-{dimension}-remaining"))
            };
            Some(Limit { dimension: dimension.to_owned(), limit: number(name)?, remaining: number(&remaining) })
        })
        .collect();
    limits.sort_by(|a, b| a.dimension.cmp(&b.dimension));
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn limits_are_read_in_every_providers_words() {
        let headers: HeaderMap = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-limit-tokens", "-1"),
            ("x-ratelimit-reset-requests", "1s"),
            ("anthropic-ratelimit-input-tokens-limit", "50000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-23T01:00:20Z"),
        ]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
        let limit = |dimension: &str, limit, remaining| Limit { dimension: dimension.to_owned(), limit, remaining };
        assert_eq!(limits(&headers), [limit("input-tokens", 50_000, None), limit("requests", 60, Some(59))]);
    }
}
