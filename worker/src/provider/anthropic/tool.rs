//! Tools, their names, and which of them a model may or must call.
//!
//! <https://platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools>, read 2026-08-22.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::json::{Json, Object};
use super::model::Model;
use super::refusal::{Lost, Refusal};
use super::schema;

/// The longest name: `^[a-zA-Z0-9_-]{1,128}$`, as the API reference has it.
const NAME_BYTES: usize = 128;

/// The name of the tool whose call stands in for an output format, as LiteLLM calls it.
const JSON_TOOL: &str = "json_tool_call";

/// Names of tools as they are sent.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By the user's name, those that were rewritten.
    rewritten: HashMap<String, String>,
    taken: HashSet<String>,
}

impl Names {
    /// Returns the name that is sent for a name: the same, unless Anthropic would refuse it.
    pub(super) fn sent<'a>(&mut self, name: Cow<'a, str>) -> Cow<'a, str> {
        if is_valid(&name) {
            return name;
        }
        if let Some(sent) = self.rewritten.get(&*name) {
            return sent.clone().into();
        }
        let is_fine = |character: &char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
        let mut stem: String =
            name.chars().map(|character| if is_fine(&character) { character } else { '_' }).collect();
        stem.truncate(NAME_BYTES);
        let sent = self.free(&stem);
        self.rewritten.insert(name.into_owned(), sent.clone());
        sent.into()
    }

    /// Takes a name that no tool has: the stem, or the stem with a number.
    fn free(&mut self, stem: &str) -> String {
        let mut name = stem.to_owned();
        let mut number = self.rewritten.len() + 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{}_{number}", &stem[..stem.len().min(NAME_BYTES - 21)]);
            number += 1;
        }
        name
    }

    /// Returns the names that were rewritten: the one that is sent, and the user's.
    pub(super) fn into_renamed(self) -> Vec<(String, String)> {
        self.rewritten.into_iter().map(|(name, sent)| (sent, name)).collect()
    }
}

fn is_valid(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Which tool the model calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    Auto,
    None,
    Any,
    /// The one of this name, as it is sent.
    One(String),
}

impl Choice {
    pub(super) const fn is_forced(&self) -> bool {
        matches!(self, Self::Any | Self::One(_))
    }

    /// Writes it; `single` for at most one call.
    pub(super) fn into_json(self, single: bool) -> Json<'static> {
        let choice = match self {
            Self::None => return Object::of("none").into(),
            Self::Auto => Object::of("auto"),
            Self::Any => Object::of("any"),
            Self::One(name) => Object::of("tool").with("name", name),
        };
        choice.with_some("disable_parallel_tool_use", single.then_some(true)).into()
    }
}

/// The tools of a request.
#[derive(Debug)]
pub(super) struct Tools<'a> {
    /// Each with its name as the user writes it.
    list: Vec<(String, Json<'a>)>,
}

