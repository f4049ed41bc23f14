//! Which file is which: what is remembered of one, and what counts as proof that another is the same.
//!
//! Not the reading of files, and not the pairing of many: that is in `pair.rs`. All of it is pure.
//!
//! Invariant: bytes are only skipped in a file whose bytes before that place are known to be those that
//! were read before. Of a copy that ends before that place nothing is there to compare but its beginning, and
//! of a compressed file that has exactly as many bytes as were read only the beginning is compared. In doubt
//! a file is read again from its beginning: twice is better than never.

/// Bytes of a file's beginning that are remembered.
pub(super) const PREFIX: usize = 1024;
/// Bytes before a position whose checksum is remembered.
pub(super) const TAIL: usize = 256;

/// What the system calls a file by. Inodes are used again, so the time of birth belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct FileId {
    pub(super) dev: u64,
    pub(super) ino: u64,
    /// Nanoseconds since 1970; 0 where the file system does not tell.
    pub(super) born: u64,
}

impl FileId {
    /// Whether this is the same inode in the same life.
    pub(super) fn is(&self, other: &Self) -> bool {
        let is_same_life = self.born == 0 || other.born == 0 || self.born == other.born;
        self.dev == other.dev && self.ino == other.ino && is_same_life
    }

    /// Whether only the device's number differs, as after a reboot. Needs the time of birth.
    fn is_renumbered(&self, other: &Self) -> bool {
        self.ino == other.ino && self.born != 0 && self.born == other.born
    }
}

/// The beginning of what was read of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Beginning {
    /// NULs before it: the hole that a writer leaves who does not append.
    pub(super) base: u64,
    /// The first bytes after those; never more than were read, so a copy that is one has all of them.
    pub(super) bytes: Vec<u8>,
}

impl Beginning {
    /// Takes in bytes that were read at this offset.
    pub(super) fn grow(&mut self, offset: u64, read: &[u8]) -> bool {
        let is_next = self.base + self.bytes.len() as u64 == offset;
        if !is_next || self.bytes.len() >= PREFIX || read.is_empty() {
            return false;
        }
        let room = PREFIX - self.bytes.len();
        self.bytes.extend_from_slice(&read[..room.min(read.len())]);
        true
    }

    /// Forgets what is behind an offset.
    pub(super) fn shrink(&mut self, offset: u64) {
        let keep = usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.bytes.truncate(keep);
        self.base = self.base.min(offset);
    }

    /// Whether it is as long as it gets.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= PREFIX
    }
}

/// The last bytes before a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tail {
    pub(super) len: u16,
    pub(super) crc: u32,
}

impl Tail {
    /// Of the bytes before a position; only the last [`TAIL`] count.
    pub(super) fn of(before: &[u8]) -> Self {
        let last = &before[before.len().saturating_sub(TAIL)..];
        Self { len: u16::try_from(last.len()).unwrap_or(0), crc: crc32fast::hash(last) }
    }
}

/// How far a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// The end of the last whole line; in a compressed file counted in what is in it.
    pub(super) offset: u64,
    /// The line that goes on here was cut; the rest of it is skipped.
    pub(super) is_skipping: bool,
    /// What is before it.
    pub(super) tail: Tail,
}

/// What looking into a file showed about a known beginning and position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Beginning and position fit.
    Fits,
    /// It ends before the position, but as far as it goes it fits.
    Shorter,
    /// It is another file.
    Differs,
    /// It cannot be read now, or its compression is not finished.
    Unreadable,
}

/// Why a known file has no place any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Its name and its inode are gone.
    Missing,
    /// Its inode holds something else now: it was truncated, or its number was used again.
    Overwritten,
}

/// What is known about a file that may be the new place of a lost one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) id: FileId,
    /// It fits `paths`, so it may well be a log of its own.
    pub(super) is_in_paths: bool,
    pub(super) is_gz: bool,
}

/// What a lost file and a candidate are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same content: go on at the position.
    Continues,
    /// The same content, but less than was read already: nothing in it is new.
    IsOver,
    /// Not the same, or too little to tell.
    Unrelated,
}

