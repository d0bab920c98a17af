//! The call log: one JSON line for each call that ended, so that tests count what was really called.
//!
//! Owns the file. Lines are buffered and reach the file within [`FLUSH_EVERY`], at a flush and at shutdown; a killed
//! simulator loses what is younger. Writes go to the page cache and block the caller for that long.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tracing::error;

use super::error::Error;

/// The longest time that a line stays in memory.
pub(super) const FLUSH_EVERY: Duration = Duration::from_millis(25);

/// One line of the log.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    /// Arrival, Unix time in milliseconds.
    pub(super) t_ms: i64,
    pub(super) t_end_ms: i64,
    /// `null` when the call ended before its body was read.
    pub(super) marker: Option<&'a str>,
    /// The number of the call among all of its marker, from 1; 0 without a marker.
    pub(super) n: u32,
    pub(super) outcome: &'a str,
    pub(super) status: Option<u16>,
    /// Whose API was called: `openai`, `azure` or `anthropic`.
    pub(super) dialect: &'a str,
    /// The path as the vendor's batch format names it.
    pub(super) path: &'a str,
    pub(super) client_gone: bool,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
}

#[derive(Debug)]
pub(super) struct Log {
    file: Mutex<BufWriter<File>>,
    lost: AtomicU64,
}

impl Log {
    /// Opens the file; lines are appended to what it holds.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|source| Error::Log { path: path.to_owned(), source })?;
        Ok(Self { file: Mutex::new(BufWriter::with_capacity(64 * 1024, file)), lost: AtomicU64::new(0) })
    }

    /// Writes a line; a failure is counted, logged once, and does not reach the call.
    pub(super) fn write(&self, line: &Line<'_>) {
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut bytes| {
            bytes.push(b'\n');
            self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&bytes)
        });
        if let Err(cause) = written
            && self.lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            error!(error = %cause, "writing the call log failed");
        }
    }

    /// Hands all lines to the operating system; a failure is left for the next write to report.
    pub(super) fn flush(&self) {
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }

    /// Returns how many lines could not be written.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