impl<'a> Tools<'a> {
    /// Reads the `tools` of a request.
    pub(super) fn read(
        tools: Option<Json<'a>>,
        model: &Model,
        names: &mut Names,
        lost: &mut Lost,
    ) -> Result<Self, Refusal> {
        let tools = match tools {
            None => Vec::new(),
            Some(Json::List(tools)) => tools,
            Some(other) => {
                return Err(Refusal::bad("tools", format!("is {}, where a list of tools belongs", other.kind())));
            }
        };
        // Names that stay come first, so that no other is rewritten to one of them.
        let kept = tools.iter().filter_map(name_of).filter(|name| is_valid(name)).map(str::to_owned);
        names.taken.extend(kept);
        let mut list = Vec::with_capacity(tools.len());
        for (index, tool) in tools.into_iter().enumerate() {
            let Json::Object(tool) = tool else {
                return Err(Refusal::bad(format!("tools[{index}]"), format!("is {}, not a tool", tool.kind())));
            };
            let is_function =
                tool.text("type").map_or_else(|| tool.get("function").is_some(), |kind| kind == "function");
            if is_function {
                list.push(function(index, tool, model, names)?);
            } else if tool.get("custom").is_some() {
                lost.note(format!("tools[{index}]"), "a custom tool takes free text, and Anthropic's take JSON");
            } else if tool.get("input_schema").is_some() || tool.text("type").is_some() {
                // Anthropic's own: its server tools, or tools with an input_schema.
                list.push((tool.text("name").unwrap_or_default().to_owned(), tool.into()));
            } else {
                return Err(Refusal::bad(format!("tools[{index}]"), "has no type; use function"));
            }
        }
        Ok(Self { list })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Reads the `tool_choice` of a request.
    pub(super) fn choice(
        &mut self,
        asked: Option<Json<'_>>,
        model: &Model,
        names: &mut Names,
        lost: &mut Lost,
    ) -> Result<Option<Choice>, Refusal> {
        let choice = match asked {
            None => None,
            Some(Json::Text(word)) => Some(choice_of(&word)?),
            Some(Json::Object(object)) => self.choice_of_object(object, names, lost)?,
            Some(other) => return Err(Refusal::bad("tool_choice", format!("is {}, not a choice", other.kind()))),
        };
        let Some(choice) = choice else { return Ok(None) };
        if self.is_empty() {
            return if choice.is_forced() {
                Err(Refusal::bad("tool_choice", "asks for a call, and the request has no tools"))
            } else {
                Ok(None)
            };
        }
        if choice.is_forced() && !model.forced_tools {
            lost.note("tool_choice", "this model cannot be made to call a tool, only asked");
            return Ok(Some(Choice::Auto));
        }
        Ok(Some(choice))
    }

    fn choice_of_object(
        &mut self,
        mut asked: Object<'_>,
        names: &mut Names,
        lost: &mut Lost,
    ) -> Result<Option<Choice>, Refusal> {
        let kind = asked.text("type").unwrap_or_default().to_owned();
        match kind.as_str() {
            "function" | "tool" => {
                let mut named = match asked.take("function") {
                    Some(Json::Object(function)) => function,
                    _ => asked,
                };
                let Some(Json::Text(name)) = named.take("name") else {
                    return Err(Refusal::bad("tool_choice", "does not name its function"));
                };
                if !self.list.iter().any(|(known, _)| *known == name) {
                    return Err(Refusal::bad("tool_choice", "names a function that is not among the tools"));
                }
                Ok(Some(Choice::One(names.sent(name).into_owned())))
            }
            "allowed_tools" => {
                let allowed = match asked.take("allowed_tools") {
                    Some(Json::Object(allowed)) => allowed,
                    _ => asked,
                };
                let choice = choice_of(allowed.text("mode").unwrap_or("auto"))?;
                let tools = allowed.get("tools").and_then(Json::as_list).unwrap_or_default();
                let allowed: HashSet<&str> = tools.iter().filter_map(name_of).collect();
                // Anthropic has no such choice: what is not allowed is not offered.
                self.list.retain(|(name, _)| allowed.contains(name.as_str()));
                if self.is_empty() {
                    return Err(Refusal::bad("tool_choice", "allows none of the tools"));
                }
                Ok(Some(choice))
            }
            "custom" => {
                lost.note("tool_choice", "a custom tool takes free text, and Anthropic's take JSON");
                Ok(None)
            }
            word => Ok(Some(choice_of(word)?)),
        }
    }

    /// Adds the tool whose input is the answer, and says how it is chosen; returns its name.
    ///
    /// Called only where no call of another tool is asked for. A model that thinks cannot be forced to call it.
    pub(super) fn answer_by(
        &mut self,
        schema: Object<'a>,
        choice: &mut Option<Choice>,
        may_force: bool,
        names: &mut Names,
    ) -> String {
        if *choice == Some(Choice::None) {
            self.list.clear();
        }
        let name = names.free(JSON_TOOL);
        *choice = match (may_force, self.is_empty()) {
            (false, _) => None,
            (true, true) => Some(Choice::One(name.clone())),
            (true, false) => Some(Choice::Any),
        };
        let tool = Object::new()
            .with("name", name.clone())
            .with("description", "Gives the final answer. Call it exactly once, with the whole answer as its input.")
            .with("input_schema", typed(schema));
        self.list.push((name.clone(), tool.into()));
        name
    }

    /// Adds a tool that is never called: Anthropic refuses calls and results in messages without any tool.
    pub(super) fn add_placeholder(&mut self) {
        let tool = Object::new()
            .with("name", "no_tool")
            .with("description", "Not a tool. Never call it.")
            .with("input_schema", typed(Object::new()));
        self.list.push((String::new(), tool.into()));
    }

    pub(super) fn into_json(self) -> Json<'a> {
        Json::List(self.list.into_iter().map(|(_, tool)| tool).collect())
    }
}

/// Finds the name of a tool in OpenAI's form or in Anthropic's.
fn name_of<'a>(tool: &'a Json<'_>) -> Option<&'a str> {
    let tool = tool.as_object()?;
    tool.get("function").and_then(Json::as_object).unwrap_or(tool).text("name")
}

fn choice_of(word: &str) -> Result<Choice, Refusal> {
    match word {
        "auto" => Ok(Choice::Auto),
        "none" => Ok(Choice::None),
        "required" | "any" => Ok(Choice::Any),
        _ => Err(Refusal::bad("tool_choice", "is none of auto, none, required and a function of the tools")),
    }
}

fn function<'a>(
    index: usize,
    mut tool: Object<'a>,
    model: &Model,
    names: &mut Names,
) -> Result<(String, Json<'a>), Refusal> {
    let place = |member: &str| format!("tools[{index}].function{member}");
    let Some(Json::Object(mut function)) = tool.take("function") else {
        return Err(Refusal::bad(place(""), "is missing"));
    };
    let name = match function.take("name") {
        Some(Json::Text(name)) if !name.is_empty() => name,
        _ => return Err(Refusal::bad(place(".name"), "is missing")),
    };
    let parameters = match function.take("parameters") {
        None => Object::new(),
        Some(Json::Object(parameters)) => parameters,
        Some(other) => {
            return Err(Refusal::bad(place(".parameters"), format!("is {}, not a JSON schema", other.kind())));
        }
    };
    let strict = model.schema && function.take("strict") == Some(Json::Bool(true));
    let parameters = if strict { schema::fitted(typed(parameters)) } else { typed(parameters) };
    let cache_control = tool.take("cache_control").or_else(|| function.take("cache_control"));
    let known = name.clone().into_owned();
    let tool = Object::of("custom")
        .with("name", names.sent(name))
        .with_some("description", function.take("description"))
        .with("input_schema", parameters)
        .with_some("strict", strict.then_some(true))
        .with_some("cache_control", cache_control);
    Ok((known, tool.into()))
}

/// Gives the schema of an input its `type`, and `properties` where it says nothing at all: Anthropic wants an object.
fn typed(mut schema: Object<'_>) -> Object<'_> {
    if schema.is_empty() {
        return Object::of("object").with("properties", Object::new());
    }
    match schema.take("type") {
        None => std::iter::once(("type".into(), "object".into())).chain(schema).collect(),
        Some(kind) => std::iter::once(("type".into(), kind)).chain(schema).collect(),
    }
}
