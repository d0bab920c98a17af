//! What `router_settings` says.

use super::*;
use crate::failure::ErrorClass;

/// A model list with the groups a, b and c.
const LIST: &str = "model_list:
- {model_name: a, litellm_params: {model: a, api_base: 'http://a'}}
- {model_name: b, litellm_params: {model: b, api_base: 'http://b'}}
- {model_name: c, litellm_params: {model: c, api_base: 'http://c'}}
";

fn with_list(settings: &str) -> Result<Config, Error> {
    yaml(&format!("{LIST}{settings}"))
}

#[test]
fn the_defaults_are_litellms() {
    let config = yaml("").unwrap();
    let routing = config.routing();
    assert_eq!((routing.strategy, routing.max_fallbacks), (Strategy::Weighted, 5));
    assert_eq!((routing.retry_after, routing.cooldown), (Duration::ZERO, Duration::from_secs(5)));
    assert_eq!((routing.allowed_fails, routing.pre_call_checks), (None, None));
    assert!(routing.match_any_tag && !routing.tag_filtering && !routing.disable_cooldowns);
    assert!(routing.fallbacks_of("a", FallbackKind::General).is_empty());
    assert!(config.notices().is_empty());
}

#[test]
fn strategies_have_litellms_words_and_ours() {
    for (word, strategy) in [
        ("simple-shuffle", Strategy::Weighted),
        ("usage-based-routing", Strategy::Weighted),
        ("usage-based-routing-v2", Strategy::Weighted),
        ("weighted", Strategy::Weighted),
        ("ordered", Strategy::Ordered),
        ("least-busy", Strategy::LeastBusy),
        ("latency-based-routing", Strategy::LowestLatency),
        ("lowest-latency", Strategy::LowestLatency),
        ("cost-based-routing", Strategy::LowestCost),
        ("lowest-cost", Strategy::LowestCost),
    ] {
        let config = yaml(&format!("router_settings: {{routing_strategy: {word}}}")).unwrap();
        assert_eq!(config.routing().strategy, strategy, "{word}");
    }
    let error = yaml("router_settings: {routing_strategy: cleverly}").unwrap_err().to_string();
    assert_eq!(
        error,
        "router_settings.routing_strategy in gristmill.yaml must be one of weighted, simple-shuffle, usage-based-routing, \
         usage-based-routing-v2, ordered, least-busy, lowest-latency, latency-based-routing, lowest-cost, \
         cost-based-routing, not `cleverly`"
    );
}

#[test]
fn fallbacks_are_found_by_kind_with_the_default_for_the_rest() {
    use FallbackKind::{ContentPolicy, ContextWindow, General};
    let general = "fallbacks: [{a: [b, c]}, {b: c}]";
    for (settings, group, kind, wanted) in [
        (general, "a", General, "b c"),
        (general, "b", General, "c"),
        (general, "c", General, ""),
        // As in LiteLLM, a provider's prefix is left out where nothing fits with it.
        (general, "openai/a", General, "b c"),
        (general, "other/a", General, ""),
        // Without a list for the kind the general one counts; with one, nothing else.
        (general, "a", ContextWindow, "b c"),
        ("fallbacks: [{a: [b]}], context_window_fallbacks: [{a: [c]}]", "a", ContextWindow, "c"),
        ("fallbacks: [{a: [b]}], context_window_fallbacks: [{a: [c]}]", "a", ContentPolicy, "b"),
        ("fallbacks: [{b: [a]}], context_window_fallbacks: [{a: [c]}]", "b", ContextWindow, ""),
        ("content_policy_fallbacks: [{'*': [c]}, {a: [b]}]", "b", ContentPolicy, "c"),
        ("content_policy_fallbacks: [{'*': [c]}, {a: [b]}]", "a", ContentPolicy, "b"),
        ("fallbacks: [{a: [b]}, {'*': [c]}]", "b", General, "c"),
        ("fallbacks: [{a: [b]}, {'*': [c]}], default_fallbacks: [b]", "c", General, "b"),
        ("default_fallbacks: [b, c]", "a", General, "b c"),
        ("default_fallbacks: [b, c]", "a", ContextWindow, "b c"),
        ("fallbacks: [b, c]", "a", General, "b c"),
        ("fallbacks: [{a: [b, {model: c, temperature: 0}]}]", "a", General, "b c"),
        ("fallbacks: {a: [b]}", "a", General, "b"),
    ] {
        for section in ["router_settings", "litellm_settings"] {
            let config = with_list(&format!("{section}: {{{settings}}}")).unwrap();
            let found: Vec<_> = config.routing().fallbacks_of(group, kind).iter().map(|group| &**group).collect();
            assert_eq!(found.join(" "), wanted, "{section}: {settings}, {group}, {kind:?}");
        }
    }
}

#[test]
fn router_settings_win_over_litellm_settings() {
    let config = with_list(
        "router_settings: {fallbacks: [{a: [b]}], allowed_fails: 7}\n\
         litellm_settings: {fallbacks: [{a: [c]}], allowed_fails: 8, max_fallbacks: 2}\n",
    )
    .unwrap();
    let routing = config.routing();
    assert_eq!(&*routing.fallbacks_of("a", FallbackKind::General)[0], "b");
    assert_eq!((routing.allowed_fails, routing.max_fallbacks), (Some(7), 2));
}

