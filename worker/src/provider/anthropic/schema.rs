//! JSON schemas, fitted to the part of JSON Schema that Anthropic can hold a model to.
//!
//! What is taken: <https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations>, read
//! 2026-08-22; anything else is answered with 400. What has to go is told to the model in the description instead, as
//! Anthropic's own SDKs do; whether the answer keeps to it must be checked by whoever asked. Recursive schemas and `$ref`
//! within `allOf` are left to Anthropic to refuse.

use super::json::{Json, Object};

/// Formats of texts that Anthropic knows.
const FORMATS: &[&str] = &["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];

/// The largest repetition in a pattern that counts as simple. The page names no number.
const MAX_REPETITION: u32 = 100;

/// Fits a schema and all within it.
pub(super) fn fitted(mut schema: Object<'_>) -> Object<'_> {
    let mut out = Object::new();
    for key in ["$defs", "definitions"] {
        if let Some(Json::Object(schemas)) = schema.take(key) {
            out.push(key, each(schemas));
        }
    }
    // Beside a reference nothing else is taken.
    if let Some(reference) = take_reference(&mut schema) {
        out.push("$ref", reference);
        return out;
    }
    let is_object = is_object(&schema);
    if is_object && schema.get("type").is_none() {
        out.push("type", "object");
    }
    let mut has_any_of = schema.get("anyOf").is_some();
    let mut description = None;
    let mut told = Vec::new();
    for (key, value) in schema {
        match (&*key, value) {
            ("description", Json::Text(text)) => description = Some(text),
            ("$schema" | "$id" | "$anchor" | "$comment" | "description", _)
            | ("additionalProperties", Json::Bool(_) | Json::Null) => {}
            ("type" | "title" | "required" | "default", value) => out.push(key, value),
            ("properties", Json::Object(schemas)) => out.push(key, each(schemas)),
            ("items", Json::Object(schema)) => out.push(key, fitted(schema)),
            ("anyOf" | "allOf", Json::List(schemas)) => out.push(key, all(schemas)),
            ("oneOf", Json::List(schemas)) if !has_any_of => {
                has_any_of = true;
                out.push("anyOf", all(schemas));
            }
            ("enum", Json::List(values)) if values.iter().all(Json::is_scalar) => out.push(key, values),
            ("const", value) if value.is_scalar() => out.push(key, value),
            ("format", Json::Text(format)) if FORMATS.contains(&&*format) => out.push(key, format),
            ("pattern", Json::Text(pattern)) if is_simple(&pattern) => out.push(key, pattern),
            ("minItems", value) if matches!(value.as_count(), Some(0 | 1)) => out.push(key, value),
            (name, value) => told.push(format!("{name}: {value}")),
        }
    }
    if is_object {
        out.push("additionalProperties", false);
    }
    match (description, told.is_empty()) {
        (Some(text), true) => out.push("description", text),
        (Some(text), false) => out.push("description", format!("{text}\n\n({})", told.join("; "))),
        (None, false) => out.push("description", format!("({})", told.join("; "))),
        (None, true) => {}
    }
    out
}

fn each(schemas: Object<'_>) -> Object<'_> {
    schemas.into_iter().map(|(name, schema)| (name, any(schema))).collect()
}

fn all(schemas: Vec<Json<'_>>) -> Json<'_> {
    Json::List(schemas.into_iter().map(any).collect())
}

fn any(schema: Json<'_>) -> Json<'_> {
    match schema {
        Json::Object(schema) => fitted(schema).into(),
        other => other,
    }
}

/// Takes a reference within the schema, also where it stands alone in an `allOf`, as Pydantic 1 writes it.
fn take_reference<'a>(schema: &mut Object<'a>) -> Option<Json<'a>> {
    if schema.text("$ref").is_some_and(|reference| reference.starts_with('#')) {
        return schema.take("$ref");
    }
    let [Json::Object(only)] = schema.get("allOf")?.as_list()? else { return None };
    let is_local = only.text("$ref").is_some_and(|reference| reference.starts_with('#'));
    is_local.then(|| only.get("$ref").cloned()).flatten()
}

fn is_object(schema: &Object<'_>) -> bool {
    match schema.get("type") {
        Some(Json::List(types)) => types.iter().any(|kind| kind.as_text() == Some("object")),
        Some(kind) => kind.as_text() == Some("object"),
        None => schema.get("properties").is_some(),
    }
}

/// Tells whether a pattern holds nothing but what the page names: no look-around, no references back, no word bounds.
fn is_simple(pattern: &str) -> bool {
    let mut rest = pattern;
    while let Some(place) = rest.find(['\\', '(', '{']) {
        let (mark, behind) = (rest.as_bytes()[place], &rest[place + 1..]);
        let next = behind.chars().next();
        let is_fine = match mark {
            b'\\' => next.is_some_and(|next| matches!(next, 'd' | 'w' | 's') || next.is_ascii_punctuation()),
            b'(' => next != Some('?'),
            _ => {
                let counts = behind.split('}').next().unwrap_or_default();
                counts
                    .split(',')
                    .all(|count| count.is_empty() || count.parse::<u32>().is_ok_and(|count| count <= MAX_REPETITION))
            }
        };
        if !is_fine {
            return false;
        }
        let skipped = if mark == b'\\' { next.map_or(0, char::len_utf8) } else { 0 };
        rest = &behind[skipped..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fit(schema: &str) -> Value {
        let Ok(Json::Object(schema)) = Json::parse(schema.as_bytes()) else { panic!("{schema}") };
        serde_json::from_str(&Json::Object(fitted(schema)).to_string()).unwrap()
    }

    #[test]
    fn keywords_that_anthropic_refuses_move_into_the_description() {
        for (schema, wanted) in [
            (
                r#"{"type":"integer","minimum":1,"maximum":9,"description":"A digit."}"#,
                json!({"type": "integer", "description": "A digit.\n\n(minimum: 1; maximum: 9)"}),
            ),
            (r#"{"type":"string","minLength":2}"#, json!({"type": "string", "description": "(minLength: 2)"})),
            (r#"{"type":"string","format":"email"}"#, json!({"type": "string", "format": "email"})),
            (r#"{"type":"string","format":"phone"}"#, json!({"type": "string", "description": "(format: \"phone\")"})),
            (r#"{"type":"string","pattern":"^[a-z]{1,3}$"}"#, json!({"type": "string", "pattern": "^[a-z]{1,3}$"})),
            (
                r#"{"type":"string","pattern":"(?=a)b"}"#,
                json!({"type": "string", "description": "(pattern: \"(?=a)b\")"}),
            ),
            (
                r#"{"type":"array","items":{"type":"number","multipleOf":2},"minItems":1,"maxItems":3}"#,
                json!({"type": "array", "items": {"type": "number", "description": "(multipleOf: 2)"}, "minItems": 1,
                    "description": "(maxItems: 3)"}),
            ),
            (
                r#"{"type":"array","minItems":2,"uniqueItems":true}"#,
                json!({"type": "array", "description": "(minItems: 2; uniqueItems: true)"}),
            ),
            (
                r#"{"oneOf":[{"type":"string","maxLength":1},{"type":"null"}]}"#,
                json!({"anyOf": [{"type": "string", "description": "(maxLength: 1)"}, {"type": "null"}]}),
            ),
            (
                r#"{"anyOf":[{"type":"string"}],"oneOf":[{"type":"null"}]}"#,
                json!({"anyOf": [{"type": "string"}], "description": "(oneOf: [{\"type\":\"null\"}])"}),
            ),
            (r#"{"enum":["a",1,null]}"#, json!({"enum": ["a", 1, null]})),
            (r#"{"enum":[{"a":1}]}"#, json!({"description": "(enum: [{\"a\":1}])"})),
            (r#"{"const":"a","default":null}"#, json!({"const": "a", "default": null})),
            (
                r#"{"if":{"type":"string"},"then":{"const":1},"not":{}}"#,
                json!({"description": "(if: {\"type\":\"string\"}; then: {\"const\":1}; not: {})"}),
            ),
            (r#"{"$schema":"x","$id":"y","type":"null"}"#, json!({"type": "null"})),
        ] {
            assert_eq!(fit(schema), wanted, "{schema}");
        }
    }

    #[test]
    fn objects_take_no_other_properties() {
        for (schema, wanted) in [
            (
                r#"{"type":"object","properties":{"a":{"properties":{}}},"required":["a"]}"#,
                json!({"type": "object", "properties": {"a": {"type": "object", "properties": {}, "additionalProperties": false}},
                    "required": ["a"], "additionalProperties": false}),
            ),
            (
                r#"{"type":["object","null"],"additionalProperties":true}"#,
                json!({"type": ["object", "null"], "additionalProperties": false}),
            ),
            (
                r#"{"type":"object","additionalProperties":{"type":"integer"}}"#,
                json!({"type": "object", "additionalProperties": false,
                    "description": "(additionalProperties: {\"type\":\"integer\"})"}),
            ),
            // A property may be called like a keyword.
            (
                r#"{"type":"object","properties":{"minimum":{"type":"integer"},"description":{"type":"string"}}}"#,
                json!({"type": "object", "additionalProperties": false,
                    "properties": {"minimum": {"type": "integer"}, "description": {"type": "string"}}}),
            ),
        ] {
            assert_eq!(fit(schema), wanted, "{schema}");
        }
    }

    #[test]
    fn references_within_the_schema_stay_and_others_go() {
        for (schema, wanted) in [
            (
                r##"{"$defs":{"A":{"type":"string","minLength":1}},"$ref":"#/$defs/A","title":"x"}"##,
                json!({"$defs": {"A": {"type": "string", "description": "(minLength: 1)"}}, "$ref": "#/$defs/A"}),
            ),
            (r##"{"allOf":[{"$ref":"#/definitions/A"}],"description":"d"}"##, json!({"$ref": "#/definitions/A"})),
            (r#"{"$ref":"http://x.example/y"}"#, json!({"description": "($ref: \"http://x.example/y\")"})),
        ] {
            assert_eq!(fit(schema), wanted, "{schema}");
        }
    }

    #[test]
    fn the_order_of_properties_survives() {
        let schema = br#"{"type":"object","properties":{"reasoning":{"type":"string"},"answer":{"type":"string"}}}"#;
        let Ok(Json::Object(schema)) = Json::parse(schema) else { panic!() };
        let text = Json::Object(fitted(schema)).to_string();
        assert!(text.find("reasoning") < text.find("answer"), "{text}");
    }

    #[test]
    fn simple_patterns_are_told_from_others() {
        for pattern in ["^a+$", r"\d{4}-\d{2}", "[a-z]*", "(a|b)?", r"\.\\", "a{2,}", ""] {
            assert!(is_simple(pattern), "{pattern}");
        }
        for pattern in ["(?!a)", "(?:a)", r"(a)\1", r"\bword", "a{1,5000}", r"\p{L}", r"\u0041", "\\", r"\é"] {
            assert!(!is_simple(pattern), "{pattern}");
        }
    }
}
