//! A chat request, as Anthropic's Messages take it.

use bytes::Bytes;

use super::effort::Effort;
use super::json::{Json, Object};
use super::model::Model;
use super::refusal::{Lost, Refusal};
use super::tool::{Choice, Names, Tools};
use super::{Context, Options, schema, turn};
use gristmill_common::failure::ErrorClass;

/// Parameters that Anthropic has nothing for, and the value with which each says nothing.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("audio", "null"),
    ("frequency_penalty", "0"),
    ("function_call", "null"),
    ("functions", "[]"),
    ("logit_bias", "{}"),
    ("logprobs", "false"),
    ("modalities", "[\"text\"]"),
    ("moderation", "null"),
    ("n", "1"),
    ("prediction", "null"),
    ("presence_penalty", "0"),
    ("seed", "null"),
    ("top_logprobs", "0"),
    ("verbosity", "\"medium\""),
    ("web_search_options", "null"),
];

/// Parameters that change nothing in the answer: they are for OpenAI's storage and cache, or decided elsewhere.
const IGNORED: &[&str] = &[
    "metadata",
    "model",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "store",
    "stream",
    "stream_options",
];

/// Parameters of Anthropic's that a chat request writes otherwise, and how.
const WRITTEN_OTHERWISE: &[(&str, &str)] =
    &[("system", "as a message of role system"), ("stop_sequences", "as `stop`")];

/// What a model is told that has to answer in JSON of any shape.
const JSON_ONLY: &str =
    "Answer with one valid JSON object and nothing else: no words before or after it, no code fence.";

/// Translates a chat request into the body of a Messages request, and says what reading its answer needs.
///
/// Members that neither OpenAI's chat format nor this module knows are passed on as they are, so that what Anthropic adds can
/// be used. The output always has `max_tokens`, and turns of user and assistant that take turns.
///
/// # Errors
///
/// `BadRequest` for what is wrong in itself, `UnsupportedParams` for what Anthropic does not take; the latter never with
/// `drop_params`, except for content and an older model's output format.
pub(in crate::provider) fn to_messages(body: &[u8], options: &Options<'_>) -> Result<(Bytes, Context), Refusal> {
    let mut asked = parse(body)?;
    for (name, how) in WRITTEN_OTHERWISE {
        if asked.get(name).is_some() {
            return Err(Refusal::bad(name, format!("is Anthropic's own; in a chat request it is written {how}")));
        }
    }
    let model = Model::of(options.model);
    let mut lost = Lost::default();
    lose_unsupported(&mut asked, &mut lost);

    let mut names = Names::default();
    let mut tools = Tools::read(asked.take("tools"), &model, &mut names, &mut lost)?;
    let mut choice = tools.choice(asked.take("tool_choice"), &model, &mut names, &mut lost)?;
    let forced = choice.as_ref().is_some_and(Choice::is_forced);
    let single = flag(&mut asked, "parallel_tool_calls")? == Some(false);
    let effort = Effort::read(&mut asked, &model, options.default_max_tokens, forced, &mut lost)?;
    let mut conversation = turn::read(asked.take("messages"), &model, &mut names)?;

    let mut json_tool = None;
    let mut output = match asked.take("output_config") {
        None => Object::new(),
        Some(Json::Object(output)) => output,
        Some(other) => return Err(Refusal::bad("output_config", format!("is {}, not an object", other.kind()))),
    };
    match Format::read(&mut asked)? {
        Format::Text => {}
        Format::Json => conversation.system.push(Object::of("text").with("text", JSON_ONLY).into()),
        Format::Schema(asked) if model.schema => {
            let format = Object::of("json_schema").with("schema", schema::fitted(asked));
            set_missing(&mut output, "format", format);
        }
        // The model is to call a tool, and not to answer yet.
        Format::Schema(_) if forced => {}
        Format::Schema(asked) => {
            if asked.get("type").is_some_and(|kind| kind.as_text() != Some("object")) {
                let what = "has a schema that is no object, and this older model can only be held to objects";
                return Err(Refusal::unsupported("response_format", what));
            }
            json_tool = Some(tools.answer_by(asked, &mut choice, !effort.thinks(), &mut names));
        }
    }
    if let Some(level) = effort.level {
        set_missing(&mut output, "effort", level);
    }
    if conversation.has_tools && tools.is_empty() {
        tools.add_placeholder();
        choice = Some(Choice::None);
    }
    if single && choice.is_none() && !tools.is_empty() {
        choice = Some(Choice::Auto);
    }

    let samplers = samplers(&mut asked, &model, effort.thinks(), &mut lost)?;
    let stop = stop(&mut asked, &mut lost)?;
    let tier = service_tier(&mut asked, options.service_tier, &mut lost)?;
    let user = user(&mut asked)?;
    lost.settle(options.drop_params)?;

    let mut out = Object::new().with("model", options.model).with("max_tokens", effort.max_tokens);
    if !conversation.system.is_empty() {
        out.push("system", conversation.system);
    }
    out.push("messages", conversation.messages);
    if !tools.is_empty() {
        out.push("tools", tools.into_json());
    }
    out = out
        .with_some("tool_choice", choice.map(|choice| choice.into_json(single)))
        .with_some("thinking", effort.thinking)
        .with_some("output_config", (!output.is_empty()).then_some(output))
        .with_some("stop_sequences", stop)
        .with_some("metadata", user.map(|user| Object::new().with("user_id", user)))
        .with_some("service_tier", tier)
        .with_some("stream", options.stream.then_some(true));
    for (name, value) in samplers {
        out.push(name, value);
    }
    for name in IGNORED {
        asked.take(name);
    }
    for (name, value) in asked {
        if value != Json::Null {
            out.push(name, value);
        }
    }
    let context = Context { model: options.model.to_owned(), renamed: names.into_renamed(), json_tool };
    Ok((Json::Object(out).to_bytes(body.len() + 1024), context))
}

