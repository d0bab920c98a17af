//! Schemas of structured outputs: the keywords that are refused.
//!
//! The list follows <https://platform.claude.com/docs/en/build-with-claude/structured-outputs> (read 2026-11-23).

use serde_json::{Map, Value};

use crate::simulate::instance;

/// Keywords that are refused, by the type that they stand for.
const REFUSED: [(&str, &[&str]); 5] = [
    ("string", &["maxLength", "minLength"]),
    ("number", &["exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"]),
    ("integer", &["exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"]),
    ("array", &["contains", "maxItems", "prefixItems", "uniqueItems"]),
    ("object", &["maxProperties", "minProperties", "patternProperties", "propertyNames"]),
];

/// Combinations that are refused, whatever the type.
const COMBINATIONS: [&str; 6] = ["oneOf", "not", "if", "then", "else", "dependentSchemas"];

/// Finds the first thing in a schema that is refused; `at` is where it stands.
pub(super) fn check(at: &str, schema: &Value) -> Result<(), String> {
    if let Some(flaw) = instance::flaw(schema) {
        return Err(format!("{at}: Invalid schema: {flaw}"));
    }
    let Value::Object(map) = schema else {
        return Ok(());
    };
    if let Some(keyword) = COMBINATIONS.iter().find(|keyword| map.contains_key(**keyword)) {
        return Err(format!("{at}: Schema type '{keyword}' is not supported"));
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    typed(at, kind, map)?;
    for name in ["properties", "$defs", "definitions"] {
        for sub in map.get(name).and_then(Value::as_object).into_iter().flat_map(Map::values) {
            check(at, sub)?;
        }
    }
    for name in ["anyOf", "allOf"] {
        for sub in map.get(name).and_then(Value::as_array).into_iter().flatten() {
            check(at, sub)?;
        }
    }
    map.get("items").map_or(Ok(()), |items| check(at, items))
}

fn typed(at: &str, kind: &str, map: &Map<String, Value>) -> Result<(), String> {
    let refused = REFUSED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keywords)| *keywords);
    let found: Vec<&str> = refused.iter().copied().filter(|keyword| map.contains_key(*keyword)).collect();
    match found.as_slice() {
        [] => {}
        [one] => return Err(format!("{at}: For '{kind}' type, property '{one}' is not supported")),
        many => return Err(format!("{at}: For '{kind}' type, properties {} are not supported", many.join(", "))),
    }
    match (kind, map.get("additionalProperties"), map.get("minItems").and_then(Value::as_u64)) {
        ("object", None, _) => {
            Err(format!("{at}: For 'object' type, 'additionalProperties' must be explicitly set to false"))
        }
        ("object", Some(other), _) if *other != false => Err(format!(
            "{at}: For 'object' type, 'additionalProperties: {other}' is not supported. Please set 'additionalProperties' to false"
        )),
        ("array", _, Some(2..)) => {
            Err(format!("{at}: For 'array' type, 'minItems' values other than 0 or 1 are not supported"))
        }
        _ => Ok(()),
    }
}
