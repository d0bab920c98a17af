//! Reading the bodies of OpenAI's endpoints in one pass, mostly borrowed from the bytes.
//!
//! Owns the four request shapes and the errors for bodies that no provider would take. Unknown fields are skipped
//! without being kept.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::simulate::image::Flaw;
use crate::simulate::instance;
use crate::simulate::prompt::{Prompt, Text};
use crate::simulate::request::{Cached, Form, Malformed, Request, Tags, Thinking, Tool, ToolChoice};
use crate::simulate::route::Operation;

/// Most texts that may end an answer.
const MAX_STOPS: usize = 4;

/// Longest name of a function.
const MAX_NAME_BYTES: usize = 64;

/// The body of a call, as far as the simulator cares.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Wire<'a> {
    #[serde(default)]
    model: Text<'a>,
    messages: Option<Prompt<'a>>,
    prompt: Option<Prompt<'a>>,
    input: Option<Prompt<'a>>,
    #[serde(default)]
    user: Text<'a>,
    metadata: Option<Metadata<'a>>,
    #[serde(alias = "max_completion_tokens", alias = "max_output_tokens")]
    max_tokens: Option<u64>,
    n: Option<u64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    response_format: Option<ResponseFormat<'a>>,
    text: Option<TextOptions<'a>>,
    tools: Option<Vec<WireTool<'a>>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    stop: Option<Value>,
    #[serde(default)]
    reasoning_effort: Text<'a>,
    reasoning: Option<Reasoning<'a>>,
    dimensions: Option<u64>,
    #[serde(default)]
    encoding_format: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Metadata<'a> {
    #[serde(default)]
    gristmill_job: Text<'a>,
    #[serde(default)]
    simulate: Text<'a>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct TextOptions<'a> {
    format: Option<Format<'a>>,
}

/// The form of an answer, as chat completions ask for it: the schema is nested.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct ResponseFormat<'a> {
    #[serde(default, rename = "type")]
    kind: Text<'a>,
    json_schema: Option<Format<'a>>,
}

/// The form of an answer, as responses ask for it; and what stands in `json_schema`.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Format<'a> {
    #[serde(default, rename = "type")]
    kind: Text<'a>,
    #[serde(default)]
    name: Text<'a>,
    schema: Option<Value>,
}

/// A tool: chat completions nest the function, responses do not.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct WireTool<'a> {
    #[serde(default, rename = "type")]
    kind: Text<'a>,
    function: Option<Function<'a>>,
    #[serde(default)]
    name: Text<'a>,
    parameters: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Function<'a> {
    #[serde(default)]
    name: Text<'a>,
    parameters: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Reasoning<'a> {
    #[serde(default)]
    effort: Text<'a>,
    #[serde(default)]
    summary: Text<'a>,
}

/// Reads a body; the deployment of an Azure path stands for the model.
pub(in crate::simulate::dialect) fn read<'a>(
    operation: Operation,
    deployment: Option<&str>,
    body: &'a [u8],
) -> Result<Request<'a>, Malformed> {
    let wire: Wire<'a> = serde_json::from_slice(body).map_err(|cause| match cause.classify() {
        serde_json::error::Category::Data => Malformed {
            code: Some("invalid_type"),
            ..Malformed::new(format!("Invalid type for a parameter: {cause}."))
        },
        _ => Malformed::new(format!("We could not parse the JSON body of your request: {cause}.")),
    })?;
    Ok(wire.into_request(operation, deployment))
}

