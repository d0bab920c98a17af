//! The environment as a value: the process's variables, with those of `./.env` below them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::Error;

/// Environment variables. An empty value counts as none, since compose files pass unset variables on as empty ones.
#[derive(Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, String>,
    /// Those that `./.env` set.
    dotenv: BTreeSet<String>,
}

/// A value of the environment, with what a message names it by.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The variable, or the variable that named the file.
    pub(super) name: String,
    /// The value; a file that holds none is a fault of whoever needs it, and of nobody else.
    pub(super) value: Result<SecretString, Unread>,
    /// The file that it came from.
    pub(super) file: Option<PathBuf>,
}

/// A file that was to hold a secret, and why it holds none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} names {}, which {problem}; write it, or unset {variable} where it is not needed", path.display())]
pub struct Unread {
    variable: String,
    path: PathBuf,
    problem: String,
}

impl Env {
    /// Takes the process's variables; those that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// Returns a variable's value, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the names of all variables that have a value.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str())
    }

    /// Names a variable for people, and the file that set it.
    pub(super) fn origin(&self, name: &str) -> String {
        if self.dotenv.contains(name) { format!("{name} in .env") } else { name.to_owned() }
    }

    /// Adds the variables that a configuration file sets; none overrides one that is there, be it as a value or as a file.
    ///
    /// Returns the names of those that have another value already.
    pub(super) fn add_below(&mut self, variables: Vec<(String, String)>) -> Vec<String> {
        let mut kept = Vec::new();
        for (name, value) in variables {
            let is_there = self.get(&name).is_some() || self.get(&other_form(&name)).is_some();
            if !is_there {
                self.variables.insert(name, value);
            } else if self.get(&name) != Some(&*value) {
                kept.push(name);
            }
        }
        kept
    }

    /// Adds the variables of a `.env` file's text; none overrides one that is there, be it as a value or as a file.
    pub fn add_dotenv(&mut self, text: &str) -> Result<(), Error> {
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let Some((name, value)) = parse_line(line).map_err(|()| Error::DotEnv { line: index + 1 })? else {
                continue;
            };
            let other = other_form(name);
            let is_set = |name: &str| self.get(name).is_some() && !self.dotenv.contains(name);
            if self.get(name).is_none() && !is_set(&other) {
                self.variables.insert(name.to_owned(), value);
                self.dotenv.insert(name.to_owned());
            }
        }
        Ok(())
    }

    /// Finds a secret: the variable itself, or the file that `NAME_FILE` names, without its last line break.
    ///
    /// A file that cannot be read is told by the value, since it may never be needed.
    pub(super) fn secret(&self, name: &str) -> Result<Option<Found>, Error> {
        let file_name = format!("{name}_FILE");
        match (self.get(name), self.get(&file_name)) {
            (Some(_), Some(_)) => Err(Error::Both { name: name.to_owned() }),
            (Some(value), None) => {
                Ok(Some(Found { name: name.to_owned(), value: Ok(value.to_owned().into()), file: None }))
            }
            (None, Some(path)) => {
                let file = PathBuf::from(path);
                let value = match read_secret(&file) {
                    Ok(Some(value)) => Ok(value),
                    Ok(None) => Err("is empty".to_owned()),
                    Err(error) => Err(format!("cannot be read ({error})")),
                };
                let unread = |problem| Unread { variable: file_name.clone(), path: file.clone(), problem };
                let value = value.map_err(unread);
                Ok(Some(Found { name: file_name, value, file: Some(file) }))
            }
            (None, None) => Ok(None),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, ..Self::default() }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Env").field(&format_args!("{} variables", self.variables.len())).finish()
    }
}

/// Reads a file that holds a secret, without its last line break; `None` if nothing is left.
pub fn read_secret(file: &Path) -> std::io::Result<Option<SecretString>> {
    let text = std::fs::read_to_string(file)?;
    let value = text.trim_end_matches(['\r', '\n']);
    Ok((!value.is_empty()).then(|| value.to_owned().into()))
}

