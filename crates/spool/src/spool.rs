//! The spool: what the other modules know, put together.
//!
//! Invariants: the state says what is durable (finished blocks: what the next checkpoint will say), and what was appended
//! since waits in `pending`, whole, until a commit has made it durable. The last segment is the only one that is written,
//! and never again after its fsync failed. Two fsyncs of it never run at once: an error is told to one of them only.

mod commit;
mod index;
mod read;
mod room;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::block::{Block, Encoding, Mark, NewBlock, Seq};
use crate::cache::Cache;
use crate::files::{Entry, File, Files, write_all};
use crate::frame::{HEAD, Header, Kind, SegmentId};
use crate::marks::{self, Growth};
use crate::options::{MAX_BODY, Options, Unreadable};
use crate::quarantine::Quarantine;
use crate::recover::{OpenError, Recovered, recover};
use crate::state::{Counts, Finish, MAX_BLOCKS, State, Totals};
use bytes::Bytes;
pub use commit::{CommitError, CommitJob, Committed};
use index::Indexes;
pub use index::{IndexJob, Indexed};
pub use read::{Order, ReadError};
use room::Reserve;

/// What it is that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `max_bytes` is reached.
    MaxBytes,
    /// The disk has no more than `min_free`.
    MinFree,
    /// The disk has no room at all.
    Disk,
    /// There are as many segments as there may be.
    Segments,
}

/// Why nothing was appended. Nothing has changed.
#[derive(Debug, Error)]
pub enum AppendError {
    /// There is no room. Try again when blocks are done.
    #[error("the spool is full: {0:?}")]
    Full(Full),
    /// End the commit that is under way, or commit, and try again.
    #[error("too much is not committed yet")]
    Busy,
    /// The block can never be taken.
    #[error("a block of {0} bytes is too large")]
    TooLarge(usize),
    /// The marks can never be taken, or there are too many.
    #[error("too many marks, or too large ones")]
    Marks,
    /// The disk cannot be written.
    #[error("cannot write the spool: {0}")]
    Io(#[from] io::Error),
}

/// How things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Durable and not finished.
    pub waiting: Counts,
    /// Of the oldest of them, when it was made, in ms since 1970; never too young.
    pub oldest_at: Option<u64>,
    /// Since the spool is new.
    pub totals: Totals,
    /// Bytes of the folder.
    pub disk_bytes: u64,
    /// Bytes that are free on the disk; `None` if it does not tell.
    pub free_bytes: Option<u64>,
    /// Segments.
    pub segments: usize,
    /// Appended, and not durable yet.
    pub uncommitted_bytes: usize,
    /// What the start found.
    pub recovered: Recovered,
    /// What went wrong last and is not over.
    pub trouble: Option<String>,
}

/// The last segment, as it is written.
struct Active {
    file: Arc<dyn File>,
    salt: u32,
    len: u64,
    /// So much of that is its head and checkpoint.
    head: u64,
    synced: u64,
    /// Are its name and its checkpoint durable?
    is_durable: bool,
}

