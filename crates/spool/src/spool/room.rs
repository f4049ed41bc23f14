//! Room: what may be written, what is given up when nothing may, and the reserve.
//!
//! Invariant: a block is only written while the reserve is whole, so there is always room to note what is done.

use std::io;
use std::sync::Arc;

use super::{AppendError, CommitError, Full, Spool};
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
        reserve.make(files);
        reserve
    }

    /// Makes it whole, if it is not and there is room. Says whether it is.
    pub(super) fn make(&mut self, files: &dyn Files) -> bool {
        if self.has >= self.wanted {
            return true;
        }
        match self.try_make(files) {
            Ok(()) => self.has = self.wanted,
            // Half a reserve serves nobody, and would take the room that it waits for.
            Err(_) if self.has == 0 => {
                if files.remove(RESERVE).is_err() {
                    // It is looked at again the next time.
                }
            }
            Err(_) => {}
        }
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
        // Each turn gives up a segment, and there are so many at most; the last turn finds none.
        for _ in 0..MAX_SEGMENTS + 2 {
            let Some(full) = self.lacks(len)? else {
                self.ensure_active().map_err(as_append_error)?;
                return Ok(());
            };
            if self.options.when_full == WhenFull::Block || !self.drop_oldest()? {
                self.wants_segment |= self.is_all_done();
                return Err(AppendError::Full(full));
            }
        }
        Err(AppendError::Full(Full::MaxBytes))
    }

    /// Why these bytes may not be written, if so.
    fn lacks(&mut self, len: u64) -> io::Result<Option<Full>> {
        if self.disk_bytes() + self.reserve.to_come() + len > self.options.max_bytes {
            return Ok(Some(Full::MaxBytes));
        }
        if self.state.segments.len() + 1 >= MAX_SEGMENTS {
            return Ok(Some(Full::Segments));
        }
        // The next segment takes the reserve along, and another one is made.
        let free = self.files.free()?.saturating_sub(self.reserve.wanted + self.reserve.to_come() + len);
        if free < self.options.min_free {
            return Ok(Some(Full::MinFree));
        }
        Ok((free == 0 || !self.reserve.make(&*self.files)).then_some(Full::Disk))
    }

    /// Is the last segment worth leaving, so that its file can go?
    fn is_all_done(&self) -> bool {
        let is_long = self
            .active
            .as_ref()
            .is_some_and(|active| active.len - active.head >= self.options.segment_bytes / 8);
        is_long && self.pending.is_empty() && self.state.left().blocks == 0
    }

    /// Gives up the oldest segment. Returns false if there is none.
    fn drop_oldest(&mut self) -> Result<bool, AppendError> {
        if self.flight.is_some() {
            return Err(AppendError::Busy);
        }
        let is_alone = self.state.segments.len() < 2;
        if is_alone {
            if self.pending.is_empty() && self.state.left().blocks == 0 {
                return Ok(false);
            }
            // It is the last one too: another one follows it, so that it can go.
            self.wants_segment = true;
            self.commit().map_err(of_commit)?;
            if self.state.segments.len() < 2 {
                return Ok(false);
            }
        }
        let rest = self.state.rest_of(0, Why::Dropped);
        let blocks = self.state.segments[0].id.first..self.state.segments[0].end();
        blocks.for_each(|seq| self.cache.remove(seq));
        if let Some(rest) = rest {
            self.finish(rest);
        }
        let oldest = self.state.segments[0].id;
        let is_there = |spool: &Self| spool.state.segments.front().is_some_and(|first| first.id == oldest);
        self.commit().map_err(of_commit)?;
        if is_there(self) {
            // On a full disk the first one only began a segment whose checkpoint says it.
            self.commit().map_err(of_commit)?;
        }
        Ok(!is_there(self))
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.len);
        let last =
            if self.active.is_some() { self.state.segments.back().map_or(0, |last| last.len) } else { 0 };
        let segments: u64 = self.state.segments.iter().map(|segment| segment.len).sum();
        let leftovers: u64 = self.leftovers.iter().map(|entry| entry.len).sum();
        segments - last + active + leftovers + self.reserve.bytes() + self.quarantine.bytes()
    }
}

pub(super) fn as_append_error(error: io::Error) -> AppendError {
    if is_full(&error) { AppendError::Full(Full::Disk) } else { AppendError::Io(error) }
}

fn of_commit(error: CommitError) -> AppendError {
    match error {
        CommitError::UnderWay => AppendError::Busy,
        CommitError::Full(_) => AppendError::Full(Full::Disk),
        CommitError::Io(error) => AppendError::Io(error),
    }
}
