//! What is made of each line: several models, parameters and samples, as a cross product.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use gristmill_common::job::JobOptions;
use gristmill_common::splice::{self, NotAnObject};
use serde_json::value::RawValue;

use super::line::{Bad, MAX_CUSTOM_ID_BYTES, Request};
use crate::submit::NewJob;

/// The variants of every request. By default there is one: the request as it is.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    /// The model groups that are asked, whatever the lines name; empty for the lines' own.
    pub models: Vec<Arc<str>>,
    /// Parameters that are set in every body.
    pub parameters: Vec<Parameter>,
    /// Samples of each request; 0 counts as 1.
    pub repeat: u32,
}

/// A parameter of the body with the values that it takes in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    name: String,
    /// JSON texts, each with what people call it.
    values: Vec<(String, String)>,
}

/// A text that is no parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParameter {
    /// It has no name or no value.
    #[error("write it as name=value or name=value,value, such as temperature=0,0.7")]
    Shape,
    /// The model has an option of its own.
    #[error("name models with --model, once for each")]
    Model,
    /// A value begins as a JSON list or object and is none.
    #[error("the value {0} is not JSON; quote it for the shell, or write a text as \"{0}\"")]
    NotJson(String),
    /// A value is there twice.
    #[error("the value {0} is there twice")]
    Twice(String),
}

impl Parameter {
    /// Returns its name in the body.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Parameter {
    type Err = InvalidParameter;

    /// Reads `name=value,value`: values are JSON, and what is not JSON is a string.
    fn from_str(text: &str) -> Result<Self, InvalidParameter> {
        let (name, list) = text.split_once('=').ok_or(InvalidParameter::Shape)?;
        let name = name.trim();
        if name.is_empty() {
            return Err(InvalidParameter::Shape);
        }
        if name == "model" {
            return Err(InvalidParameter::Model);
        }
        let mut values: Vec<(String, String)> = Vec::new();
        for word in split(list) {
            if word.is_empty() {
                return Err(InvalidParameter::Shape);
            }
            let json = match serde_json::from_str::<&RawValue>(word) {
                Ok(raw) => raw.get().to_owned(),
                Err(_) if word.starts_with(['[', '{']) => return Err(InvalidParameter::NotJson(word.to_owned())),
                Err(_) => splice::quoted(word),
            };
            if values.iter().any(|(other, _)| *other == json) {
                return Err(InvalidParameter::Twice(word.to_owned()));
            }
            let label = serde_json::from_str::<String>(&json).unwrap_or_else(|_| word.to_owned());
            values.push((json, label));
        }
        Ok(Self { name: name.to_owned(), values })
    }
}

/// Splits at commas that stand in no brackets and no quotes.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        let end = text.char_indices().find(|(_, character)| {
            match character {
                _ if std::mem::take(&mut escaped) => {}
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '[' | '{' if !quoted => depth += 1,
                ']' | '}' if !quoted => depth = depth.saturating_sub(1),
                ',' => return depth == 0 && !quoted,
                _ => {}
            }
            false
        });
        let (word, after) = match end {
            Some((end, _)) => (&text[..end], Some(&text[end + 1..])),
            None => (text, None),
        };
        rest = after;
        Some(word.trim())
    })
}

/// One combination of parameters, and the models and samples that it is run with.
#[derive(Debug, Clone)]
struct Combination<'a> {
    set: Vec<(&'a str, &'a str)>,
    variants: Vec<Variant>,
}

/// What one job gets on top of its line.
#[derive(Debug, Clone)]
struct Variant {
    model: Option<Arc<str>>,
    /// Behind the `custom_id`.
    suffix: String,
    options: JobOptions,
}

/// A sweep laid out for use on many lines.
#[derive(Debug)]
pub(super) struct Expansion<'a> {
    combinations: Vec<Combination<'a>>,
}

impl Sweep {
    /// Returns how many jobs a line makes for each model that it asks.
    pub(super) fn jobs_per_model(&self) -> u64 {
        let combinations: u64 = self.parameters.iter().map(|parameter| parameter.values.len() as u64).product();
        combinations.saturating_mul(self.repeat.max(1).into())
    }

    /// Returns how many jobs a line makes.
    pub(super) fn jobs_per_line(&self) -> u64 {
        self.jobs_per_model().saturating_mul(self.models.len().max(1) as u64)
    }

    /// Returns what the custom ids of its lines must leave free.
    pub(super) fn naming(&self) -> Naming {
        let several = self.parameters.iter().filter(|parameter| parameter.values.len() > 1);
        let mut dimensions: Vec<(&str, usize)> = several
            .map(|Parameter { name, values }| {
                (name.as_str(), values.iter().map(|(_, label)| label.len()).max().unwrap_or(0))
            })
            .collect();
        if self.models.len() > 1 {
            dimensions.push(("model", self.models.iter().map(|model| model.len()).max().unwrap_or(0)));
        }
        if self.repeat > 1 {
            dimensions.push(("sample", (self.repeat - 1).to_string().len()));
        }
        let longest = dimensions.iter().map(|(name, label)| "|=".len() + name.len() + label).sum();
        Naming { marks: dimensions.iter().map(|(name, _)| format!("|{name}=")).collect(), longest }
    }

