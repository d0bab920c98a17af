//! Taking up a pair of files that an earlier process wrote: what they hold stays where it is.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Seek as _};

use gristmill_common::id::{BatchId, JobId};
use gristmill_common::outcome::Status;
use serde::Deserialize;

use super::Paths;
use super::file::{Files, IN_ERRORS, Owner, Sheet, Slot, WriteError, owner_of, remove};
use crate::by_job::ByJob;

/// What a line says of itself.
#[derive(Deserialize)]
struct Line {
    gristmill: Ours,
}

#[derive(Deserialize)]
struct Ours {
    job_id: JobId,
    batch_id: BatchId,
    run: u32,
    status: Status,
}

impl Files {
    /// Takes up the files of an earlier process, so that what they hold is not written again; makes them where there are none.
    ///
    /// `keep` tells of a job and a run whether its line still counts. What does not, and what cannot be read, is left out when
    /// the files are settled.
    ///
    /// # Errors
    ///
    /// As [`Files::check`].
    pub fn resume(paths: &Paths, batch: BatchId, keep: impl Fn(JobId, u32) -> bool) -> Result<Self, WriteError> {
        Self::check(paths, Some(batch))?;
        let mut files = Self {
            answers: Sheet::new(paths.answers.clone()),
            errors: paths.errors.clone().map(Sheet::new),
            latest: ByJob::new(batch),
        };
        let Self { answers, errors, latest } = &mut files;
        let is_split = errors.is_some();
        let counts = |ours: &Ours| ours.batch_id == batch && keep(ours.job_id, ours.run);
        let mut gone = Vec::new();
        take_up(answers, batch, |line, ours| match ours {
            Some(ours) if counts(&ours) && (!is_split || ours.status == Status::Succeeded) => {
                gone.extend(claim(latest, line, &ours));
            }
            _ => gone.push(line),
        })?;
        answers.open()?;
        if let Some(errors) = errors {
            let taken = take_up(errors, batch, |line, ours| match ours {
                Some(ours) if counts(&ours) && ours.status != Status::Succeeded => {
                    gone.extend(claim(latest, line | IN_ERRORS, &ours));
                }
                _ => gone.push(line | IN_ERRORS),
            })?;
            if !taken {
                remove(&errors.path)?;
            }
            errors.obsolete.extend(gone.iter().filter(|line| *line & IN_ERRORS != 0).map(|line| line & !IN_ERRORS));
        }
        answers.obsolete.extend(gone.iter().filter(|line| *line & IN_ERRORS == 0));
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

/// Reads the lines of a file, if it is there and the batch's; returns whether it is.
fn take_up(sheet: &mut Sheet, batch: BatchId, mut note: impl FnMut(u32, Option<Ours>)) -> Result<bool, WriteError> {
    let failed = sheet.failed();
    let mut file = match OpenOptions::new().read(true).write(true).open(&sheet.path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    if !matches!(owner_of(&file).map_err(&failed)?, Owner::Batch(owner) if owner == batch) {
        return Ok(false);
    }
    file.rewind().map_err(&failed)?;
    let mut reader = BufReader::new(&file);
    let mut text = Vec::new();
    loop {
        text.clear();
        let count = reader.read_until(b'\n', &mut text).map_err(&failed)?;
        // What does not end was being written when the process died.
        if !text.ends_with(b"\n") {
            break;
        }
        note(sheet.lines, serde_json::from_slice::<Line>(&text).ok().map(|line| line.gristmill));
        sheet.lines += 1;
        sheet.length += count as u64;
    }
    file.set_len(sheet.length).map_err(&failed)?;
    file.seek(io::SeekFrom::End(0)).map_err(&failed)?;
    sheet.file = Some(file);
    Ok(true)
}
