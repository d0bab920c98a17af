use super::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn any_class() -> impl Strategy<Value = ErrorClass> {
    prop_oneof![
        proptest::sample::select(ErrorClass::KNOWN.to_vec()),
        "[A-Z][a-z]{3,12}FutureError".prop_map(ErrorClass::Other),
    ]
}

fn text() -> impl Strategy<Value = Option<String>> {
    option::of(any::<String>())
}

fn any_record() -> impl Strategy<Value = ErrorRecord> {
    let wire = (any_class(), any::<String>(), option::of(100u16..600), text(), text(), text(), text());
    let rest = (
        option::of(any::<u64>()),
        btree_map("[a-z-]{1,20}", any::<String>(), 0..4),
        text(),
        any::<bool>(),
        vec((any::<String>(), any::<String>()), 0..4),
        vec((1u32..9, any_class(), option::of(100u16..600), any::<String>()), 0..3),
        any::<bool>(),
        text(),
        (option::of(any_class()), text()),
    );
    (wire, rest).prop_map(|((class, message, status, code, kind, param, request_id), rest)| {
        let (retry_after_ms, headers, body, body_truncated, causes, earlier, retryable, verdict, cut) = rest;
        ErrorRecord {
            status,
            code,
            kind,
            param,
            request_id,
            retry_after_ms,
            headers,
            body,
            body_truncated,
            retryable,
            verdict,
            underlying: cut.0,
            partial_output: cut.1,
            causes: causes.into_iter().map(|(kind, message)| Cause { kind, message }).collect(),
            earlier: earlier
                .into_iter()
                .map(|(attempt, class, status, message)| EarlierAttempt {
                    status,
                    message,
                    ..EarlierAttempt::new(attempt, class)
                })
                .collect(),
            ..ErrorRecord::new(class, message)
        }
    })
}

#[test]
fn one_error_may_differ_from_its_class() {
    let with = |class: ErrorClass, retryable: bool| {
        let mut record = ErrorRecord::new(class, "");
        record.retryable = retryable;
        record.disposition()
    };
    assert_eq!(with(ErrorClass::InternalServer, false), Disposition::Final);
    assert_eq!(with(ErrorClass::BadRequest, true), Disposition::Retry);
    assert_eq!(with(ErrorClass::InsufficientQuota, false), Disposition::DeploymentFault);
    for class in ErrorClass::KNOWN {
        let record = ErrorRecord::new(class.clone(), "");
        assert_eq!(record.disposition(), class.disposition(), "{class}");
    }
}

#[test]
fn what_broke_a_stream_decides() {
    for (underlying, disposition) in [
        (ErrorClass::InternalServer, Disposition::Retry),
        (ErrorClass::RateLimit, Disposition::Retry),
        (ErrorClass::ContentPolicyViolation, Disposition::Final),
        (ErrorClass::InsufficientQuota, Disposition::DeploymentFault),
    ] {
        let mut record = ErrorRecord::new(underlying.clone(), "");
        record.underlying = Some(std::mem::replace(&mut record.class, ErrorClass::MidStream));
        assert_eq!(record.disposition(), disposition, "{underlying}");
    }
}

#[test]
fn no_connection_is_a_fault_of_the_deployment_and_a_lost_one_is_not() {
    let caused = |class: ErrorClass, kind: &str| ErrorRecord::new(class, "").caused_by(kind, "").disposition();
    assert_eq!(caused(ErrorClass::ApiConnection, "dns"), Disposition::DeploymentFault);
    assert_eq!(caused(ErrorClass::Timeout, "timeout.connect"), Disposition::DeploymentFault);
    assert_eq!(caused(ErrorClass::ApiConnection, "reset"), Disposition::Retry);
    assert_eq!(caused(ErrorClass::Timeout, "timeout.total"), Disposition::Retry);
}

proptest! {
    #[test]
    fn a_record_survives_json(record in any_record()) {
        let text = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<ErrorRecord>(&text).unwrap(), record);
    }
}

