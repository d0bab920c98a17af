//! Limits of what is spent, over all workers: a budget is leased like a rate limit, and settled with the results.
//!
//! Owns who a budget limits, for which period, what is spent and leased of it, and when its owner is told. Pure: the store reads a
//! [`Budget`] under a lock, lets a worker [`lease`](Budget::lease) or [`spend`](Budget::spend), and writes it back in one
//! transaction; a worker starts calls from what it was leased without asking again. What is spent never exceeds the limit by more
//! than what running calls cost above their estimates. A worker that dies leaves its lease to run out.

mod key;
mod state;

pub use key::{BudgetKey, InvalidScope, Period, Scope, UnknownPeriod};
pub use state::{Alert, Budget, BudgetAsk, BudgetSight, BudgetStanding, OnExceed, Terms, UnknownOnExceed};
