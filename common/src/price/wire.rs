//! Reads usage as providers write it.
//!
//! Anthropic's counts are apart from each other (<https://docs.claude.com/en/api/messages>, read 2026-11-23); OpenAI's details are
//! parts of the whole. Names are read where any provider has them: servers that speak OpenAI's API add to it.

use serde_json::Value;

use super::{PicoUsd, Usage};

/// The ways in which providers write usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// OpenAI's chat completions, and what `DeepSeek` and others add to them.
    OpenAiChat,
    /// OpenAI's responses.
    OpenAiResponses,
    /// Anthropic's messages.
    Anthropic,
    /// OpenAI's embeddings.
    Embeddings,
}

impl Shape {
    /// Tells the shape by the fields that are there; `None` where it is no usage.
    pub fn of(usage: &Value) -> Option<Self> {
        let has = |name| usage.get(name).is_some_and(|value| !value.is_null());
        let is_anthropic =
            ["cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "server_tool_use"]
                .into_iter()
                .any(has);
        match (has("prompt_tokens"), has("completion_tokens"), has("input_tokens") || has("output_tokens")) {
            (_, true, _) => Some(Self::OpenAiChat),
            (true, false, _) => Some(Self::Embeddings),
            (false, false, false) => None,
            _ if has("input_tokens_details") || has("total_tokens") => Some(Self::OpenAiResponses),
            _ if is_anthropic || has("service_tier") => Some(Self::Anthropic),
            // Without any details both mean the same.
            _ => Some(Self::OpenAiResponses),
        }
    }
}

impl Usage {
    /// Reads the `usage` of an answer; `None` where it is none.
    pub fn read(usage: &Value) -> Option<Self> {
        Shape::of(usage).map(|shape| Self::read_as(usage, shape))
    }

