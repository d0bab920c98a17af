//! Where the lines come from: a file, compressed or not, or a copy of what can be read only once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::id::OwnerId;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use super::unpack::unpacked;
use super::{BOM, Error, Unit};

/// Bytes that are looked at to tell what an input is.
const HEAD_BYTES: u64 = 256;

/// An input that can be read several times.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
    key: String,
    /// How it begins, unpacked.
    head: Vec<u8>,
}

/// How an input is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One JSON object a line.
    Lines,
    /// CSV with a heading.
    Table {
        /// What stands between two fields.
        delimiter: u8,
    },
}

#[derive(Debug)]
enum Kind {
    File,
    Spool(Spool),
}

impl Source {
    /// Opens a file; `-` is standard input, which is copied to a temporary file until it ends.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Kind`] for what is no file of text, [`Error::Spool`] where there is no room for the copy.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path == Path::new("-") {
            let path = PathBuf::from("standard input");
            return Self::spooled(path, io::stdin().lock());
        }
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?;
        if kind.is_dir() {
            return Err(Error::Kind { path: path.to_owned(), what: "is a directory; name a file in it".to_owned() });
        }
        if !kind.is_file() {
            return Self::spooled(path.to_owned(), file);
        }
        let canonical = path.canonicalize().map_err(failed)?;
        let key = hex(&Sha256::digest(canonical.as_os_str().as_encoded_bytes()));
        Self { path: path.to_owned(), kind: Kind::File, key, head: Vec::new() }.checked()
    }

    fn spooled(path: PathBuf, reader: impl Read) -> Result<Self, Error> {
        let (spool, key) = Spool::fill(&path, reader)?;
        Self { path, kind: Kind::Spool(spool), key, head: Vec::new() }.checked()
    }

    /// Refuses what a first look shows to be something else than text.
    fn checked(mut self) -> Result<Self, Error> {
        let mut head = Vec::new();
        let failed = |source| Error::Io { path: self.path.clone(), source };
        self.reader()?.take(HEAD_BYTES).read_to_end(&mut head).map_err(failed)?;
        let what = match head.as_slice() {
            [b'P', b'K', 3, 4, ..] => "is a zip archive; unpack it first",
            [b'P', b'A', b'R', b'1', ..] => "is Parquet; save it as JSON lines or CSV",
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is UTF-16; save it as UTF-8",
            head if plain_text(head).starts_with(b"[") => {
                "is one JSON array; write one object a line, for example with jq -c '.[]'"
            }
            // JSON and CSV hold no such bytes, not even in strings.
            head if head.contains(&0) => "holds binary data; give JSON lines or CSV, plain or packed by gzip or zstd",
            _ => {
                self.head = head;
                return Ok(self);
            }
        };
        Err(Error::Kind { path: self.path, what: what.to_owned() })
    }

    /// Tells how it is laid out: by its name, or, where the prompts' column was named, by its beginning.
    pub(super) fn layout(&self, names_column: bool) -> Layout {
        let name = self.plain_name().to_ascii_lowercase();
        let begin = plain_text(&self.head);
        if name.ends_with(".tsv") {
            Layout::Table { delimiter: b'\t' }
        } else if name.ends_with(".csv") || (names_column && !begin.is_empty() && !begin.starts_with(b"{")) {
            Layout::Table { delimiter: b',' }
        } else {
            Layout::Lines
        }
    }

    /// Says what to do with an input whose beginning looks like something else than one JSON object a line.
    pub(super) fn advice(&self, unit: Unit) -> Option<&'static str> {
        let begin = plain_text(&self.head);
        let first = begin.split_inclusive(|byte| *byte == b'\n').next().filter(|line| line.ends_with(b"\n"));
        match first.map(serde_json::from_slice::<IgnoredAny>) {
            _ if unit == Unit::Row => None,
            Some(Err(error)) if begin.starts_with(b"{") && error.is_eof() => {
                Some("an object must stand on one line: `jq -c . FILE` writes it so")
            }
            Some(Err(_)) if !begin.starts_with(b"{") => {
                Some("if it is CSV, name the column of the prompts: --prompt-column NAME")
            }
            _ => None,
        }
    }

    /// Returns its file name without the ending of a compression: `sweep.jsonl` of `data/sweep.jsonl.gz`.
    pub fn plain_name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let plain = [".gz", ".zst", ".zstd"].into_iter().find_map(|ending| name.strip_suffix(ending));
        plain.unwrap_or(&name).to_owned()
    }

    /// Returns what people call it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what the files that its requests name are relative to: its directory, or the working directory for what is
    /// no file of its own.
    pub(super) fn directory(&self) -> &Path {
        match self.kind {
            Kind::File => self.path.parent().unwrap_or_else(|| Path::new("")),
            Kind::Spool(_) => Path::new(""),
        }
    }

    /// Returns what tells it from other inputs: of a file its place, of a copy its contents.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Starts to read from the beginning, unpacked; one reader at a time.
    pub(super) fn reader(&self) -> Result<Box<dyn Read>, Error> {
        let open = || match &self.kind {
            Kind::File => File::open(&self.path),
            Kind::Spool(spool) => spool.reader(),
        };
        open().and_then(unpacked).map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

/// A temporary file that is gone when this is dropped.
#[derive(Debug)]
struct Spool {
    path: PathBuf,
    file: File,
}

impl Spool {
    fn fill(input: &Path, mut reader: impl Read) -> Result<(Self, String), Error> {
        let path = std::env::temp_dir().join(format!("gristmill-{}.jsonl", OwnerId::new(SystemClock.now())));
        let unwritten = |source| Error::Spool { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut spool = Self { file: options.open(&path).map_err(unwritten)?, path: path.clone() };
        // Where the system allows it, the name goes at once, so that nothing is left behind whatever ends the process.
        #[cfg(unix)]
        std::fs::remove_file(&path).map_err(unwritten)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = match reader.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Io { path: input.to_owned(), source }),
                Ok(0) => break,
                Ok(count) => count,
            };
            hasher.update(&buffer[..count]);
            spool.file.write_all(&buffer[..count]).map_err(unwritten)?;
        }
        Ok((spool, hex(&hasher.finalize())))
    }

    fn reader(&self) -> io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        Ok(file)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Gone already where the system allowed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Returns where the text begins.
fn plain_text(head: &[u8]) -> &[u8] {
    head.strip_prefix(BOM).unwrap_or(head).trim_ascii_start()
}

fn hex(hash: &[u8]) -> String {
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
