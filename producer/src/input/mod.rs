//! Reading requests from files: OpenAI's and Anthropic's Batch formats, plain prompts and CSV, checked as a whole before
//! anything is sent. `docs/formats.md` describes them for users.
//!
//! Files that a request names (`"file:photo.png"`) are looked at in the first pass and put into the body in the second.
//!
//! Two passes over the file, one line in memory at a time. The first checks every line and finds custom ids that occur
//! twice, with 8 bytes a line; the second makes the jobs. What cannot be read twice, such as standard input, is spooled to a
//! temporary file first, packed as it came.

use std::fmt;
use std::io;
use std::path::PathBuf;

mod attachment;
mod check;
mod duplicate;
mod line;
mod media;
mod reader;
mod requests;
mod source;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod unpack;

pub use attachment::{MAX_FILE_BYTES, inline};
pub use check::{Checked, Defaults, check};
pub use line::{CHAT, ENDPOINTS, MESSAGES, normalise_endpoint};
pub use source::Source;
pub use sweep::{InvalidParameter, Parameter, Sweep};

/// Longest line that is read, in bytes.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// Bad lines that are told one by one; the others are counted.
pub const SHOWN_LINES: usize = 20;

/// Columns of a table that are told.
const SHOWN_COLUMNS: usize = 10;

/// The byte order mark that some editors put in front of UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

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
        what: String,
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

/// What the numbers of an input count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Lines, from 1.
    Line,
    /// Rows of a table, the heading being row 1.
    Row,
}

impl Unit {
    /// Returns its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Row => "row",
        }
    }
}

/// One line or row that cannot be sent.
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
    /// What a line of this input is.
    pub unit: Unit,
    /// What to do, where the input looks like something else than lines of requests.
    pub advice: Option<&'static str>,
}

impl BadLines {
    /// Says that they are left out and the others go on.
    pub fn left_out(&self) -> String {
        format!("{} left out{}", self.counted("is", "are"), self.list())
    }

    fn counted(&self, is: &str, are: &str) -> String {
        let Self { path, total, lines, unit, .. } = self;
        let (unit, plural) = (unit.as_str(), if *lines == 1 { "" } else { "s" });
        format!("{}: {total} of {lines} {unit}{plural} {}", path.display(), if *total == 1 { is } else { are })
    }

    fn list(&self) -> String {
        let one = |BadLine { number, reason }: &BadLine| format!("\n  {} {number}: {reason}", self.unit.as_str());
        let mut text: String = self.shown.iter().map(one).collect();
        let more = self.total.saturating_sub(self.shown.len() as u64);
        if more > 0 {
            text.push_str(&format!("\n  and {more} more"));
        }
        text
    }
}

impl fmt::Display for BadLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} be sent, nothing was sent{}", self.counted("cannot", "cannot"), self.list())
    }
}
