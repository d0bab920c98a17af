//! The producer's side of Gristmill: submit jobs, follow their results, steer batches.
//!
//! Owns the order of a submission (record, then publish), the rule by which running again continues, the reading of input
//! files and the lines of output files. Knows the store and the broker by their seams only, and no worker. If the process
//! dies, what was recorded goes on without it, and submitting the same input again continues where it stopped.

mod by_job;
mod error;
pub mod input;
mod latest;
pub mod output;
mod pace;
mod producer;
mod stream;
mod submit;
mod subscribe;

pub use by_job::ByJob;
pub use error::{Error, Result};
pub use latest::Latest;
pub use pace::{DayLeft, ModelPace};
pub use producer::{Options, Producer, Repaired, Status, Unserved};
pub use stream::{Heard, Listening, Output, Streamed};
pub use submit::{BatchSpec, Control, MAX_BODY_BYTES, MOST_LISTED, Members, NewJob, Submission, Submitted};
pub use subscribe::Subscription;
