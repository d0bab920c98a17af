//! Everything that is printed: results on standard output, all else on standard error.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use super::fault::{Exit, Fault};

/// Whether what is told goes to the log, because a machine reads standard error.
static LOGGED: AtomicBool = AtomicBool::new(false);

/// Whether standard error holds JSON alone, because a machine reads it.
static JSON: AtomicBool = AtomicBool::new(false);

/// The bar on the terminal, which steps aside for every line.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Puts what is told from now on into the log.
pub(super) fn tell_in_log() {
    LOGGED.store(true, Ordering::Relaxed);
}

/// Writes all that is told from now on as JSON, one object a line.
pub(super) fn tell_as_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Says which bar is on the terminal now.
pub(super) fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Writes to standard output. `Ok(false)` says that nobody reads any more.
pub(super) fn out(bytes: &[u8]) -> Result<bool, Fault> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Fault::new("writing to standard output failed").because(&error)),
    }
}

/// Writes a line to standard output.
pub(super) fn line(text: &str) -> Result<bool, Fault> {
    out(format!("{text}\n").as_bytes())
}

/// Writes a value as one line of JSON to standard output.
pub(super) fn json(value: &impl serde::Serialize) -> Result<bool, Fault> {
    let text = serde_json::to_string(value).map_err(|error| Fault::new("writing JSON failed").because(&error))?;
    line(&text)
}

/// Tells people something; where standard error is closed, nobody listens.
pub(super) fn tell(text: &str) {
    if LOGGED.load(Ordering::Relaxed) {
        tracing::info!("{text}");
        return;
    }
    if JSON.load(Ordering::Relaxed) {
        event(&serde_json::json!({ "message": text }));
    } else {
        write(text);
    }
}

/// Writes a value as one line of JSON to standard error.
pub(super) fn event(value: &impl serde::Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        write(&text);
    }
}

fn write(text: &str) {
    let write = || {
        let _ = writeln!(io::stderr().lock(), "{text}");
    };
    match &*BAR.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Tells what went wrong and what to do, as one line of JSON if a machine reads; returns how the program ends.
pub(super) fn fault(fault: &Fault, json: bool) -> Exit {
    write(&if json || JSON.load(Ordering::Relaxed) { fault.json().to_string() } else { fault.to_string() });
    fault.exit
}
