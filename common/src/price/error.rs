//! What can be wrong with prices that somebody wrote.

use std::path::PathBuf;

/// Prices that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file of prices cannot be read.
    #[error("reading the prices of {} failed", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no table of prices.
    #[error("{} {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A price of a deployment's own is none.
    #[error("{field} {problem}")]
    Override {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A row is no JSON.
    #[error("reading a row of prices failed")]
    Row(#[from] serde_json::Error),
}
