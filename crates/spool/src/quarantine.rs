//! Copies of damaged bytes, for people who want to know what happened to them.
//!
//! Nothing here is ever read again, and nothing depends on it. Invariant: never more than [`MAX_BYTES`] in [`MAX_FILES`].

use crate::files::{File, Files, write_all};
use crate::frame::SegmentId;

/// The subfolder.
pub(crate) const FOLDER: &str = "quarantine";
const MAX_BYTES: u64 = 64 << 20;
const MAX_FILES: usize = 256;
const PIECE: usize = 256 * 1024;

/// How much is in it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quarantine {
    files: usize,
    bytes: u64,
}

impl Quarantine {
    /// Looks what is in it already; one that cannot be read takes no more.
    pub(crate) fn look(files: &dyn Files) -> Self {
        files.list(Some(FOLDER)).map_or(Self { files: MAX_FILES, bytes: 0 }, |found| Self {
            files: found.len(),
            bytes: found.iter().map(|entry| entry.len).sum(),
        })
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies a damaged place, if there is room for it: a disk that is nearly full needs it for other things.
    pub(crate) fn keep(&mut self, files: &dyn Files, id: SegmentId, file: &dyn File, at: u64, len: u64) {
        let len = len.min(MAX_BYTES);
        let is_full = self.files >= MAX_FILES || self.bytes + len > MAX_BYTES;
        if len == 0 || is_full || files.free().is_ok_and(|free| free < 4 * MAX_BYTES) {
            return;
        }
        let name = format!("{FOLDER}/{}-{at}", id.name());
        // It is there if the place was found before; a copy that fails is one copy less.
        let Ok(copy) = files.create(&name) else { return };
        self.files += 1;
        self.bytes += len;
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        while done < len {
            let want = usize::try_from(len - done).map_or(PIECE, |rest| rest.min(PIECE));
            let Ok(n) = file.read_at(&mut piece[..want], at + done) else { return };
            if n == 0 || write_all(&*copy, &piece[..n], done).is_err() {
                return;
            }
            done += n as u64;
        }
    }
}
