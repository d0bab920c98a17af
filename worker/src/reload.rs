//! Follows the configuration's file while a worker runs: the limits in it, and nothing else.
//!
//! Looks at the file's time and length; once they stand still, the configuration is read as it was at the start, with the same
//! environment and flags. A file that cannot be read, or is wrong, is told once and changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gristmill_common::config::{Config, Sources};
use gristmill_common::quota::Limits;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How often the file is looked at. It must look the same twice: a file that is written in steps is read when it is whole.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The limits of accounts, each once.
pub type LimitsByAccount = Vec<(Arc<str>, Limits)>;

/// Follows the limits in the file of a configuration that was loaded from these sources, while somebody listens; `None` where
/// there is no file.
pub fn limits(config: &Config, sources: Sources) -> Option<watch::Receiver<LimitsByAccount>> {
    let path = config.file()?.to_owned();
    let (sender, receiver) = watch::channel(config.limits());
    TaskTracker::new().spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = follow(path, sources, &sender) => {}
        }
    });
    Some(receiver)
}

async fn follow(path: PathBuf, sources: Sources, limits: &watch::Sender<LimitsByAccount>) {
    // It may have changed since it was loaded: the first look counts as a change.
    let mut loaded = None;
    let mut before = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (file, from, known) = (path.clone(), sources.clone(), loaded.clone());
        let look = move || {
            let now = Stamp::of(&file);
            let is_new = before.as_ref() == Some(&now) && known.as_ref() != Some(&now);
            (now, is_new.then(|| Config::load(from).map(|config| config.limits()).map_err(|error| error.to_string())))
        };
        // A panic of the reader is a look that saw nothing.
        let Ok((now, read)) = tokio::task::spawn_blocking(look).await else {
            before = None;
            continue;
        };
        if let Some(read) = read {
            match read {
                Ok(new) => {
                    limits.send_if_modified(|old| std::mem::replace(old, new.clone()) != new);
                }
                Err(error) => {
                    let file = path.display();
                    tracing::warn!(%file, error, "changed configuration not usable, the limits stay as they are");
                }
            }
            loaded = Some(now.clone());
        }
        before = Some(now);
    }
}

/// What a file looks like from outside; nothing where it cannot be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(Option<(SystemTime, u64)>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let look = || {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        Self(look())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, rpm: &str) {
        let text = format!(
            "model_list:\n  - model_name: m\n    litellm_params: {{ model: openai/m, api_base: \"http://localhost:1/v1\", rpm: {rpm} }}\n"
        );
        std::fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn new_limits_are_heard_of_and_a_broken_file_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gristmill.yaml");
        write(&path, "60");
        let sources = Sources { directory: directory.path().to_owned(), ..Sources::default() };
        let config = Config::load(sources.clone()).unwrap();
        let mut limits = limits(&config, sources).unwrap();
        assert_eq!(limits.borrow_and_update()[0].1.rpm, Some(60));
        let mut next = async || {
            tokio::time::timeout(Duration::from_secs(30), limits.changed()).await.unwrap().unwrap();
            limits.borrow_and_update()[0].1.rpm
        };
        write(&path, "600");
        assert_eq!(next().await, Some(600));
        write(&path, "many");
        std::fs::rename(&path, directory.path().join("away")).unwrap();
        write(&path, "90");
        assert_eq!(next().await, Some(90));
    }

    #[test]
    fn without_a_file_there_is_nothing_to_follow() {
        let directory = tempfile::tempdir().unwrap();
        let sources = Sources { directory: directory.path().to_owned(), ..Sources::default() };
        assert!(limits(&Config::load(sources.clone()).unwrap(), sources).is_none());
    }
}
