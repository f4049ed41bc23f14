//! Room: what may be written, what is given up when nothing may, and the reserve.
//!
//! Invariant: a block is only written while the reserve is whole, so there is always room to note what is done.

use std::io;
use std::sync::Arc;

use super::{AppendError, Full, Spool};
use crate::files::{File, Files, is_full};
use crate::frame::HEAD;
use crate::options::WhenFull;
use crate::state::{MAX_SEGMENTS, Why};

const RESERVE: &str = "reserve";

/// Room for the next segment's head, its checkpoint, and some notes of what is done.
#[derive(Debug)]
pub(super) struct Reserve {
    wanted: u64,
    has: u64,
    /// Bytes of the last checkpoint.
    checkpoint: u64,
}

impl Reserve {
    /// What an earlier run left may or may not be whole: it is made again.
    pub(super) fn take_over(files: &dyn Files, wanted: u64) -> Self {
        let mut reserve = Self { wanted, has: 0, checkpoint: 0 };
        // What keeps it from being made is told to the first who needs it.
        let _told_later = reserve.make(files);
        reserve
    }

    /// Makes it whole, if it is not and there is room. Says whether it is.
    pub(super) fn make(&mut self, files: &dyn Files) -> io::Result<bool> {
        if self.is_whole() {
            return Ok(true);
        }
        let made = self.try_make(files);
        if made.is_ok() {
            self.has = self.wanted;
        } else if self.has == 0 {
            // Half a reserve serves nobody, and would take the room that it waits for.
            let _looked_at_again = files.remove(RESERVE);
        }
        match made {
            Err(error) if !is_full(&error) => Err(error),
            made => Ok(made.is_ok()),
        }
    }

    pub(super) const fn is_whole(&self) -> bool {
        self.has >= self.wanted
    }

    fn try_make(&self, files: &dyn Files) -> io::Result<()> {
        let file = match files.create(RESERVE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => files.open(RESERVE)?,
            result => result?,
        };
        // It was a segment whose new name was lost in a crash, or is made of zeros.
        if file.size()? > 0 {
            file.truncate(0)?;
        }
        file.allocate(self.wanted)
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.has
    }

    /// A checkpoint had this length: the next one may be longer.
    pub(super) fn fit(&mut self, checkpoint: u64) {
        self.checkpoint = checkpoint;
        self.wanted = self.wanted.max(checkpoint * 2);
    }

    /// What the log may grow by before another block is asked for: a reserve that is not there yet, the next checkpoint,
    /// and the record after an fsync.
    fn to_come(&self) -> u64 {
        self.wanted.saturating_sub(self.has) + self.checkpoint + 4 * HEAD as u64
    }

    /// Makes the file of a segment: of the reserve if there is one.
    pub(super) fn become_file(&mut self, files: &dyn Files, name: &str) -> io::Result<Arc<dyn File>> {
        if self.has == 0 {
            return files.create(name);
        }
        match files.rename(RESERVE, name) {
            Ok(()) => {}
            // Somebody removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.has = 0;
                return files.create(name);
            }
            Err(error) => return Err(error),
        }
        self.has = 0;
        let file = files.open(name)?;
        if file.size()? > 0 {
            file.truncate(0)?;
        }
        Ok(file)
    }
}

impl Spool {
    /// There is a segment to write to, and room for so many bytes in it.
    pub(super) fn make_room(&mut self, len: u64) -> Result<(), AppendError> {
        let Some(full) = self.lacks(len)? else {
            self.dropped_at = None;
            return self.ensure_active().map_err(as_append_error);
        };
        if self.options.when_full == WhenFull::DropOldest && self.drop_oldest(full, len)? {
            return Err(AppendError::Busy);
        }
        self.wants_segment |= self.is_all_done();
        Err(AppendError::Full(full))
    }

    /// There is a segment to write marks to. A spool that is full takes some all the same, so that who follows files that
    /// wait to be rotated loses no track of them: so many that what is reserved for notes of what is done has room left.
    pub(super) fn make_room_for_marks(&mut self, len: u64) -> Result<(), AppendError> {
        if let Some(full) = self.lacks(len)? {
            if self.marks_beyond + len > self.options.reserve_bytes / 4 {
                self.follow_if_reserved();
                return Err(AppendError::Full(full));
            }
            self.marks_beyond += len;
        }
        self.ensure_active().map_err(as_append_error)
    }