    /// Reads the `usage` of an answer whose shape is known; what is missing counts as none.
    pub fn read_as(usage: &Value, shape: Shape) -> Self {
        let own = match shape {
            Shape::OpenAiChat | Shape::Embeddings => chat(usage),
            Shape::OpenAiResponses => responses(usage),
            Shape::Anthropic => anthropic(usage),
        };
        let first =
            |paths: &[&[&str]]| paths.iter().map(|path| count(usage, path)).find(|count| *count > 0).unwrap_or(0);
        Self {
            total_tokens: at(usage, &["total_tokens"]).and_then(whole),
            citation_tokens: count(usage, &["citation_tokens"]),
            web_search_requests: first(&[
                &["server_tool_use", "web_search_requests"],
                &["prompt_tokens_details", "web_search_requests"],
                &["num_search_queries"],
            ]),
            service_tier: text(usage, "service_tier"),
            speed: text(usage, "speed"),
            inference_geo: text(usage, "inference_geo"),
            cost_pico_usd: cost(usage),
            ..own
        }
    }
}

fn chat(usage: &Value) -> Usage {
    let prompt = |name| count(usage, &["prompt_tokens_details", name]);
    let completion = |name| count(usage, &["completion_tokens_details", name]);
    let written = |name| count(usage, &["prompt_tokens_details", "cache_creation_token_details", name]);
    let or = |own: u64, other: u64| if own > 0 { own } else { other };
    let top = |name| count(usage, &[name]);
    Usage {
        prompt_tokens: top("prompt_tokens"),
        completion_tokens: top("completion_tokens"),
        cached_tokens: or(
            prompt("cached_tokens"),
            // DeepSeek's, Moonshot's, and what LiteLLM's proxy writes for Anthropic.
            or(top("prompt_cache_hit_tokens"), or(top("cached_tokens"), top("cache_read_input_tokens"))),
        ),
        cached_audio_tokens: count(usage, &["prompt_tokens_details", "cached_tokens_details", "audio_tokens"]),
        cache_write_tokens: or(
            prompt("cache_write_tokens"),
            or(prompt("cache_creation_tokens"), top("cache_creation_input_tokens")),
        ),
        cache_write_5m_tokens: written("ephemeral_5m_input_tokens"),
        cache_write_30m_tokens: written("ephemeral_30m_input_tokens"),
        cache_write_1h_tokens: written("ephemeral_1h_input_tokens"),
        cache_write_12h_tokens: written("ephemeral_12h_input_tokens"),
        prompt_text_tokens: prompt("text_tokens"),
        prompt_audio_tokens: prompt("audio_tokens"),
        prompt_image_tokens: prompt("image_tokens"),
        prompt_video_tokens: prompt("video_tokens"),
        completion_text_tokens: completion("text_tokens"),
        completion_audio_tokens: completion("audio_tokens"),
        completion_image_tokens: completion("image_tokens"),
        reasoning_tokens: or(completion("reasoning_tokens"), top("reasoning_tokens")),
        ..Usage::default()
    }
}

fn responses(usage: &Value) -> Usage {
    let prompt = |name| count(usage, &["input_tokens_details", name]);
    let completion = |name| count(usage, &["output_tokens_details", name]);
    let written = |name| count(usage, &["input_tokens_details", "cache_write_tokens_details", name]);
    Usage {
        prompt_tokens: count(usage, &["input_tokens"]),
        completion_tokens: count(usage, &["output_tokens"]),
        cached_tokens: prompt("cached_tokens"),
        cached_audio_tokens: count(usage, &["input_tokens_details", "cached_tokens_details", "audio_tokens"]),
        cache_write_tokens: prompt("cache_write_tokens"),
        cache_write_5m_tokens: written("ttl_5m_tokens"),
        cache_write_30m_tokens: written("ttl_30m_tokens"),
        cache_write_1h_tokens: written("ttl_1h_tokens"),
        cache_write_12h_tokens: written("ttl_12h_tokens"),
        prompt_text_tokens: prompt("text_tokens"),
        prompt_audio_tokens: prompt("audio_tokens"),
        prompt_image_tokens: prompt("image_tokens"),
        prompt_video_tokens: prompt("video_tokens"),
        completion_text_tokens: completion("text_tokens"),
        completion_audio_tokens: completion("audio_tokens"),
        completion_image_tokens: completion("image_tokens"),
        reasoning_tokens: completion("reasoning_tokens"),
        ..Usage::default()
    }
}

fn anthropic(usage: &Value) -> Usage {
    let input = count(usage, &["input_tokens"]);
    let output = count(usage, &["output_tokens"]);
    let cached = count(usage, &["cache_read_input_tokens"]);
    let kept = |name| count(usage, &["cache_creation", name]);
    let (short, long) = (kept("ephemeral_5m_input_tokens"), kept("ephemeral_1h_input_tokens"));
    let written = match count(usage, &["cache_creation_input_tokens"]) {
        0 => short.saturating_add(long),
        written => written,
    };
    let reasoning = count(usage, &["output_tokens_details", "thinking_tokens"]).min(output);
    Usage {
        prompt_tokens: input.saturating_add(cached).saturating_add(written),
        completion_tokens: output,
        cached_tokens: cached,
        cache_write_tokens: written,
        cache_write_5m_tokens: short,
        cache_write_1h_tokens: long,
        prompt_text_tokens: input,
        completion_text_tokens: output - reasoning,
        reasoning_tokens: reasoning,
        ..Usage::default()
    }
}

/// Reads `cost`: dollars, or Perplexity's object of them.
fn cost(usage: &Value) -> Option<PicoUsd> {
    let cost = usage.get("cost")?;
    let amount = cost.get("total_cost").unwrap_or(cost);
    let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
    text.parse().ok().filter(|cost| *cost >= PicoUsd::ZERO)
}

fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

fn count(value: &Value, path: &[&str]) -> u64 {
    at(value, path).and_then(whole).unwrap_or(0)
}

/// Reads a count; some servers write `12.0`.
fn whole(value: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of floats saturates")]
    value.as_u64().or_else(|| value.as_f64().map(|number| number.max(0.0) as u64))
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_told_by_the_fields() {
        for (json, shape) in [
            (r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#, Some(Shape::OpenAiChat)),
            (r#"{"prompt_tokens":1,"total_tokens":1}"#, Some(Shape::Embeddings)),
            (r#"{"input_tokens":1,"input_tokens_details":{},"output_tokens":2}"#, Some(Shape::OpenAiResponses)),
            (r#"{"input_tokens":1,"output_tokens":2,"total_tokens":3}"#, Some(Shape::OpenAiResponses)),
            (r#"{"input_tokens":1,"cache_read_input_tokens":5,"output_tokens":2}"#, Some(Shape::Anthropic)),
            (r#"{"input_tokens":1,"output_tokens":2,"service_tier":"standard"}"#, Some(Shape::Anthropic)),
            // LiteLLM's proxy writes Anthropic's counts beside OpenAI's, which have them in them.
            (r#"{"prompt_tokens":6,"completion_tokens":2,"cache_read_input_tokens":5}"#, Some(Shape::OpenAiChat)),
            (r#"{"total_tokens":3}"#, None),
            ("null", None),
            ("7", None),
        ] {
            assert_eq!(Shape::of(&serde_json::from_str(json).unwrap()), shape, "{json}");
        }
    }

    #[test]
    fn what_is_null_or_strange_counts_as_none() {
        let usage = serde_json::json!({
            "prompt_tokens": 12.0, "completion_tokens": -3, "total_tokens": null, "prompt_tokens_details": null,
            "completion_tokens_details": {"reasoning_tokens": "many"}, "cost": "0.25",
        });
        let wanted = Usage { prompt_tokens: 12, cost_pico_usd: Some(PicoUsd(250_000_000_000)), ..Usage::default() };
        assert_eq!(Usage::read(&usage), Some(wanted));
    }

    #[test]
    fn what_was_read_is_stored_without_zeros_and_read_again() {
        let wire = serde_json::json!({
            "input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 7, "service_tier": "standard",
            "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
            "server_tool_use": {"web_search_requests": 2},
        });
        let usage = Usage::read(&wire).unwrap();
        let stored = serde_json::to_string(&usage).unwrap();
        assert_eq!(
            stored,
            "{\"prompt_tokens\":117,\"completion_tokens\":7,\"cached_tokens\":100,\"cache_write_tokens\":7,\
             \"cache_write_5m_tokens\":3,\"cache_write_1h_tokens\":4,\"prompt_text_tokens\":10,\
             \"completion_text_tokens\":7,\"web_search_requests\":2,\"service_tier\":\"standard\"}"
        );
        assert_eq!(serde_json::from_str::<Usage>(&stored).unwrap(), usage);
    }

    #[test]
    fn perplexitys_cost_is_an_object() {
        let usage = serde_json::json!({"prompt_tokens": 1, "completion_tokens": 2, "cost": {"total_cost": 0.006}});
        assert_eq!(Usage::read(&usage).unwrap().cost_pico_usd, Some(PicoUsd(6_000_000_000)));
    }
}
