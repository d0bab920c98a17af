//! A pair of files, answers and errors, that hold the latest run of each job.
//!
//! Lines are appended as results land, whole pages at a time, so both files are valid at any moment. A later run makes the
//! line of an earlier one obsolete; obsolete lines are left out when the file is next compacted, by a copy that takes the
//! file's place. If the process dies, the next one takes the files up (`resume`) and writes what they lack.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use gristmill_common::id::BatchId;
use gristmill_common::outcome::{ResultRow, Status};
use serde::Deserialize;

use super::line;
use crate::by_job::ByJob;

/// Bytes of a line that are looked at to tell whose it is.
const HEAD_BYTES: u64 = 64 * 1024 * 1024;

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Answers.
    pub answers: PathBuf,
    /// Errors; `None` puts them beside the answers, in the same file.
    pub errors: Option<PathBuf>,
}

impl Paths {
    /// Returns `out.jsonl` and `out.errors.jsonl` for `out.jsonl`.
    pub fn new(answers: PathBuf, combined: bool) -> Self {
        let stem = answers.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = answers.extension().map_or_else(|| "jsonl".into(), |extension| extension.to_string_lossy());
        let errors = answers.with_file_name(format!("{stem}.errors.{extension}"));
        Self { errors: (!combined).then_some(errors), answers }
    }
}

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The operating system refuses.
    #[error("writing {path} failed")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} exists and holds {what}; nothing was changed")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it holds.
        what: &'static str,
    },
}

/// Writes results to a pair of files.
#[derive(Debug)]
pub struct Files {
    pub(super) answers: Sheet,
    /// Where errors go, if not beside the answers.
    pub(super) errors: Option<Sheet>,
    /// Of each job: its latest run and the line that holds it.
    pub(super) latest: ByJob<Slot>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    /// 0 where nothing is written.
    pub(super) run: u32,
    /// The line's number; the highest bit tells the file of errors.
    pub(super) line: u32,
}

pub(super) const IN_ERRORS: u32 = 1 << 31;

