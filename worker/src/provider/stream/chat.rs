//! The chunks of chat completions and completions.
//!
//! <https://platform.openai.com/docs/api-reference/chat-streaming>, read 2026-11, and what compatible servers do otherwise.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Delta, MOST_PARTS, Step, append, is_set, overlay};

/// An answer in the making.
#[derive(Debug, Default)]
pub(in super::super) struct Chat {
    /// Members at the top, `choices` and `usage` among them only at the end.
    top: Map<String, Value>,
    choices: BTreeMap<u64, Choice>,
    /// How many choices were asked for.
    asked: usize,
    usage: Option<Value>,
    is_completion: bool,
    is_done: bool,
    began: bool,
}

#[derive(Debug, Default)]
struct Choice {
    /// Its members, `message` among them only at the end.
    members: Map<String, Value>,
    message: Map<String, Value>,
    tool_calls: BTreeMap<u64, Map<String, Value>>,
}

impl Chat {
    pub(super) fn new(is_completion: bool, asked: usize) -> Self {
        Self { is_completion, asked, ..Self::default() }
    }

    pub(super) fn done(&mut self) -> Step {
        self.is_done = true;
        Step::End
    }

    /// Whole with `[DONE]` behind any choice, or when each choice that was asked for has said why it ended: some servers close
    /// without more.
    pub(super) fn is_whole(&self) -> bool {
        let ended = |choice: &Choice| is_set(choice.members.get("finish_reason"));
        let all_ended = || self.choices.len() >= self.asked && self.choices.values().all(ended);
        !self.choices.is_empty() && (self.is_done || all_ended())
    }

    pub(super) const fn began(&self) -> bool {
        self.began
    }

