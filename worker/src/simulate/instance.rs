//! JSON that fits a JSON Schema, and JSON that does not.
//!
//! Owns the making of instances for the keywords that requests use: types, properties, items, bounds, `enum`, `const`,
//! `format`, `pattern`, `$ref` inside the schema, `allOf`, `anyOf` and `oneOf`. What is beyond them (`not`, `if`,
//! `patternProperties`, `contains`, references elsewhere) is not looked at, and no address is fetched.

use serde_json::{Map, Number, Value, json};

use super::pattern;
use super::prose;
use super::random::Random;

/// Depth from which on only what is required is made, so that recursive schemas end.
const SHALLOW: usize = 4;

/// Depth at which making stops.
const MAX_DEPTH: usize = 32;

/// Items that an array is made longer by than asked for, at most.
const MAX_EXTRA_ITEMS: u64 = 2;

/// Items and characters that are made, whatever the schema asks for.
const MAX_SIZE: u64 = 10_000;

/// The schema that everything fits.
static ANYTHING: Value = Value::Bool(true);

/// Names of types, as `type` takes them.
const TYPES: [&str; 7] = ["object", "array", "string", "integer", "number", "boolean", "null"];

/// Makes a value that fits.
pub(super) fn fitting(schema: &Value, random: &mut Random) -> Value {
    Maker { root: schema, random }.make(schema, 0)
}

/// Makes a value that does not fit: a property too few or too many, or the wrong type.
///
/// A schema that takes everything has none.
pub(super) fn misfit(schema: &Value, random: &mut Random) -> Value {
    let root = match schema["$ref"].as_str().and_then(|reference| resolve(schema, reference)) {
        Some(target) => target,
        None => schema,
    };
    let Value::Object(mut object) = fitting(schema, random) else {
        return json!({ "unexpected": prose::name(random) });
    };
    let required = root["required"].as_array().and_then(|names| names.first()).and_then(Value::as_str);
    match required {
        Some(name) => {
            object.remove(name);
        }
        None if root["additionalProperties"] == false => {
            object.insert("unexpected".to_owned(), prose::name(random).into());
        }
        None => return Value::Array(vec![Value::Object(object)]),
    }
    Value::Object(object)
}

/// Tells why a value is no schema, as far as it is looked at.
pub(super) fn flaw(schema: &Value) -> Option<String> {
    let map = match schema {
        Value::Object(map) => map,
        Value::Bool(_) => return None,
        other => return Some(format!("{other} is not of type 'object', 'boolean'")),
    };
    for (keyword, value) in map {
        let found = match (keyword.as_str(), value) {
            ("type", Value::String(name)) if TYPES.contains(&name.as_str()) => None,
            ("type", Value::Array(names)) if names.iter().all(|n| n.as_str().is_some_and(|n| TYPES.contains(&n))) => {
                None
            }
            ("type", _) => Some(format!("{value} is not valid under any of the given schemas")),
            ("properties" | "$defs" | "definitions", Value::Object(subs)) => subs.values().find_map(flaw),
            ("properties" | "$defs" | "definitions", _) => Some(format!("{value} is not of type 'object'")),
            ("items" | "additionalProperties" | "not", _) => flaw(value),
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(subs)) => subs.iter().find_map(flaw),
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "enum" | "required", other) if !other.is_array() => {
                Some(format!("{value} is not of type 'array'"))
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Finds what a reference into the same schema names.
fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer))
}

struct Maker<'a> {
    root: &'a Value,
    random: &'a mut Random,
}

