//! Reads: which block comes next, and its bytes. And what becomes of blocks: taken, given back, done.
//!
//! Invariants: only what is durable and not finished is ever offered. A block that cannot be read is counted as damaged,
//! once, and then it is finished; an I/O error is neither.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::Spool;
use crate::block::{Block, Encoding, Seq};
use crate::files::{File, read_exact};
use crate::frame::{HEAD, Header, Kind, SegmentId};
use crate::options::MAX_BODY;
use crate::state::{Counts, Finish, Segment, Why};
use crate::walk::{Item, Walk};

/// Indexes that are kept: 64 KiB at most for each.
const MAX_INDEXES: usize = 64;

/// From which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first at or after this one.
    OldestFrom(Seq),
    /// The last of all.
    Newest,
}

/// Why a block was not read. It may be tried again.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The disk cannot be read.
    #[error("cannot read the spool: {0}")]
    Io(#[from] io::Error),
}

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
}

impl Spool {
    /// The block that comes next: durable, not finished, not taken.
    pub fn find(&self, order: Order) -> Option<Seq> {
        let free = |seq: &u64| !self.taken.contains_key(seq);
        match order {
            Order::OldestFrom(Seq(from)) => {
                let start = self.state.segments.partition_point(|segment| segment.end() <= from);
                self.state.segments.range(start..).find_map(|segment| forward(segment, from).find(free))
            }
            Order::Newest => {
                self.state.segments.iter().rev().find_map(|segment| backward(segment).find(free))
            }
        }
        .map(Seq)
    }

    /// Notes that somebody has it: [`Spool::find`] does not offer it until it is given back.
    pub fn take(&mut self, seq: Seq) {
        self.taken.entry(seq.0).or_default();
    }

    /// Nobody has it any more.
    pub fn give_back(&mut self, seq: Seq) {
        self.taken.remove(&seq.0);
        self.dropped_taken.remove(&seq.0);
    }

    /// Blocks that are taken.
    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// A block; `None` if it is not there, is finished, or turned out to be damaged, which is counted then.
    pub fn read(&mut self, seq: Seq) -> Result<Option<Arc<Block>>, ReadError> {
        let Some(position) = self.left(seq.0) else { return Ok(None) };
        let block = match self.cache.get(seq.0) {
            Some(block) => Some(block),
            None => self.read_disk(position, seq.0)?,
        };
        if let Some(block) = &block
            && let Some(counts) = self.taken.get_mut(&seq.0)
        {
            let (events, event_bytes) = (block.events.into(), block.event_bytes);
            *counts = Some(Counts { blocks: 1, events, event_bytes });
        }
        Ok(block)
    }

    /// The block was delivered. Says whether it was not finished before. Durable with the next commit.
    pub fn done(&mut self, seq: Seq) -> Result<bool, ReadError> {
        let Some(position) = self.left(seq.0) else {
            self.taken.remove(&seq.0);
            let dropped = self.dropped_taken.remove(&seq.0);
            dropped.into_iter().for_each(|counts| self.state.delivered(counts));
            return Ok(dropped.is_some());
        };
        let known = self.taken.get(&seq.0).copied().flatten();
        let counts = match known {
            Some(counts) => counts,
            None => match self.header(position, seq.0)? {
                Some((_, header)) => Counts::of(&header),
                None => return Ok(false),
            },
        };
        self.taken.remove(&seq.0);
        self.cache.remove(seq.0);
        self.finish(Finish { why: Why::Done, seqs: seq.0..=seq.0, counts, bytes: 0 });
        Ok(true)
    }

    /// This block failed to be read too often: what the disk does not give counts as damage. Returns the block if it can be
    /// read after all.
    pub fn give_up(&mut self, seq: Seq) -> Option<Arc<Block>> {
        let position = self.left(seq.0)?;
        let id = self.state.segments[position].id;
        self.indexes.forget(id.id);
        if self.build_index(position, true).is_err() {
            self.segment_is_gone(position);
            return None;
        }
        let position = self.left(seq.0)?;
        self.read_disk(position, seq.0).unwrap_or_else(|_| {
            let counts = Counts { blocks: 1, ..Counts::default() };
            self.damaged(seq.0, counts, 0);
            None
        })
    }

    /// When the oldest block that is left was made; of its segment's first block if its head is not at hand.
    pub(super) fn oldest_at(&mut self) -> Option<u64> {
        let position = self.state.segments.iter().position(|segment| segment.left.blocks > 0)?;
        let (id, at) = (self.state.segments[position].id, self.state.segments[position].at);
        let seq = self.state.segments[position].left_from(id.first)?;
        if let Some(block) = self.cache.get(seq) {
            return Some(block.at);
        }
        let has_index = self.indexes.known.contains_key(&id.id);
        let header = if has_index { self.header(position, seq).ok().flatten() } else { None };
        Some(header.map_or(at, |(_, header)| header.at))
    }

    /// The segment of a block that is left.
    fn left(&self, seq: u64) -> Option<usize> {
        self.state.segment_of(seq).filter(|index| self.state.segments[*index].is_left(seq))
    }

