//! A file that takes the place of the former one when it is whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::cli::fault::Fault;

/// Where a file will be. What is not whole is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    part: PathBuf,
}

impl Place {
    /// Makes the file that is to be filled, beside its place.
    pub(super) fn open(path: &Path) -> Result<(Self, File), Fault> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What is no file, such as a pipe, has no place to take.
        let is_other = std::fs::metadata(path).is_ok_and(|kind| !kind.is_file());
        let part = if is_other {
            path.to_owned()
        } else {
            path.with_file_name(format!(".{name}.{}.part", std::process::id()))
        };
        let place = Self { path: path.to_owned(), part };
        let file = File::create(&place.part).map_err(|error| place.failed(&error))?;
        Ok((place, file))
    }

    /// Puts the file, which is whole, in its place.
    pub(super) fn take(self) -> Result<PathBuf, Fault> {
        if self.part != self.path {
            std::fs::rename(&self.part, &self.path).map_err(|error| self.failed(&error))?;
        }
        Ok(self.path.clone())
    }

    /// Tells that it cannot be written.
    pub(super) fn failed(&self, error: &(dyn std::error::Error + 'static)) -> Fault {
        Fault::new(format!("writing {} failed", self.path.display())).because(error)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is not whole is of no use to anybody. What took its place is there no more.
        if self.part != self.path {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}