impl Maker<'_> {
    fn make(&mut self, schema: &Value, depth: usize) -> Value {
        let Value::Object(map) = schema else {
            return prose::name(self.random).into();
        };
        if depth > MAX_DEPTH {
            return Value::Null;
        }
        if let Some(target) = map.get("$ref").and_then(Value::as_str).and_then(|name| resolve(self.root, name)) {
            // The root outlives this call, the borrow of `self` does not.
            let target = target.clone();
            return self.make(&target, depth + 1);
        }
        if let Some(value) = map.get("const") {
            return value.clone();
        }
        if let Some(values) = map.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty()) {
            return values[self.random.below(values.len())].clone();
        }
        if let Some(parts) = map.get("allOf").and_then(Value::as_array) {
            let mut whole = map.clone();
            whole.remove("allOf");
            for part in parts {
                self.merge(&mut whole, part);
            }
            return self.make(&Value::Object(whole), depth + 1);
        }
        for keyword in ["anyOf", "oneOf"] {
            let Some(options) = map.get(keyword).and_then(Value::as_array).filter(|options| !options.is_empty()) else {
                continue;
            };
            let mut whole = map.clone();
            whole.remove(keyword);
            let chosen = if depth < SHALLOW {
                &options[self.random.below(options.len())]
            } else {
                options.iter().min_by_key(|option| simplicity(option)).unwrap_or(&options[0])
            };
            self.merge(&mut whole, chosen);
            return self.make(&Value::Object(whole), depth + 1);
        }
        match kind(map) {
            "object" => self.object(map, depth),
            "array" => self.array(map, depth),
            "integer" => self.integer(map),
            "number" => self.number(map),
            "boolean" => (self.random.below(2) == 0).into(),
            "null" => Value::Null,
            _ => self.string(map).into(),
        }
    }

    /// Adds a part of `allOf`, or the chosen one of `anyOf`, to what stands beside it.
    fn merge(&self, whole: &mut Map<String, Value>, part: &Value) {
        let part = part["$ref"].as_str().and_then(|name| resolve(self.root, name)).unwrap_or(part);
        let Some(part) = part.as_object() else { return };
        for (keyword, value) in part {
            match (whole.get_mut(keyword), value) {
                (Some(Value::Object(old)), Value::Object(new)) => old.extend(new.clone()),
                (Some(Value::Array(old)), Value::Array(new)) if keyword == "required" => old.extend(new.clone()),
                _ => {
                    whole.insert(keyword.clone(), value.clone());
                }
            }
        }
    }

    fn object(&mut self, map: &Map<String, Value>, depth: usize) -> Value {
        let required: Vec<&str> =
            map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut object = Map::new();
        for (name, schema) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if depth < SHALLOW || required.contains(&name.as_str()) {
                object.insert(name.clone(), self.make(schema, depth + 1));
            }
        }
        let other = map.get("additionalProperties").unwrap_or(&ANYTHING);
        for name in required {
            if !object.contains_key(name) {
                object.insert(name.to_owned(), self.make(other, depth + 1));
            }
        }
        let least = map.get("minProperties").and_then(Value::as_u64).unwrap_or(0).min(MAX_SIZE);
        for number in 1.. {
            if object.len() as u64 >= least {
                break;
            }
            let value = self.make(other, depth + 1);
            object.entry(format!("extra_{number}")).or_insert(value);
        }
        Value::Object(object)
    }

    fn array(&mut self, map: &Map<String, Value>, depth: usize) -> Value {
        let size = |keyword| map.get(keyword).and_then(Value::as_u64);
        let first = map.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let least = size("minItems").unwrap_or(0).min(MAX_SIZE);
        let wanted = if depth < SHALLOW { least.max(1) + self.random.below(2) as u64 } else { least };
        let most = size("maxItems").unwrap_or(least + MAX_EXTRA_ITEMS);
        let rest = map.get("items").unwrap_or(&ANYTHING);
        // Nothing may follow the first items where `items` is false.
        let most = if *rest == false { most.min(first.len() as u64) } else { most };
        let wanted = wanted.max(first.len() as u64).min(most).max(least);
        let is_distinct = map.get("uniqueItems").is_some_and(|value| *value == true);
        let mut items: Vec<Value> = Vec::new();
        let mut tries = 0;
        while (items.len() as u64) < wanted && tries < wanted + 100 {
            tries += 1;
            let item = self.make(first.get(items.len()).unwrap_or(rest), depth + 1);
            if !is_distinct || !items.contains(&item) {
                items.push(item);
            }
        }
        Value::Array(items)
    }

    #[expect(clippy::cast_possible_truncation, reason = "bounds beyond 64 bits are clamped by the cast")]
    fn integer(&mut self, map: &Map<String, Value>) -> Value {
        let bound = |keyword| map.get(keyword).and_then(Value::as_f64);
        let step = bound("multipleOf").filter(|step| *step >= 1.0).unwrap_or(1.0) as i64;
        let least = bound("minimum")
            .map(|min| min.ceil() as i64)
            .max(bound("exclusiveMinimum").map(|min| (min.floor() as i64).saturating_add(1)));
        let most = [
            bound("maximum").map(|max| max.floor() as i64),
            bound("exclusiveMaximum").map(|max| (max.ceil() as i64).saturating_sub(1)),
        ];
        let most = most.into_iter().flatten().min();
        let (least, most) = match (least, most) {
            (Some(least), Some(most)) => (least, most),
            (Some(least), None) => (least, least.saturating_add(100)),
            (None, Some(most)) => (most.saturating_sub(100).max(0).min(most), most),
            (None, None) => (0, 100),
        };
        // In steps, so that a multiple is met where one lies between.
        let first = least.div_euclid(step) + i64::from(least.rem_euclid(step) != 0);
        let steps = most.div_euclid(step).saturating_sub(first).clamp(0, 1_000);
        let chosen = self.random.below(usize::try_from(steps).unwrap_or(0) + 1);
        (first.saturating_add(i64::try_from(chosen).unwrap_or(0))).saturating_mul(step).into()
    }

    fn number(&mut self, map: &Map<String, Value>) -> Value {
        let bound = |keyword| map.get(keyword).and_then(Value::as_f64);
        let least = bound("minimum").into_iter().chain(bound("exclusiveMinimum")).reduce(f64::max);
        let most = bound("maximum").into_iter().chain(bound("exclusiveMaximum")).reduce(f64::min);
        let (least, most) = match (least, most) {
            (Some(least), Some(most)) => (least, most),
            (Some(least), None) => (least, least + 100.0),
            (None, Some(most)) => (most - 100.0, most),
            (None, None) => (0.0, 100.0),
        };
        // Away from both ends, which may be excluded.
        let exact = least + (most - least) * (0.1 + 0.8 * self.random.unit());
        let value = match bound("multipleOf").filter(|step| *step > 0.0) {
            Some(step) => {
                let multiple = (exact / step).floor() * step;
                if multiple < least { multiple + step } else { multiple }
            }
            None => {
                let round = (exact * 100.0).round() / 100.0;
                if round > least && round < most { round } else { exact }
            }
        };
        Number::from_f64(value).map_or_else(|| Value::from(0), Value::Number)
    }

    fn string(&mut self, map: &Map<String, Value>) -> String {
        let text = |keyword| map.get(keyword).and_then(Value::as_str);
        if let Some(made) = text("pattern").and_then(|pattern| pattern::text(pattern, self.random)) {
            return made;
        }
        if let Some(made) = text("format").and_then(|format| self.formatted(format)) {
            return made;
        }
        let size = |keyword| map.get(keyword).and_then(Value::as_u64);
        let least = size("minLength").unwrap_or(0).min(MAX_SIZE);
        let mut made = prose::name(self.random);
        while (made.len() as u64) < least {
            made.push(' ');
            made.push_str(&prose::name(self.random));
        }
        if let Some(most) = size("maxLength") {
            // Names are ASCII: a byte is a character.
            made.truncate(usize::try_from(most.max(least)).unwrap_or(usize::MAX));
        }
        made
    }

    /// Makes a text of a format that JSON Schema names (draft 2020-12, validation, section 7.3).
    fn formatted(&mut self, format: &str) -> Option<String> {
        let (day, minute) = (1 + self.random.below(28), self.random.below(60));
        Some(match format {
            "date-time" => format!("2026-11-{day:02}T09:{minute:02}:00Z"),
            "date" => format!("2026-11-{day:02}"),
            "time" => format!("09:{minute:02}:00Z"),
            "duration" => format!("P{day}D"),
            "email" | "idn-email" => format!("reader{minute}@example.com"),
            "hostname" | "idn-hostname" => format!("mill{minute}.example.com"),
            "ipv4" => format!("192.0.2.{day}"),
            "ipv6" => format!("2001:db8::{day}"),
            "uri" | "iri" | "url" => format!("https://example.com/record/{minute}"),
            "uri-reference" | "iri-reference" => format!("/record/{minute}"),
            "uuid" => uuid(self.random.bits(), self.random.bits()),
            _ => return None,
        })
    }
}

