//! What goes wrong with a store, whichever it is.

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached now; the same call may succeed later.
    #[error("the database cannot be reached while {doing}")]
    Unavailable {
        /// The operation.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// Its disk is full; the same call succeeds once there is room.
    #[error("no space is left on the disk of {place} while {doing}; free some")]
    Full {
        /// The operation.
        doing: &'static str,
        /// The server or the file.
        place: String,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// It refuses the data; the same call would fail again.
    #[error("the database refused {doing}")]
    Refused {
        /// The operation.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The database cannot be used as it is; the text says what to do.
    #[error("{0}")]
    Setup(String),
    /// A batch of this name, in this state, cannot take this call.
    #[error("{0}")]
    Conflict(String),
}

impl Error {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Full { .. })
    }
}

/// Why jobs of a batch cannot run again.
pub(super) const STRIPPED: &str =
    "the bodies of this batch were pruned, so that its jobs cannot run again; submit the input under another name";

/// The result of a store call.
pub type Result<T> = std::result::Result<T, Error>;
