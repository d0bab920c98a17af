//! Hands limits that changed in the worker's own file to its ledgers.

use std::sync::Arc;

use gristmill_common::quota::Limits;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::Ledger;
use crate::reload::LimitsByAccount;

/// What follows the file's limits.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(super) ledgers: Vec<Arc<Ledger>>,
    pub(super) urgent: Arc<Notify>,
}

impl Follow {
    /// Follows until `stop`. An account that the file names no more keeps its limits.
    pub(crate) async fn run(self, limits: Option<watch::Receiver<LimitsByAccount>>, stop: CancellationToken) {
        let Some(mut limits) = limits else { return };
        loop {
            let new = limits.borrow_and_update().clone();
            for (account, limits) in new {
                self.configure(&account, limits);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = limits.changed() => if changed.is_err() { return },
            }
        }
    }

    fn configure(&self, account: &str, limits: Limits) {
        let Some(ledger) = self.ledgers.iter().find(|ledger| *ledger.account == *account) else { return };
        let before = ledger.configure(limits);
        if before != limits {
            tracing::info!(account, from = %before, to = %limits, "limits of the configuration file changed");
            self.urgent.notify_one();
        }
    }
}
