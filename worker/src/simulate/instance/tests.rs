use super::*;

/// Makes an instance from each of some seeds.
fn instances(schema: &Value) -> impl Iterator<Item = Value> {
    (0..40).map(move |seed| fitting(schema, &mut Random::from_seed(seed)))
}

#[test]
fn objects_have_what_is_required_with_the_right_types() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "year", "tags", "address"],
        "properties": {
            "name": { "type": "string" },
            "year": { "type": "integer", "minimum": 1800, "exclusiveMaximum": 1810 },
            "score": { "type": ["number", "null"], "minimum": 0, "maximum": 1 },
            "tags": { "type": "array", "items": { "enum": ["a", "b", "c"] }, "minItems": 2, "uniqueItems": true },
            "kind": { "const": "mill" },
            "address": { "$ref": "#/$defs/address" },
        },
        "$defs": { "address": {
            "type": "object", "required": ["zip"], "properties": { "zip": { "type": "string", "pattern": "^\\d{5}$" } },
        } },
    });
    for made in instances(&schema) {
        assert!(made["name"].is_string() && made["kind"] == "mill", "{made}");
        assert!((1800..1810).contains(&made["year"].as_i64().unwrap()), "{made}");
        assert!((0.0..=1.0).contains(&made["score"].as_f64().unwrap()), "{made}");
        let tags = made["tags"].as_array().unwrap();
        assert!(tags.len() >= 2 && tags[0] != tags[1], "{made}");
        let zip = made["address"]["zip"].as_str().unwrap();
        assert!(zip.len() == 5 && zip.bytes().all(|b| b.is_ascii_digit()), "{made}");
        assert_eq!(made.as_object().unwrap().len(), 6, "{made}");
    }
}

#[test]
fn bounds_are_kept() {
    for made in instances(&json!({ "type": "integer", "multipleOf": 5, "minimum": 11, "maximum": 24 })) {
        assert!([15, 20].map(Value::from).contains(&made), "{made}");
    }
    for made in instances(&json!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001 })) {
        assert!(made.as_f64().is_some_and(|value| value > 0.0 && value < 0.001), "{made}");
    }
    for made in instances(&json!({ "type": "integer", "maximum": -7 })) {
        assert!(made.as_i64().is_some_and(|value| value <= -7), "{made}");
    }
    for made in instances(&json!({ "type": "string", "minLength": 40, "maxLength": 41 })) {
        assert!((40..=41).contains(&made.as_str().unwrap().len()), "{made}");
    }
    for made in instances(&json!({ "type": "array", "items": { "type": "null" }, "minItems": 3, "maxItems": 3 })) {
        assert_eq!(made, json!([null, null, null]));
    }
    for made in instances(&json!({ "prefixItems": [{ "type": "string" }, { "type": "null" }], "items": false })) {
        assert!(made.as_array().is_some_and(|items| items.len() == 2 && items[1].is_null()), "{made}");
    }
    for made in instances(&json!({ "type": "object", "minProperties": 2, "additionalProperties": { "type": "null" } }))
    {
        assert!(made.as_object().is_some_and(|map| map.len() == 2 && map.values().all(Value::is_null)), "{made}");
    }
}

#[test]
fn parts_are_joined_and_alternatives_chosen() {
    let all = json!({ "allOf": [
        { "type": "object", "properties": { "a": { "type": "null" } }, "required": ["a"] },
        { "$ref": "#/definitions/b" },
    ], "definitions": { "b": { "properties": { "b": { "type": "null" } }, "required": ["b"] } } });
    assert!(instances(&all).all(|made| made == json!({ "a": null, "b": null })));
    let any: Vec<Value> = instances(&json!({ "anyOf": [{ "type": "null" }, { "type": "boolean" }] })).collect();
    assert!(any.iter().any(Value::is_null) && any.iter().any(Value::is_boolean));
}

#[test]
fn recursive_schemas_end() {
    let tree = json!({
        "$ref": "#/$defs/node",
        "$defs": { "node": { "type": "object", "required": ["children", "next"], "properties": {
            "children": { "type": "array", "items": { "$ref": "#/$defs/node" } },
            "next": { "anyOf": [{ "$ref": "#/$defs/node" }, { "type": "null" }] },
        } } },
    });
    assert!(instances(&tree).all(|made| made["children"].is_array()));
    let endless = json!({ "$ref": "#" });
    assert!(instances(&endless).all(|made| made.is_null()));
}

#[test]
fn a_misfit_never_fits() {
    let random = &mut Random::from_seed(1);
    let required = json!({ "type": "object", "properties": { "a": { "type": "null" } }, "required": ["a"] });
    assert_eq!(misfit(&required, random), json!({}));
    let closed = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    assert!(misfit(&closed, random)["unexpected"].is_string());
    assert!(misfit(&json!({ "type": "object" }), random).is_array());
    assert!(misfit(&json!({ "type": "string" }), random).is_object());
}

#[test]
fn what_is_no_schema_is_told() {
    let table = [
        (json!("x"), "\"x\" is not of type 'object', 'boolean'"),
        (json!({ "type": "text" }), "\"text\" is not valid under any of the given schemas"),
        (json!({ "properties": { "a": { "type": 7 } } }), "7 is not valid under any of the given schemas"),
        (json!({ "items": [1] }), "[1] is not of type 'object', 'boolean'"),
        (json!({ "required": "a" }), "\"a\" is not of type 'array'"),
    ];
    for (schema, reason) in table {
        assert_eq!(flaw(&schema).as_deref(), Some(reason), "{schema}");
    }
    assert_eq!(flaw(&json!({ "type": ["object", "null"], "properties": { "a": true } })), None);
}

#[test]
fn a_uuid_names_its_version() {
    assert_eq!(uuid(u64::MAX, 0), "ffffffff-ffff-4fff-8000-000000000000");
    assert_eq!(uuid(0, u64::MAX), "00000000-0000-4000-bfff-ffffffffffff");
}
