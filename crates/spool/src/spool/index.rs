//! Where the blocks of a segment are, and how that is found out: a walk over its file, on any thread.
//!
//! Invariants: the index of the segment that is written to stays. What the walk does not find and what should be there is
//! counted as damaged, once.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Spool;
use super::read::{ReadError, forward};
use crate::block::Seq;
use crate::files::{File, Files};
use crate::frame::{HEAD, Kind, SegmentId};
use crate::options::Unreadable;
use crate::state::{Counts, Finish, Why};
use crate::walk::{Item, Walk};

/// Indexes that are kept: 64 KiB at most for each.
const MAX_INDEXES: usize = 64;

/// Where the blocks of some segments are.
#[derive(Default)]
pub(super) struct Indexes {
    /// By the segment's id.
    known: BTreeMap<u64, Index>,
    /// Least lately built first.
    order: VecDeque<u64>,
    /// The segment that is written to. Its index stays.
    last: Option<u64>,
}

struct Index {
    id: SegmentId,
    file: Option<Arc<dyn File>>,
    /// 0: not there.
    offsets: Vec<u32>,
}

impl Indexes {
    pub(super) fn begin(&mut self, id: SegmentId) {
        self.last = Some(id.id);
        self.put(Index { id, file: None, offsets: Vec::new() });
    }

    fn put(&mut self, index: Index) {
        self.forget(index.id.id);
        self.order.push_back(index.id.id);
        self.known.insert(index.id.id, index);
        let is_spare = |id: &&u64| Some(**id) != self.last;
        if self.order.len() > MAX_INDEXES
            && let Some(oldest) = self.order.iter().find(is_spare).copied()
        {
            self.forget(oldest);
        }
    }

    /// A block was written there, in the last segment.
    pub(super) fn note(&mut self, seq: u64, offset: u64) {
        if let Some(index) = self.last.and_then(|id| self.known.get_mut(&id)) {
            let nth = usize::try_from(seq - index.id.first).expect("a segment has few blocks");
            index.offsets.resize(nth.max(index.offsets.len()), 0);
            index.offsets.push(u32::try_from(offset).expect("segments are bounded far below 4 GiB"));
        }
    }

    pub(super) fn forget(&mut self, id: u64) {
        self.known.remove(&id);
        self.order.retain(|known| *known != id);
    }

    /// Blocks from this one on are elsewhere now.
    pub(super) fn forget_from(&mut self, seq: u64) {
        for index in self.known.values_mut() {
            let kept = seq.saturating_sub(index.id.first);
            index.offsets.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
    }

    pub(super) fn has(&self, id: SegmentId) -> bool {
        self.known.contains_key(&id.id)
    }

    /// Where a block is, if that is known and it is there.
    pub(super) fn offset(&self, id: SegmentId, nth: u32) -> Option<u64> {
        let offset = self.known.get(&id.id)?.offsets.get(nth as usize)?;
        (*offset > 0).then_some((*offset).into())
    }

    /// The file of a segment; opens it once.
    pub(super) fn file(&mut self, files: &dyn Files, id: SegmentId) -> io::Result<Arc<dyn File>> {
        let known = self.known.get_mut(&id.id);
        if let Some(file) = known.as_ref().and_then(|index| index.file.clone()) {
            return Ok(file);
        }
        let file = files.open(&id.name())?;
        if let Some(index) = known {
            index.file = Some(file.clone());
        }
        Ok(file)
    }
}

/// A walk over a segment, to be run on any thread, because it takes long on a slow disk. What comes of it is told to
/// [`Spool::index_end`].
#[must_use = "nothing is known before it ran"]
pub struct IndexJob {
    files: Arc<dyn Files>,
    id: SegmentId,
    /// The seq after its last block, and after its last durable one.
    end: u64,
    durable: u64,
    unreadable: Unreadable,
}

/// What stands in a segment.
#[must_use = "the spool is to know"]
pub struct Indexed {
    id: SegmentId,
    scan: io::Result<Scan>,
}

struct Scan {
    file: Arc<dyn File>,
    blocks: Vec<(u64, u32, Counts)>,
    bad: Vec<Range<u64>>,
}

impl IndexJob {
    /// Runs it. Blocking.
    pub fn run(self) -> Indexed {
        Indexed { id: self.id, scan: self.scan() }
    }

