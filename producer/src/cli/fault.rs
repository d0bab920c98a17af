//! How a command fails: one line that says what, lines that say what to do, and the exit code.

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use gristmill_common::config::nearest;
use gristmill_common::failure::ErrorClass;
use gristmill_common::{backend, config, store};
use gristmill_producer::{input, output};

/// What to do about a full disk.
const DISK_FULL: &str = "free space on that disk and run the same command again";

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Everything succeeded.
    Success,
    /// The command was wrong, or a file, a database or a broker cannot be used.
    Usage,
    /// A key, model or server of a provider is wrong.
    Setup,
    /// Everything has ended, some jobs without success.
    SomeFailed,
    /// Somebody stopped it; the same command goes on.
    Interrupted,
}

impl Exit {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Usage => 1,
            Self::Setup => 2,
            Self::SomeFailed => 3,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command ends early.
#[derive(Debug)]
pub(super) struct Fault {
    message: String,
    hints: Vec<String>,
    class: Option<ErrorClass>,
    pub(super) exit: Exit,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hints: Vec::new(), class: None, exit: Exit::Usage }
    }

    /// Makes a fault of an error with its causes.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let fault = Self::new(chain(error));
        if is_disk_full(error) { fault.hint(DISK_FULL) } else { fault }
    }

    /// Adds a cause.
    pub(super) fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        self.message = format!("{}: {}", self.message, chain(error));
        if is_disk_full(error) { self.hint(DISK_FULL) } else { self }
    }

    /// Returns what went wrong, without what to do.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Adds a line that says what to do.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says what a request that met this would have failed with: programs tell faults apart by it.
    pub(super) fn class(mut self, class: ErrorClass) -> Self {
        self.class = Some(class);
        self
    }

    /// Returns the fault as machines read it.
    pub(super) fn json(&self) -> serde_json::Value {
        let hint = (!self.hints.is_empty()).then(|| self.hints.join("; "));
        let mut error = serde_json::json!({ "message": self.message, "hint": hint, "exit_code": self.exit.code() });
        if let Some(class) = &self.class {
            error["class"] = class.as_str().into();
        }
        serde_json::json!({ "error": error })
    }

    /// Tells whether something does not work, so that nothing may be expected of it in time.
    pub(super) fn is_of_the_system(&self) -> bool {
        self.exit != Exit::SomeFailed
    }

    pub(super) const fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\nhint: {hint}"))
    }
}

/// Makes a fault of what is wrong with the arguments.
pub(super) fn of_usage(error: &clap::Error) -> Fault {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NoCommand;

    if error.kind() == NoCommand {
        return Fault::new("a command is missing").hint("--help shows all of them");
    }
    let text = error.render().to_string();
    let (what, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let lines: Vec<&str> = what.strip_prefix("error: ").unwrap_or(what).lines().map(str::trim).collect();
    // How to pass a wrong flag as a value is no help to a program.
    let mut tips = rest.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let tip = tips.find(|tip| !tip.contains(" as a value, use "));
    tip.into_iter().fold(Fault::new(lines.join(" ")), Fault::hint)
}

/// Joins an error and its causes, leaving out what the text before says already.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = cause.source();
    }
    text
}

/// Tells whether there is no room left, here or on the database's machine.
fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    // The words of the stores, and of the system.
    const WORDS: [&str; 2] = ["no space is left on the disk of", "No space left on device"];
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull)
            || WORDS.iter().any(|words| text.contains(words))
        {
            return true;
        }
        next = error.source();
    }
    false
}

impl From<store::Error> for Fault {
    fn from(error: store::Error) -> Self {
        Self::of(&error)
    }
}

impl From<backend::Error> for Fault {
    fn from(error: backend::Error) -> Self {
        let fault = Self::of(&error);
        match error.remedy() {
            Some(remedy) => fault.hint(remedy),
            None => fault,
        }
    }
}

impl From<config::Error> for Fault {
    fn from(error: config::Error) -> Self {
        let exit = if error.is_setup_fault() { Exit::Setup } else { Exit::Usage };
        let fault = Self::of(&error).exit(exit);
        match error {
            config::Error::MissingKey { .. } => fault.class(ErrorClass::Authentication),
            _ => fault,
        }
    }
}

impl From<input::Error> for Fault {
    fn from(error: input::Error) -> Self {
        let fault = Self::of(&error);
        match error {
            input::Error::Lines(bad) if bad.unit == input::Unit::Line => {
                let fault = bad.advice.into_iter().fold(fault, Self::hint);
                fault.hint(
                    "a line looks like {\"custom_id\":\"1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\
                     \"body\":{\"model\":\"…\",\"messages\":[…]}}, or {\"prompt\":\"…\",\"model\":\"…\"}",
                )
            }
            input::Error::Io { path, source } => match source.kind() {
                ErrorKind::NotFound => fault.hint(not_there(&path)),
                ErrorKind::PermissionDenied => fault.hint("allow yourself to read it, for example with chmod u+r"),
                _ => fault,
            },
            _ => fault,
        }
    }
}