    pub(super) fn event(&mut self, mut chunk: Map<String, Value>, show: &mut dyn FnMut(Delta<'_>)) -> Step {
        let groq = chunk.get_mut("x_groq").and_then(Value::as_object_mut);
        let (groq_usage, groq_error) = match groq {
            Some(groq) => (groq.remove("usage"), groq.remove("error")),
            None => (None, None),
        };
        if let Some(error) = groq_error.filter(|error| is_set(Some(error))) {
            chunk.insert("error".to_owned(), error);
        }
        let failed = is_set(chunk.get("error"));
        // vLLM's older errors stand flat.
        if failed || chunk.get("object").and_then(Value::as_str) == Some("error") {
            return Step::Failed(Value::Object(chunk));
        }
        if let Some(usage) = chunk.remove("usage").filter(|usage| !usage.is_null()).or(groq_usage) {
            self.usage = Some(usage);
        }
        chunk.remove("obfuscation");
        chunk.remove("object");
        let choices = match chunk.remove("choices") {
            Some(Value::Array(choices)) => choices,
            _ => Vec::new(),
        };
        self.top_of(chunk);
        for choice in choices {
            let Value::Object(choice) = choice else { continue };
            if is_set(choice.get("error")) {
                return Step::Failed(Value::Object(choice));
            }
            if !self.choice(choice, show) {
                return Step::Unreadable;
            }
        }
        Step::More
    }

    /// Keeps what says something: Azure's first chunk has an empty id and model, and `created` 0.
    fn top_of(&mut self, chunk: Map<String, Value>) {
        for (key, value) in chunk {
            let says_nothing = value.is_null() || value.as_str() == Some("") || (key == "created" && value == 0);
            if !says_nothing {
                self.top.insert(key, value);
            }
        }
    }

    /// Puts a choice in, unless it is one too many.
    fn choice(&mut self, mut from: Map<String, Value>, show: &mut dyn FnMut(Delta<'_>)) -> bool {
        let index = from.remove("index").as_ref().and_then(Value::as_u64).unwrap_or(0);
        if self.choices.len() >= MOST_PARTS && !self.choices.contains_key(&index) {
            return false;
        }
        let choice = self.choices.entry(index).or_default();
        // Readers follow the first choice.
        let mut nobody = |_: Delta<'_>| {};
        let show: &mut dyn FnMut(Delta<'_>) = if index == 0 { show } else { &mut nobody };
        if let Some(Value::String(text)) = from.remove("text") {
            self.began |= !text.is_empty();
            show(Delta::Text(&text));
            append(&mut choice.members, "text", &text);
        }
        if let Some(Value::Object(logprobs)) = from.remove("logprobs") {
            append_lists(&mut choice.members, "logprobs", logprobs);
        }
        if let Some(Value::Object(delta)) = from.remove("delta").or_else(|| from.remove("message")) {
            self.began |= choice.delta(delta, show);
        }
        if from.get("finish_reason").is_some_and(|reason| reason.as_str() == Some("")) {
            from.remove("finish_reason");
        }
        overlay(&mut choice.members, from);
        choice.tool_calls.len() <= MOST_PARTS
    }

    pub(super) fn finish(self) -> (Map<String, Value>, String) {
        let mut body = self.top;
        let (object, is_completion) =
            (if self.is_completion { "text_completion" } else { "chat.completion" }, self.is_completion);
        body.insert("object".to_owned(), object.into());
        let choices = self.choices;
        let text_of = |choice: &Choice| {
            let place = if is_completion { choice.members.get("text") } else { choice.message.get("content") };
            place.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let text = choices.values().next().map(text_of).unwrap_or_default();
        let choices: Vec<Value> =
            choices.into_iter().map(|(index, choice)| choice.finish(index, is_completion)).collect();
        body.insert("choices".to_owned(), choices.into());
        if let Some(usage) = self.usage {
            body.insert("usage".to_owned(), usage);
        }
        (body, text)
    }
}

impl Choice {
    /// Puts a delta in; tells whether it holds output.
    fn delta(&mut self, delta: Map<String, Value>, show: &mut dyn FnMut(Delta<'_>)) -> bool {
        let mut began = false;
        for (key, value) in delta {
            match (key.as_str(), value) {
                (_, Value::Null) => {}
                ("role", value) => {
                    self.message.insert(key, value);
                }
                ("tool_calls", Value::Array(calls)) => {
                    began |= !calls.is_empty();
                    for (place, call) in calls.into_iter().enumerate() {
                        self.tool_call(place, call);
                    }
                }
                ("function_call", Value::Object(call)) => {
                    began = true;
                    let mut into = match self.message.remove("function_call") {
                        Some(Value::Object(known)) => known,
                        _ => Map::new(),
                    };
                    merge_function(&mut into, call);
                    self.message.insert(key, into.into());
                }
                ("content", Value::Array(parts)) => {
                    // Mistral writes parts where it thinks.
                    for part in &parts {
                        if let Some(text) = part.get("text").and_then(Value::as_str) {
                            began |= !text.is_empty();
                            show(Delta::Text(text));
                            append(&mut self.message, "content", text);
                        }
                    }
                }
                ("audio", Value::Object(audio)) => {
                    began = true;
                    let mut into = match self.message.remove("audio") {
                        Some(Value::Object(known)) => known,
                        _ => Map::new(),
                    };
                    for (key, value) in audio {
                        match (key.as_str(), value) {
                            ("data" | "transcript", Value::String(text)) => append(&mut into, &key, &text),
                            (_, value) => {
                                into.insert(key, value);
                            }
                        }
                    }
                    self.message.insert(key, into.into());
                }
                (_, Value::String(text)) => {
                    began |= !text.is_empty();
                    match key.as_str() {
                        "content" => show(Delta::Text(&text)),
                        "reasoning_content" | "reasoning" => show(Delta::Reasoning(&text)),
                        _ => {}
                    }
                    append(&mut self.message, &key, &text);
                }
                (_, Value::Array(items)) => match self.message.get_mut(&key) {
                    Some(Value::Array(known)) => known.extend(items),
                    _ => {
                        self.message.insert(key, items.into());
                    }
                },
                (_, value) => {
                    self.message.insert(key, value);
                }
            }
        }
        began
    }

    /// Merges a fragment by its index: the id and the name stand in the first one, the arguments in pieces.
    fn tool_call(&mut self, place: usize, fragment: Value) {
        let Value::Object(mut fragment) = fragment else { return };
        let index = fragment.remove("index").as_ref().and_then(Value::as_u64).unwrap_or(place as u64);
        let call = self.tool_calls.entry(index).or_default();
        for (key, value) in fragment {
            match (key.as_str(), value) {
                (_, Value::Null) => {}
                ("function" | "custom", Value::Object(function)) => {
                    let mut into = match call.remove(&key) {
                        Some(Value::Object(known)) => known,
                        _ => Map::new(),
                    };
                    merge_function(&mut into, function);
                    call.insert(key, into.into());
                }
                (_, Value::String(text)) if text.is_empty() => {}
                (_, value) => {
                    call.insert(key, value);
                }
            }
        }
    }

    fn finish(mut self, index: u64, is_completion: bool) -> Value {
        self.members.insert("index".to_owned(), index.into());
        self.members.entry("finish_reason").or_insert(Value::Null);
        if !is_completion {
            self.message.entry("role").or_insert_with(|| "assistant".into());
            self.message.entry("content").or_insert(Value::Null);
            if !self.tool_calls.is_empty() {
                // OpenAI's first delta has an empty content, where its plain answer has none.
                if self.message.get("content").and_then(Value::as_str) == Some("") {
                    self.message.insert("content".to_owned(), Value::Null);
                }
                let calls: Vec<Value> = self.tool_calls.into_values().map(Value::from).collect();
                self.message.insert("tool_calls".to_owned(), calls.into());
            }
            self.members.insert("message".to_owned(), self.message.into());
        }
        self.members.into()
    }
}

/// Appends the arguments of a function, or the input of a custom tool; a name counts once.
fn merge_function(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("arguments" | "input", Value::String(text)) => append(into, &key, &text),
            // Ollama sends them whole, as an object.
            ("arguments", value @ Value::Object(_)) => {
                into.insert(key, value.to_string().into());
            }
            (_, Value::String(text)) if text.is_empty() => {}
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Appends the lists in an object to those in a member.
fn append_lists(members: &mut Map<String, Value>, key: &str, from: Map<String, Value>) {
    let mut into = match members.remove(key) {
        Some(Value::Object(known)) => known,
        _ => Map::new(),
    };
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Array(known)), Value::Array(items)) => known.extend(items),
            (_, Value::Null) => {}
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
    members.insert(key.to_owned(), into.into());
}
