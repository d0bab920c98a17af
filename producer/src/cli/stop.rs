//! Stopping: the first signal drains, the second ends at once.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::Fault;
use super::ui;

/// How far a stop has gone.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    /// Running calls finish and are saved; nothing new starts.
    pub(super) drain: CancellationToken,
    /// Everything ends at once.
    pub(super) abort: CancellationToken,
}

impl Stop {
    /// Listens for Ctrl-C and SIGTERM from now on; `message` is told at the first.
    pub(super) fn on_signals(message: &'static str) -> Result<Self, Fault> {
        let stop = Self { drain: CancellationToken::new(), abort: CancellationToken::new() };
        let mut signals = Signals::new().map_err(|error| Fault::new("listening for signals failed").because(&error))?;
        let (drain, abort) = (stop.drain.clone(), stop.abort.clone());
        TaskTracker::new().spawn(async move {
            signals.next().await;
            ui::tell(message);
            drain.cancel();
            signals.next().await;
            abort.cancel();
        });
        Ok(stop)
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
