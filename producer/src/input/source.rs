//! Where the lines come from: a file, or a copy of what can be read only once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::id::OwnerId;
use sha2::{Digest as _, Sha256};

use super::Error;

/// An input that can be read several times.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
    key: String,
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
            return Err(Error::Kind { path: path.to_owned(), what: "is a directory; name a file in it" });
        }
        if !kind.is_file() {
            return Self::spooled(path.to_owned(), file);
        }
        let canonical = path.canonicalize().map_err(failed)?;
        let key = hex(&Sha256::digest(canonical.as_os_str().as_encoded_bytes()));
        Self { path: path.to_owned(), kind: Kind::File, key }.checked()
    }

    fn spooled(path: PathBuf, reader: impl Read) -> Result<Self, Error> {
        let (spool, key) = Spool::fill(&path, reader)?;
        Self { path, kind: Kind::Spool(spool), key }.checked()
    }

    /// Refuses what a first look shows to be something else than text.
    fn checked(self) -> Result<Self, Error> {
        let mut head = Vec::new();
        self.reader()?
            .take(4)
            .read_to_end(&mut head)
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        let what = match head.as_slice() {
            [0x1f, 0x8b, ..] => "is compressed by gzip; unpack it first: gunzip -k FILE",
            [0x28, 0xb5, 0x2f, 0xfd] => "is compressed by zstd; unpack it first: unzstd -k FILE",
            [b'P', b'K', 3, 4] => "is a zip archive; unpack it first",
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is UTF-16; save it as UTF-8",
            _ => return Ok(self),
        };
        Err(Error::Kind { path: self.path, what })
    }

    /// Returns what people call it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what tells it from other inputs: of a file its place, of a copy its contents.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Starts to read from the beginning; one reader at a time.
    pub(super) fn reader(&self) -> Result<File, Error> {
        let open = || match &self.kind {
            Kind::File => File::open(&self.path),
            Kind::Spool(spool) => spool.reader(),
        };
        open().map_err(|source| Error::Io { path: self.path.clone(), source })
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

fn hex(hash: &[u8]) -> String {
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
