use gristmill_common::{broker, store};

/// Joins an error and its causes, leaving out what the text before says already.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
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

/// The result of a producer's call.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong in a producer's call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot do it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker cannot do it.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// The caller's stream of jobs failed; nothing more was submitted.
    #[error("reading the jobs failed")]
    Input(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A job is larger than anything that is taken.
    #[error("the body of job `{custom_id}` has {bytes} bytes, at most {max} are taken")]
    BodyTooLarge {
        /// The user's name for the job.
        custom_id: String,
        /// How large it is.
        bytes: usize,
        /// The most that is taken.
        max: usize,
    },
    /// A job's body is not JSON.
    #[error("the body of job `{custom_id}` is not JSON")]
    BodyNotJson {
        /// The user's name for the job.
        custom_id: String,
        /// Where it stops being JSON.
        #[source]
        source: serde_json::Error,
    },
    /// A batch of this name could not be addressed.
    #[error(
        "the batch name {name:?} {problem}; a name has 1 to 200 characters, no / and no control characters, does not begin \
         with @ or -, nor begin or end with a blank, and is no batch id"
    )]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A batch holds at most `u32::MAX` jobs.
    #[error("batch `{0}` is full: it holds {max} jobs", max = u32::MAX)]
    Full(String),
    /// Another live process submits to the batch.
    #[error("another process is submitting batch `{0}`")]
    Busy(String),
    /// Another process took the batch over meanwhile.
    #[error("another process took over the submission of batch `{0}`")]
    Replaced(String),
    /// The batch was cancelled; it takes no more jobs.
    #[error("batch `{0}` was cancelled and takes no more jobs")]
    Cancelled(String),
    /// The batch holds answers of the other kind, simulated or real.
    #[error("batch `{0}` mixes simulated and real answers")]
    Simulated(String),
    /// The database holds no batch at all.
    #[error("there is no batch yet")]
    NoBatches,
    /// There is no such batch.
    #[error("there is no batch `{selector}`")]
    UnknownBatch {
        /// What was asked for.
        selector: String,
        /// Names that look like it.
        near: Vec<String>,
    },
    /// The caller asked to stop; what was recorded goes on.
    #[error("the submission was interrupted")]
    Interrupted,
    /// The producer was made without a broker.
    #[error("this producer has no broker, it can only read")]
    NoBroker,
}
