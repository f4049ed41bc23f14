//! Commits: what is durable when, when a segment follows another, and when one goes.
//!
//! Invariants: what `commit_end` takes into the state was written before the fsync that succeeded began. A segment begins
//! with a checkpoint of the state, so it never claims what is not durable. A file goes after a commit that made durable, in
//! the last segment, that nothing of it is left.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::{Active, Pending, Spool, salt};
use crate::files::{Entry, File, Files, is_full, write_all};
use crate::frame::{HEAD, Header, Kind, SegmentId};
use crate::marks::Growth;
use crate::options::Durability;
use crate::state::{Finish, MAX_BLOCKS, MAX_SEGMENTS, encode_finished};

/// Entries that wait to be written down. With more of them a checkpoint is shorter.
const MAX_UNSAVED: usize = 16_384;

/// Why nothing more became durable. What was appended stays in memory, and the next commit tries again in a new segment.
#[derive(Debug, Error)]
pub enum CommitError {
    /// End the commit that is under way first.
    #[error("a commit is under way")]
    UnderWay,
    /// The disk has no room for the blocks that an fsync failed for.
    #[error("no room for a new segment: {0}")]
    Full(io::Error),
    /// The disk cannot be written.
    #[error("cannot make the spool durable: {0}")]
    Io(#[from] io::Error),
}

/// An fsync to be run, on any thread. It must be run, and its end be told to [`Spool::commit_end`].
#[must_use = "nothing is durable before it ran"]
pub struct CommitJob {
    file: Arc<dyn File>,
    /// Its name is not durable yet.
    folder: Option<Arc<dyn Files>>,
    durability: Durability,
}

/// How an fsync ended.
#[must_use = "nothing is durable before the spool knows"]
#[derive(Debug)]
pub struct Committed(io::Result<()>);

impl CommitJob {
    /// Runs it. Blocking.
    pub fn run(self) -> Committed {
        if self.durability == Durability::None {
            return Committed(Ok(()));
        }
        Committed(self.file.sync().and_then(|()| self.folder.map_or(Ok(()), |folder| folder.sync_folder())))
    }
}

/// The commit that is under way.
pub(super) struct Flight {
    /// So many of `pending` become durable by it.
    records: usize,
    len: u64,
    /// The segment gets no more records.
    pub(super) seal: bool,
    /// Of these it becomes durable that nothing is left.
    finished: Vec<SegmentId>,
    leftovers: usize,
}

impl Spool {
    /// Makes everything durable that was appended, marked and finished before. Blocking.
    pub fn commit(&mut self) -> Result<(), CommitError> {
        let Some(job) = self.commit_begin()? else { return Ok(()) };
        let committed = job.run();
        self.commit_end(committed)
    }

    /// Is there anything that a commit would make durable, or let go of?
    pub fn needs_commit(&self) -> bool {
        !self.pending.is_empty()
            || !self.unsaved.is_empty()
            || !self.leftovers.is_empty()
            || self.owes_checkpoint
            || self.wants_segment
            || self.finished().any(|id| self.active.is_none() || !self.is_last(id))
    }

    /// Begins a commit: writes what is missing, and returns the fsync to be run. Blocks may be appended and read meanwhile.
    pub fn commit_begin(&mut self) -> Result<Option<CommitJob>, CommitError> {
        if self.flight.is_some() {
            return Err(CommitError::UnderWay);
        }
        if !self.needs_commit() {
            return Ok(None);
        }
        self.note(|spool| spool.ensure_active().and_then(|()| spool.save_finished()))?;
        let finished = if self.unsaved.is_empty() {
            self.finished().filter(|id| !self.is_last(*id)).collect()
        } else {
            Vec::new()
        };
        let active = self.active.as_ref().expect("ensure_active began one");
        let blocks = self.state.segments.back().map_or(0, |last| self.next - last.id.first);
        let is_full =
            active.len - active.head >= self.options.segment_bytes || blocks >= u64::from(MAX_BLOCKS);
        self.flight = Some(Flight {
            records: self.pending.len(),
            len: active.len,
            seal: is_full || self.wants_segment,
            finished,
            leftovers: self.leftovers.len(),
        });
        let folder = (!active.is_durable).then(|| self.files.clone());
        Ok(Some(CommitJob { file: active.file.clone(), folder, durability: self.options.durability }))
    }