impl<'a> Wire<'a> {
    fn into_request(self, operation: Operation, deployment: Option<&str>) -> Request<'a> {
        let mut wrong = Wrong(None);
        let model = match deployment {
            Some(deployment) => Cow::Owned(deployment.to_owned()),
            None => self.model.into_inner().unwrap_or_default(),
        };
        if model.is_empty() {
            wrong.missing("model");
        }
        let field = operation.prompt_field();
        let (messages, prompt, input) = (self.messages, self.prompt, self.input);
        let (own, others) = match operation {
            Operation::Chat | Operation::Messages | Operation::CountTokens => (messages, [prompt, input]),
            Operation::Completions => (prompt, [messages, input]),
            Operation::Embeddings | Operation::Responses => (input, [messages, prompt]),
        };
        match &own {
            None => wrong.missing(field),
            Some(prompt) if prompt.items == 0 => wrong.is(
                field,
                "empty_array",
                format!("Invalid '{field}': empty array. Expected an array with minimum length 1."),
            ),
            Some(_) => {}
        }
        // A prompt in the wrong place still tells whose call it is.
        let prompt = own.or_else(|| others.into_iter().flatten().next()).unwrap_or_default();
        if let Some(flaw) = prompt.image_flaw {
            wrong.is_image(flaw);
        }
        for (param, value, max) in [("n", self.n, 128), ("dimensions", self.dimensions, 65_536)] {
            if value.is_some_and(|value| value == 0 || value > max) {
                let message = format!("Invalid '{param}': expected a number from 1 to {max}.");
                wrong.is(param, "integer_out_of_range", message);
            }
        }
        let stream = self.stream == Some(true);
        if stream && !operation.can_stream() {
            wrong.is("stream", "unsupported_value", format!("{} does not stream.", operation.path()));
        }

        let form = match (self.response_format, self.text.and_then(|text| text.format)) {
            (Some(format), _) => match format.kind.as_str() {
                Some("json_schema") => schema("response_format.json_schema", format.json_schema, &mut wrong),
                kind => plain_form(kind),
            },
            (None, Some(format)) => match format.kind.as_str() {
                Some("json_schema") => schema("text.format", Some(format), &mut wrong),
                kind => plain_form(kind),
            },
            (None, None) => Form::Text,
        };
        let tools = tools(self.tools.unwrap_or_default(), operation, &mut wrong);
        let tool_choice = tool_choice(self.tool_choice.as_ref(), &tools, &mut wrong);
        let stop = stop(self.stop, &mut wrong);
        let (effort, summary) = self.reasoning.map_or_else(Default::default, |r| (r.effort, r.summary));
        let effort = self.reasoning_effort.as_str().or(effort.as_str());
        let thinking = effort
            .filter(|effort| *effort != "none")
            .map(|_| Thinking { budget: None, is_shown: summary.as_str().is_some() });
        let (job, script) = self.metadata.map_or_else(Default::default, |m| (m.gristmill_job, m.simulate));

        Request {
            model,
            tags: Tags { job: job.into_inner(), script: script.into_inner(), user: self.user.into_inner() },
            prompt,
            max_tokens: self.max_tokens,
            choices: self.n.unwrap_or(1),
            stream,
            stream_usage: self.stream_options.and_then(|options| options.include_usage) == Some(true),
            form,
            tools,
            tool_choice,
            parallel_calls: self.parallel_tool_calls != Some(false),
            stop,
            thinking,
            cached: Cached::default(),
            dimensions: self.dimensions,
            as_base64: self.encoding_format.as_str() == Some("base64"),
            wrong: wrong.0,
        }
    }
}

/// The first thing that is wrong with a body.
struct Wrong(Option<Malformed>);

impl Wrong {
    fn is(&mut self, param: impl Into<Cow<'static, str>>, code: &'static str, message: String) {
        self.0.get_or_insert_with(|| Malformed { message, param: Some(param.into()), code: Some(code) });
    }

    fn missing(&mut self, param: impl Into<Cow<'static, str>>) {
        let param = param.into();
        let message = format!("Missing required parameter: '{param}'.");
        self.is(param, "missing_required_parameter", message);
    }

    fn is_image(&mut self, flaw: Flaw) {
        let message = match flaw {
            Flaw::MediaType => {
                "You uploaded an unsupported image. Please make sure your image is of one of the following formats: ['png', 'jpeg', 'gif', 'webp']."
            }
            Flaw::Content => {
                "The image data you provided does not represent a valid image. Please check your input and try again."
            }
        };
        self.0.get_or_insert_with(|| Malformed { code: Some("invalid_image_format"), ..Malformed::new(message) });
    }
}

fn plain_form(kind: Option<&str>) -> Form {
    if kind == Some("json_object") { Form::Object } else { Form::Text }
}

