//! Reads: which block comes next, and its bytes. And what becomes of blocks: taken, given back, done.
//!
//! Invariants: only what is durable and not finished is ever offered. A block that cannot be read is counted as damaged,
//! once, and then it is finished; an I/O error is neither, until the caller gives up what the device refuses.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::Spool;
use crate::block::{Block, Encoding, Seq};
use crate::files::{File, is_media, read_exact};
use crate::frame::{HEAD, Header, Kind};
use crate::options::{MAX_BODY, Unreadable};
use crate::state::{Counts, Finish, Segment, Why};

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

impl ReadError {
    /// Is it the device that cannot give it back? Anything else may pass.
    pub fn is_of_device(&self) -> bool {
        let Self::Io(error) = self;
        is_media(error)
    }
}

impl Spool {
    /// The block that comes next: durable, not finished, not taken.
    pub fn find(&self, order: Order) -> Option<Seq> {
        let free = |seq: &u64| !self.taken.contains_key(seq);
        let is_offered = |segment: &&Segment| !self.set_aside.contains(&segment.id);
        match order {
            Order::OldestFrom(Seq(from)) => {
                let start = self.state.segments.partition_point(|segment| segment.end() <= from);
                let mut segments = self.state.segments.range(start..).filter(is_offered);
                segments.find_map(|segment| forward(segment, from).find(free))
            }
            Order::Newest => {
                let mut segments = self.state.segments.iter().rev().filter(is_offered);
                segments.find_map(|segment| backward(segment).find(free))
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

    /// The segment of this block cannot be read now: [`Spool::find`] offers nothing of it, until it is to again.
    pub fn set_aside(&mut self, seq: Seq, is_aside: bool) {
        let Some(id) = self.state.segment_of(seq.0).map(|position| self.state.segments[position].id) else {
            return;
        };
        if is_aside {
            self.set_aside.insert(id);
        } else {
            self.set_aside.remove(&id);
        }
    }

    /// Is the block in memory?
    pub fn is_cached(&self, seq: Seq) -> bool {
        self.cache.has(seq.0)
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

    /// The device failed too often to give this block back: what it still does not give back counts as damage, and the
    /// segment goes into quarantine when the rest of it is done. Returns the block if it can be read after all. An error
    /// that is not the device's, or that keeps the whole segment from being read, is still one.
    pub fn give_up(&mut self, seq: Seq) -> Result<Option<Arc<Block>>, ReadError> {
        let Some(position) = self.left(seq.0) else { return Ok(None) };
        let id = self.state.segments[position].id;
        let damaged_before = self.state.totals.damaged;
        self.indexes.forget(id.id);
        self.build_index(position, Unreadable::GiveUp)?;
        if self.state.totals.damaged != damaged_before {
            self.unreadable.insert(id);
        }
        let Some(position) = self.left(seq.0) else { return Ok(None) };
        match self.read_disk(position, seq.0) {
            Err(error) if error.is_of_device() => {
                self.unreadable.insert(id);
                let header = self.header(position, seq.0).ok().flatten().map(|(_, header)| header);
                let unknown = Counts { blocks: 1, ..Counts::default() };
                let counts = header.as_ref().map_or(unknown, Counts::of);
                self.damaged(seq.0, counts, header.map_or(0, |header| header.record_len()));
                Ok(None)
            }
            result => result,
        }
    }

    /// When the oldest block that is left was made; of its segment's first block if its head is not at hand.
    pub(super) fn oldest_at(&mut self) -> Option<u64> {
        let position = self.state.segments.iter().position(|segment| segment.left.blocks > 0)?;
        let (id, at) = (self.state.segments[position].id, self.state.segments[position].at);
        let seq = self.state.segments[position].left_from(id.first)?;
        if let Some(block) = self.cache.get(seq) {
            return Some(block.at);
        }
        let is_found = self.indexes.offset(id, self.state.segments[position].nth(seq)).is_some();
        let header = if is_found { self.header(position, seq).ok().flatten() } else { None };
        Some(header.map_or(at, |(_, header)| header.at))
    }

    /// The segment of a block that is left.
    pub(super) fn left(&self, seq: u64) -> Option<usize> {
        self.state.segment_of(seq).filter(|index| self.state.segments[*index].is_left(seq))
    }

    fn read_disk(&mut self, position: usize, seq: u64) -> Result<Option<Arc<Block>>, ReadError> {
        let Some((offset, header)) = self.header(position, seq)? else { return Ok(None) };
        let id = self.state.segments[position].id;
        let Some(file) = self.file(position)? else { return Ok(None) };
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
        let (id, nth) = (self.state.segments[position].id, self.state.segments[position].nth(seq));
        if !self.indexes.has(id) {
            self.build_index(position, Unreadable::Refuse)?;
        }
        let Some(offset) = self.indexes.offset(id, nth) else {
            self.damaged(seq, Counts { blocks: 1, ..Counts::default() }, 0);
            return Ok(None);
        };
        let Some(file) = self.file(position)? else { return Ok(None) };
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

    /// The file of a segment; `None` if it is gone, which is counted.
    fn file(&mut self, position: usize) -> io::Result<Option<Arc<dyn File>>> {
        let id = self.state.segments[position].id;
        if let (true, Some(active)) = (self.is_last(id), &self.active) {
            return Ok(Some(active.file.clone()));
        }
        match self.indexes.file(&*self.files, id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.segment_is_gone(position);
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Its file is not there any more.
    pub(super) fn segment_is_gone(&mut self, position: usize) {
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

pub(super) fn forward(segment: &Segment, from: u64) -> impl Iterator<Item = u64> {
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
