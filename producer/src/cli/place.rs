//! Where the database is: one rule for every command.

use std::path::{Path, PathBuf};

use gristmill_common::backend::Place;
use gristmill_common::config::Config;

use super::Global;
use super::fault::Fault;

/// The directory of the embedded database.
const DIRECTORY: &str = ".gristmill";
/// The embedded database.
const FILE: &str = "gristmill.db";
/// The throw-away database of simulated runs.
const SIMULATED: &str = "simulated.db";

/// Whether the database may be new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is made where there is none.
    Create,
    /// It must be there.
    Refuse,
}

/// Finds the database: `--db`, else `DATABASE_URL`, else `.gristmill/gristmill.db` here or above.
pub(super) fn find(global: &Global, config: &Config, missing: Missing) -> Result<Place, Fault> {
    let path = match (&global.db, &config.database_url) {
        (Some(path), _) => path.clone(),
        (None, Some(url)) => match Place::from_url(url)? {
            Place::Sqlite(path) => path,
            server @ Place::Postgres(_) => return Ok(server),
        },
        (None, None) => {
            let here = current_directory()?;
            match (above(&here, FILE), missing) {
                (Some(path), _) => path,
                (None, Missing::Create) => directory(&here)?.join(FILE),
                (None, Missing::Refuse) => return Err(nothing_here(&here)),
            }
        }
    };
    if missing == Missing::Refuse && !path.exists() {
        return Err(Fault::new(format!("there is no database {}", path.display()))
            .hint("name one that is there, or make one with `gristmill run` or `gristmill submit`"));
    }
    Ok(Place::Sqlite(path))
}

/// Returns the throw-away database of simulated runs.
pub(super) fn simulated() -> Result<PathBuf, Fault> {
    Ok(directory(&current_directory()?)?.join(SIMULATED))
}
fn current_directory() -> Result<PathBuf, Fault> {
    std::env::current_dir().map_err(|error| Fault::new("the current directory cannot be read").because(&error))
}

/// Looks for a file of the embedded directory, upwards.
fn above(start: &Path, name: &str) -> Option<PathBuf> {
    start.ancestors().map(|directory| directory.join(DIRECTORY).join(name)).find(|path| path.exists())
}

/// Returns the embedded directory here or above, and makes it here where there is none.
fn directory(here: &Path) -> Result<PathBuf, Fault> {
    if let Some(found) = here.ancestors().map(|directory| directory.join(DIRECTORY)).find(|path| path.is_dir()) {
        return Ok(found);
    }
    let made = here.join(DIRECTORY);
    match std::fs::create_dir(&made) {
        Ok(()) => {}
        // Another run of this folder was quicker.
        Err(_) if made.is_dir() => return Ok(made),
        Err(error) => return Err(Fault::new(format!("making {} failed", made.display())).because(&error)),
    }
    // The database is no part of anybody's project.
    let _ = std::fs::write(made.join(".gitignore"), "*\n");
    Ok(made)
}

fn nothing_here(here: &Path) -> Fault {
    let fault = Fault::new(format!("there is no database: no {DIRECTORY}/{FILE} in {} or above it", here.display()))
        .hint("set DATABASE_URL or give --db, or begin with `gristmill run FILE -o OUT`");
    match above(here, SIMULATED) {
        Some(path) => fault.hint(format!("the last simulated run is in another one: add --db {}", path.display())),
        None => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_found_upwards_like_git() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        assert_eq!(above(&below, FILE), None);
        let made = directory(top.path()).unwrap();
        std::fs::write(made.join(FILE), "").unwrap();
        assert_eq!(above(&below, FILE), Some(made.join(FILE)));
        assert_eq!(directory(&below).unwrap(), made);
    }

    #[test]
    fn runs_that_begin_at_once_find_the_same_directory() {
        for _ in 0..50 {
            let top = tempfile::tempdir().unwrap();
            let barrier = std::sync::Barrier::new(4);
            let made: Vec<_> = std::thread::scope(|scope| {
                let begin = || {
                    barrier.wait();
                    directory(top.path()).unwrap()
                };
                let runs: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
                runs.into_iter().map(|run| run.join().unwrap()).collect()
            });
            assert!(made.iter().all(|path| *path == top.path().join(DIRECTORY)), "{made:?}");
        }
    }
}
