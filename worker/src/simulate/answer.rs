//! Answers that succeed, in OpenAI's shapes.
//!
//! The shapes follow <https://platform.openai.com/docs/api-reference> as the `openai` package 3.54.0 types them (read 2026-11-23).

use super::embedding;
use super::json::Json;
use super::prose;
use super::random::Random;
use super::request::{Endpoint, Request};

/// Names the build that answered, as `system_fingerprint` does.
const FINGERPRINT: &str = "\"system_fingerprint\":\"fp_simulated\"";

/// Length of an embedding when the call names none, as `text-embedding-3-small` has it.
const DIMENSIONS: u64 = 1_536;

/// Words of a text that must be JSON.
const JSON_WORDS: usize = 12;

/// Tokens of the JSON around those words.
const JSON_TOKENS: usize = 10;

/// Words in one event of a stream.
const EVENT_WORDS: usize = 4;

/// What an answer is made from, besides the request.
#[derive(Debug)]
pub(super) struct Facts {
    /// Makes the answer's id.
    pub(super) id: u64,
    /// Unix time in seconds.
    pub(super) created: u64,
    /// Mean length of a text in tokens.
    pub(super) output_tokens: u32,
    pub(super) random: Random,
}

/// A body with what it cost.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    pub(super) content_type: &'static str,
    pub(super) completion_tokens: u64,
}

/// One text of an answer.
struct Text {
    /// Ready to stand between the quotes of a JSON string.
    escaped: Vec<u8>,
    tokens: u64,
    /// Whether the caller's maximum ended it.
    is_cut: bool,
}

impl Facts {
    /// Answers a request that has been checked.
    pub(super) fn answer(mut self, endpoint: Endpoint, request: &Request<'_>) -> Answer {
        match endpoint {
            Endpoint::Chat if request.stream == Some(true) => self.chat_stream(request),
            Endpoint::Chat => self.chat(request),
            Endpoint::Completions => self.completions(request),
            Endpoint::Embeddings => self.embeddings(request),
            Endpoint::Responses => self.responses(request),
        }
    }

