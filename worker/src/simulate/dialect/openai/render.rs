//! Wording the answers of chat completions, completions and embeddings, for OpenAI and for Azure.

use serde::Serialize;

use super::response;
use super::wire::{
    Call, ChatChoice, Chunk, ChunkChoice, Completion, CompletionDetails, Delta, Embedding, EmbeddingUsage, Embeddings,
    Filters, Function, Message, PROMPT_FILTER, PromptChunk, PromptDetails, SAFE, Severity, TextChoice, WireUsage,
};
use crate::simulate::answer::{Answer, Choice, Content, Finish, Part, ToolCall, Usage};
use crate::simulate::body::Body;
use crate::simulate::embedding::Written;
use crate::simulate::request::Request;
use crate::simulate::route::{Operation, Route};

/// Names the build that answered.
const FINGERPRINT: &str = "fp_simulated";

/// Whose servers answer; Azure adds what its content filter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::simulate::dialect) enum Host {
    OpenAi,
    Azure,
}

/// Words an answer.
pub(in crate::simulate::dialect) fn render(
    host: Host,
    route: &Route,
    request: &Request<'_>,
    answer: &Answer<'_>,
) -> Body {
    let words = Words { host, request, answer };
    match (route.operation(), &answer.content) {
        (_, Content::Vectors(vectors)) => words.embeddings(vectors),
        (Some(Operation::Responses), _) if request.stream => response::stream(request, answer),
        (Some(Operation::Responses), _) => response::whole(request, answer),
        (Some(Operation::Completions), _) if request.stream => words.text_stream(),
        (Some(Operation::Completions), _) => words.texts(),
        _ if request.stream => words.chat_stream(),
        _ => words.chat(),
    }
}

/// Writes an event without a name around JSON.
pub(in crate::simulate::dialect) fn event(json: &[u8]) -> Vec<u8> {
    [b"data: ", json, b"\n\n"].concat()
}

struct Words<'a> {
    host: Host,
    request: &'a Request<'a>,
    answer: &'a Answer<'a>,
}

impl<'a> Words<'a> {
    fn chat(&self) -> Body {
        let choice = |(index, choice): (usize, &'a Choice)| {
            let is_silent = choice.refusal().is_some() || choice.calls().next().is_some();
            let calls = choice.calls().map(|call| Call {
                index: None,
                id: Some(call_id(call.id)),
                kind: Some("function"),
                function: Function { name: Some(&call.name), arguments: &call.arguments.text },
            });
            ChatChoice {
                index,
                message: Message {
                    role: "assistant",
                    content: choice.text().or(if is_silent { None } else { Some("") }),
                    refusal: choice.refusal(),
                    annotations: [],
                    tool_calls: calls.collect(),
                },
                logprobs: (),
                finish_reason: finish_reason(&choice.finish),
                content_filter_results: self.filters(&choice.finish),
            }
        };
        let choices: Vec<_> = self.answer.choices().iter().enumerate().map(choice).collect();
        self.completion("chatcmpl", "chat.completion", Some("default"), choices)
    }

    fn texts(&self) -> Body {
        let choice = |(index, choice): (usize, &'a Choice)| TextChoice {
            text: choice.text().unwrap_or_default(),
            index,
            logprobs: (),
            finish_reason: Some(finish_reason(&choice.finish)),
            content_filter_results: self.filters(&choice.finish),
        };
        let choices: Vec<_> = self.answer.choices().iter().enumerate().map(choice).collect();
        self.completion("cmpl", "text_completion", None, choices)
    }

    fn completion<C: Serialize>(
        &self,
        prefix: &str,
        object: &'static str,
        service_tier: Option<&'static str>,
        choices: Vec<C>,
    ) -> Body {
        Body::json(&Completion {
            id: self.id(prefix),
            object,
            created: self.answer.created,
            model: self.answer.model,
            prompt_filter_results: (self.host == Host::Azure).then_some(PROMPT_FILTER),
            choices,
            usage: usage(&self.answer.usage),
            service_tier,
            system_fingerprint: FINGERPRINT,
        })
    }

    fn chat_stream(&self) -> Body {
        let id = self.id("chatcmpl");
        let mut body = self.open();
        for (index, choice) in self.answer.choices().iter().enumerate() {
            let mut send = |delta: Delta<'_>, tokens: u64| self.send(&mut body, &id, index, delta, None, tokens);
            let first =
                Delta { role: Some("assistant"), content: Some(Some("")), refusal: Some(None), tool_calls: None };
            send(first, 0);
            let mut calls = 0;
            for part in &choice.parts {
                match part {
                    // Thoughts are counted and not shown.
                    Part::Thinking(_) => {}
                    Part::Text(text) => {
                        for (piece, tokens) in text.pieces() {
                            send(Delta { content: Some(Some(piece)), ..Delta::default() }, tokens);
                        }
                    }
                    Part::Refusal(text) => {
                        for (piece, tokens) in text.pieces() {
                            send(Delta { refusal: Some(Some(piece)), ..Delta::default() }, tokens);
                        }
                    }
                    Part::Call(call) => {
                        send(Delta::of_call(calls, Some(call), ""), 0);
                        for (piece, tokens) in call.arguments.pieces() {
                            send(Delta::of_call(calls, None, piece), tokens);
                        }
                        calls += 1;
                    }
                }
            }
            self.send(&mut body, &id, index, Delta::default(), Some(&choice.finish), 0);
        }
        self.close::<ChunkChoice<'_>>(body, &id, "chat.completion.chunk", Some("default"))
    }