    /// Ends a commit. An error means that nothing of it may be trusted to be durable.
    pub fn commit_end(&mut self, committed: Committed) -> Result<(), CommitError> {
        let Some(flight) = self.flight.take() else { return Ok(()) };
        if let Err(error) = committed.0 {
            // The system may have forgotten the pages that it could not write, so this file is not tried again.
            if let Some(active) = self.active.take() {
                self.leave(&active);
            }
            self.owes_checkpoint = true;
            self.indexes.forget_from(self.state.next);
            self.trouble = Some(format!("fsync failed: {error}"));
            return Err(error.into());
        }
        self.trouble = None;
        self.owes_checkpoint = false;
        self.take_in(&flight);
        self.release(&flight.finished, flight.leftovers);
        if let Some(active) = &mut self.active {
            (active.is_durable, active.synced) = (true, flight.len);
            let header = Header::plain(Kind::Synced, self.next, b"");
            if let Err(error) = active.put(&header, &mut [0; HEAD]) {
                // Nothing depends on it but how a torn tail is told from damage.
                self.trouble = Some(format!("cannot write: {error}"));
            }
        }
        if flight.seal && self.pending.is_empty() {
            self.wants_segment = true;
            // The commit itself went well. If this does not, the next commit tries again.
            if self.note(Self::begin_segment).is_ok() {
                self.wants_segment = false;
            }
        }
        if let Err(error) = self.reserve.make(&*self.files) {
            self.trouble = Some(format!("cannot reserve room: {error}"));
        }
        Ok(())
    }

    /// A segment is never written again after its fsync failed. One that never was durable goes at once: nothing of it was
    /// told to anybody, its name may come back in a crash and then ends where it begins; and a disk on which every fsync
    /// fails does not fill with them.
    fn leave(&mut self, active: &Active) {
        let Some(last) = self.state.segments.back_mut() else { return };
        last.len = active.len;
        if !active.is_durable {
            match self.files.remove(&last.id.name()) {
                // Then it goes with the commit that succeeds.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                _ => last.len = 0,
            }
        }
        self.count_bytes();
    }

    /// What became durable is what the state says from now on.
    fn take_in(&mut self, flight: &Flight) {
        for Pending { header, bytes, marks } in self.pending.drain(..flight.records) {
            self.pending_bytes -= bytes.len();
            match header.kind {
                Kind::Block => self.state.block(&header, &marks),
                _ => self.state.marks.apply(&marks),
            }
        }
        let mut growth = Growth::default();
        for record in &self.pending {
            let more = self.state.marks.growth(&record.marks);
            growth = Growth { keys: growth.keys + more.keys, bytes: growth.bytes + more.bytes };
        }
        self.pending_marks = growth;
        if let Some(last) = self.state.segments.back_mut() {
            (last.len, self.last_bytes) = (flight.len, flight.len);
        }
    }

    /// Removes the files that nothing is left of: these segments, and so many of the leftovers.
    fn release(&mut self, finished: &[SegmentId], leftovers: usize) {
        let mut gone: Vec<Entry> = self.leftovers.drain(..leftovers).collect();
        for id in finished {
            self.emptied.remove(id);
            self.set_aside.remove(id);
            if let Ok(index) = self.state.segments.binary_search_by_key(id, |segment| segment.id)
                && let Some(segment) = self.state.segments.remove(index)
            {
                self.indexes.forget(id.id);
                // Somebody may get back from the device what it did not give us.
                let is_kept = self.unreadable.remove(id)
                    && self.quarantine.take_over(&*self.files, *id, segment.len).is_ok();
                if !is_kept {
                    gone.push(Entry { name: id.name(), len: segment.len });
                }
            }
        }
        for entry in gone {
            match self.files.remove(&entry.name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.trouble = Some(format!("cannot remove {}: {error}", entry.name));
                    self.leftovers.push(entry);
                }
                _ => {}
            }
        }
        self.count_bytes();
    }

    /// Segments of which nothing is left.
    pub(super) fn finished(&self) -> impl Iterator<Item = SegmentId> {
        let has_none = |id: &&SegmentId| self.state.segment(**id).is_some_and(|s| s.left.blocks == 0);
        self.emptied.iter().filter(has_none).copied()
    }

    pub(super) fn is_last(&self, id: SegmentId) -> bool {
        self.state.segments.back().is_some_and(|last| last.id == id)
    }

