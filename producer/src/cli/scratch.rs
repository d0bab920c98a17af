//! A place for what nobody looks for later.

use std::path::PathBuf;

use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::id::BatchId;

use super::fault::Fault;

/// A folder that lasts as long as the process needs it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one among the temporary files.
    pub(super) fn new() -> Result<Self, Fault> {
        let id = BatchId::new(SystemClock.now());
        let path = std::env::temp_dir().join(format!("gristmill-{id}"));
        let mut builder = std::fs::DirBuilder::new();
        // Prompts are nobody else's.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&path)
            .map_err(|error| Fault::new(format!("making {} failed", path.display())).because(&error))?;
        Ok(Self(path))
    }

    /// Returns where a database goes.
    pub(super) fn file(&self) -> PathBuf {
        self.0.join("simulated.db")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies with other temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
