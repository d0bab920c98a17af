//! The key of a deployment: what its calls send, and what no text about them may show.
//!
//! A key that came from a file is rotated by writing the file: it is read again when it has changed, and when the provider
//! refused the key. A file that cannot be read, or holds nothing of use, changes nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use gristmill_common::config::{Deployment, Dialect, Wire, read_secret};
use http::{HeaderName, HeaderValue, header};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};

use super::Error;
use super::redact::Redactor;

/// How often the file is looked at, while calls are made.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long a look may take; a call then goes on with the key that is known.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What one call sends and hides.
pub(super) struct Credentials {
    key: Option<SecretString>,
    /// The header that carries the key.
    pub(super) header: Option<(HeaderName, HeaderValue)>,
    pub(super) redactor: Redactor,
}

/// The key of one deployment, as it is now.
pub(super) struct Key {
    deployment: Arc<str>,
    source_name: String,
    base: Url,
    way: Way,
    /// Values of other headers that are not shown either.
    others: Vec<SecretString>,
    file: Option<PathBuf>,
    known: Mutex<Arc<Credentials>>,
    look: Mutex<Look>,
}

/// What the last look showed, and when the next one is due.
struct Look {
    due: Instant,
    stamp: Option<Stamp>,
    failing: bool,
}

/// Changes whenever a file is written or replaced.
type Stamp = (SystemTime, u64, u64);

/// How a key is sent.
#[derive(Debug, Clone)]
enum Way {
    /// As a bearer token.
    Bearer,
    /// As the value of a header.
    Header(HeaderName),
}

impl Way {
    fn of(wire: &Wire) -> Self {
        match wire.dialect {
            _ if wire.bearer => Self::Bearer,
            Dialect::OpenAi => Self::Bearer,
            Dialect::Azure => Self::Header(HeaderName::from_static("api-key")),
            Dialect::Anthropic => Self::Header(HeaderName::from_static("x-api-key")),
        }
    }

    /// Makes the header; `None` for a key that no header may hold.
    fn header(&self, key: &SecretString) -> Option<(HeaderName, HeaderValue)> {
        let (name, value) = match self {
            Self::Bearer => (header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))),
            Self::Header(name) => (name.clone(), HeaderValue::try_from(key.expose_secret())),
        };
        let mut value = value.ok()?;
        value.set_sensitive(true);
        Some((name, value))
    }
}

impl Credentials {
    fn new(key: Option<SecretString>, base: &Url, way: &Way, others: &[SecretString]) -> Option<Self> {
        let header = match &key {
            None => None,
            Some(key) => Some(way.header(key)?),
        };
        Some(Self { redactor: Redactor::new(key.as_ref(), others, base), key, header })
    }
}

impl Key {
    pub(super) fn new(deployment: &Deployment) -> Result<Self, Error> {
        let base = deployment.api_base.0.clone();
        let source_name = deployment.key_source.clone().unwrap_or_else(|| "of unknown source".to_owned());
        let way = Way::of(&deployment.wire);
        let others: Vec<SecretString> = deployment.wire.headers.iter().map(|header| header.value.clone()).collect();
        let Some(credentials) = Credentials::new(deployment.api_key.clone(), &base, &way, &others) else {
            return Err(Error::InvalidKey { deployment: deployment.name.to_string(), source_name });
        };
        Ok(Self {
            deployment: Arc::clone(&deployment.name),
            source_name,
            base,
            way,
            others,
            file: deployment.key_file.clone(),
            known: Mutex::new(Arc::new(credentials)),
            look: Mutex::new(Look { due: Instant::now(), stamp: None, failing: false }),
        })
    }

    /// Returns the key as it was last read.
    pub(super) fn known(&self) -> Arc<Credentials> {
        Arc::clone(&lock(&self.known))
    }

    /// Returns the key to call with; looks at its file first where that is due.
    pub(super) async fn current(&self) -> Arc<Credentials> {
        if let Some(file) = &self.file
            && let Some(stamp) = self.due()
        {
            let file = file.clone();
            let look = tokio::task::spawn_blocking(move || read_changed(&file, stamp));
            if let Ok(Ok(read)) = tokio::time::timeout(LOOK_TIMEOUT, look).await {
                self.looked(read);
            }
        }
        self.known()
    }

    /// Has the next call read the file, since the provider refused the key.
    pub(super) fn doubt(&self) {
        let mut look = lock(&self.look);
        look.stamp = None;
        look.due = Instant::now();
    }