    fn send(&self, body: &mut Body, id: &str, index: usize, delta: Delta<'_>, finish: Option<&Finish>, tokens: u64) {
        let choice = ChunkChoice {
            index,
            delta,
            logprobs: (),
            finish_reason: finish.map(finish_reason),
            content_filter_results: self.filters(finish.unwrap_or(&Finish::Stop)),
        };
        body.data(&self.chunk(id, "chat.completion.chunk", Some("default"), &[choice], None), tokens);
    }

    fn text_stream(&self) -> Body {
        const OBJECT: &str = "text_completion";
        let id = self.id("cmpl");
        let mut body = self.open();
        for (index, choice) in self.answer.choices().iter().enumerate() {
            let mut send = |text: &str, finish: Option<&Finish>, tokens| {
                let choice = TextChoice {
                    text,
                    index,
                    logprobs: (),
                    finish_reason: finish.map(finish_reason),
                    content_filter_results: self.filters(finish.unwrap_or(&Finish::Stop)),
                };
                body.data(&self.chunk(&id, OBJECT, None, &[choice], None), tokens);
            };
            for part in &choice.parts {
                if let Part::Text(text) = part {
                    for (piece, tokens) in text.pieces() {
                        send(piece, None, tokens);
                    }
                }
            }
            send("", Some(&choice.finish), 0);
        }
        self.close::<TextChoice<'_>>(body, &id, OBJECT, None)
    }

    /// Starts a stream; Azure's begin with what the filter says of the prompt.
    fn open(&self) -> Body {
        let mut body = Body::stream();
        if self.host == Host::Azure {
            let first = PromptChunk {
                choices: [],
                created: 0,
                id: "",
                model: "",
                object: "",
                prompt_filter_results: PROMPT_FILTER,
            };
            body.data(&first, 0);
        }
        body
    }

    /// Ends a stream, with the usage where it is asked for.
    fn close<C: Serialize>(
        &self,
        mut body: Body,
        id: &str,
        object: &'static str,
        service_tier: Option<&'static str>,
    ) -> Body {
        if self.request.stream_usage {
            body.data(&self.chunk::<C>(id, object, service_tier, &[], Some(usage(&self.answer.usage))), 0);
        }
        body.done();
        body
    }

    fn chunk<'c, C>(
        &'c self,
        id: &'c str,
        object: &'static str,
        service_tier: Option<&'static str>,
        choices: &'c [C],
        usage: Option<WireUsage>,
    ) -> Chunk<'c, C> {
        Chunk {
            id,
            object,
            created: self.answer.created,
            model: self.answer.model,
            service_tier,
            system_fingerprint: FINGERPRINT,
            choices,
            usage: self.request.stream_usage.then_some(usage),
        }
    }

    fn embeddings(&self, vectors: &[Vec<f32>]) -> Body {
        let as_base64 = self.request.as_base64;
        let tokens = self.answer.usage.input;
        Body::json(&Embeddings {
            object: "list",
            data: vectors
                .iter()
                .enumerate()
                .map(|(index, vector)| Embedding {
                    object: "embedding",
                    index,
                    embedding: Written { vector, as_base64 },
                })
                .collect(),
            model: self.answer.model,
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        })
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}-sim{:016x}", self.answer.id)
    }

    fn filters(&self, finish: &Finish) -> Option<Filters> {
        let violence = match finish {
            Finish::Filtered => Severity { filtered: true, severity: "medium" },
            _ => SAFE,
        };
        let filters = Filters { hate: SAFE, jailbreak: None, self_harm: SAFE, sexual: SAFE, violence };
        (self.host == Host::Azure).then_some(filters)
    }
}

impl<'a> Delta<'a> {
    /// Writes a fragment of a call of a function; only the first names the call.
    fn of_call(index: usize, named: Option<&'a ToolCall>, arguments: &'a str) -> Self {
        let call = Call {
            index: Some(index),
            id: named.map(|call| call_id(call.id)),
            kind: named.map(|_| "function"),
            function: Function { name: named.map(|call| call.name.as_str()), arguments },
        };
        Self { tool_calls: Some([call]), ..Self::default() }
    }
}

/// Writes the id of a call of a function.
pub(super) fn call_id(id: u64) -> String {
    format!("call_sim{id:016x}")
}

/// Names the end of a choice; a refusal ends like any other message.
const fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopSequence(_) | Finish::Refused => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
        Finish::Filtered => "content_filter",
    }
}

const fn usage(usage: &Usage) -> WireUsage {
    WireUsage {
        prompt_tokens: usage.input,
        completion_tokens: usage.output,
        total_tokens: usage.input + usage.output,
        prompt_tokens_details: PromptDetails { cached_tokens: usage.cache_read, audio_tokens: 0 },
        completion_tokens_details: CompletionDetails {
            reasoning_tokens: usage.thinking,
            audio_tokens: 0,
            accepted_prediction_tokens: 0,
            rejected_prediction_tokens: 0,
        },
    }
}
