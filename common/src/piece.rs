//! A piece of a job's output as it comes: what a worker tells, and a listener hears, over the broker's stream channel.
//!
//! Pieces are a convenience and may be lost; the row in the store is the truth. Each carries the attempt and the worker that it
//! belongs to, so that a listener forgets what an earlier call said, and its place in it, so that a gap shows. The attempt alone
//! would not do: one that died with its worker was never written down, and the next has its number.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::OwnerId;

/// The version of the JSON that a piece is written as.
const VERSION: u16 = 1;

/// What a piece holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Text of the answer.
    Text(String),
    /// Text that the model thinks, where the provider shows it.
    Reasoning(String),
    /// What a later version tells.
    #[serde(other)]
    Other,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The version of its format.
    pub v: u16,
    /// Which call of the run it belongs to, from 1.
    pub attempt: u32,
    /// Who makes that call.
    pub worker: OwnerId,
    /// Its place among the pieces of the call, from 0.
    pub seq: u64,
    /// What it holds.
    pub content: Content,
}

impl Piece {
    /// Makes a piece.
    pub const fn new(attempt: u32, worker: OwnerId, seq: u64, content: Content) -> Self {
        Self { v: VERSION, attempt, worker, seq, content }
    }

    /// Writes it as JSON.
    pub fn to_bytes(&self) -> Bytes {
        // Numbers and texts can always be written.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` for anything else.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_piece_survives_json(attempt: u32, seq: u64, text: String) {
            for content in [Content::Text(text.clone()), Content::Reasoning(text)] {
                let piece = Piece::new(attempt, OwnerId::new(DateTime::UNIX_EPOCH), seq, content);
                prop_assert_eq!(Piece::read(&piece.to_bytes()), Some(piece));
            }
        }
    }

    #[test]
    fn what_a_later_version_tells_is_heard_as_something_else() {
        let worker = "00000000-0000-7000-8000-000000000000";
        let told = format!(r#"{{"v":2,"attempt":1,"worker":"{worker}","seq":0,"content":"began","x":1}}"#);
        let piece = Piece::read(told.as_bytes()).unwrap();
        assert_eq!(piece.content, Content::Other);
        assert_eq!(Piece::read(b"no"), None);
    }
}