#[test]
fn what_leads_to_no_group_is_refused_with_the_near_name() {
    for (settings, wanted) in [
        (
            "router_settings: {fallbacks: [{a: [d]}]}",
            "router_settings.fallbacks in gristmill.yaml names model `d`, which no entry of model_list serves; \
             did you mean `a`?",
        ),
        (
            "litellm_settings: {default_fallbacks: [zzzz]}",
            "litellm_settings.default_fallbacks in gristmill.yaml names model `zzzz`, which no entry of model_list serves; \
             it has `a`, `b`, `c`",
        ),
        (
            "router_settings: {model_group_alias: {x: {model: zzzz}}}",
            "router_settings.model_group_alias.x.model in gristmill.yaml names model `zzzz`",
        ),
        ("router_settings: {model_group_alias: {x: a, y: x}}", "router_settings.model_group_alias.y in"),
        ("router_settings: {fallbacks: 3}", "must be a list such as [{gpt-4o: [gpt-4o-mini, claude]}]"),
        ("router_settings: {fallbacks: [{a: [[b]]}]}", "must be a list such as"),
        ("router_settings: {model_group_alias: {x: }}", "model_group_alias.x in gristmill.yaml must name a model"),
        (
            "router_settings: {retry_policy: {TimeoutErrorRetries: x}}",
            "TimeoutErrorRetries in gristmill.yaml must be a whole",
        ),
    ] {
        let error = with_list(settings).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}\n  should contain {wanted}");
    }
    // An alias is a group, and without a model_list every name is one.
    with_list("router_settings: {model_group_alias: {x: a}, fallbacks: [{b: [x]}]}").unwrap();
    yaml("router_settings: {fallbacks: [{gpt-4o: [claude]}]}").unwrap();
    // A list for a group that there is not does no harm; it is told.
    let config = with_list("router_settings: {fallbacks: [{zzzz: [a]}]}").unwrap();
    assert_eq!(
        config.warnings(),
        ["gristmill.yaml has fallbacks or retries for models that no entry of model_list serves: `zzzz`"]
    );
}

#[test]
fn a_groups_own_retry_policy_comes_first() {
    let config = with_list(
        "router_settings:\n  retry_policy: {TimeoutErrorRetries: 1, RateLimitErrorRetries: 2}\n  \
         model_group_retry_policy: {a: {TimeoutErrorRetries: 5, BadRequestErrorRetries: 0}}\n",
    )
    .unwrap();
    for (group, class, retries) in [
        ("a", ErrorClass::Timeout, Some(5)),
        ("a", ErrorClass::BadRequest, Some(0)),
        ("a", ErrorClass::RateLimit, Some(2)),
        ("a", ErrorClass::InternalServer, None),
        ("b", ErrorClass::Timeout, Some(1)),
        ("b", ErrorClass::BadRequest, None),
    ] {
        assert_eq!(config.routing().retries_for(group, &class), retries, "{group} {class}");
    }
}

#[test]
fn settings_of_all_kinds_are_read_and_say_where_they_stand() {
    let config = Given {
        yaml: Some(
            "router_settings: {routing_strategy: os.environ/STRATEGY, retry_after: 2, cooldown_time: 1.5, \
             disable_cooldowns: true, allowed_fails: 3, allowed_fails_policy: {TimeoutErrorAllowedFails: 9}, \
             enable_pre_call_checks: true, enable_tag_filtering: true, tag_filtering_match_any: false}\n\
             litellm_settings: {default_fallbacks: [gpt-4o]}\n",
        ),
        env: &[("STRATEGY", "least-busy")],
        ..Given::default()
    }
    .load()
    .unwrap();
    let routing = config.routing();
    assert_eq!(routing.strategy, Strategy::LeastBusy);
    assert_eq!((routing.retry_after.as_secs(), routing.cooldown.as_millis()), (2, 1500));
    assert!(routing.disable_cooldowns && routing.tag_filtering && !routing.match_any_tag);
    assert_eq!((routing.allowed_fails, routing.pre_call_checks), (Some(3), Some(true)));
    assert_eq!(routing.allowed_fails_policy.allowed_for(&ErrorClass::Timeout), Some(9));
    assert!(config.warnings().is_empty());
    let setting = |name: &str| {
        let setting = routing.settings().iter().find(|setting| setting.name == name).unwrap();
        (setting.value.as_deref().unwrap_or("-"), setting.origin.as_deref().unwrap_or("default"))
    };
    for (name, value, origin) in [
        ("routing_strategy", "least-busy", "router_settings.routing_strategy in gristmill.yaml"),
        ("cooldown_time", "1.5", "router_settings.cooldown_time in gristmill.yaml"),
        (
            "allowed_fails_policy",
            r#"{"TimeoutErrorAllowedFails":9}"#,
            "router_settings.allowed_fails_policy in gristmill.yaml",
        ),
        ("default_fallbacks", r#"["gpt-4o"]"#, "litellm_settings.default_fallbacks in gristmill.yaml"),
        ("max_fallbacks", "5", "default"),
        ("fallbacks", "-", "default"),
    ] {
        assert_eq!(setting(name), (value, origin), "{name}");
    }
}