fn parse(body: &[u8]) -> Result<Object<'_>, Refusal> {
    let what = match Json::parse(body) {
        Ok(Json::Object(asked)) => return Ok(asked),
        Ok(other) => format!("the request's body is {}, not a JSON object", other.kind()),
        Err(error) => format!("the request's body is not JSON: {error}"),
    };
    Err(Refusal { class: ErrorClass::BadRequest, param: None, message: what })
}

fn lose_unsupported(asked: &mut Object<'_>, lost: &mut Lost) {
    for (name, silent) in UNSUPPORTED {
        let Some(value) = asked.take(name) else { continue };
        let says_nothing = match value.as_number() {
            Some(number) => silent.parse() == Ok(number),
            None => value.to_string() == *silent,
        };
        if !says_nothing {
            lost.note(*name, "no such parameter");
        }
    }
}

/// The form of the answer.
enum Format<'a> {
    Text,
    Json,
    Schema(Object<'a>),
}

impl<'a> Format<'a> {
    /// Reads the `response_format` of a request.
    fn read(asked: &mut Object<'a>) -> Result<Self, Refusal> {
        let wrong = |what: &str| Err(Refusal::bad("response_format", what));
        let mut format = match asked.take("response_format") {
            None => return Ok(Self::Text),
            Some(Json::Object(format)) => format,
            Some(_) => return wrong("is not an object with a type"),
        };
        match format.text("type") {
            Some("text") => Ok(Self::Text),
            Some("json_object") => Ok(Self::Json),
            Some("json_schema") => {
                let Some(Json::Object(mut inner)) = format.take("json_schema") else {
                    return wrong("has no json_schema");
                };
                let Some(Json::Object(mut schema)) = inner.take("schema") else {
                    return wrong("has no json_schema.schema, or one that is not an object");
                };
                if let Some(description) = inner.take("description") {
                    set_missing(&mut schema, "description", description);
                }
                Ok(Self::Schema(schema))
            }
            _ => wrong("has a type that is none of text, json_object and json_schema"),
        }
    }
}

fn set_missing<'a>(object: &mut Object<'a>, name: &'static str, value: impl Into<Json<'a>>) {
    if object.get(name).is_none() {
        object.push(name, value);
    }
}

/// Reads `temperature`, `top_p` and `top_k`, as far as the model takes them.
fn samplers<'a>(
    asked: &mut Object<'a>,
    model: &Model,
    thinks: bool,
    lost: &mut Lost,
) -> Result<Vec<(&'static str, Json<'a>)>, Refusal> {
    let refused = "this model takes no parameters of sampling";
    let thinking = "not while this model thinks";
    let mut samplers = Vec::new();
    if let Some((value, number)) = number(asked, "temperature", 2.0)? {
        if number != 1.0 && !model.sampling {
            lost.note("temperature", refused);
        } else if number != 1.0 && thinks {
            lost.note("temperature", thinking);
        } else if model.sampling {
            // OpenAI's go up to 2, Anthropic's to 1.
            samplers.push(("temperature", if number > 1.0 { 1_u64.into() } else { value }));
        }
    }
    // 1 takes every word, as if nothing were said.
    if let Some((value, number)) = number(asked, "top_p", 1.0)?.filter(|(_, number)| *number != 1.0) {
        if !model.sampling {
            lost.note("top_p", refused);
        } else if thinks && number < 0.95 {
            lost.note("top_p", "not below 0.95 while this model thinks");
        } else if !samplers.is_empty() && !model.both_samplers {
            lost.note("top_p", "not beside temperature with this model");
        } else {
            samplers.push(("top_p", value));
        }
    }
    if let Some((value, _)) = number(asked, "top_k", f64::MAX)? {
        if !model.sampling {
            lost.note("top_k", refused);
        } else if thinks {
            lost.note("top_k", thinking);
        } else {
            samplers.push(("top_k", value));
        }
    }
    Ok(samplers)
}

