//! Reading requests from files: OpenAI's Batch format, checked as a whole before anything is sent.
//!
//! Two passes over the file, one line in memory at a time. The first checks every line and finds custom ids that occur
//! twice, with 8 bytes a line; the second makes the jobs. What cannot be read twice, such as standard input, is spooled to a
//! temporary file first.

use std::fmt;
use std::io;
use std::path::PathBuf;

mod check;
mod line;
mod reader;
mod source;
#[cfg(test)]
mod tests;

pub use check::{Checked, Defaults, check};
pub use line::{ENDPOINTS, normalise_endpoint};
pub use source::Source;

/// Longest line that is read, in bytes.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// Bad lines that are told one by one; the others are counted.
pub const SHOWN_LINES: usize = 20;

/// What is wrong with an input.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refuses.
    #[error("reading {path} failed")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// The copy of standard input cannot be written.
    #[error("keeping a copy of standard input in {path} failed")]
    Spool {
        /// The temporary file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The file is not of the expected kind; the text says what to do.
    #[error("{path} {what}")]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Lines that cannot be sent.
    #[error("{0}")]
    Lines(BadLines),
    /// The file is not what it was when it was checked.
    #[error("{path} changed while it was read, at line {line}; run the command again")]
    Changed {
        /// The file.
        path: PathBuf,
        /// Where.
        line: u64,
    },
}

/// One line that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BadLine {
    /// Its number, from 1.
    pub number: u64,
    /// Why, for people.
    pub reason: String,
}

/// The lines of an input that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLines {
    /// The file.
    pub path: PathBuf,
    /// The first of them, in order.
    pub shown: Vec<BadLine>,
    /// How many there are.
    pub total: u64,
    /// How many lines hold something.
    pub lines: u64,
}

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, shown, total, lines } = self;
        let verb = if *total == 1 { "line cannot" } else { "lines cannot" };
        write!(f, "{}: {total} of {lines} {verb} be sent, nothing was sent", path.display())?;
        for BadLine { number, reason } in shown {
            write!(f, "\n  line {number}: {reason}")?;
        }
        match total.saturating_sub(shown.len() as u64) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}