fn schema(place: &'static str, format: Option<Format<'_>>, wrong: &mut Wrong) -> Form {
    let Some(Format { name, schema, .. }) = format else {
        wrong.missing(place);
        return Form::Object;
    };
    let Some(name) = name.as_str() else {
        wrong.missing(format!("{place}.name"));
        return Form::Object;
    };
    let Some(schema) = schema else {
        // Chat completions take a name alone, and then any object will do.
        if place == "text.format" {
            wrong.missing("text.format.schema");
        }
        return Form::Object;
    };
    if let Some(flaw) = instance::flaw(&schema) {
        let message = format!("Invalid schema for response_format '{name}': {flaw}.");
        wrong.is(place.split('.').next().unwrap_or(place), "invalid_json_schema", message);
    }
    Form::Schema(schema)
}

fn tools(tools: Vec<WireTool<'_>>, operation: Operation, wrong: &mut Wrong) -> Vec<Tool> {
    let mut functions = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        // Other kinds of tools are the provider's own and are never called here.
        if tool.kind.as_str().is_some_and(|kind| kind != "function") {
            continue;
        }
        let (place, function) = match (operation, tool.function) {
            (Operation::Responses, _) => (format!("tools[{index}]"), (tool.name, tool.parameters)),
            (_, Some(function)) => (format!("tools[{index}].function"), (function.name, function.parameters)),
            (_, None) => {
                wrong.missing(format!("tools[{index}].function"));
                continue;
            }
        };
        let (name, parameters) = function;
        let Some(name) = name.as_str() else {
            wrong.missing(format!("{place}.name"));
            continue;
        };
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_name) {
            let message = format!(
                "Invalid '{place}.name': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
            );
            wrong.is(format!("{place}.name"), "invalid_value", message);
        }
        // Without parameters a function takes none.
        let schema = parameters.unwrap_or_else(|| serde_json::json!({ "type": "object", "properties": {} }));
        if let Some(flaw) = instance::flaw(&schema) {
            let message = format!("Invalid schema for function '{name}': {flaw}.");
            wrong.is(format!("{place}.parameters"), "invalid_function_parameters", message);
        }
        functions.push(Tool { name: name.to_owned(), schema });
    }
    functions
}

fn tool_choice(choice: Option<&Value>, tools: &[Tool], wrong: &mut Wrong) -> ToolChoice {
    let Some(choice) = choice.filter(|choice| !choice.is_null()) else {
        return ToolChoice::Auto;
    };
    if tools.is_empty() && *choice != "none" {
        let message = "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.";
        wrong.is("tool_choice", "invalid_value", message.to_owned());
    }
    let mode = choice.as_str().or_else(|| choice["mode"].as_str()).or_else(|| choice["allowed_tools"]["mode"].as_str());
    match mode {
        Some("none") => return ToolChoice::None,
        Some("auto") => return ToolChoice::Auto,
        Some("required") => return ToolChoice::Required,
        _ => {}
    }
    let Some(name) = choice["function"]["name"].as_str().or_else(|| choice["name"].as_str()) else {
        wrong.is("tool_choice", "invalid_value", format!("Invalid value for 'tool_choice': {choice}."));
        return ToolChoice::Auto;
    };
    if !tools.is_empty() && tools.iter().all(|tool| tool.name != name) {
        let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
        wrong.is("tool_choice", "invalid_value", message);
    }
    ToolChoice::Named(name.to_owned())
}

fn stop(stop: Option<Value>, wrong: &mut Wrong) -> Vec<String> {
    match stop {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(texts)) => {
            if texts.len() > MAX_STOPS {
                let message = format!(
                    "Invalid 'stop': array too long. Expected an array with maximum length {MAX_STOPS}, but got an array with length {} instead.",
                    texts.len()
                );
                wrong.is("stop", "array_above_max_length", message);
            }
            texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Some(other) => {
            let message = format!(
                "Invalid type for 'stop': expected one of a string or array of strings, but got {other} instead."
            );
            wrong.is("stop", "invalid_type", message);
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests;