    fn chat(&mut self, request: &Request<'_>) -> Answer {
        let mut json = self.open(request);
        json.raw("{\"id\":\"chatcmpl-sim").hex(self.id).raw("\",\"object\":\"chat.completion\",\"created\":");
        json.number(self.created).raw(",\"model\":").string(request.model()).raw(",\"choices\":[");
        let mut completion_tokens = 0;
        for index in 0..request.n.unwrap_or(1) {
            if index > 0 {
                json.raw(",");
            }
            json.raw("{\"index\":").number(index).raw(",\"message\":{\"role\":\"assistant\",\"content\":\"");
            let (tokens, is_cut) = self.write_text(&mut json, request);
            completion_tokens += tokens;
            json.raw("\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"");
            json.raw(finish_reason(is_cut)).raw("\"}");
        }
        json.raw("],");
        write_usage(&mut json, request.prompt_tokens(), completion_tokens);
        json.raw(",\"service_tier\":\"default\",").raw(FINGERPRINT).raw("}");
        finish(json, completion_tokens)
    }

    /// Writes all events at once: they are one body, not paced.
    fn chat_stream(&mut self, request: &Request<'_>) -> Answer {
        let with_usage = request.stream_options.as_ref().and_then(|options| options.include_usage) == Some(true);
        let mut head = Json::with_capacity(256);
        head.raw("data: {\"id\":\"chatcmpl-sim")
            .hex(self.id)
            .raw("\",\"object\":\"chat.completion.chunk\",\"created\":");
        head.number(self.created).raw(",\"model\":").string(request.model());
        head.raw(",\"service_tier\":\"default\",").raw(FINGERPRINT);
        head.raw(if with_usage { ",\"usage\":null,\"choices\":[" } else { ",\"choices\":[" });
        let head = String::from_utf8_lossy(&head.into_bytes()).into_owned();

        let mut events = self.open(request);
        let mut completion_tokens = 0;
        for index in 0..request.n.unwrap_or(1) {
            let mut event = |delta: &str, reason: &str| {
                events.raw(&head).raw("{\"index\":").number(index).raw(",\"delta\":{").raw(delta);
                events.raw("},\"logprobs\":null,\"finish_reason\":").raw(reason).raw("}]}\n\n");
            };
            let text = self.text(request);
            completion_tokens += text.tokens;
            event("\"role\":\"assistant\",\"content\":\"\",\"refusal\":null", "null");
            let escaped = String::from_utf8_lossy(&text.escaped);
            for piece in pieces(&escaped) {
                event(&format!("\"content\":\"{piece}\""), "null");
            }
            event("", if text.is_cut { "\"length\"" } else { "\"stop\"" });
        }
        if with_usage {
            events.raw(&head.replace(",\"usage\":null,\"choices\":[", ",\"choices\":[],"));
            write_usage(&mut events, request.prompt_tokens(), completion_tokens);
            events.raw("}\n\n");
        }
        events.raw("data: [DONE]\n\n");
        Answer { content_type: "text/event-stream; charset=utf-8", ..finish(events, completion_tokens) }
    }

    fn completions(&mut self, request: &Request<'_>) -> Answer {
        let mut json = self.open(request);
        json.raw("{\"id\":\"cmpl-sim").hex(self.id).raw("\",\"object\":\"text_completion\",\"created\":");
        json.number(self.created).raw(",\"model\":").string(request.model()).raw(",\"choices\":[");
        let mut completion_tokens = 0;
        for index in 0..request.prompts() * request.n.unwrap_or(1) {
            if index > 0 {
                json.raw(",");
            }
            json.raw("{\"text\":\"");
            let (tokens, is_cut) = self.write_text(&mut json, request);
            completion_tokens += tokens;
            json.raw("\",\"index\":").number(index).raw(",\"logprobs\":null,\"finish_reason\":\"");
            json.raw(finish_reason(is_cut)).raw("\"}");
        }
        json.raw("],");
        write_usage(&mut json, request.prompt_tokens(), completion_tokens);
        json.raw(",").raw(FINGERPRINT).raw("}");
        finish(json, completion_tokens)
    }

    fn embeddings(&mut self, request: &Request<'_>) -> Answer {
        let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
        let mut json = Json::with_capacity(0);
        json.raw("{\"object\":\"list\",\"data\":[");
        for index in 0..request.prompts() {
            if index > 0 {
                json.raw(",");
            }
            json.raw("{\"object\":\"embedding\",\"index\":").number(index).raw(",\"embedding\":");
            embedding::write(&mut json, &mut self.random, dimensions, request.wants_base64());
            json.raw("}");
        }
        let tokens = request.prompt_tokens();
        json.raw("],\"model\":").string(request.model()).raw(",\"usage\":{\"prompt_tokens\":").number(tokens);
        json.raw(",\"total_tokens\":").number(tokens).raw("}}");
        finish(json, 0)
    }

    fn responses(&mut self, request: &Request<'_>) -> Answer {
        let text = self.text(request);
        let status = if text.is_cut { "\"incomplete\"" } else { "\"completed\"" };
        let details = if text.is_cut { "{\"reason\":\"max_output_tokens\"}" } else { "null" };
        let mut json = self.open(request);
        json.raw("{\"id\":\"resp_sim").hex(self.id).raw("\",\"object\":\"response\",\"created_at\":");
        json.number(self.created).raw(",\"status\":").raw(status).raw(",\"error\":null,\"incomplete_details\":");
        json.raw(details).raw(",\"model\":").string(request.model());
        json.raw(",\"output\":[{\"id\":\"msg_sim").hex(self.id).raw("\",\"type\":\"message\",\"role\":\"assistant\",");
        json.raw("\"status\":").raw(status).raw(",\"content\":[{\"type\":\"output_text\",\"text\":\"");
        json.raw(&String::from_utf8_lossy(&text.escaped)).raw("\",\"annotations\":[],\"logprobs\":[]}]}],");
        json.raw("\"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[],\"service_tier\":\"default\",");
        let input_tokens = request.prompt_tokens();
        json.raw("\"usage\":{\"input_tokens\":").number(input_tokens);
        json.raw(",\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens\":").number(text.tokens);
        json.raw(",\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":");
        json.number(input_tokens + text.tokens).raw("}}");
        finish(json, text.tokens)
    }

    /// Starts a buffer that is likely to hold the answer.
    fn open(&self, request: &Request<'_>) -> Json {
        let text = self.output_tokens as usize * 10;
        let texts = usize::try_from(request.n.unwrap_or(1)).unwrap_or(1);
        Json::with_capacity((768 + texts * text).min(1 << 20))
    }

    fn text(&mut self, request: &Request<'_>) -> Text {
        let mut json = Json::with_capacity(256);
        let (tokens, is_cut) = self.write_text(&mut json, request);
        Text { escaped: json.into_bytes(), tokens, is_cut }
    }

    /// Writes one text, from half to one and a half of the mean length; returns its tokens and whether it was cut.
    fn write_text(&mut self, json: &mut Json, request: &Request<'_>) -> (u64, bool) {
        let mean = self.output_tokens as usize;
        let wanted = (mean / 2 + self.random.below(mean + 1)).max(1);
        let max = request.max_tokens().map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        if request.wants_json() {
            let words = wanted.min(JSON_WORDS);
            json.raw("{\\\"answer\\\":\\\"");
            prose::write(json, &mut self.random, words, true);
            json.raw("\\\",\\\"confidence\\\":0.");
            json.number(50 + self.random.below(50) as u64).raw("}");
            return ((words + JSON_TOKENS) as u64, false);
        }
        let is_cut = wanted > max;
        let tokens = wanted.min(max);
        prose::write(json, &mut self.random, tokens, !is_cut);
        (tokens as u64, is_cut)
    }
}

fn finish(json: Json, completion_tokens: u64) -> Answer {
    Answer { body: json.into_bytes(), content_type: "application/json", completion_tokens }
}

const fn finish_reason(is_cut: bool) -> &'static str {
    if is_cut { "length" } else { "stop" }
}

fn write_usage(json: &mut Json, prompt_tokens: u64, completion_tokens: u64) {
    json.raw("\"usage\":{\"prompt_tokens\":").number(prompt_tokens);
    json.raw(",\"completion_tokens\":").number(completion_tokens);
    json.raw(",\"total_tokens\":").number(prompt_tokens + completion_tokens);
    json.raw(",\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0}");
    json.raw(",\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0");
    json.raw(",\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}");
}

/// Cuts a text before every fourth space; the pieces together are the text.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (_, (at, _)) in text.match_indices(' ').enumerate().filter(|(space, _)| (space + 1) % EVENT_WORDS == 0) {
        pieces.push(&text[start..at]);
        start = at;
    }
    pieces.push(&text[start..]);
    pieces
}

#[cfg(test)]
mod tests;
