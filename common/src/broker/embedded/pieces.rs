//! Output as it comes, from a worker to a listener of the same process. Nothing of it is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::Pieces;
use crate::job::StreamId;

/// Pieces that wait for a listener; further ones are dropped.
const WAITING: usize = 4_096;

/// Who listens to what.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<StreamId, mpsc::Sender<Bytes>>>);

impl Streams {
    pub(super) fn tell(&self, stream: StreamId, piece: Bytes) {
        if let Some(listener) = self.all().get(&stream) {
            // A listener that is slow loses pieces, and holds nobody up.
            let _ = listener.try_send(piece);
        }
    }

    pub(super) fn listen(self: &Arc<Self>, stream: StreamId, stop: CancellationToken) -> Box<dyn Pieces> {
        let (sender, pieces) = mpsc::channel(WAITING);
        self.all().insert(stream, sender);
        Box::new(Listening { stream, streams: Arc::clone(self), pieces, stop })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<StreamId, mpsc::Sender<Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Listening {
    stream: StreamId,
    streams: Arc<Streams>,
    pieces: mpsc::Receiver<Bytes>,
    stop: CancellationToken,
}

#[async_trait]
impl Pieces for Listening {
    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            piece = self.pieces.recv() => piece,
            () = self.stop.cancelled() => None,
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.streams.all().remove(&self.stream);
    }
}
