//! Places where tests end the process, to see what holds when it dies there.
//!
//! Only in builds with debug assertions; in a release build every call is empty. `GRISTMILL_FAILPOINT=worker.after_admit`
//! aborts at the first pass of that place, `worker.after_admit:3` at the third, `worker.before_call@NAME` at the first pass
//! with the job of that `custom_id`.

/// Ends the process here if the environment asks for it.
#[cfg(debug_assertions)]
pub fn pass(place: &str) {
    pass_for(place, "");
}

/// Ends the process here, with this job, if the environment asks for it.
#[cfg(debug_assertions)]
pub fn pass_for(place: &str, custom_id: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        place: String,
        custom_id: Option<String>,
        passes: AtomicU64,
    }
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("GRISTMILL_FAILPOINT").ok()?;
        let (name, passes) = text.split_once(':').unwrap_or((&text, "1"));
        let (place, custom_id) = name.split_once('@').map_or((name, None), |(place, job)| (place, Some(job)));
        let passes = AtomicU64::new(passes.parse().unwrap_or(1));
        Some(Armed { place: place.to_owned(), custom_id: custom_id.map(str::to_owned), passes })
    });
    if let Some(armed) = armed
        && armed.place == place
        && armed.custom_id.as_deref().is_none_or(|wanted| wanted == custom_id)
        && armed.passes.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}

/// Does nothing in this build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn pass(_place: &str) {}

/// Does nothing in this build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn pass_for(_place: &str, _custom_id: &str) {}
