//! Rate limits that hold over all workers.

mod limits;

pub use limits::Limits;
