use proptest::prelude::*;

use super::*;
use crate::job::CacheMode;

const CHAT: &str = "/v1/chat/completions";

fn options(cache: &str) -> JobOptions {
    JobOptions { cache: cache.parse().unwrap(), ..JobOptions::default() }
}

fn asked<'a>(body: &'a str, options: &'a JobOptions) -> Asked<'a> {
    Asked { project: None, simulated: false, endpoint: CHAT, group: "m", body: body.as_bytes(), options }
}

fn key(body: &str) -> CacheKey {
    asked(body, &options("on+sampled")).key(CacheScope::Project).expect("it can be cached")
}

#[test]
fn how_a_body_is_written_does_not_count() {
    let same = [
        r#"{"messages":[{"role":"user","content":"é/\n"}],"temperature":0.7,"top_p":1}"#,
        r#" { "top_p" : 1 , "temperature" : 0.7, "messages" : [ { "content" : "\u00e9\/\n", "role" : "user" } ] } "#,
        "{\"top_p\":1,\n\t\"messages\":[{\"role\":\"user\",\"content\":\"\\u00E9/\\u000a\"}],\r\n\"temperature\":0.7}",
        r#"{"t\u006fp_p":1,"messages":[{"role":"user","content":"é/\n"}],"temperature":0.7}"#,
    ];
    for body in same {
        assert_eq!(key(body), key(same[0]), "{body}");
    }
}

