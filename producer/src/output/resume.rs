//! Taking up a pair of files that an earlier process wrote: what they hold stays where it is.

use std::fs::OpenOptions;
use std::io::{self, Seek as _};

use gristmill_common::id::{BatchId, JobId};
use gristmill_common::outcome::Status;

use super::Paths;
use super::file::{Files, Found, IN_ERRORS, Ours, Sheet, Slot, WriteError, read_lines, remove, remove_former};
use crate::by_job::ByJob;

impl Files {
    /// Takes up the files of an earlier process, so that what they hold is not written again; makes them where there are none.
    ///
    /// `keep` tells of a job and a run whether its line still counts. What does not, and what is left of a simulation, is left
    /// out when the files are settled. Where errors stand beside the answers, an earlier file of errors of this batch goes.
    ///
    /// # Errors
    ///
    /// As [`Files::check`]; nothing is changed then.
    pub fn resume(paths: &Paths, batch: BatchId, keep: impl Fn(JobId, u32) -> bool) -> Result<Self, WriteError> {
        let mut files = Self {
            answers: Sheet::new(paths.answers.clone()),
            errors: paths.errors.clone().map(Sheet::new),
            latest: ByJob::new(batch),
        };
        let Self { answers, errors, latest } = &mut files;
        let is_split = errors.is_some();
        let counts = |ours: &Ours| keep(ours.job_id, ours.run);
        let mut gone = Vec::new();
        // Both are read before either is changed.
        let answers_length = read(answers, batch, |line, found| match found {
            Found::Ours(ours) if counts(&ours) && (!is_split || ours.status == Status::Succeeded) => {
                gone.extend(claim(latest, line, &ours));
            }
            _ => gone.push(line),
        })?;
        let errors_length = match errors {
            Some(errors) => read(errors, batch, |line, found| match found {
                Found::Ours(ours) if counts(&ours) && ours.status != Status::Succeeded => {
                    gone.extend(claim(latest, line | IN_ERRORS, &ours));
                }
                _ => gone.push(line | IN_ERRORS),
            })?,
            None => None,
        };
        if take_up(answers, answers_length)? {
            answers.obsolete.extend(gone.iter().filter(|line| *line & IN_ERRORS == 0));
        }
        answers.open()?;
        match errors {
            Some(errors) => {
                if take_up(errors, errors_length)? {
                    let gone = gone.iter().filter(|line| *line & IN_ERRORS != 0);
                    errors.obsolete.extend(gone.map(|line| line & !IN_ERRORS));
                } else {
                    remove(&errors.path)?;
                }
            }
            None => remove_former(paths, batch)?,
        }
        Ok(files)
    }
}

/// Notes the line of a job; returns the line that counts no more, this one or that of an earlier run.
fn claim(latest: &mut ByJob<Slot>, line: u32, ours: &Ours) -> Option<u32> {
    let slot = latest.entry(ours.job_id);
    let before = *slot;
    if before.run >= ours.run {
        return Some(line);
    }
    *slot = Slot { run: ours.run, line };
    (before.run > 0).then_some(before.line)
}

/// Counts the lines of a file, if it is there; returns the bytes of those that are whole, if there are any of the batch's.
fn read(sheet: &mut Sheet, batch: BatchId, mut note: impl FnMut(u32, Found)) -> Result<Option<u64>, WriteError> {
    let (mut lines, mut some) = (0, false);
    let length = read_lines(&sheet.path, Some(batch), |found| {
        some |= matches!(found, Found::Ours(_));
        note(lines, found);
        lines += 1;
    })?;
    sheet.lines = lines;
    Ok(length.filter(|_| some))
}

/// Opens a file behind its whole lines; returns whether it holds any of the batch's.
fn take_up(sheet: &mut Sheet, length: Option<u64>) -> Result<bool, WriteError> {
    let Some(length) = length else {
        sheet.lines = 0;
        return Ok(false);
    };
    let failed = sheet.failed();
    let mut file = OpenOptions::new().read(true).write(true).open(&sheet.path).map_err(&failed)?;
    file.set_len(length).map_err(&failed)?;
    file.seek(io::SeekFrom::End(0)).map_err(&failed)?;
    sheet.length = length;
    sheet.file = Some(file);
    Ok(true)
}