/// Judges one candidate for one lost file.
///
/// Equal content alone proves little while it is short: two logs may begin with the same header. So a
/// short beginning counts only where something else explains a copy: rotation, which gives it a rotated
/// name, after a truncation; `gzip`; or the same inode under another device number.
pub(super) fn judge(
    known: FileId,
    beginning: &Beginning,
    lost: Lost,
    found: Candidate,
    look: Look,
) -> Verdict {
    if beginning.bytes.is_empty() {
        return Verdict::Unrelated;
    }
    let is_rotated = !found.is_in_paths;
    let is_copy = is_rotated && (found.is_gz || lost == Lost::Overwritten);
    let is_explained = beginning.is_full() || is_copy || found.id.is_renumbered(&known);
    match look {
        Look::Fits if is_explained => Verdict::Continues,
        // copytruncate: we read on while the copy was made already.
        Look::Shorter if is_copy => Verdict::IsOver,
        _ => Verdict::Unrelated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: FileId = FileId { dev: 1, ino: 2, born: 3 };
    const OTHER: FileId = FileId { dev: 1, ino: 9, born: 9 };

    fn judged(len: usize, lost: Lost, is_in_paths: bool, is_gz: bool, look: Look) -> Verdict {
        let beginning = Beginning { base: 0, bytes: vec![b'a'; len] };
        judge(ID, &beginning, lost, Candidate { id: OTHER, is_in_paths, is_gz }, look)
    }

    #[test]
    fn an_inode_that_was_born_again_is_another_file() {
        assert!(ID.is(&ID) && ID.is(&FileId { born: 0, ..ID }));
        assert!(!ID.is(&FileId { born: 4, ..ID }));
        assert!(!ID.is(&OTHER));
    }

    #[test]
    fn a_short_beginning_alone_proves_nothing() {
        use {Look::*, Lost::*, Verdict::*};
        // Two logs that begin with the same header: the second is not the first, moved.
        assert_eq!(judged(20, Missing, true, false, Fits), Unrelated);
        assert_eq!(judged(20, Overwritten, true, false, Fits), Unrelated);
        assert_eq!(judged(20, Missing, false, false, Fits), Unrelated);
        assert_eq!(judged(PREFIX, Missing, true, false, Fits), Continues);
        // A truncation and a rotated name explain a copy, and so does gzip.
        assert_eq!(judged(20, Overwritten, false, false, Fits), Continues);
        assert_eq!(judged(20, Missing, false, true, Fits), Continues);
        assert_eq!(judged(PREFIX, Missing, false, true, Differs), Unrelated);
        assert_eq!(judged(0, Overwritten, false, true, Fits), Unrelated);
    }

    #[test]
    fn a_copy_that_ends_before_the_position_is_over() {
        use {Look::*, Lost::*, Verdict::*};
        assert_eq!(judged(20, Overwritten, false, false, Shorter), IsOver);
        assert_eq!(judged(PREFIX, Missing, false, true, Shorter), IsOver);
        // Without a truncation nothing explains it: it is a file of its own, and is read.
        assert_eq!(judged(PREFIX, Missing, false, false, Shorter), Unrelated);
        assert_eq!(judged(PREFIX, Overwritten, true, false, Shorter), Unrelated);
    }

    #[test]
    fn a_renumbered_device_is_told_by_the_time_of_birth() {
        let beginning = Beginning { base: 0, bytes: b"x\n".to_vec() };
        let found = Candidate { id: FileId { dev: 7, ..ID }, is_in_paths: true, is_gz: false };
        assert_eq!(judge(ID, &beginning, Lost::Missing, found, Look::Fits), Verdict::Continues);
        let unborn = FileId { born: 0, ..ID };
        assert_eq!(judge(unborn, &beginning, Lost::Missing, found, Look::Fits), Verdict::Unrelated);
    }

    #[test]
    fn a_beginning_grows_only_with_what_follows_it() {
        let mut beginning = Beginning { base: 5, bytes: Vec::new() };
        assert!(beginning.grow(5, b"abc") && !beginning.grow(9, b"x"));
        assert!(beginning.grow(8, &[b'y'; 2000]) && beginning.is_full());
        beginning.shrink(7);
        assert_eq!(beginning, Beginning { base: 5, bytes: b"ab".to_vec() });
        beginning.shrink(2);
        assert_eq!(beginning, Beginning { base: 2, bytes: Vec::new() });
    }
}