/// Takes a number from 0 to `most`.
fn number<'a>(asked: &mut Object<'a>, name: &'static str, most: f64) -> Result<Option<(Json<'a>, f64)>, Refusal> {
    let Some(value) = asked.take(name) else { return Ok(None) };
    match value.as_number() {
        Some(number) if (0.0..=most).contains(&number) => Ok(Some((value, number))),
        _ if most == f64::MAX => Err(Refusal::bad(name, "is not a number of at least 0")),
        _ => Err(Refusal::bad(name, format!("is not a number from 0 to {most}"))),
    }
}

fn flag(asked: &mut Object<'_>, name: &'static str) -> Result<Option<bool>, Refusal> {
    match asked.take(name) {
        None => Ok(None),
        Some(Json::Bool(flag)) => Ok(Some(flag)),
        Some(other) => Err(Refusal::bad(name, format!("is {}, where true or false belongs", other.kind()))),
    }
}

/// Reads `stop`; Anthropic refuses sequences of blanks.
fn stop<'a>(asked: &mut Object<'a>, lost: &mut Lost) -> Result<Option<Vec<Json<'a>>>, Refusal> {
    let mut sequences = match asked.take("stop") {
        None => return Ok(None),
        Some(Json::List(sequences)) => sequences,
        Some(text) => vec![text],
    };
    if !sequences.iter().all(|sequence| sequence.as_text().is_some()) {
        return Err(Refusal::bad("stop", "is neither a text nor a list of texts"));
    }
    let asked_for = sequences.len();
    sequences.retain(|sequence| sequence.as_text().is_some_and(|text| !text.trim().is_empty()));
    if sequences.len() < asked_for {
        lost.note("stop", "Anthropic does not stop at blanks");
    }
    Ok((!sequences.is_empty()).then_some(sequences))
}

fn service_tier(
    asked: &mut Object<'_>,
    wanted: Option<&str>,
    lost: &mut Lost,
) -> Result<Option<&'static str>, Refusal> {
    let own = asked.take("service_tier");
    let tier = match (wanted, &own) {
        (Some(tier), _) => tier,
        (None, None) => return Ok(None),
        (None, Some(Json::Text(tier))) => tier,
        (None, Some(other)) => {
            return Err(Refusal::bad("service_tier", format!("is {}, not a text", other.kind())));
        }
    };
    Ok(match tier {
        "auto" => Some("auto"),
        "default" | "standard" | "standard_only" => Some("standard_only"),
        _ => {
            lost.note("service_tier", "Anthropic's are auto and default");
            None
        }
    })
}

/// Reads who asks, from `user` or what replaced it; names of people are not sent, as Anthropic wishes.
fn user<'a>(asked: &mut Object<'a>) -> Result<Option<Json<'a>>, Refusal> {
    let (newer, older) = (asked.take("safety_identifier"), asked.take("user"));
    let (name, user) = match (older, newer) {
        (Some(user), _) => ("user", user),
        (None, Some(user)) => ("safety_identifier", user),
        (None, None) => return Ok(None),
    };
    match user.as_text() {
        None => Err(Refusal::bad(name, format!("is {}, not a text", user.kind()))),
        Some(text) if text.trim().is_empty() || is_email(text) || is_phone(text) => Ok(None),
        Some(_) => Ok(Some(user)),
    }
}

/// Tells whether a text has the form of an e-mail address.
fn is_email(text: &str) -> bool {
    text.trim().rsplit_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
}

/// Tells whether a text has the form of a phone number: seven digits, blanks, brackets and dashes or more.
fn is_phone(text: &str) -> bool {
    let text = text.trim();
    let rest = text.strip_prefix('+').unwrap_or(text);
    rest.chars().count() >= 7
        && rest.chars().all(|character| character.is_ascii_digit() || " \t()-.".contains(character))
}
