//! Opens what a process is configured to use: a store, and a broker beside it. The one place that knows which back ends there
//! are; every program comes through here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::broker::{self, Broker, EmbeddedBroker, RabbitBroker, RabbitOptions};
use crate::cache::CacheRules;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::store::{self, PostgresStore, SqliteStore, Store, WorkerLock};
use crate::trace::Tracer;

/// The name, in traces, of a process that works on a database to throw away.
const THROW_AWAY: &str = "gristmill";
/// How long a broker may take to close its connections.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a database is.
#[derive(Debug, Clone)]
pub enum Place {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A Postgres server.
    Postgres(SecretString),
}

impl Place {
    /// Reads `postgres://…` or `sqlite:PATH`.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] for anything else.
    pub fn from_url(url: &SecretString) -> Result<Self, Error> {
        match url.expose_secret().split_once(':') {
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(url.clone())),
            Some(("sqlite", path)) if !path.trim_start_matches("//").is_empty() => {
                Ok(Self::Sqlite(path.strip_prefix("//").unwrap_or(path).into()))
            }
            _ => Err(Error::Address),
        }
    }
}

/// What a process does with its back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Reads and steers.
    Store,
    /// Publishes as well.
    Queue,
    /// Works, so that no other process may work an embedded database.
    Work,
    /// Changes the schema.
    Schema,
}

/// Why a back end cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database's address names no back end.
    #[error("DATABASE_URL is neither a Postgres nor an SQLite address")]
    Address,
    /// Postgres without RabbitMQ.
    #[error("AMQP_URL is not set: beside Postgres, the queue is RabbitMQ")]
    NoQueue,
    /// An old throw-away database stays where it is.
    #[error("removing {} failed", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker refuses.
    #[error(transparent)]
    Broker(#[from] broker::Error),
}

impl Error {
    /// Returns what to do, where the error's own text does not say.
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Address => Some("write postgres://user:password@host:5432/database, or sqlite:PATH"),
            Self::NoQueue => {
                Some("set AMQP_URL=amqp://user:password@host:5672/%2f, or leave DATABASE_URL unset to need no server")
            }
            Self::Remove { .. } | Self::Store(_) | Self::Broker(_) => None,
        }
    }
}

/// The store and the broker of a process.
#[derive(Debug)]
pub struct Backend {
    /// Where requests and results are.
    pub store: Arc<dyn Store>,
    /// Where messages go; a process that only looks has none.
    pub broker: Option<Arc<dyn Broker>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The embedded database, if it is one.
    pub file: Option<PathBuf>,
    /// Where traces go; a process that only looks makes none.
    pub tracer: Tracer,
    embedded: Option<SqliteStore>,
    /// The right to work an embedded database, given back when the process ends.
    _lock: Option<WorkerLock>,
}

impl Backend {
    /// Opens the database and, where it is needed, the queue. `application` is the name that a server shows.
    ///
    /// # Errors
    ///
    /// What the two say; [`Error::NoQueue`] where Postgres stands alone and messages are to be sent.
    pub async fn open(place: &Place, config: &Config, need: Need, application: &str) -> Result<Self, Error> {
        let backend = match place {
            Place::Sqlite(path) => Self::sqlite(path, config.cache_rules(), need, None).await?,
            Place::Postgres(url) => Self::postgres(url, config, need, application).await?,
        };
        Ok(backend.traced(need, application))
    }

    /// Opens an SQLite file to work on, empty, whatever it held.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], and where a process still works on the file.
    pub async fn throw_away(path: &Path) -> Result<Self, Error> {
        Self::emptied(path, SqliteStore::lock_path(path)?).await
    }

    /// Does the same, or nothing where a process still works on the file.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub async fn try_throw_away(path: &Path) -> Result<Option<Self>, Error> {
        match SqliteStore::try_lock_path(path)? {
            Some(lock) => Self::emptied(path, lock).await.map(Some),
            None => Ok(None),
        }
    }

    async fn emptied(path: &Path, lock: WorkerLock) -> Result<Self, Error> {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            match std::fs::remove_file(&name) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Remove { path: name.into(), source });
                }
                _ => {}
            }
        }
        let backend = Self::sqlite(path, CacheRules::default(), Need::Work, Some(lock)).await?;
        Ok(backend.traced(Need::Work, THROW_AWAY))
    }

    /// Records traces, where the process does what belongs into them and the environment asks for it.
    fn traced(self, need: Need, application: &str) -> Self {
        match need {
            Need::Store | Need::Schema => self,
            Need::Queue | Need::Work => Self { tracer: Tracer::from_env(application), ..self },
        }
    }

    async fn sqlite(path: &Path, cache: CacheRules, need: Need, lock: Option<WorkerLock>) -> Result<Self, Error> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = SqliteStore::open(path, Arc::clone(&clock)).await?.with_cache(cache);
        let lock = match (need, lock) {
            (Need::Work, None) => Some(store.lock_exclusively().await?),
            (_, lock) => lock,
        };
        let broker: Option<Arc<dyn Broker>> = match need {
            Need::Store | Need::Schema => None,
            Need::Queue | Need::Work => Some(Arc::new(EmbeddedBroker::new(&store))),
        };
        let embedded = Some(store.clone());
        let (file, tracer) = (Some(path.to_owned()), Tracer::default());
        Ok(Self { store: store.shared(), broker, clock, file, tracer, embedded, _lock: lock })
    }

    async fn postgres(url: &SecretString, config: &Config, need: Need, application: &str) -> Result<Self, Error> {
        let amqp_url = match need {
            Need::Store | Need::Schema => None,
            Need::Queue | Need::Work => Some(config.amqp_url.clone().ok_or(Error::NoQueue)?),
        };
        let store = PostgresStore::connect(url, application).await?.with_cache(config.cache_rules()).shared();
        if need != Need::Schema {
            store.check_schema().await?;
        }
        let broker: Option<Arc<dyn Broker>> = match amqp_url {
            None => None,
            Some(url) => {
                let options = RabbitOptions { prefix: config.prefix.clone(), ..RabbitOptions::new(url) };
                Some(Arc::new(RabbitBroker::connect(options).await?))
            }
        };
        let (clock, tracer) = (Arc::new(SystemClock), Tracer::default());
        Ok(Self { store, broker, clock, file: None, tracer, embedded: None, _lock: None })
    }

    /// Takes the right to work an embedded database that was opened without it, unless another process has it.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn try_lock(&self) -> Result<Option<WorkerLock>, Error> {
        match &self.embedded {
            Some(store) => Ok(store.try_lock().await?),
            None => Ok(None),
        }
    }

    /// Closes the queue's connections, and sends the last traces; what the queue does not settle in time comes again.
    pub async fn close(&self) {
        let queue = async {
            if let Some(broker) = &self.broker {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, broker.shutdown()).await;
            }
        };
        tokio::join!(queue, self.tracer.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_back_end() {
        let kind = |text: &str| match Place::from_url(&text.to_owned().into()) {
            Ok(Place::Sqlite(path)) => path.display().to_string(),
            Ok(Place::Postgres(_)) => "server".to_owned(),
            Err(_) => "refused".to_owned(),
        };
        for (text, expected) in [
            ("postgres://u:p@h/d", "server"),
            ("postgresql://h", "server"),
            ("sqlite:a/b.db", "a/b.db"),
            ("sqlite:///var/b.db", "/var/b.db"),
            ("sqlite://b.db", "b.db"),
            ("sqlite:", "refused"),
            ("mysql://h", "refused"),
            ("b.db", "refused"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }
}