    /// Returns what is known of the file if this call is to look at it; others then go on.
    fn due(&self) -> Option<Option<Stamp>> {
        let mut look = lock(&self.look);
        let now = Instant::now();
        (look.due <= now).then(|| {
            look.due = now + LOOK_EVERY;
            look.stamp
        })
    }

    fn looked(&self, read: std::io::Result<Option<(Stamp, SecretString)>>) {
        let (stamp, key) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return,
            Err(error) => {
                if !std::mem::replace(&mut lock(&self.look).failing, true) {
                    tracing::warn!(deployment = %self.deployment, source = self.source_name, %error, "key file not read, the key stays");
                }
                return;
            }
        };
        let mut look = lock(&self.look);
        look.stamp = Some(stamp);
        look.failing = false;
        drop(look);
        let mut known = lock(&self.known);
        if known.key.as_ref().is_some_and(|known| known.expose_secret() == key.expose_secret()) {
            return;
        }
        match Credentials::new(Some(key), &self.base, &self.way, &self.others) {
            Some(credentials) => {
                *known = Arc::new(credentials);
                tracing::info!(deployment = %self.deployment, source = self.source_name, "key read again, it has changed");
            }
            None => {
                tracing::warn!(deployment = %self.deployment, source = self.source_name, "key file holds what no header may, the key stays");
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("source_name", &self.source_name).finish_non_exhaustive()
    }
}

/// Reads a key file unless it is as it was; `None` also for what is no file and may be read once only, such as a pipe.
fn read_changed(file: &Path, known: Option<Stamp>) -> std::io::Result<Option<(Stamp, SecretString)>> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = std::fs::metadata(file)?;
    let stamp = (metadata.modified()?, metadata.len(), metadata.ino());
    if !metadata.is_file() || known == Some(stamp) {
        return Ok(None);
    }
    match read_secret(file)? {
        Some(key) => Ok(Some((stamp, key))),
        None => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is empty")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &Path, known: Option<Stamp>) -> Option<(Stamp, String)> {
        read_changed(file, known).unwrap().map(|(stamp, key)| (stamp, key.expose_secret().to_owned()))
    }

    #[test]
    fn a_file_is_read_when_it_was_written_or_replaced_and_not_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "sk-first\n").unwrap();
        let (first, key) = read(&file, None).unwrap();
        assert_eq!(key, "sk-first");
        assert_eq!(read(&file, Some(first)), None, "it is as it was");

        std::fs::write(&file, "sk-second\n").unwrap();
        let (second, key) = read(&file, Some(first)).unwrap();
        assert_eq!(key, "sk-second");

        // As Kubernetes does it: another file, of the same length and time, takes its place.
        let other = directory.path().join("other");
        std::fs::write(&other, "sk-third!\n").unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(second.0).unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(read(&file, Some(second)).unwrap().1, "sk-third!");

        std::fs::write(&file, "\n").unwrap();
        assert!(read_changed(&file, None).is_err(), "an empty file is no key");
        assert_eq!(read(directory.path(), None), None, "what is no file is left alone");
    }

    #[tokio::test]
    async fn the_key_follows_its_file_and_survives_a_broken_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "sk-first").unwrap();
        let key = Key::new(&Deployment {
            api_key: Some("sk-first".to_owned().into()),
            key_file: Some(file.clone()),
            ..super::super::tests::deployment("http://127.0.0.1:9/v1")
        })
        .unwrap();
        let sent = |credentials: &Arc<Credentials>| credentials.header.clone().unwrap().1.to_str().unwrap().to_owned();
        let begin = Instant::now();
        assert_eq!(sent(&key.current().await), "Bearer sk-first");

        std::fs::write(&file, "sk-second").unwrap();
        let known = sent(&key.current().await);
        assert!(known == "Bearer sk-first" || begin.elapsed() >= LOOK_EVERY, "it was looked at just now: {known}");
        key.doubt();
        let second = key.current().await;
        assert_eq!(sent(&second), "Bearer sk-second");
        assert_eq!(second.redactor.text("your key sk-second"), "your key [key]");

        for broken in ["", "two\nlines"] {
            std::fs::write(&file, broken).unwrap();
            key.doubt();
            assert_eq!(sent(&key.current().await), "Bearer sk-second");
        }
        std::fs::remove_file(&file).unwrap();
        key.doubt();
        assert_eq!(sent(&key.current().await), "Bearer sk-second");
        assert!(!format!("{key:?}").contains("sk-"));
    }
}