impl Files {
    /// Fails if a file is there that holds something other than results of this batch or of a simulation.
    ///
    /// # Errors
    ///
    /// [`WriteError::Foreign`], or [`WriteError::Io`] where the place cannot be read or its directory is not there.
    pub fn check(paths: &Paths, batch: Option<BatchId>) -> Result<(), WriteError> {
        for path in [Some(&paths.answers), paths.errors.as_ref()].into_iter().flatten() {
            let failed = |source| WriteError::Io { path: path.clone(), source };
            if path.is_dir() {
                return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
            }
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
                && !parent.is_dir()
            {
                return Err(failed(io::Error::new(io::ErrorKind::NotFound, "its directory is not there")));
            }
            match File::open(path) {
                Ok(file) => owner_of(&file).map_err(failed)?.allows(batch, path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Makes the file of answers empty and removes the file of errors; it comes back with the first error.
    ///
    /// # Errors
    ///
    /// As [`Files::check`].
    pub fn create(paths: &Paths, batch: BatchId) -> Result<Self, WriteError> {
        Self::check(paths, Some(batch))?;
        if let Some(errors) = &paths.errors {
            remove(errors)?;
        }
        let mut answers = Sheet::new(paths.answers.clone());
        answers.open()?;
        Ok(Self { answers, errors: paths.errors.clone().map(Sheet::new), latest: ByJob::new(batch) })
    }

    /// Writes a page of results.
    ///
    /// # Errors
    ///
    /// [`WriteError::Io`]; the files then hold whole lines all the same.
    pub fn write<'a>(&mut self, rows: impl IntoIterator<Item = &'a ResultRow>) -> Result<(), WriteError> {
        for row in rows {
            let latest = self.latest.entry(row.job_id);
            let slot = *latest;
            if slot.run >= row.run {
                continue;
            }
            if slot.run > 0 {
                let sheet = match &mut self.errors {
                    Some(errors) if slot.line & IN_ERRORS != 0 => errors,
                    _ => &mut self.answers,
                };
                sheet.obsolete.push(slot.line & !IN_ERRORS);
            }
            let failed = row.result.status != Status::Succeeded;
            let (sheet, mark) = match &mut self.errors {
                Some(errors) if failed => (errors, IN_ERRORS),
                _ => (&mut self.answers, 0),
            };
            *latest = Slot { run: row.run, line: sheet.lines | mark };
            sheet.add(&line(row));
        }
        self.answers.flush()?;
        self.errors.as_mut().map_or(Ok(()), Sheet::flush)
    }

    /// Leaves out obsolete lines and makes everything durable. Lines keep coming in afterwards.
    ///
    /// # Errors
    ///
    /// [`WriteError::Io`]; the files are then as they were.
    pub fn settle(&mut self) -> Result<(), WriteError> {
        let moved = [Some(&mut self.answers), self.errors.as_mut()].map(|sheet| match sheet {
            Some(sheet) => sheet.settle(),
            None => Ok(Vec::new()),
        });
        let [answers, errors] = moved;
        let (answers, errors) = (answers?, errors?);
        if let Some(sheet) = self.errors.as_mut().filter(|sheet| sheet.lines == 0) {
            sheet.remove()?;
        }
        for slot in self.latest.values_mut().filter(|slot| slot.run > 0) {
            let (gone, mark) = if slot.line & IN_ERRORS == 0 { (&answers, 0) } else { (&errors, IN_ERRORS) };
            let line = slot.line & !IN_ERRORS;
            let before = gone.partition_point(|obsolete| *obsolete < line);
            slot.line = (line - u32::try_from(before).unwrap_or(0)) | mark;
        }
        Ok(())
    }

    /// Returns the file of errors, if there are any.
    pub fn errors_path(&self) -> Option<&Path> {
        self.errors.as_ref().filter(|errors| errors.lines > 0).map(|errors| errors.path.as_path())
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) path: PathBuf,
    pub(super) file: Option<File>,
    /// Bytes in the file.
    pub(super) length: u64,
    /// Lines in the file and in `pending`.
    pub(super) lines: u32,
    pending: Vec<u8>,
    /// Numbers of lines that a later run replaced.
    pub(super) obsolete: Vec<u32>,
}

impl Sheet {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, length: 0, lines: 0, pending: Vec::new(), obsolete: Vec::new() }
    }

    pub(super) fn failed(&self) -> impl Fn(io::Error) -> WriteError + use<> {
        let path = self.path.clone();
        move |source| WriteError::Io { path: path.clone(), source }
    }

    pub(super) fn open(&mut self) -> Result<&mut File, WriteError> {
        let failed = self.failed();
        match &mut self.file {
            Some(file) => Ok(file),
            none => {
                let file = OpenOptions::new().write(true).create(true).truncate(true).open(&self.path);
                Ok(none.insert(file.map_err(failed)?))
            }
        }
    }

    /// Takes an empty file away.
    fn remove(&mut self) -> Result<(), WriteError> {
        if self.file.take().is_none() {
            return Ok(());
        }
        self.length = 0;
        std::fs::remove_file(&self.path).map_err(self.failed())
    }

    fn add(&mut self, line: &[u8]) {
        self.pending.extend_from_slice(line);
        self.lines += 1;
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let failed = self.failed();
        let pending = std::mem::take(&mut self.pending);
        let length = self.length;
        let file = self.open()?;
        if let Err(error) = file.write_all(&pending) {
            // Part of a line may be there: a pipe cannot be cut, a file can.
            let _ = file.set_len(length);
            return Err(failed(error));
        }
        self.length += pending.len() as u64;
        Ok(())
    }

    /// Returns the obsolete lines that were left out, in order.
    fn settle(&mut self) -> Result<Vec<u32>, WriteError> {
        self.flush()?;
        let failed = self.failed();
        let mut gone = std::mem::take(&mut self.obsolete);
        gone.sort_unstable();
        if let Some(file) = &mut self.file {
            if !gone.is_empty() {
                let compacted = compact(&self.path, &gone).map_err(&failed)?;
                (*file, self.length) = compacted;
                self.lines -= u32::try_from(gone.len()).unwrap_or(0);
            }
            match file.sync_all() {
                // A pipe or a terminal cannot be synced.
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(gone)
    }
}

/// Takes a file away, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), WriteError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(WriteError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Copies a file without some of its lines and puts the copy in its place.
fn compact(path: &Path, gone: &[u32]) -> io::Result<(File, u64)> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".compacting");
    let copy_path = path.with_file_name(name);
    let mut copy = io::BufWriter::new(File::create(&copy_path)?);
    let mut reader = BufReader::new(File::open(path)?);
    let mut gone = gone.iter().copied().peekable();
    let mut text = Vec::new();
    let mut length = 0;
    for number in 0.. {
        text.clear();
        if reader.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        if gone.next_if_eq(&number).is_none() {
            copy.write_all(&text)?;
            length += text.len() as u64;
        }
    }
    let mut copy = copy.into_inner().map_err(io::IntoInnerError::into_error)?;
    copy.sync_all()?;
    std::fs::rename(&copy_path, path)?;
    copy.seek(io::SeekFrom::End(0))?;
    Ok((copy, length))
}

/// Whose lines a file holds.
pub(super) enum Owner {
    Nobody,
    Batch(BatchId),
    Simulation,
    Unknown,
}

impl Owner {
    fn allows(&self, batch: Option<BatchId>, path: &Path) -> Result<(), WriteError> {
        let what = match self {
            Self::Nobody | Self::Simulation => return Ok(()),
            Self::Batch(owner) if Some(*owner) == batch => return Ok(()),
            Self::Batch(_) => "results of another batch",
            Self::Unknown => "something that is not Gristmill's",
        };
        Err(WriteError::Foreign { path: path.to_owned(), what })
    }
}

pub(super) fn owner_of(file: &File) -> io::Result<Owner> {
    #[derive(Deserialize)]
    struct Line {
        gristmill: Ours,
    }
    #[derive(Deserialize)]
    struct Ours {
        batch_id: BatchId,
        #[serde(default)]
        simulated: bool,
    }
    if !file.metadata()?.is_file() {
        return Ok(Owner::Nobody);
    }
    let mut first = Vec::new();
    BufReader::new(file).take(HEAD_BYTES).read_until(b'\n', &mut first)?;
    if first.trim_ascii().is_empty() {
        return Ok(Owner::Nobody);
    }
    Ok(match serde_json::from_slice::<Line>(&first) {
        Ok(Line { gristmill: Ours { simulated: true, .. } }) => Owner::Simulation,
        Ok(Line { gristmill: Ours { batch_id, .. } }) => Owner::Batch(batch_id),
        Err(_) => Owner::Unknown,
    })
}
