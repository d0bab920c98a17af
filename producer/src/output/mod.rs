//! Results as files: the lines of the OpenAI Batch format, and the writer that keeps a pair of files right.

pub mod csv;
mod file;
mod line;
mod resume;
#[cfg(test)]
pub(crate) mod tests;

pub use file::{Files, Paths, WriteError};
pub use line::{line, usd};
