//! Places where tests end the process, to see what holds when it dies there.
//!
//! Only in builds with debug assertions; in a release build every call is empty. `GRISTMILL_FAILPOINT=worker.after_admit`
//! aborts at the first pass of that place, `worker.after_admit:3` at the third.

/// Ends the process here if the environment asks for it.
#[cfg(debug_assertions)]
pub fn pass(place: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("GRISTMILL_FAILPOINT").ok()?;
        let (name, passes) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicU64::new(passes.parse().unwrap_or(1))))
    });
    if let Some((name, passes)) = armed
        && name == place
        && passes.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}

/// Does nothing in this build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn pass(_place: &str) {}