/// A record that is not durable yet: its head is made anew wherever it is written.
struct Pending {
    header: Header,
    /// Head and body; the head is filled in when it is written.
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

/// The spool.
pub struct Spool {
    files: Arc<dyn Files>,
    options: Options,
    state: State,
    /// The seq of the next block.
    next: u64,
    next_id: u64,
    active: Option<Active>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    pending_marks: Growth,
    /// Finished, and not written down yet.
    unsaved: Vec<Finish>,
    /// How many of `pending` the commit under way will make durable, and the rest of it.
    flight: Option<commit::Flight>,
    /// The state says what is in no durable record: the checkpoint that says it is not durable, or not written.
    owes_checkpoint: bool,
    /// The segment is to be followed by another one, full or not.
    wants_segment: bool,
    leftovers: Vec<Entry>,
    reserve: Reserve,
    quarantine: Quarantine,
    cache: Cache,
    indexes: Indexes,
    taken: BTreeMap<u64, Option<Counts>>,
    /// Of `taken`, what was given up to make room meanwhile.
    dropped_taken: BTreeMap<u64, Counts>,
    /// Segments that are not offered.
    set_aside: BTreeSet<SegmentId>,
    /// Segments of which something was given up because the device refused it.
    unreadable: BTreeSet<SegmentId>,
    /// Bytes that were free when a segment was given up because others fill the disk, until that has helped.
    dropped_at: Option<u64>,
    /// Bytes of marks in the last segment that were written although there was no room.
    marks_beyond: u64,
    /// Segments that had nothing left when something of them was finished last.
    emptied: BTreeSet<SegmentId>,
    /// Bytes of the last segment as the state has it, and of all other files.
    last_bytes: u64,
    other_bytes: u64,
    recovered: Recovered,
    trouble: Option<String>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl Spool {
    /// Opens what stands in a folder, or begins there.
    pub fn open(
        files: Arc<dyn Files>,
        options: Options,
        unreadable: Unreadable,
    ) -> Result<(Self, Recovered), OpenError> {
        let options = options.bounded();
        let mut quarantine = Quarantine::look(&*files, options.max_bytes);
        let start = recover(&*files, &mut quarantine, options.durability, unreadable)?;
        let reserve = Reserve::take_over(&*files, options.reserve_bytes);
        let mut spool = Self {
            next: start.state.next,
            state: start.state,
            next_id: start.next_id,
            active: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_marks: Growth::default(),
            unsaved: Vec::new(),
            flight: None,
            owes_checkpoint: false,
            wants_segment: false,
            leftovers: start.leftovers,
            reserve,
            quarantine,
            cache: Cache::new(options.cache_bytes),
            indexes: Indexes::default(),
            taken: BTreeMap::new(),
            dropped_taken: BTreeMap::new(),
            set_aside: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            dropped_at: None,
            marks_beyond: 0,
            emptied: BTreeSet::new(),
            last_bytes: 0,
            other_bytes: 0,
            recovered: start.recovered,
            trouble: None,
            compressor: None,
            scratch: Vec::new(),
            files,
            options,
        };
        spool.count_bytes();
        let recovered = spool.recovered.clone();
        Ok((spool, recovered))
    }

    /// Writes a block. It is durable, and can be read, after the next commit.
    pub fn append(&mut self, new: NewBlock) -> Result<Seq, AppendError> {
        if new.body.len() > MAX_BODY {
            return Err(AppendError::TooLarge(new.body.len()));
        }
        let growth = self.check_marks(&new.marks)?;
        self.check_uncommitted()?;
        let (header, bytes) = self.encode(&new);
        self.make_room(bytes.len() as u64)?;
        let seq = Seq(self.next);
        let header = Header { seq: seq.0, ..header };
        let offset = self.write(Pending { header, bytes, marks: new.marks }, growth)?;
        self.indexes.note(seq.0, offset);
        self.next += 1;
        let NewBlock { kind, events, event_bytes, at, body, .. } = new;
        self.cache.put(Arc::new(Block { seq, kind, events, event_bytes, at, body }));
        Ok(seq)
    }

    /// Writes marks alone. They are durable after the next commit.
    pub fn mark(&mut self, marks: Vec<Mark>) -> Result<(), AppendError> {
        let growth = self.check_marks(&marks)?;
        self.check_uncommitted()?;
        let mut bytes = vec![0; HEAD];
        marks::encode(&marks, &mut bytes);
        self.make_room_for_marks(bytes.len() as u64)?;
        let header = Header::plain(Kind::Marks, self.next, &bytes[HEAD..]);
        let written = self.write(Pending { header, bytes, marks }, growth);
        if let Err(AppendError::Full(_)) = written {
            self.follow_if_reserved();
        }
        written.map(|_| ())
    }

    /// What the marks say, as of the last commit.
    pub fn marks(&self) -> &BTreeMap<Bytes, Bytes> {
        self.state.marks.values()
    }

    /// The seq after the last durable block.
    pub const fn durable(&self) -> Seq {
        Seq(self.state.next)
    }

    /// What happened since the spool is new.
    pub const fn totals(&self) -> &Totals {
        &self.state.totals
    }

    /// What went wrong last and is not over.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// How things are.
    pub fn stats(&mut self) -> Stats {
        Stats {
            waiting: self.state.left(),
            oldest_at: self.oldest_at(),
            totals: self.state.totals,
            disk_bytes: self.disk_bytes(),
            free_bytes: self.files.free().ok(),
            segments: self.state.segments.len(),
            uncommitted_bytes: self.pending_bytes,
            recovered: self.recovered.clone(),
            trouble: self.trouble.clone(),
        }
    }

    /// Makes everything durable, and notes that it is.
    pub fn close(mut self) -> Result<(), CommitError> {
        // The second one makes a segment durable that the first one began, the third lets go of what that allows.
        for _ in 0..3 {
            self.commit()?;
        }
        match (&self.active, self.options.durability) {
            (Some(active), crate::Durability::Fsync) => Ok(active.file.sync()?),
            _ => Ok(()),
        }
    }

    fn check_marks(&self, new: &[Mark]) -> Result<Growth, AppendError> {
        let mut growth = self.state.marks.growth(new);
        growth.keys += self.pending_marks.keys;
        growth.bytes += self.pending_marks.bytes;
        let is_fine = marks::are_small(new) && self.state.marks.has_room(growth, self.options.mark_bytes());
        if is_fine { Ok(growth) } else { Err(AppendError::Marks) }
    }

    /// No more is taken than a failed fsync can be repaired from, nor while the segment is being sealed.
    fn check_uncommitted(&self) -> Result<(), AppendError> {
        let blocks = self.state.segments.back().map_or(0, |last| self.next - last.id.first);
        let is_sealing = self.flight.as_ref().is_some_and(|flight| flight.seal);
        let is_full = self.pending_bytes >= self.options.uncommitted_bytes;
        let has_no_index = self.active.is_some() && blocks >= u64::from(MAX_BLOCKS);
        if is_sealing || is_full || has_no_index { Err(AppendError::Busy) } else { Ok(()) }
    }

    /// The record of a block, its seq left out.
    fn encode(&mut self, new: &NewBlock) -> (Header, Vec<u8>) {
        let mut bytes = vec![0; HEAD];
        if !new.marks.is_empty() {
            marks::encode(&new.marks, &mut bytes);
        }
        let marks_len = bytes.len() - HEAD;
        let encoding = if new.encoding == Encoding::Zstd && self.compress(&new.body) {
            bytes.extend_from_slice(&self.scratch);
            Encoding::Zstd
        } else {
            bytes.extend_from_slice(&new.body);
            Encoding::Stored
        };
        let small = |n: usize| u32::try_from(n).expect("bodies and marks are bounded far below 4 GiB");
        let header = Header {
            encoding: encoding as u8,
            block_kind: new.kind,
            at: new.at,
            event_bytes: new.event_bytes,
            events: new.events,
            raw_len: small(new.body.len()),
            marks_len: small(marks_len),
            ..Header::plain(Kind::Block, 0, &bytes[HEAD..])
        };
        (header, bytes)
    }

    /// Compresses into the scratch buffer; not if that makes it larger.
    fn compress(&mut self, body: &[u8]) -> bool {
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(self.options.level).ok();
        }
        let Some(compressor) = &mut self.compressor else { return false };
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(body.len()));
        compressor.compress_to_buffer(body, &mut self.scratch).is_ok_and(|len| len < body.len())
    }