#[test]
fn what_changes_nothing_in_the_answer_does_not_count() {
    let plain = key(r#"{"messages":[]}"#);
    for field in WITHOUT_EFFECT {
        assert_eq!(key(&format!(r#"{{"messages":[],"{field}":{{"a":1}}}}"#)), plain, "{field}");
        assert_ne!(
            key(&format!(r#"{{"messages":[{{"{field}":1}}]}}"#)),
            key(r#"{"messages":[{}]}"#),
            "only at the top"
        );
    }
}

#[test]
fn everything_else_counts() {
    let base = r#"{"messages":["a","b"],"temperature":0,"x":null}"#;
    for other in [
        r#"{"messages":["b","a"],"temperature":0,"x":null}"#,
        r#"{"messages":["a","b"],"temperature":0.0,"x":null}"#,
        r#"{"messages":["a","b"],"temperature":-0,"x":null}"#,
        r#"{"messages":["a","b"],"temperature":0}"#,
        r#"{"messages":["a","b "],"temperature":0,"x":null}"#,
        r#"{"messages":["ab"],"temperature":0,"x":null}"#,
        r#"{"messages":["a","b"],"temperature":"0","x":null}"#,
        r#"{"messages":["a","b"],"temperature":0,"x":null,"new":false}"#,
        r#"{"messages":["a","b"],"temperature":0,"temperature":0,"x":null}"#,
    ] {
        assert_ne!(key(other), key(base), "{other}");
    }
}

#[test]
fn what_stands_beside_the_body_counts() {
    let (mut options, body) = (options("on+sampled"), "{}");
    let sampled = JobOptions { sample: 1, ..options.clone() };
    let base = asked(body, &options);
    let all = [
        base,
        Asked { project: Some(""), ..base },
        Asked { project: Some("p"), ..base },
        Asked { simulated: true, ..base },
        Asked { endpoint: "/v1/completions", ..base },
        Asked { group: "n", ..base },
        Asked { options: &sampled, ..base },
    ];
    let keys: std::collections::HashSet<_> = all.iter().map(|asked| asked.key(CacheScope::Project)).collect();
    assert_eq!(keys.len(), all.len());
    assert!(!keys.contains(&base.key(CacheScope::Shared)));
    let project = Asked { project: Some("p"), ..base };
    assert_eq!(base.key(CacheScope::Shared), project.key(CacheScope::Shared), "nobody's project");
    let before = base.key(CacheScope::Project);
    options.cache.mode = CacheMode::WriteOnly;
    options.tags.insert("a".to_owned(), "b".to_owned());
    options.num_retries = Some(3);
    options.service_tier = Some("flex".to_owned());
    assert_eq!(asked(body, &options).key(CacheScope::Project), before, "these do not");
}

#[test]
fn a_request_that_asks_for_chance_is_cached_only_when_that_is_said() {
    for (body, endpoint, expected) in [
        (r#"{"temperature":0}"#, CHAT, true),
        (r#"{"temperature":0.0}"#, CHAT, true),
        (r#"{"temperature":0e5}"#, CHAT, true),
        (r#"{"temperature":0.01}"#, CHAT, false),
        (r#"{"temperature":"0"}"#, CHAT, false),
        (r#"{"temperature":null}"#, CHAT, false),
        (r#"{"temperature":1,"seed":7}"#, CHAT, true),
        (r#"{"seed":0}"#, CHAT, true),
        (r#"{"seed":null}"#, CHAT, false),
        ("{}", CHAT, false),
        ("{}", "/v1/embeddings", true),
        ("{}", "/v1/moderations", true),
    ] {
        let find = |policy: &str| {
            let options = options(policy);
            Asked { endpoint, ..asked(body, &options) }.key(CacheScope::Project).is_some()
        };
        for mode in ["on", "read-only", "write-only"] {
            assert_eq!(find(mode), expected, "{body} {mode}");
            assert!(find(&format!("{mode}+sampled")), "{body} {mode}");
        }
        assert!(!find("off"));
        assert_eq!(is_left_out(endpoint, body.as_bytes(), CachePolicy::ON), !expected);
        assert!(!is_left_out(endpoint, body.as_bytes(), CachePolicy::OFF));
    }
}

#[test]
fn what_is_no_request_has_no_key() {
    let options = options("on+sampled");
    for body in [
        "",
        "[]",
        "null",
        "{",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        "{} {}",
        r#"{"a":tru}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":[1 2]}"#,
    ] {
        assert_eq!(asked(body, &options).key(CacheScope::Project), None, "{body}");
    }
    let nested = |depth| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(asked(&nested(MOST_DEEP - 1), &options).key(CacheScope::Project).is_some());
    assert_eq!(asked(&nested(100_000), &options).key(CacheScope::Project), None);
    let half = key(r#"{"a":"\ud800"}"#);
    assert_ne!(half, key(r#"{"a":"\ud801"}"#));
    assert_eq!(key(r#"{"a":"\ud83d\ude00"}"#), key(r#"{"a":"😀"}"#));
}

#[test]
fn policies_are_read_as_they_are_written() {
    for policy in CachePolicy::ALL {
        assert_eq!(policy.as_str().parse(), Ok(policy));
        assert_eq!(policy.to_string().parse(), Ok(policy));
        assert_eq!(CachePolicy::parse_lenient(policy.as_str()), policy);
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<CachePolicy>(&json).unwrap(), policy);
    }
    for text in ["", "ON", "off+sampled", "all"] {
        assert!(text.parse::<CachePolicy>().is_err(), "{text}");
        assert_eq!(CachePolicy::parse_lenient(text), CachePolicy::OFF);
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Writes JSON as nobody would: names backwards, white space everywhere, all of a string escaped.
fn oddly(value: &serde_json::Value) -> String {
    let string = |text: &str| -> String {
        let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        format!("\"{}\"", units.collect::<String>())
    };
    match value {
        serde_json::Value::Object(map) => {
            let members = map.iter().rev().map(|(name, value)| format!("\n{} : {}", string(name), oddly(value)));
            format!("{{{}\t}}", members.collect::<Vec<_>>().join(" ,"))
        }
        serde_json::Value::Array(items) => format!("[ {} ]", items.iter().map(oddly).collect::<Vec<_>>().join("\r, ")),
        serde_json::Value::String(text) => string(text),
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn any_request_has_one_key_however_it_is_written(a in any_json(), b in any_json()) {
        let body = |value: &serde_json::Value| serde_json::json!({ "messages": value, "temperature": 0 });
        let (one, other) = (body(&a), body(&b));
        prop_assert_eq!(key(&one.to_string()), key(&oddly(&one)));
        prop_assert_eq!(key(&one.to_string()), key(&serde_json::to_string_pretty(&one).unwrap()));
        let (one, other) = (one.to_string(), other.to_string());
        prop_assert_eq!(key(&one) == key(&other), one == other);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, text: String) {
        let options = options("on+sampled");
        for body in [&bytes[..], text.as_bytes(), format!("{{{text}}}").as_bytes(), format!("{{\"{text}").as_bytes()] {
            let _ = Asked { body, ..asked("", &options) }.key(CacheScope::Shared);
        }
    }
}