    /// There is a segment to write to, and what was not durable when the one before it was left is in it.
    pub(super) fn ensure_active(&mut self) -> io::Result<()> {
        if self.active.is_some() {
            return Ok(());
        }
        self.begin_segment()?;
        self.wants_segment = false;
        let active = self.active.as_mut().expect("it was just begun");
        let checkpoint = active.len;
        for record in &mut self.pending {
            match active.put(&record.header, &mut record.bytes) {
                Ok(offset) if record.header.kind == Kind::Block => {
                    self.indexes.note(record.header.seq, offset)
                }
                Ok(_) => {}
                Err(error) => {
                    self.leave_without_pending(checkpoint);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// There is no room for what is to be written again. The checkpoint alone may make some: it says what is finished.
    fn leave_without_pending(&mut self, checkpoint: u64) {
        self.indexes.forget_from(self.state.next);
        let Some(active) = self.active.take() else { return };
        let finished: Vec<SegmentId> = self.finished().filter(|id| !self.is_last(*id)).collect();
        let (folder, durability) = (Some(self.files.clone()), self.options.durability);
        let is_cut = active.file.truncate(checkpoint).is_ok();
        let job = CommitJob { file: active.file.clone(), folder, durability };
        if is_cut && job.run().0.is_ok() {
            self.release(&finished, self.leftovers.len());
        } else {
            self.leave(&active);
        }
    }

    /// Writes down what was finished. On a full disk the reserve says it, in the checkpoint of a new segment.
    fn save_finished(&mut self) -> io::Result<()> {
        if self.unsaved.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![0; HEAD];
        bytes.extend_from_slice(&encode_finished(&self.unsaved));
        let header = Header::plain(Kind::Finished, self.next, &bytes[HEAD..]);
        let active = self.active.as_mut().expect("ensure_active began one");
        match active.put(&header, &mut bytes) {
            Ok(_) => self.unsaved.clear(),
            Err(error) if is_full(&error) => self.wants_segment = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Remembers what is finished, to be written down with the next commit.
    pub(super) fn finish(&mut self, finish: Finish) {
        if !self.state.finish(&finish) {
            return;
        }
        let first = *finish.seqs.start();
        let segment = self.state.segment_of(first);
        let joins = self.unsaved.last().is_some_and(|last| {
            last.why == finish.why
                && self.state.segment_of(*last.seqs.start()) == segment
                && last.seqs.end() + 1 == first
        });
        match self.unsaved.last_mut().filter(|_| joins) {
            Some(last) => {
                last.seqs = *last.seqs.start()..=*finish.seqs.end();
                last.counts += finish.counts;
            }
            None => self.unsaved.push(finish),
        }
        if self.unsaved.len() > MAX_UNSAVED {
            self.wants_segment = true;
        }
        let emptied = segment.map(|index| &self.state.segments[index]).filter(|s| s.left.blocks == 0);
        self.emptied.extend(emptied.map(|segment| segment.id));
    }

    /// Begins a segment, with a checkpoint of the state. If it fails there is none to write to until the next try.
    fn begin_segment(&mut self) -> io::Result<()> {
        if self.state.segments.len() >= MAX_SEGMENTS {
            return Err(io::Error::other("there are too many segments"));
        }
        let id = SegmentId { first: self.state.next, id: self.next_id, salt: salt() };
        let mut bytes = id.head();
        let body = self.state.encode();
        let header = Header::plain(Kind::Checkpoint, self.state.next, &body);
        bytes.extend_from_slice(&header.encode(id.salt, HEAD as u64));
        bytes.extend_from_slice(&body);
        // A name is used once, whatever comes of it.
        self.next_id += 1;
        let name = id.name();
        // The name alone ends the segment before it, and may come back in a crash: so that one gets nothing more, whatever
        // comes of this one.
        if let Some(before) = self.active.take() {
            // Else room that was allocated behind its end comes free when it goes.
            let _later = before.file.truncate(before.len);
        }
        let made = self.reserve.become_file(&*self.files, &name);
        let written = made.and_then(|file| write_all(&*file, &bytes, 0).map(|()| file));
        let file = match written {
            Ok(file) => file,
            Err(error) => {
                if let Err(e) = self.files.remove(&name)
                    && e.kind() != io::ErrorKind::NotFound
                {
                    self.leftovers.push(Entry { name, len: bytes.len() as u64 });
                }
                return Err(error);
            }
        };
        if let Some(empty) = self.state.begin(id).filter(|empty| empty.len > 0) {
            self.leftovers.push(Entry { name: empty.id.name(), len: empty.len });
        }
        let len = bytes.len() as u64;
        if let Some(last) = self.state.segments.back_mut() {
            last.len = len;
        }
        self.count_bytes();
        self.marks_beyond = 0;
        self.active = Some(Active { file, salt: id.salt, len, head: len, synced: 0, is_durable: false });
        self.indexes.begin(id);
        // The checkpoint says it.
        self.owes_checkpoint |= !self.unsaved.is_empty();
        self.unsaved.clear();
        self.reserve.fit(len);
        Ok(())
    }

    /// Runs a step, and keeps in mind what went wrong.
    fn note(&mut self, step: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<(), CommitError> {
        step(self).map_err(|error| {
            self.trouble = Some(format!("cannot write: {error}"));
            if is_full(&error) { CommitError::Full(error) } else { CommitError::Io(error) }
        })
    }
}