/// Says where a file that is not there was looked for, and which is near.
fn not_there(path: &Path) -> String {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let wanted = path.file_name().unwrap_or_default().to_string_lossy();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if let Some(near) = nearest(&wanted, names.iter().map(String::as_str)) {
        return format!("did you mean {}?", path.with_file_name(near).display());
    }
    match std::path::absolute(folder) {
        Ok(folder) if folder.is_dir() => format!("it was looked for in {}", folder.display()),
        Ok(folder) => format!("there is no directory {}", folder.display()),
        Err(_) => "look whether the path is right".to_owned(),
    }
}

impl From<output::WriteError> for Fault {
    fn from(error: output::WriteError) -> Self {
        let fault = Self::of(&error);
        match error {
            output::WriteError::OtherBatch { .. } | output::WriteError::Foreign { .. } => {
                fault.hint("give another file with -o, or move that one away")
            }
            output::WriteError::Io { path, source } => match source.kind() {
                ErrorKind::NotFound => {
                    let folder = path.parent().unwrap_or(&path).display();
                    fault.hint(format!("make the directory {folder} first, or give another file with -o"))
                }
                ErrorKind::IsADirectory => {
                    fault.hint(format!("name a file in it: -o {}", path.join("out.jsonl").display()))
                }
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    fault.hint("give another place with -o where you may write, or allow it there")
                }
                _ => fault,
            },
        }
    }
}

impl From<gristmill_producer::Error> for Fault {
    fn from(error: gristmill_producer::Error) -> Self {
        use gristmill_producer::Error as E;

        match error {
            E::Input(source) => match source.downcast::<input::Error>() {
                Ok(error) => (*error).into(),
                Err(source) => Self::of(&*source),
            },
            E::Interrupted => Self::of(&error).exit(Exit::Interrupted),
            E::Busy(_) => Self::of(&error).hint("wait until it has finished, or submit under another --name"),
            E::Replaced(_) => Self::of(&error).hint("what was recorded goes on; run the same command again to add the rest"),
            E::Cancelled(ref name) => Self::of(&error).hint(format!(
                "give the new one another --name, or run its cancelled jobs with `gristmill retry {name} --status cancelled`"
            )),
            E::Simulated(_) => Self::of(&error).hint("give the new one another --name"),
            E::NoBatches => Self::of(&error)
                .hint("submit one with `gristmill submit FILE --name NAME`, or run one with `gristmill run FILE -o OUT`"),
            E::UnknownBatch { ref near, .. } => {
                let hint = if near.is_empty() {
                    "`gristmill list` shows all of them".to_owned()
                } else {
                    format!("did you mean {}?", near.join(", "))
                };
                Self::of(&error).hint(hint)
            }
            _ => Self::of(&error),
        }
    }
}

impl From<gristmill_worker::Error> for Fault {
    fn from(error: gristmill_worker::Error) -> Self {
        let exit = if error.is_setup_fault() { Exit::Setup } else { Exit::Usage };
        Self::of(&error).exit(exit)
    }
}

impl From<gristmill_worker::simulate::Error> for Fault {
    fn from(error: gristmill_worker::simulate::Error) -> Self {
        Self::of(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_causes_and_hints() {
        let disk = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = output::WriteError::Io { path: "out.jsonl".into(), source: disk };
        assert_eq!(
            Fault::from(error).to_string(),
            "error: writing out.jsonl failed: no storage space\n\
             hint: free space on that disk and run the same command again"
        );
        let elsewhere = output::WriteError::Io {
            path: "/none/out.jsonl".into(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        assert_eq!(
            Fault::from(elsewhere).json().to_string(),
            r#"{"error":{"exit_code":1,"hint":"make the directory /none first, or give another file with -o","message":"writing /none/out.jsonl failed: entity not found"}}"#
        );
        let unknown = gristmill_producer::Error::UnknownBatch { selector: "swep".into(), near: vec!["sweep".into()] };
        assert_eq!(Fault::from(unknown).to_string(), "error: there is no batch `swep`\nhint: did you mean sweep?");
    }

    #[test]
    fn what_is_missing_at_the_provider_ends_with_2() {
        let missing = Fault::from(config::Error::MissingKey {
            host: "api.openai.com".to_owned(),
            remedy: "OPENAI_API_KEY".to_owned(),
            note: String::new(),
        });
        assert_eq!((missing.exit.code(), &missing.json()["error"]["class"]), (2, &"AuthenticationError".into()));
        assert_eq!(Fault::from(gristmill_worker::Error::NoDeployments).exit.code(), 2);
        assert_eq!(Fault::new("x").exit.code(), 1);
        assert_eq!(Fault::from(gristmill_producer::Error::Interrupted).exit.code(), 130);
    }
}
