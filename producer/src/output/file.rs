//! A pair of files, answers and errors, that hold the latest run of each job.
//!
//! Lines are appended as results land, whole pages at a time, so both files are valid at any moment. A later run makes the
//! line of an earlier one obsolete; obsolete lines are left out when the file is next compacted, by a copy that takes the
//! file's place. If the process dies, the next one takes the files up (`resume`) and writes what they lack.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use gristmill_common::id::{BatchId, JobId};
use gristmill_common::outcome::{ResultRow, Status};
use serde::Deserialize;

use super::line;
use crate::by_job::ByJob;

/// Longest line that is taken for a result, in bytes: an answer of the largest size that may be configured, with its escapes.
const LINE_BYTES: usize = 512 * 1024 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// How every line begins that was written here.
const BEGINNING: &[u8] = b"{\"id\":\"batch_req_";

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
    ///
    /// Where the answers go to what is there and no file, such as a pipe or `/dev/null`, errors go there, too.
    pub fn new(answers: PathBuf, combined: bool) -> Self {
        let combined = combined || is_no_file(&answers);
        let stem = answers.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = answers.extension().map_or_else(|| "jsonl".into(), |extension| extension.to_string_lossy());
        let errors = answers.with_file_name(format!("{stem}.errors.{extension}"));
        Self { errors: (!combined).then_some(errors), answers }
    }

    fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.answers.as_path()).chain(self.errors.as_deref())
    }
}

/// Tells whether something is there that is neither a file nor a directory.
fn is_no_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|kind| !kind.is_file() && !kind.is_dir())
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
    /// The file holds results of another batch.
    #[error("{path} exists and holds results of another batch on line {line}; nothing was changed")]
    OtherBatch {
        /// The file.
        path: PathBuf,
        /// The first such line, from 1.
        line: u64,
        /// The other batch.
        batch: BatchId,
    },
    /// The file holds something else.
    #[error("{path} exists and holds something that is not Gristmill's on line {line}; nothing was changed")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The first such line, from 1.
        line: u64,
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
    /// Fails where the files could not be written: tries, and leaves everything as it was.
    ///
    /// # Errors
    ///
    /// [`WriteError::Io`].
    pub fn probe(paths: &Paths) -> Result<(), WriteError> {
        for path in paths.all() {
            let failed = |source| WriteError::Io { path: path.to_owned(), source };
            if path.is_dir() {
                return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
            }
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
                && !parent.is_dir()
            {
                return Err(failed(io::Error::new(io::ErrorKind::NotFound, "its directory is not there")));
            }
            // Opening a pipe waits for its reader.
            if is_no_file(path) {
                continue;
            }
            let is_new = !path.exists();
            OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
            if is_new {
                // Of a link that leads nowhere yet, what it leads to.
                let made = std::fs::canonicalize(path).map_err(failed)?;
                std::fs::remove_file(made).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Fails if a file is there that holds something other than results of this batch or of a simulation, on whatever line.
    ///
    /// # Errors
    ///
    /// [`WriteError::OtherBatch`], [`WriteError::Foreign`], or [`WriteError::Io`] where it cannot be read.
    pub fn check(paths: &Paths, batch: Option<BatchId>) -> Result<(), WriteError> {
        for path in paths.all() {
            read_lines(path, batch, |_| {})?;
        }
        Ok(())
    }

    /// Makes the file of answers empty and removes the file of errors; it comes back with the first error.
    ///
    /// # Errors
    ///
    /// As [`Files::probe`] and [`Files::check`].
    pub fn create(paths: &Paths, batch: BatchId) -> Result<Self, WriteError> {
        Self::probe(paths)?;
        Self::check(paths, Some(batch))?;
        match &paths.errors {
            Some(errors) => remove(errors)?,
            None => remove_former(paths, batch)?,
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

/// Takes away the file of errors that an earlier run wrote beside the answers, if it is of this batch: its rows stand among the
/// answers now.
pub(super) fn remove_former(paths: &Paths, batch: BatchId) -> Result<(), WriteError> {
    let Some(former) = Paths::new(paths.answers.clone(), false).errors else { return Ok(()) };
    let mut some = false;
    // What else stands there is none of ours.
    let is_ours = read_lines(&former, Some(batch), |found| some |= matches!(found, Found::Ours(_))).is_ok();
    if is_ours && some { remove(&former) } else { Ok(()) }
}

/// Copies a file without some of its lines and puts the copy in its place, with the same mode; a link stays one.
fn compact(path: &Path, gone: &[u32]) -> io::Result<(File, u64)> {
    let path = std::fs::canonicalize(path)?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".compacting");
    let copy_path = path.with_file_name(name);
    let original = File::open(&path)?;
    let copy = File::create(&copy_path)?;
    copy.set_permissions(original.metadata()?.permissions())?;
    let mut copy = io::BufWriter::new(copy);
    let mut reader = BufReader::new(original);
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
    std::fs::rename(&copy_path, &path)?;
    copy.seek(io::SeekFrom::End(0))?;
    Ok((copy, length))
}

/// One line of a file that may be taken up.
#[derive(Debug)]
pub(super) enum Found {
    /// A result of the batch.
    Ours(Ours),
    /// What may go: a blank line, or a result of a simulation.
    Nothing,
}

/// What a line says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Ours {
    pub(super) job_id: JobId,
    batch_id: BatchId,
    pub(super) run: u32,
    pub(super) status: Status,
    #[serde(default)]
    simulated: bool,
}

/// Hands on each whole line of a file, if it is there; returns the bytes that they have together.
///
/// What does not end was being written when a process died: the beginning of a result is passed over.
///
/// # Errors
///
/// As [`Files::check`].
pub(super) fn read_lines(
    path: &Path,
    batch: Option<BatchId>,
    mut note: impl FnMut(Found),
) -> Result<Option<u64>, WriteError> {
    #[derive(Deserialize)]
    struct Line {
        gristmill: Ours,
    }

    let failed = |source| WriteError::Io { path: path.to_owned(), source };
    // Opening a pipe waits for its writer.
    if is_no_file(path) {
        return Ok(None);
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let (mut length, mut text) = (0, Vec::new());
    for line in 1.. {
        let foreign = || WriteError::Foreign { path: path.to_owned(), line };
        let first = reader.fill_buf().map_err(failed)?;
        // A file of something else may be one long line.
        if first.first().is_some_and(|byte| *byte != b'{' && !byte.is_ascii_whitespace()) {
            return Err(foreign());
        }
        text.clear();
        let count = (&mut reader).take(LINE_BYTES as u64).read_until(b'\n', &mut text).map_err(failed)?;
        let is_whole = text.ends_with(b"\n");
        let found = match serde_json::from_slice::<Line>(&text) {
            Ok(Line { gristmill: ours }) if Some(ours.batch_id) == batch => Found::Ours(ours),
            Ok(Line { gristmill: Ours { simulated: true, .. } }) => Found::Nothing,
            Ok(Line { gristmill: Ours { batch_id, .. } }) => {
                return Err(WriteError::OtherBatch { path: path.to_owned(), line, batch: batch_id });
            }
            Err(_) if text.trim_ascii().is_empty() => Found::Nothing,
            Err(_)
                if !is_whole && count < LINE_BYTES && (text.starts_with(BEGINNING) || BEGINNING.starts_with(&text)) =>
            {
                break;
            }
            Err(_) => return Err(foreign()),
        };
        if !is_whole {
            break;
        }
        note(found);
        length += count as u64;
    }
    Ok(Some(length))
}
