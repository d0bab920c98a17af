//! What can keep the simulator from starting.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A failure to set the simulator up; once it listens, it does not fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another program listens on the address.
    #[error(
        "cannot listen on {addr}: the port is in use; stop the program that has it, or pass another --listen (port 0 takes a free one)"
    )]
    AddressInUse {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {addr}: pass an address of this machine and a port that you may open with --listen")]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The call log cannot be written.
    #[error("opening the call log {} failed: check that its folder exists and can be written", path.display())]
    Log {
        /// The file that was asked for.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A fault rule that nobody understands.
    #[error("fault rule `{rule}` cannot be read: {reason}")]
    Rule {
        /// The text as it was given.
        rule: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A limit, its shape or an outage that nobody understands.
    #[error("{what} `{text}` cannot be read: {reason}")]
    Setting {
        /// What was to be set.
        what: &'static str,
        /// The text as it was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment variable that should hold the key is absent or empty.
    #[error(
        "the environment variable {name} is not set: put the key in it that callers must send, or drop --require-key-env"
    )]
    KeyNotSet {
        /// The name that `--require-key-env` gave.
        name: String,
    },
    /// The line that names the address could not be printed.
    #[error("writing to standard output failed")]
    Output(#[source] io::Error),
}