    /// Writes a record at the end, and remembers it until it is durable. Returns its offset.
    fn write(&mut self, mut record: Pending, growth: Growth) -> Result<u64, AppendError> {
        let active = self.active.as_mut().expect("make_room began a segment");
        let offset = active.put(&record.header, &mut record.bytes).map_err(room::as_append_error)?;
        self.pending_bytes += record.bytes.len();
        self.pending_marks = growth;
        self.pending.push_back(record);
        Ok(offset)
    }
}

impl Active {
    /// Writes a record, whose bytes have room for its head. What is written of it when that fails is cut off, or
    /// written over later: no checksum fits at another offset.
    fn put(&mut self, header: &Header, bytes: &mut [u8]) -> io::Result<u64> {
        let offset = self.len;
        let synced = u32::try_from(self.synced).expect("segments are bounded far below 4 GiB");
        let head = Header { synced, ..*header }.encode(self.salt, offset);
        bytes[..HEAD].copy_from_slice(&head);
        if let Err(error) = write_all(&*self.file, bytes, offset) {
            let _skipped_by_recovery = self.file.truncate(offset);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(offset)
    }
}

/// Not secret, only different from that of other segments, and not to be guessed by who writes log lines.
fn salt() -> u32 {
    let bits = RandomState::new().build_hasher().finish();
    u32::try_from(bits >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests;