    fn read_disk(&mut self, position: usize, seq: u64) -> Result<Option<Arc<Block>>, ReadError> {
        let Some((offset, header)) = self.header(position, seq)? else { return Ok(None) };
        let id = self.state.segments[position].id;
        let file = self.file(id)?;
        let mut body = vec![0; header.len as usize];
        match read_exact(&*file, &mut body, offset + HEAD as u64) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => {}
        }
        let is_whole = crc32fast::hash(&body) == header.body_crc;
        let Some(body) = Some(body).filter(|_| is_whole).and_then(|body| unpack(&header, body)) else {
            self.quarantine.keep(&*self.files, id, &*file, offset, header.record_len());
            self.damaged(seq, Counts::of(&header), header.record_len());
            return Ok(None);
        };
        let Header { block_kind: kind, events, event_bytes, at, .. } = header;
        Ok(Some(Arc::new(Block { seq: Seq(seq), kind, events, event_bytes, at, body })))
    }

    /// Where a block is, and its head. `None` if that is damaged, which is counted.
    fn header(&mut self, position: usize, seq: u64) -> Result<Option<(u64, Header)>, ReadError> {
        let (id, nth) = (self.state.segments[position].id, self.state.segments[position].nth(seq) as usize);
        if !self.indexes.known.contains_key(&id.id) {
            match self.build_index(position, false) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.segment_is_gone(position),
                result => result?,
            }
        }
        let offset = self.indexes.known.get(&id.id).and_then(|index| index.offsets.get(nth).copied());
        let Some(offset) = offset.filter(|offset| *offset > 0).map(u64::from) else {
            self.damaged(seq, Counts { blocks: 1, ..Counts::default() }, 0);
            return Ok(None);
        };
        let file = self.file(id)?;
        let mut bytes = [0; HEAD];
        match read_exact(&*file, &mut bytes, offset) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => {}
        }
        let header =
            Header::decode(&bytes, id.salt, offset).filter(|h| h.kind == Kind::Block && h.seq == seq);
        if header.is_none() {
            self.damaged(seq, Counts { blocks: 1, ..Counts::default() }, HEAD as u64);
        }
        Ok(header.map(|header| (offset, header)))
    }

    fn file(&mut self, id: SegmentId) -> io::Result<Arc<dyn File>> {
        if let (true, Some(active)) = (self.is_last(id), &self.active) {
            return Ok(active.file.clone());
        }
        let known = self.indexes.known.get_mut(&id.id);
        if let Some(file) = known.as_ref().and_then(|index| index.file.clone()) {
            return Ok(file);
        }
        let file = self.files.open(&id.name())?;
        if let Some(index) = known {
            index.file = Some(file.clone());
        }
        Ok(file)
    }

    /// Looks where the blocks of a segment are. Those that should be there and are not are damaged: how many events they
    /// held is what is left of the segment without those that are there.
    fn build_index(&mut self, position: usize, accept_unreadable: bool) -> io::Result<()> {
        let segment = &self.state.segments[position];
        let id = segment.id;
        let file = self.files.open(&id.name())?;
        // The last segment has blocks that are not durable yet; their places must not get lost.
        let end = if self.active.is_some() && self.is_last(id) { self.next } else { segment.end() };
        let mut offsets = vec![0; segment.nth(end) as usize];
        let (mut there, mut bad) = (Counts::default(), Vec::new());
        let mut walk = Walk::new(&*file, id.salt, HEAD as u64, false, accept_unreadable)?;
        let mut next = id.first;
        while let Some((range, item)) = walk.next()? {
            match item {
                Item::Record(header) if header.kind == Kind::Block && (next..end).contains(&header.seq) => {
                    next = header.seq + 1;
                    offsets[segment.nth(header.seq) as usize] =
                        u32::try_from(range.start).unwrap_or_default();
                    if segment.is_left(header.seq) {
                        there += Counts::of(&header);
                    }
                }
                // Behind the last block that counts anything may be.
                Item::Bad(_) if next < segment.end() => bad.push(range),
                _ => {}
            }
        }
        let mut missing = segment.left.minus(there);
        let lost: Vec<u64> =
            forward(segment, id.first).filter(|seq| offsets[segment.nth(*seq) as usize] == 0).collect();
        // Without a loss the bad places were counted when they were found first.
        let mut bytes = 0;
        for range in bad.iter().filter(|_| !lost.is_empty()) {
            bytes += range.end - range.start;
            self.quarantine.keep(&*self.files, id, &*file, range.start, range.end - range.start);
        }
        for seq in lost {
            self.cache.remove(seq);
            let counts = Counts { blocks: 1, ..std::mem::take(&mut missing) };
            self.finish(Finish {
                why: Why::Damaged,
                seqs: seq..=seq,
                counts,
                bytes: std::mem::take(&mut bytes),
            });
        }
        self.indexes.put(Index { id, file: Some(file), offsets });
        Ok(())
    }

    fn segment_is_gone(&mut self, position: usize) {
        if let Some(rest) = self.state.rest_of(position, Why::Damaged) {
            self.finish(Finish { bytes: self.state.segments[position].len, ..rest });
        }
    }

    fn damaged(&mut self, seq: u64, counts: Counts, bytes: u64) {
        if self.left(seq).is_some() {
            self.cache.remove(seq);
            self.finish(Finish { why: Why::Damaged, seqs: seq..=seq, counts, bytes });
        }
    }
}

fn forward(segment: &Segment, from: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(segment.left_from(from), |seq| segment.left_from(seq + 1))
}

fn backward(segment: &Segment) -> impl Iterator<Item = u64> {
    std::iter::successors(segment.left_before(segment.end()), |seq| segment.left_before(*seq))
}

/// The payload of a block's body.
fn unpack(header: &Header, body: Vec<u8>) -> Option<Bytes> {
    let body = Bytes::from(body);
    let start = header.marks_len as usize;
    let payload = (start <= body.len()).then(|| body.slice(start..))?;
    if header.encoding == Encoding::Stored as u8 {
        return Some(payload);
    }
    let raw_len = header.raw_len as usize;
    let is_known = header.encoding == Encoding::Zstd as u8 && raw_len <= MAX_BODY;
    let raw = is_known.then(|| zstd::bulk::decompress(&payload, raw_len).ok())??;
    (raw.len() == raw_len).then(|| Bytes::from(raw))
}
