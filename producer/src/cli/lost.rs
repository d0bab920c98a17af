//! Calls that died workers may have been making, as people and programs read them. Pure.

use gristmill_common::price::PicoUsd;
use gristmill_common::store::LostCalls;
use serde_json::{Value, json};

use super::costs::dollars;
use super::table::{money, plural};

/// Says it in a sentence; nothing where no worker died.
pub(super) fn remark(lost: &LostCalls) -> Option<String> {
    let LostCalls { workers, runs, most, .. } = *lost;
    (most > 0).then(|| {
        format!(
            "lost: {} died while holding {}; at most {} of theirs may have been made and billed that no line above has: {}.",
            plural(workers, "worker"),
            plural(runs, "run"),
            plural(most, "call"),
            bound(lost)
        )
    })
}

/// Says what these calls cost at most.
pub(super) fn bound(lost: &LostCalls) -> String {
    let LostCalls { most, bound_pico_usd, without_bound, .. } = *lost;
    let known = money(PicoUsd(bound_pico_usd).dollars());
    match (without_bound == most, without_bound) {
        (true, _) => "what these may have cost is not known".to_owned(),
        (false, 0) => format!("at most {known} in all"),
        (false, unknown) => format!("at most {known}, and that of {unknown} more is not known"),
    }
}

/// Returns it for programs.
pub(super) fn json(lost: &LostCalls) -> Value {
    let is_known = lost.without_bound < lost.most || lost.most == 0;
    let bound = is_known.then_some(PicoUsd(lost.bound_pico_usd));
    json!({
        "workers": lost.workers, "runs": lost.runs, "calls_at_most": lost.most,
        "bound_pico_usd": bound.map(|PicoUsd(pico)| pico), "bound_usd": bound.map(dollars),
        "calls_without_bound": lost.without_bound,
    })
}
