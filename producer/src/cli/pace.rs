//! How fast models go and what holds them up, in words. Pure.

use gristmill_producer::ModelPace;

use super::table::count;

/// Says how a model goes.
pub(super) fn describe(pace: &ModelPace) -> String {
    let mut parts = vec![format!("{:.1} calls/s", pace.calls_per_s)];
    parts.extend(tokens(pace.tokens_per_s));
    parts.extend(share(pace));
    if pace.in_flight > 0 {
        parts.push(format!("{} in flight", count(pace.in_flight)));
    }
    parts.extend(waits(std::slice::from_ref(pace)));
    parts.join(", ")
}

/// Says what some models' jobs wait for, as far as they do.
pub(super) fn waits(paces: &[ModelPace]) -> impl Iterator<Item = String> {
    [
        (ModelPace::sum(paces, |pace| pace.waiting_for_quota), "wait for quota"),
        (ModelPace::sum(paces, |pace| pace.backing_off), "wait for a retry"),
        (ModelPace::sum(paces, |pace| pace.waiting_for_equal), "wait for an equal request"),
        (ModelPace::sum(paces, |pace| pace.paused), "wait for a pause to end"),
    ]
    .into_iter()
    .filter(|(jobs, _)| *jobs > 0)
    .map(|(jobs, what)| format!("{} {what}", count(jobs)))
}

/// Says how many tokens come in a second.
pub(super) fn tokens(per_s: f64) -> Option<String> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tokens of a second; casts saturate")]
    let whole = per_s.round() as u64;
    (whole > 0).then(|| format!("{} tokens/s", count(whole)))
}

/// Says how much of its limit a model uses: `98% of 600 rpm`.
pub(super) fn share(pace: &ModelPace) -> Option<String> {
    let percent = pace.share_in_use? * 100.0;
    Some(format!("{percent:.0}% of {}", pace.limit.as_deref().unwrap_or("its limits")))
}

#[cfg(test)]
pub(super) fn of_a_busy_model() -> ModelPace {
    ModelPace {
        model: "gpt-4o".to_owned(),
        calls_per_s: 9.84,
        tokens_per_s: 4_100.4,
        limit_calls_per_s: Some(10.0),
        share_in_use: Some(0.984),
        limit: Some("600 rpm".to_owned()),
        in_flight: 30,
        waiting_for_quota: 1_312,
        backing_off: 12,
        ..ModelPace::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_told_in_one_line() {
        assert_eq!(
            describe(&of_a_busy_model()),
            "9.8 calls/s, 4,100 tokens/s, 98% of 600 rpm, 30 in flight, 1,312 wait for quota, 12 wait for a retry"
        );
        assert_eq!(describe(&ModelPace::default()), "0.0 calls/s");
    }
}