    /// The segment that follows has room for more marks, if a reserve is there to make it of. The one before it goes if
    /// it has no blocks.
    pub(super) fn follow_if_reserved(&mut self) {
        self.wants_segment |= self.reserve.is_whole();
    }

    /// Why these bytes may not be written, if so.
    fn lacks(&mut self, len: u64) -> io::Result<Option<Full>> {
        if self.disk_bytes() + self.reserve.to_come() + len > self.options.max_bytes {
            return Ok(Some(Full::MaxBytes));
        }
        if self.state.segments.len() + 1 >= MAX_SEGMENTS {
            return Ok(Some(Full::Segments));
        }
        let free = self.files.free()?.saturating_sub(self.needs(len));
        if free < self.options.min_free {
            return Ok(Some(Full::MinFree));
        }
        Ok((free == 0 || !self.reserve.make(&*self.files)?).then_some(Full::Disk))
    }

    /// What must be free for so many bytes: the next segment takes the reserve along, and another one is made.
    fn needs(&self, len: u64) -> u64 {
        self.reserve.wanted + self.reserve.to_come() + len
    }

    /// Is the last segment worth leaving, so that its file can go?
    fn is_all_done(&self) -> bool {
        let is_long = self
            .active
            .as_ref()
            .is_some_and(|active| active.len - active.head >= self.options.segment_bytes / 8);
        is_long && self.pending.is_empty() && self.state.left().blocks == 0
    }

    /// Gives up the oldest segment. Its room comes free with the commits that follow. False: that would make none.
    fn drop_oldest(&mut self, full: Full, len: u64) -> io::Result<bool> {
        if self.flight.is_some() || self.finished().any(|id| !self.is_last(id)) {
            // Some room is to come free already.
            return Ok(true);
        }
        if matches!(full, Full::MinFree | Full::Disk) && !self.would_help(len)? {
            return Ok(false);
        }
        if self.state.segments.len() < 2 {
            // It is the last one too: another one must follow it, so that it can go.
            let may_follow =
                !self.wants_segment && (!self.pending.is_empty() || self.state.left().blocks > 0);
            self.wants_segment |= may_follow;
            return Ok(may_follow);
        }
        if matches!(full, Full::MinFree | Full::Disk) {
            self.dropped_at = Some(self.files.free()?);
        }
        let Some(rest) = self.state.rest_of(0, Why::Dropped) else { return Ok(false) };
        for seq in rest.seqs.clone().filter(|seq| self.state.segments[0].is_left(*seq)) {
            self.cache.remove(seq);
            // Who has it may deliver it all the same.
            if let Some(counts) = self.taken.get(&seq).copied().flatten() {
                self.dropped_taken.insert(seq, counts);
            }
        }
        self.finish(rest);
        Ok(true)
    }

    /// Would it help to give something up, on a disk that others fill? Not if all that is here is too little; and not again
    /// before it has helped: others may take what comes free, and some file systems give it back late.
    fn would_help(&self, len: u64) -> io::Result<bool> {
        let free = self.files.free()?;
        let may_go = self.segment_bytes();
        let is_enough = free + may_go >= self.options.min_free + self.needs(len);
        Ok(is_enough && self.dropped_at.is_none_or(|before| free > before))
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.segment_bytes() + self.reserve.bytes() + self.quarantine.bytes()
    }

    fn segment_bytes(&self) -> u64 {
        self.other_bytes + self.active.as_ref().map_or(self.last_bytes, |active| active.len)
    }

    /// Adds up what segments and leftovers have, when they have changed: there may be thousands.
    pub(super) fn count_bytes(&mut self) {
        let segments: u64 = self.state.segments.iter().map(|segment| segment.len).sum();
        let leftovers: u64 = self.leftovers.iter().map(|entry| entry.len).sum();
        self.last_bytes = self.state.segments.back().map_or(0, |last| last.len);
        self.other_bytes = segments - self.last_bytes + leftovers;
    }
}

pub(super) fn as_append_error(error: io::Error) -> AppendError {
    if is_full(&error) { AppendError::Full(Full::Disk) } else { AppendError::Io(error) }
}