#[test]
fn fields_of_a_later_version_survive() {
    let text = r#"{"v":9,"class":"QuantumError","message":"m","retryable":true,"region":"mars","deep":{"a":[1,2]}}"#;
    let record: ErrorRecord = serde_json::from_str(text).unwrap();
    assert_eq!(record.class, ErrorClass::Other("QuantumError".into()));
    let back: serde_json::Value = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(back, serde_json::from_str::<serde_json::Value>(text).unwrap());
}

#[test]
fn the_schema_has_the_classes_and_fields_that_are_written() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../../docs/error.schema.json")).unwrap();
    let names: Vec<&str> = ErrorClass::KNOWN.iter().map(ErrorClass::as_str).collect();
    assert_eq!(schema["$defs"]["class"]["anyOf"][0]["enum"], serde_json::json!(names));
    assert!(schema["$id"].as_str().unwrap().ends_with(&format!("/error/{SCHEMA_VERSION}")));

    let text = || Some("x".to_owned());
    let earlier = EarlierAttempt {
        status: Some(408),
        underlying: Some(ErrorClass::Timeout),
        times: 3,
        fell_back: Some(FellBack { to: "other".to_owned(), attempts: 1 }),
        ..EarlierAttempt::new(1, ErrorClass::MidStream)
    };
    let full = ErrorRecord {
        status: Some(500),
        code: text(),
        kind: text(),
        param: text(),
        provider: text(),
        model: text(),
        deployment: text(),
        request_id: text(),
        retry_after_ms: Some(1),
        headers: BTreeMap::from([("x".to_owned(), "y".to_owned())]),
        body: text(),
        body_truncated: true,
        verdict: text(),
        earlier: vec![earlier],
        ..ErrorRecord::new(ErrorClass::Api, "").caused_by("other", "x")
    };
    let described = |schema: &serde_json::Value, value: &serde_json::Value| {
        let fields = value.as_object().unwrap();
        assert!(fields.keys().all(|field| schema["properties"].get(field).is_some()), "{value}");
        let required = schema["required"].as_array().unwrap();
        assert!(required.iter().all(|field| fields.contains_key(field.as_str().unwrap())), "{value}");
    };
    let properties = &schema["properties"];
    let value = serde_json::to_value(&full).unwrap();
    described(&schema, &value);
    described(&schema, &serde_json::to_value(ErrorRecord::new(ErrorClass::Api, "")).unwrap());
    described(&properties["causes"]["items"], &value["causes"][0]);
    described(&properties["earlier"]["items"], &value["earlier"][0]);
}

#[test]
fn an_earlier_call_stands_for_one_unless_it_says_more() {
    let one = r#"{"attempt":2,"class":"Timeout","message":"m"}"#;
    let read: EarlierAttempt = serde_json::from_str(one).unwrap();
    assert_eq!(read.times, 1);
    assert_eq!(serde_json::to_string(&read).unwrap(), one);
    let more = serde_json::to_string(&EarlierAttempt { times: 9, ..read }).unwrap();
    assert_eq!(serde_json::from_str::<EarlierAttempt>(&more).unwrap().times, 9);
}

#[test]
fn names_round_trip() {
    for class in ErrorClass::KNOWN {
        assert_eq!(&ErrorClass::from_name(class.as_str()), class);
    }
}

#[test]
fn a_long_body_is_cut_at_a_character_and_marked() {
    let body = "ü".repeat(BODY_CAP_BYTES);
    let record = ErrorRecord::new(ErrorClass::Api, "m").with_body(body.as_bytes());
    assert!(record.body_truncated);
    assert_eq!(record.body.unwrap().len(), BODY_CAP_BYTES);
    let record = ErrorRecord::new(ErrorClass::Api, "m").with_body(b"short");
    assert!(!record.body_truncated);
    assert_eq!(record.body.as_deref(), Some("short"));
}
