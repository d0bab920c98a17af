//! Fits a request's JSON text to its deployment by cutting and pasting: every byte that need not change stays as it was.

use std::ops::Range;

use bytes::Bytes;
use gristmill_common::splice::{Edit, Members, NotAnObject, apply, insertion, quoted};

/// Sets the top-level `model` and `service_tier`, and turns streaming off.
///
/// Returns the same bytes, uncopied, where nothing has to change. With `"stream": true` come `stream_options`, which
/// providers refuse without it: they become `null`. Nested keys are never touched; of a repeated key every value is set.
pub(super) fn fit(body: &Bytes, model: &str, service_tier: Option<&str>) -> Result<Bytes, NotAnObject> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnObject)?;
    let mut members = Members::new(text)?;
    let mut edits: Vec<Edit<'_>> = Vec::new();
    let (mut has_model, mut has_tier, mut streams, mut is_empty) = (false, false, false, true);
    let mut stream_options = None;
    while let Some((key, value)) = members.next_member()? {
        is_empty = false;
        match &*key {
            "model" => {
                has_model = true;
                edits.extend(set(text, value, model));
            }
            "service_tier" => {
                has_tier = true;
                edits.extend(service_tier.and_then(|tier| set(text, value, tier)));
            }
            "stream" if &text[value.clone()] == "true" => {
                streams = true;
                edits.push((value, "false".into()));
            }
            "stream_options" => stream_options = Some(value),
            _ => {}
        }
    }
    if streams {
        edits.extend(stream_options.map(|value| (value, "null".into())));
    }
    let model = (!has_model).then(|| ("model", quoted(model)));
    let tier = service_tier.filter(|_| !has_tier).map(|tier| ("service_tier", quoted(tier)));
    let missing = [model, tier].into_iter().flatten().collect::<Vec<_>>();
    edits.extend(insertion(&members, is_empty, missing.iter().map(|(name, value)| (*name, value.as_str()))));
    if edits.is_empty() { Ok(body.clone()) } else { Ok(apply(text, edits)) }
}

