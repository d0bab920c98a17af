use super::*;
use crate::simulate::random::Purpose;

fn status(status: u16) -> Fault {
    Fault::Status(StatusFault { status, code: None, retry_after: None })
}

#[test]
fn rules_are_read_and_written() {
    let table = [
        ("429:0.02", "429:0.02"),
        ("429:0.02:retry-after=1.5", "429:0.02:retry-after=1.5"),
        ("429:1:retry-after=250ms:code=slow_down", "429:1:code=slow_down:retry-after=0.25"),
        ("401", "401:1"),
        ("503:retry-after=4", "503:1:retry-after=4"),
        ("529:0", "529:0"),
        ("timeout:0.01", "timeout:0.01"),
        ("reset", "reset:1"),
        ("close:0.5", "close:0.5"),
        ("truncate:1", "truncate:1"),
        ("html:0.5", "html:0.5:status=502"),
        ("html:0.5:status=200", "html:0.5:status=200"),
        ("drip", "drip:1:every=20ms"),
        ("drip:1:every=5ms", "drip:1:every=5ms"),
        ("empty:1", "empty:1"),
        ("cut", "cut:1:after=2:how=close"),
        ("cut:0.5:how=reset:after=0", "cut:0.5:after=0:how=reset"),
        ("cut:how=end:token=5ms", "cut:1:after=2:how=end:token=5ms"),
        ("error", "error:1:after=2:status=500"),
        ("error:1:status=529:code=overloaded", "error:1:after=2:status=529:code=overloaded"),
        ("stall:after=1", "stall:1:after=1"),
        ("stall:1:for=30s", "stall:1:after=2:for=30000ms"),
        ("keep_alive", "keep_alive:1:count=3:every=20ms"),
        ("keep_alive:0.1:count=endless:every=1s", "keep_alive:0.1:count=endless:every=1000ms"),
        ("slow", "slow:1:token=20ms"),
        ("slow:0.9:token=50ms", "slow:0.9:token=50ms"),
        ("length", "length:1"),
        ("length:tokens=5", "length:1:tokens=5"),
        ("refusal", "refusal:1"),
        ("content_filter:0.2", "content_filter:0.2"),
        ("tool_call", "tool_call:1"),
        ("bad_json", "bad_json:1"),
        ("no_json", "no_json:1"),
        ("echo", "echo:1"),
        ("503:model=gpt-4o", "503:1:model=gpt-4o"),
        ("429:0.1:retry-after=1:model=ft:gpt-4o:mill", "429:0.1:retry-after=1:model=ft:gpt-4o:mill"),
    ];
    for (text, written) in table {
        let rule: FaultRule = text.parse().unwrap();
        assert_eq!(rule.to_string(), written);
        assert_eq!(written.parse::<FaultRule>().unwrap(), rule);
    }
}

#[test]
fn a_wrong_rule_says_what_is_wrong() {
    let names = "use a status from 400 to 599, timeout, reset, close, truncate, html, drip, empty, cut, error, \
                 stall, keep_alive, slow, refusal, content_filter, length, tool_call, bad_json, no_json or echo";
    let (nothing, success) = (format!("`` is no fault: {names}"), format!("`200` is no fault: {names}"));
    let table = [
        ("", nothing.as_str()),
        ("200:1", success.as_str()),
        ("429:2", "`2` is no rate: use a number from 0 to 1"),
        ("429:x", "`x` is no rate: use a number from 0 to 1"),
        ("429:0.1:0.2", "`0.2` is neither a rate nor an option (key=value)"),
        ("reset:1:every=5ms", "reset has no option `every`"),
        ("429:1:code=a b", "`a b` is no value for code"),
        ("cut:1:how=softly", "`softly` is no value for how"),
        ("slow:1:after=1", "slow has no option `after`"),
        ("keep_alive:count=-1", "`-1` is no value for count"),
        ("error:status=200", "`200` is no value for status"),
        ("503:model=", "`model` names none"),
        ("refusal:token=1ms", "refusal has no option `token`"),
        ("429:1:retry-after=soon", "`soon` is not a duration: write it like 200ms, 1.5s or 2m"),
    ];
    for (text, reason) in table {
        let error = text.parse::<FaultRule>().unwrap_err();
        assert_eq!(error.to_string(), format!("fault rule `{text}` cannot be read: {reason}"));
    }
}

#[test]
fn rates_add_up_in_one_draw() {
    let rules: Vec<FaultRule> = ["429:0.1", "500:0.2", "reset:0"].map(|text| text.parse().unwrap()).into();
    let (mut limited, mut failed, mut fine) = (0, 0, 0);
    for marker in 0..10_000 {
        match FaultRule::choose(&rules, "m", || Random::new(3, marker, 1, Purpose::Fault)) {
            Some(fault) if *fault == status(429) => limited += 1,
            Some(fault) if *fault == status(500) => failed += 1,
            Some(fault) => panic!("{fault:?} has rate 0"),
            None => fine += 1,
        }
    }
    assert!((900..1_100).contains(&limited), "{limited}");
    assert!((1_850..2_150).contains(&failed), "{failed}");
    assert_eq!(limited + failed + fine, 10_000);
}

#[test]
fn a_rule_for_a_model_leaves_the_others_alone() {
    let rules: Vec<FaultRule> = ["503:model=dead", "500:0"].map(|text| text.parse().unwrap()).into();
    let meets = |model| FaultRule::choose(&rules, model, || Random::new(3, 1, 1, Purpose::Fault));
    assert_eq!(meets("dead"), Some(&status(503)));
    assert_eq!(meets("alive"), None);
}

#[test]
fn scripts_are_found_in_running_text() {
    let table = [
        ("Please simulate:500,429,ok. Thanks", Some("500,429,ok")),
        ("simulate:429:retry-after=0.2,ok", Some("429:retry-after=0.2,ok")),
        ("\"simulate:reset\"", Some("reset")),
        ("simulate: a coin", None),
        ("simulate:", None),
        ("no script", None),
    ];
    for (text, script) in table {
        assert_eq!(find_script(text), script, "{text}");
    }
}

#[test]
fn the_last_scripted_outcome_repeats() {
    let script = "500,429:retry-after=0.2,ok";
    let limited = StatusFault { status: 429, code: None, retry_after: Some(Duration::from_millis(200)) };
    assert_eq!(scripted(script, 1), Ok(Some(status(500))));
    assert_eq!(scripted(script, 2), Ok(Some(Fault::Status(limited))));
    assert_eq!(scripted(script, 3), Ok(None));
    assert_eq!(scripted(script, 99), Ok(None));
    assert_eq!(scripted("ok,reset", 7), Ok(Some(Fault::Reset)));
    assert!(scripted("ok,rset", 1).is_err());
    assert!(scripted("500:0.5", 1).is_err());
}