/// Returns the variable that names a file for a variable, or that a variable names a file for.
fn other_form(name: &str) -> String {
    name.strip_suffix("_FILE").map_or_else(|| format!("{name}_FILE"), str::to_owned)
}

/// Reads `NAME=value`, with `export`, quotes and comments as shells have them; no `$` is expanded.
fn parse_line(line: &str) -> Result<Option<(&str, String)>, ()> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let (name, value) = line.split_once('=').ok_or(())?;
    let (name, value) = (name.trim_end(), value.trim_start());
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !is_name(name) {
        return Err(());
    }
    let value = match value.chars().next() {
        Some('\'') => value[1..].split_once('\'').ok_or(())?.0.to_owned(),
        Some('"') => unquote(&value[1..]).ok_or(())?,
        _ => value.find(" #").map_or(value, |comment| &value[..comment]).trim_end().to_owned(),
    };
    Ok(Some((name, value)))
}

/// Reads up to the closing double quote.
fn unquote(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                other @ ('"' | '\\' | '$') => out.push(other),
                other => out.extend(['\\', other]),
            },
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn dotenv_lines_are_read_as_shells_do() {
        let mut env = Env::default();
        env.add_dotenv(
            "\u{feff}# comment\n\nA=1\n export B = two words # rest\nC='single # kept'\nD=\"a\\nb\\\"c\"  # x\nE=a#b\nF=\n",
        )
        .unwrap();
        let found: Vec<_> = ["A", "B", "C", "D", "E", "F"].map(|name| env.get(name)).to_vec();
        assert_eq!(found, [Some("1"), Some("two words"), Some("single # kept"), Some("a\nb\"c"), Some("a#b"), None]);
    }

    #[test]
    fn the_real_environment_wins_over_dotenv_unless_it_is_empty() {
        let mut env = Env::from_iter([("A", "real"), ("B", "")]);
        env.add_dotenv("A=file\nB=file").unwrap();
        assert_eq!((env.get("A"), env.get("B")), (Some("real"), Some("file")));
    }

    #[test]
    fn a_broken_line_is_named_by_number_and_not_shown() {
        for text in ["A=1\nsk-canary", "A=1\n1X=sk-canary", "A=1\nX='sk-canary"] {
            let error = Env::default().add_dotenv(text).unwrap_err().to_string();
            assert!(error.contains("line 2") && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn secrets_come_from_a_variable_or_a_file_and_never_show() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "sk-canary\n").unwrap();
        let path = path.to_str().unwrap();
        let env = Env::from_iter([("KEY_FILE", path), ("OTHER", "sk-canary")]);
        let found = env.secret("KEY").unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.value.as_ref().unwrap().expose_secret()), ("KEY_FILE", "sk-canary"));
        assert!(!format!("{env:?} {found:?}").contains("canary"));
        let both = Env::from_iter([("KEY_FILE", path), ("KEY", "x")]);
        assert!(matches!(both.secret("KEY"), Err(Error::Both { .. })));
        let missing = Env::from_iter([("KEY_FILE", "/nonexistent/key")]);
        let unread = missing.secret("KEY").unwrap().unwrap().value.unwrap_err().to_string();
        assert!(unread.starts_with("KEY_FILE names /nonexistent/key, which cannot be read ("), "{unread}");
    }

    #[test]
    fn a_value_of_the_environment_wins_over_a_file_that_dotenv_names_and_the_other_way_round() {
        let mut env = Env::from_iter([("A", "value"), ("B_FILE", "/b")]);
        env.add_dotenv("A_FILE=/a\nB=value\nC=value\nC_FILE=/c").unwrap();
        assert_eq!((env.get("A_FILE"), env.get("B")), (None, None));
        // One file that says both is a mistake.
        assert!(matches!(env.secret("C"), Err(Error::Both { .. })));
    }
}
