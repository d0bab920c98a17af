//! Stopping: the first signal drains, the second ends at once. A parent that holds a pipe for it (`GRISTMILL_PARENT_PIPE`)
//! drains by its end, whatever ended it, and little later ends at once: nobody is left to wait for the answers.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::Fault;
use super::ui;

/// Names the descriptor, open for reading, of a pipe whose other end the process has that started this one, and nobody else.
const PARENT_PIPE: &str = "GRISTMILL_PARENT_PIPE";
/// How long running calls may go on after the parent has ended; as long as a worker's, where nothing is configured.
const PARENT_GRACE: Duration = Duration::from_secs(30);

/// How far a stop has gone.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    /// Running calls finish and are saved; nothing new starts.
    pub(super) drain: CancellationToken,
    /// Everything ends at once.
    pub(super) abort: CancellationToken,
}

impl Stop {
    /// Listens for Ctrl-C, SIGTERM and the end of the parent from now on; `message` is told at the first.
    pub(super) fn on_signals(message: &'static str) -> Result<Self, Fault> {
        let stop = Self { drain: CancellationToken::new(), abort: CancellationToken::new() };
        let mut signals = Signals::new().map_err(|error| Fault::new("listening for signals failed").because(&error))?;
        let mut parent = parent()?;
        let (drain, abort) = (stop.drain.clone(), stop.abort.clone());
        TaskTracker::new().spawn(async move {
            let orphaned = tokio::select! {
                () = signals.next() => false,
                () = parent.ended() => true,
            };
            ui::tell(message);
            drain.cancel();
            tokio::select! {
                () = signals.next() => {}
                () = tokio::time::sleep(PARENT_GRACE), if orphaned => {}
                () = async { parent.ended().await; tokio::time::sleep(PARENT_GRACE).await }, if !orphaned => {}
            }
            abort.cancel();
        });
        Ok(stop)
    }
}

/// Finds the parent that is to be followed.
fn parent() -> Result<Parent, Fault> {
    let Some(descriptor) = std::env::var(PARENT_PIPE).ok().filter(|text| !text.is_empty()) else {
        return Ok(Parent(None));
    };
    Parent::open(&descriptor).map_err(|error| Fault::new(format!("{PARENT_PIPE} names no pipe")).because(&error))
}

/// The end of a pipe that ends with the parent; without one, the parent is never missed.
#[cfg(unix)]
struct Parent(Option<tokio::net::unix::pipe::Receiver>);

#[cfg(unix)]
impl Parent {
    /// Opens the pipe again, so that its mode is nobody else's; that does not wait where the parent is gone already.
    fn open(descriptor: &str) -> std::io::Result<Self> {
        let number: u32 = descriptor.parse().map_err(std::io::Error::other)?;
        tokio::net::unix::pipe::OpenOptions::new()
            .open_receiver(format!("/dev/fd/{number}"))
            .map(|pipe| Self(Some(pipe)))
    }

    /// Waits for its end. Cancel safe.
    async fn ended(&mut self) {
        use tokio::io::AsyncReadExt as _;

        let Some(pipe) = &mut self.0 else { return std::future::pending().await };
        // It says nothing; an error is as good an end as any.
        while pipe.read(&mut [0; 64]).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

#[cfg(not(unix))]
struct Parent(Option<std::convert::Infallible>);

#[cfg(not(unix))]
impl Parent {
    fn open(_: &str) -> std::io::Result<Self> {
        Ok(Self(None))
    }

    async fn ended(&mut self) {
        std::future::pending().await
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
