//! What can be wrong with a configuration. Every message is one line and says what to do; none holds a value that may be secret.

use std::path::PathBuf;

use super::Unread;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that was named, or found, cannot be read.
    #[error("reading {} failed: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of a database's or broker's address cannot be read.
    #[error(transparent)]
    Address(Unread),
    /// The file of a key cannot be read.
    #[error(transparent)]
    Key(Unread),
    /// The file is not YAML, or not a mapping.
    #[error("{file} is not a valid configuration: {reason}")]
    Syntax {
        /// The file's name.
        file: String,
        /// What is wrong and in which line; never the line itself.
        reason: String,
    },
    /// A line of `.env` is not `NAME=value`.
    #[error("line {line} of .env is not NAME=value; correct it, or begin it with # to leave it out")]
    DotEnv {
        /// The line, from 1.
        line: usize,
    },
    /// A key that nobody knows.
    #[error("{file}: unknown key `{key}`; {hint}")]
    UnknownKey {
        /// The file's name.
        file: String,
        /// The key with its path.
        key: String,
        /// The near name, or where the known ones are listed.
        hint: String,
    },
    /// A value that does not fit its option.
    #[error("{origin} {problem}")]
    Invalid {
        /// The flag, variable or key that it came from.
        origin: String,
        /// What is wrong and what to write.
        problem: String,
    },
    /// The file of prices cannot be used.
    #[error(transparent)]
    Prices(#[from] crate::price::Error),
    /// Two values that do not fit together.
    #[error("{0}")]
    Relation(String),
    /// A variable and the variable that names a file for it are both set.
    #[error("{name} and {name}_FILE are both set; unset one of them")]
    Both {
        /// The variable.
        name: String,
    },
    /// A variable that the configuration refers to is not set.
    #[error("{place} refers to the environment variable {variable}, which is not set; set it, or put it in ./.env")]
    MissingVariable {
        /// What refers to it.
        place: String,
        /// The variable.
        variable: String,
    },
    /// A provider's own endpoint without a key.
    #[error("no key for {host}: set {remedy}{note}")]
    MissingKey {
        /// The endpoint's host.
        host: String,
        /// What may be set.
        remedy: String,
        /// What else was found and why it is not used; empty or with a leading blank.
        note: String,
    },
    /// A key that is set and cannot be read; the text names it.
    #[error("{0}")]
    UnreadableKey(String),
    /// A provider of which everybody has an endpoint of his own.
    #[error("no endpoint for provider `{provider}`: set {remedy}")]
    MissingEndpoint {
        /// The provider.
        provider: String,
        /// What may be set, and why nothing else would do.
        remedy: String,
    },
    /// A provider that is not built in.
    #[error(
        "provider `{provider}` of model `{model}` is not built in: {known}; a server that speaks OpenAI's API is openai/<model> with its api_base"
    )]
    UnsupportedProvider {
        /// The providers that there are.
        known: String,
        /// The provider's prefix.
        provider: String,
        /// The model as it was written.
        model: String,
    },
    /// A model group that no entry of `model_list` serves.
    #[error("no entry of model_list serves model `{group}`; {hint}")]
    UnknownGroup {
        /// The group.
        group: String,
        /// The near name, or the known ones.
        hint: String,
    },
    /// A pattern of `model_list` where the name of a model is needed.
    #[error("`{pattern}` of model_list stands for many models: name those that are to be served, each with --model {}", pattern.replace('*', "<name>"))]
    Pattern {
        /// The pattern.
        pattern: String,
    },
}

impl Error {
    /// Tells whether a key, model or endpoint is what is missing, not the way that the configuration is written.
    ///
    /// The command line ends with 2 then, else with 1.
    pub const fn is_setup_fault(&self) -> bool {
        matches!(
            self,
            Self::Key(_)
                | Self::MissingVariable { .. }
                | Self::MissingKey { .. }
                | Self::UnreadableKey(_)
                | Self::MissingEndpoint { .. }
                | Self::UnsupportedProvider { .. }
                | Self::UnknownGroup { .. }
                | Self::Pattern { .. }
        )
    }
}