/// Writes 128 bits as a UUID of version 4.
pub(super) fn uuid(high: u64, low: u64) -> String {
    let (high, low) = ((high & !0xf000) | 0x4000, (low & (u64::MAX >> 2)) | (1 << 63));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// Returns the type to make: the first that is named and is not null, or what the other keywords tell.
fn kind(map: &Map<String, Value>) -> &str {
    match map.get("type") {
        Some(Value::String(name)) => return name,
        Some(Value::Array(names)) => {
            let mut names = names.iter().filter_map(Value::as_str);
            return names.find(|name| *name != "null").unwrap_or("null");
        }
        _ => {}
    }
    let has = |keywords: &[&str]| keywords.iter().any(|keyword| map.contains_key(*keyword));
    if has(&["properties", "required", "additionalProperties", "minProperties"]) {
        "object"
    } else if has(&["items", "prefixItems", "minItems", "maxItems"]) {
        "array"
    } else if has(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]) {
        "number"
    } else {
        "string"
    }
}

/// Orders alternatives, so that a deep place takes the one that ends soonest.
fn simplicity(option: &Value) -> u8 {
    match option["type"].as_str() {
        Some("null") => 0,
        Some("string" | "integer" | "number" | "boolean") => 1,
        Some("array") => 2,
        Some(_) => 3,
        None if option.get("const").is_some() || option.get("enum").is_some() => 1,
        None => 4,
    }
}

#[cfg(test)]
mod tests;