    fn scan(&self) -> io::Result<Scan> {
        let file = self.files.open(&self.id.name())?;
        file.will_need();
        let (mut blocks, mut bad) = (Vec::new(), Vec::new());
        let accept = self.unreadable == Unreadable::GiveUp;
        let mut walk = Walk::new(&*file, self.id.salt, HEAD as u64, false, accept)?;
        let mut next = self.id.first;
        while let Some((range, item)) = walk.next()? {
            match item {
                Item::Record(header)
                    if header.kind == Kind::Block && (next..self.end).contains(&header.seq) =>
                {
                    next = header.seq + 1;
                    let offset = u32::try_from(range.start).unwrap_or_default();
                    blocks.push((header.seq, offset, Counts::of(&header)));
                }
                // Behind the last block that counts anything may be.
                Item::Bad(_) if next < self.durable => bad.push(range),
                _ => {}
            }
        }
        Ok(Scan { file, blocks, bad })
    }
}

impl Spool {
    /// What is to be run before this block can be read without a long wait, if so.
    pub fn index_job(&self, seq: Seq) -> Option<IndexJob> {
        let position = self.left(seq.0)?;
        let is_at_hand = self.cache.has(seq.0) || self.indexes.has(self.state.segments[position].id);
        (!is_at_hand).then(|| self.job(position, Unreadable::Refuse))
    }

    /// Takes in where the blocks of a segment are.
    pub fn index_end(&mut self, indexed: Indexed) -> Result<(), ReadError> {
        let Indexed { id, scan } = indexed;
        let position = self.state.segments.binary_search_by_key(&id, |segment| segment.id);
        // It may be gone by now, or somebody could not wait.
        let Some(position) = position.ok().filter(|_| !self.indexes.has(id)) else { return Ok(()) };
        match scan {
            Ok(scan) => self.take_scan(position, scan),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.segment_is_gone(position),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Looks where the blocks of a segment are. Blocking.
    pub(super) fn build_index(&mut self, position: usize, unreadable: Unreadable) -> Result<(), ReadError> {
        let indexed = self.job(position, unreadable).run();
        self.index_end(indexed)
    }

    fn job(&self, position: usize, unreadable: Unreadable) -> IndexJob {
        let segment = &self.state.segments[position];
        let (id, durable) = (segment.id, segment.end());
        // The last segment has blocks that are not durable yet; their places must not get lost.
        let end = if self.active.is_some() && self.is_last(id) { self.next } else { durable };
        IndexJob { files: self.files.clone(), id, end, durable, unreadable }
    }

    /// Those that should be there and are not are damaged: how many events they held is what is left of the segment
    /// without those that are there.
    fn take_scan(&mut self, position: usize, scan: Scan) {
        let segment = &self.state.segments[position];
        let id = segment.id;
        let mut offsets = Vec::new();
        let mut there = Counts::default();
        for (seq, offset, counts) in scan.blocks {
            offsets.resize(segment.nth(seq) as usize, 0);
            offsets.push(offset);
            if segment.is_left(seq) {
                there += counts;
            }
        }
        let is_there = |seq: &u64| offsets.get(segment.nth(*seq) as usize).is_some_and(|offset| *offset > 0);
        let mut lost = Vec::new();
        for seq in forward(segment, id.first).filter(|seq| !is_there(seq)) {
            // Who has it may deliver it all the same.
            match self.taken.get(&seq).copied().flatten() {
                Some(counts) => there += counts,
                None => lost.push(seq),
            }
        }
        let mut missing = segment.left.minus(there);
        // Without a loss the bad places were counted when they were found first.
        let mut bytes = 0;
        for range in scan.bad.iter().filter(|_| !lost.is_empty()) {
            bytes += range.end - range.start;
            self.quarantine.keep(&*self.files, id, &*scan.file, range.start, range.end - range.start);
        }
        for seq in lost {
            self.cache.remove(seq);
            let counts = Counts { blocks: 1, ..std::mem::take(&mut missing) };
            let bytes = std::mem::take(&mut bytes);
            self.finish(Finish { why: Why::Damaged, seqs: seq..=seq, counts, bytes });
        }
        self.indexes.put(Index { id, file: Some(scan.file), offsets });
    }
}
