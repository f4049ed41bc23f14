//! Damaged bytes, for people who want to know what happened to them: copies of places, and whole segments that the device
//! did not give back.
//!
//! Nothing here is ever read again, and nothing depends on it. Invariant: no more than an eighth of the spool, or
//! [`MAX_BYTES`], in [`MAX_FILES`], but for one segment that is larger alone; the oldest make room.

use std::collections::VecDeque;
use std::io;

use crate::files::{Entry, File, Files, write_all};
use crate::frame::SegmentId;

/// The subfolder.
pub(crate) const FOLDER: &str = "quarantine";
/// Four segments.
const MAX_BYTES: u64 = 256 << 20;
const MAX_FILES: usize = 256;
const PIECE: usize = 256 * 1024;

/// What is in it.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    limit: u64,
    /// Oldest first: names begin with the seq.
    entries: VecDeque<Entry>,
    bytes: u64,
}

impl Quarantine {
    /// Looks what is in it already; one that cannot be read takes no copies.
    pub(crate) fn look(files: &dyn Files, max_bytes: u64) -> Self {
        let Ok(mut found) = files.list(Some(FOLDER)) else { return Self::default() };
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let bytes = found.iter().map(|entry| entry.len).sum();
        Self { limit: (max_bytes / 8).min(MAX_BYTES), entries: found.into(), bytes }
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies a damaged place, if there is room for it: a disk that is nearly full needs it for other things.
    pub(crate) fn keep(&mut self, files: &dyn Files, id: SegmentId, file: &dyn File, at: u64, len: u64) {
        let len = len.min(self.limit);
        if len == 0 || files.free().is_ok_and(|free| free < 4 * self.limit) {
            return;
        }
        let name = format!("{}-{at}", id.name());
        if self.entries.iter().any(|entry| entry.name == name) || !self.make_room(files, len) {
            return;
        }
        // A copy that fails is one copy less.
        let Ok(copy) = files.create(&path(&name)) else { return };
        let len = copy_part(file, &*copy, at, len);
        self.add(name, len);
    }

    /// Takes a whole segment, as it is.
    pub(crate) fn take_over(&mut self, files: &dyn Files, id: SegmentId, len: u64) -> io::Result<()> {
        let name = id.name();
        // One that finds no room, whatever goes, comes in all the same: nobody has read it.
        let _has_room = self.make_room(files, len);
        match files.rename(&name, &path(&name)) {
            Ok(()) => self.add(name, len),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn add(&mut self, name: String, len: u64) {
        self.bytes += len;
        self.entries.push_back(Entry { name, len });
    }

    /// Lets the oldest go until there is room for so many bytes.
    fn make_room(&mut self, files: &dyn Files, len: u64) -> bool {
        while self.entries.len() >= MAX_FILES || self.bytes + len > self.limit {
            let Some(oldest) = self.entries.pop_front() else { return false };
            match files.remove(&path(&oldest.name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.entries.push_front(oldest);
                    return false;
                }
                _ => self.bytes -= oldest.len,
            }
        }
        true
    }
}

fn path(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

/// Copies what can be read of a place, up to the first thing that fails. Returns how much that was.
fn copy_part(file: &dyn File, copy: &dyn File, at: u64, len: u64) -> u64 {
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).map_or(PIECE, |rest| rest.min(PIECE));
        let n = match file.read_at(&mut piece[..want], at + done) {
            Ok(n) if n > 0 && write_all(copy, &piece[..n], done).is_ok() => n,
            _ => break,
        };
        done += n as u64;
    }
    done
}
