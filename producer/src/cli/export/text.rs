//! Rows as text, JSON lines or CSV, on standard output or in a file that may be packed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::Table;
use super::place::Place;
use super::row::{self, Cells};
use crate::cli::fault::Fault;
use crate::cli::ui;

/// Bytes of a frame of zstd.
const FRAME_BYTES: usize = 1024 * 1024;

/// How a row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Jsonl,
    Csv,
}

/// Lines, and where they go.
pub(super) struct Text {
    style: Style,
    with_bodies: bool,
    /// Lines that are not passed on yet.
    lines: String,
    target: Target,
}

enum Target {
    Stdout,
    File(Place, Packer),
}

enum Packer {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
    /// Frames one after the other; what the next one is made of.
    Zstd(BufWriter<File>, Vec<u8>),
}

impl Text {
    /// Begins a file, or standard output where there is none.
    pub(super) fn open(style: Style, path: Option<&Path>, with_bodies: bool) -> Result<Self, Fault> {
        let target = match path {
            None => Target::Stdout,
            Some(path) => {
                let (place, file) = Place::open(path)?;
                Target::File(place, Packer::of(path, BufWriter::new(file)))
            }
        };
        let mut lines = String::new();
        if style == Style::Csv {
            let names: Vec<&str> = row::COLUMNS.into_iter().filter(|name| with_bodies || *name != row::BODY).collect();
            lines = names.join(",") + "\r\n";
        }
        Ok(Self { style, with_bodies, lines, target })
    }
}

impl Table for Text {
    fn add(&mut self, cells: Cells) -> Result<(), Fault> {
        let cells = row::COLUMNS.into_iter().zip(&cells).filter(|(name, _)| self.with_bodies || *name != row::BODY);
        self.lines.push_str(&match self.style {
            Style::Jsonl => row::jsonl(cells),
            Style::Csv => row::csv(cells.map(|(_, cell)| cell)),
        });
        Ok(())
    }

    fn flush(&mut self) -> Result<bool, Fault> {
        let lines = std::mem::take(&mut self.lines);
        match &mut self.target {
            Target::Stdout => ui::out(lines.as_bytes()),
            Target::File(place, packer) => {
                packer.add(lines.as_bytes()).map_err(|error| place.failed(&error))?;
                Ok(true)
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Option<PathBuf>, Fault> {
        self.flush()?;
        match self.target {
            Target::Stdout => Ok(None),
            Target::File(place, packer) => {
                packer.finish().map_err(|error| place.failed(&error))?;
                place.take().map(Some)
            }
        }
    }
}

impl Packer {
    /// Packs a file as its name ends.
    fn of(path: &Path, file: BufWriter<File>) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip(GzEncoder::new(file, Compression::default())),
            Some("zst") => Self::Zstd(file, Vec::new()),
            _ => Self::Plain(file),
        }
    }

    fn add(&mut self, text: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(text),
            Self::Gzip(file) => file.write_all(text),
            Self::Zstd(file, frame) => {
                frame.extend_from_slice(text);
                if frame.len() >= FRAME_BYTES {
                    file.write_all(&compress_to_vec(frame.as_slice(), CompressionLevel::Fastest))?;
                    frame.clear();
                }
                Ok(())
            }
        }
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Self::Plain(mut file) => file.flush(),
            Self::Gzip(file) => file.finish()?.flush(),
            Self::Zstd(mut file, frame) => {
                file.write_all(&compress_to_vec(frame.as_slice(), CompressionLevel::Fastest))?;
                file.flush()
            }
        }
    }
}
