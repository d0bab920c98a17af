//! Whether there is room on a disk.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// Room that a database needs to go on.
const ROOM_BYTES: usize = 1024 * 1024;

/// Tells whether a folder's disk has no room for more, by trying. Blocks.
pub(super) fn is_full(folder: &Path) -> bool {
    let path = folder.join(format!("room-{}.tmp", std::process::id()));
    let written = File::create(&path).and_then(|mut file| file.write_all(&vec![0; ROOM_BYTES]));
    // It may not have been made.
    let _ = std::fs::remove_file(&path);
    written.is_err_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_disk_with_room_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!super::is_full(folder.path()));
        assert!(!super::is_full(&folder.path().join("none")));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
