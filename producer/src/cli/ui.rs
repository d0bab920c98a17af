//! Everything that is printed: results on standard output, all else on standard error.

use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use super::fault::{Exit, Fault};

/// The bar on the terminal, which steps aside for every line.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

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
    let write = || {
        let _ = writeln!(io::stderr().lock(), "{text}");
    };
    match &*BAR.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Tells what went wrong and what to do; returns how the program ends.
pub(super) fn fault(fault: &Fault) -> Exit {
    tell(&fault.to_string());
    fault.exit
}