/// Returns the edit that makes a value the string `wanted`, unless it is that already.
fn set<'a>(text: &str, value: Range<usize>, wanted: &str) -> Option<Edit<'a>> {
    let written = &text[value.clone()];
    let is_same = match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) if inside.contains('\\') => {
            serde_json::from_str::<String>(written).is_ok_and(|text| text == wanted)
        }
        Some(inside) => inside == wanted,
        None => false,
    };
    (!is_same).then(|| (value, quoted(wanted).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn fitted(body: &str, model: &str, tier: Option<&str>) -> Result<String, NotAnObject> {
        fit(&Bytes::copy_from_slice(body.as_bytes()), model, tier)
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn only_what_must_change_changes() {
        for (body, wanted) in [
            (r#"{"model":"m","x":1}"#, r#"{"model":"m","x":1}"#),
            (r#"{"model":"old","x":1}"#, r#"{"model":"m","x":1}"#),
            (
                r#" { "x" : [ {"model":"in"} ] , "model" : "old" } "#,
                r#" { "x" : [ {"model":"in"} ] , "model" : "m" } "#,
            ),
            (r#"{"x":1}"#, r#"{"model":"m","x":1}"#),
            (r#"{ }"#, r#"{"model":"m" }"#),
            (r#"{"model":null}"#, r#"{"model":"m"}"#),
            (r#"{"model":"a","model":"b"}"#, r#"{"model":"m","model":"m"}"#),
            (r#"{"mod\u0065l":"a"}"#, r#"{"mod\u0065l":"m"}"#),
            (r#"{"model":"\u006d"}"#, r#"{"model":"\u006d"}"#),
            (r#"{"model":"m","s":"\"model\":\"no\" \\"}"#, r#"{"model":"m","s":"\"model\":\"no\" \\"}"#),
            (r#"{"model":"m","stream":true}"#, r#"{"model":"m","stream":false}"#),
            (
                r#"{"model":"m","stream":false,"stream_options":{}}"#,
                r#"{"model":"m","stream":false,"stream_options":{}}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#,
                r#"{"stream_options":null,"model":"m","stream":false}"#,
            ),
        ] {
            assert_eq!(fitted(body, "m", None).as_deref(), Ok(wanted), "{body}");
        }
    }

    #[test]
    fn the_service_tier_is_set_where_one_is_asked_for() {
        for (body, wanted) in [
            (r#"{"model":"m"}"#, r#"{"service_tier":"flex","model":"m"}"#),
            (r#"{"model":"m","service_tier":"auto"}"#, r#"{"model":"m","service_tier":"flex"}"#),
            ("{}", r#"{"model":"m","service_tier":"flex"}"#),
        ] {
            assert_eq!(fitted(body, "m", Some("flex")).as_deref(), Ok(wanted), "{body}");
        }
        assert_eq!(
            fitted(r#"{"model":"m","service_tier":"auto"}"#, "m", None).as_deref(),
            Ok(r#"{"model":"m","service_tier":"auto"}"#)
        );
    }

    #[test]
    fn bytes_that_need_no_change_are_not_copied() {
        let body = Bytes::from_static(br#"{"model":"m","messages":[]}"#);
        assert_eq!(fit(&body, "m", None).unwrap().as_ptr(), body.as_ptr());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in [
            "",
            "[]",
            "\"x\"",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":\"x",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
        ] {
            assert_eq!(fitted(body, "m", None), Err(NotAnObject), "{body}");
        }
        assert_eq!(fit(&Bytes::from_static(b"{\"a\":\"\xff\"}"), "m", None), Err(NotAnObject));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\"\\\\{}\\[\\]:,\u{e9}\u{1f600}\n]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z\"\\\\ ]{0,6}|model|stream", inner, 0..4)
                    .prop_map(|map| json!(map)),
            ]
        })
    }

    fn text_of(value: &Value, pretty: bool) -> String {
        if pretty { serde_json::to_string_pretty(value).unwrap() } else { value.to_string() }
    }

    proptest! {
        #[test]
        fn everything_but_the_model_stays_byte_for_byte(
            before in proptest::collection::btree_map("[a-l\"\\\\]{0,6}", any_json(), 0..4),
            after in proptest::collection::btree_map("[n-r\"\\\\]{1,6}", any_json(), 0..4),
            old in any_json(),
            new in "[ -~\u{e9}]{1,12}",
            pretty: bool,
            blank in "[ \n\t]{0,3}",
        ) {
            let member = |(key, value): (&String, &Value)| format!("{}{blank}:{blank}{}", json!(key), text_of(value, pretty));
            let join = |map: &std::collections::BTreeMap<String, Value>| map.iter().map(member).collect::<Vec<_>>();
            let mut members = join(&before);
            members.push(format!("\"model\"{blank}:{blank}\u{0}"));
            members.extend(join(&after));
            let template = format!("{blank}{{{blank}{}{blank}}}{blank}", members.join(&format!("{blank},{blank}")));
            let body = template.replacen('\u{0}', &text_of(&old, pretty), 1);
            let wanted = template.replacen('\u{0}', &json!(new).to_string(), 1);
            let out = fitted(&body, &new, None).unwrap();
            if old == json!(new) {
                prop_assert_eq!(&out, &body);
            } else {
                prop_assert_eq!(&out, &wanted);
            }
            prop_assert_eq!(&serde_json::from_str::<Value>(&out).unwrap()["model"], &json!(new));
        }

        #[test]
        fn a_missing_model_is_put_in_and_nothing_else(
            members in proptest::collection::btree_map("[a-l\"\\\\]{0,6}", any_json(), 0..5),
            pretty: bool,
        ) {
            let body = text_of(&json!(members), pretty);
            let out = fitted(&body, "m", None).unwrap();
            let mut wanted = json!(members);
            wanted["model"] = json!("m");
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), wanted);
            let rest = if members.is_empty() { "\"model\":\"m\"" } else { "\"model\":\"m\"," };
            prop_assert_eq!(out.replacen(rest, "", 1), body);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[{}\\[\\]\"\\\\:,a \u{e9}]{0,40}") {
            let _ = fitted(&text, "m", Some("flex"));
        }
    }
}