    /// Returns the names of what it varies: they stand in the custom ids and the tags.
    pub fn dimensions(&self) -> Vec<String> {
        self.naming().marks.iter().map(|mark| mark.trim_matches(['|', '=']).to_owned()).collect()
    }

    /// Lays out every variant; a dimension with several values shows in the custom id and the tags.
    pub(super) fn expansion(&self, options: &JobOptions) -> Expansion<'_> {
        let mut combinations = vec![(Vec::new(), String::new(), options.tags.clone())];
        for Parameter { name, values } in &self.parameters {
            let several = values.len() > 1;
            combinations = combinations
                .into_iter()
                .flat_map(|(set, suffix, tags)| {
                    values.iter().map(move |(json, label)| {
                        let mut next = (set.clone(), suffix.clone(), tags.clone());
                        next.0.push((name.as_str(), json.as_str()));
                        if several {
                            note(&mut next.1, &mut next.2, name, label);
                        }
                        next
                    })
                })
                .collect();
        }
        let variants = |suffix: &str, tags: &BTreeMap<String, String>| {
            let models: Vec<Option<Arc<str>>> =
                if self.models.is_empty() { vec![None] } else { self.models.iter().cloned().map(Some).collect() };
            let mut variants = Vec::new();
            for model in models {
                let (mut suffix, mut tags) = (suffix.to_owned(), tags.clone());
                if let Some(model) = model.as_deref().filter(|_| self.models.len() > 1) {
                    note(&mut suffix, &mut tags, "model", model);
                }
                for sample in 0..self.repeat.max(1) {
                    let mut suffix = suffix.clone();
                    match sample {
                        0 if self.repeat > 1 => _ = tags.insert("sample".to_owned(), "0".to_owned()),
                        0 => {}
                        // The first one keeps its name, so that asking for more samples asks none again.
                        _ => note(&mut suffix, &mut tags, "sample", &sample.to_string()),
                    }
                    let options = JobOptions { sample, tags: tags.clone(), ..options.clone() };
                    variants.push(Variant { model: model.clone(), suffix, options });
                }
            }
            variants
        };
        let combination = |(set, suffix, tags): (_, String, _)| Combination { set, variants: variants(&suffix, &tags) };
        Expansion { combinations: combinations.into_iter().map(combination).collect() }
    }
}

fn note(suffix: &mut String, tags: &mut BTreeMap<String, String>, name: &str, label: &str) {
    suffix.push_str(&format!("|{name}={label}"));
    tags.insert(name.to_owned(), label.to_owned());
}

/// What a sweep puts behind custom ids.
#[derive(Debug)]
pub(super) struct Naming {
    /// The beginning of each dimension's part.
    marks: Vec<String>,
    /// Bytes of the longest text that it puts behind one.
    longest: usize,
}

impl Naming {
    /// Refuses a request of which a variant's custom id could be another line's, or too long.
    pub(super) fn allow(&self, request: Request) -> Result<Request, Bad> {
        let custom_id = &request.custom_id;
        let reason = if let Some(mark) = self.marks.iter().find(|mark| custom_id.contains(mark.as_str())) {
            format!("custom_id holds {mark:?}, which this sweep puts behind custom_ids; rename it")
        } else if !self.marks.is_empty() && custom_id.len() + self.longest > MAX_CUSTOM_ID_BYTES {
            format!(
                "custom_id has {} bytes and this sweep adds up to {}, at most {MAX_CUSTOM_ID_BYTES} are taken together",
                custom_id.len(),
                self.longest
            )
        } else {
            return Ok(request);
        };
        Err(Bad { custom_id: Some(request.custom_id), reason })
    }
}

impl Expansion<'_> {
    /// Makes the jobs of one request, until nobody takes them any more; `model` is the line's own.
    pub(super) fn jobs(
        &self,
        request: &Request,
        endpoint: &Arc<str>,
        model: &Arc<str>,
        mut take: impl FnMut(NewJob) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, NotAnObject> {
        for Combination { set, variants } in &self.combinations {
            let body: Bytes = splice::set(&request.body, set)?;
            for Variant { model: other, suffix, options } in variants {
                let taken = take(NewJob {
                    custom_id: format!("{}{suffix}", request.custom_id),
                    endpoint: Arc::clone(endpoint),
                    model: Arc::clone(other.as_ref().unwrap_or(model)),
                    body: body.clone(),
                    options: JobOptions { metadata: request.metadata.clone(), ..options.clone() },
                });
                if taken.is_break() {
                    return Ok(taken);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
