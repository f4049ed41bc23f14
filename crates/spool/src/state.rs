//! What the log means: which blocks there are, which are finished, what the marks say, and how much it all was.
//!
//! Not where bytes are, and no I/O: records go in, at a start as well as after a commit, so that both come to the same.
//!
//! Invariants: `next` only grows. What is left of a segment is what was appended to it and is not finished, to the event.
//! All of it is bounded: [`MAX_SEGMENTS`] times [`MAX_BLOCKS`] bits, and the marks.

mod bits;
mod checkpoint;

use std::collections::VecDeque;
use std::ops::{AddAssign, RangeInclusive};

use crate::block::Mark;
use crate::frame::{Header, SegmentId};
use crate::marks::Marks;
use bits::Bits;
pub(crate) use checkpoint::{decode_finished, encode_finished};

/// Segments at once: 512 GiB in segments of 64 MiB.
pub(crate) const MAX_SEGMENTS: usize = 8192;
/// Blocks of one segment: keeps its index and its bits small.
pub(crate) const MAX_BLOCKS: u32 = 16_384;

/// How much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks.
    pub blocks: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of those events, as their source counts them.
    pub event_bytes: u64,
}

impl Counts {
    pub(crate) fn of(header: &Header) -> Self {
        Self { blocks: 1, events: header.events.into(), event_bytes: header.event_bytes }
    }

    pub(crate) const fn minus(self, other: Self) -> Self {
        Self {
            blocks: self.blocks.saturating_sub(other.blocks),
            events: self.events.saturating_sub(other.events),
            event_bytes: self.event_bytes.saturating_sub(other.event_bytes),
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.blocks = self.blocks.saturating_add(other.blocks);
        self.events = self.events.saturating_add(other.events);
        self.event_bytes = self.event_bytes.saturating_add(other.event_bytes);
    }
}

/// What happened since the spool is new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Was appended and became durable.
    pub appended: Counts,
    /// Was acknowledged.
    pub done: Counts,
    /// Was given up because the spool was full.
    pub dropped: Counts,
    /// Could not be read any more.
    pub damaged: Counts,
    /// Bytes of the log that were not what had been written.
    pub damaged_bytes: u64,
}

/// Why a block is finished. The numbers are on disk: none is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Why {
    Done = 1,
    Dropped = 2,
    Damaged = 3,
}

/// Blocks of one segment that are finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finish {
    pub(crate) why: Why,
    pub(crate) seqs: RangeInclusive<u64>,
    pub(crate) counts: Counts,
    /// Bytes of the log that were damaged.
    pub(crate) bytes: u64,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) blocks: u32,
    pub(crate) len: u64,
    /// When its first block was made.
    pub(crate) at: u64,
    pub(crate) left: Counts,
    finished: Bits,
}

impl Segment {
    pub(crate) fn new(id: SegmentId) -> Self {
        Self { id, blocks: 0, len: 0, at: 0, left: Counts::default(), finished: Bits::default() }
    }

    pub(crate) const fn end(&self) -> u64 {
        self.id.first + self.blocks as u64
    }

    /// Is it there, and not finished?
    pub(crate) fn is_left(&self, seq: u64) -> bool {
        (self.id.first..self.end()).contains(&seq) && !self.finished.get(self.nth(seq))
    }

    /// The first block at or after this one that is left.
    pub(crate) fn left_from(&self, seq: u64) -> Option<u64> {
        let from = self.nth(seq.clamp(self.id.first, self.end()));
        self.finished.next_unset(from, self.blocks).map(|nth| self.id.first + u64::from(nth))
    }

    /// The last block before this one that is left.
    pub(crate) fn left_before(&self, seq: u64) -> Option<u64> {
        let end = self.nth(seq.clamp(self.id.first, self.end()));
        self.finished.last_unset(end).map(|nth| self.id.first + u64::from(nth))
    }

    /// Which block of the segment this is.
    pub(crate) fn nth(&self, seq: u64) -> u32 {
        u32::try_from(seq - self.id.first).unwrap_or(u32::MAX)
    }
}

/// The state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The seq after the last block.
    pub(crate) next: u64,
    pub(crate) totals: Totals,
    /// Oldest first.
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) marks: Marks,
}

impl State {
    /// From here on blocks go into this segment. One before it that got none is no more, and returned.
    pub(crate) fn begin(&mut self, id: SegmentId) -> Option<Segment> {
        let is_empty = self.segments.back().is_some_and(|last| last.blocks == 0);
        let gone = if is_empty { self.segments.pop_back() } else { None };
        self.next = self.next.max(id.first);
        self.segments.push_back(Segment::new(id));
        gone
    }

    /// Takes in a block of the last segment. Seqs that were left out are blocks nobody can read.
    pub(crate) fn block(&mut self, header: &Header, marks: &[Mark]) {
        let lost = header.seq.saturating_sub(self.next);
        if lost > 0 {
            self.lost(header.seq);
        }
        let Some(segment) = self.segments.back_mut() else { return };
        if header.seq != segment.end() {
            return;
        }
        if segment.blocks == 0 {
            segment.at = header.at;
        }
        segment.blocks += 1;
        segment.left += Counts::of(header);
        self.totals.appended += Counts::of(header);
        self.next = segment.end();
        self.marks.apply(marks);
    }

    /// The last segment had blocks up to this seq, and they cannot be read. How many events were in them is unknown.
    pub(crate) fn lost(&mut self, next: u64) {
        let Some(segment) = self.segments.back_mut() else { return };
        let end = next.min(segment.id.first + u64::from(MAX_BLOCKS));
        if end <= segment.end() {
            return;
        }
        let counts = Counts { blocks: end - segment.end(), ..Counts::default() };
        let seqs = segment.end()..=end - 1;
        segment.blocks = segment.nth(end);
        segment.left += counts;
        self.totals.appended += counts;
        self.next = end;
        self.finish(&Finish { why: Why::Damaged, seqs, counts, bytes: 0 });
    }

    /// Blocks are finished. Returns false if none of them was left.
    pub(crate) fn finish(&mut self, finish: &Finish) -> bool {
        let (first, last) = (*finish.seqs.start(), *finish.seqs.end());
        let Some(index) = self.segment_of(first) else { return false };
        let segment = &mut self.segments[index];
        let mut blocks = 0;
        for seq in first..=last.min(segment.end() - 1) {
            blocks += u64::from(segment.finished.set(segment.nth(seq)));
        }
        if blocks == 0 {
            return false;
        }
        let mut counts = Counts { blocks, ..finish.counts };
        counts.events = counts.events.min(segment.left.events);
        counts.event_bytes = counts.event_bytes.min(segment.left.event_bytes);
        segment.left = segment.left.minus(counts);
        // Nobody can say of which lost block these were, but they are lost for sure.
        let rest =
            if segment.left.blocks == 0 { std::mem::take(&mut segment.left) } else { Counts::default() };
        match finish.why {
            Why::Done => self.totals.done += counts,
            Why::Dropped => self.totals.dropped += counts,
            Why::Damaged => self.totals.damaged += counts,
        }
        self.totals.damaged_bytes += finish.bytes;
        self.totals.damaged += rest;
        true
    }

    /// All that is left of a segment, as one entry.
    pub(crate) fn rest_of(&self, index: usize, why: Why) -> Option<Finish> {
        let segment = &self.segments[index];
        let (first, last) = (segment.left_from(segment.id.first)?, segment.left_before(segment.end())?);
        Some(Finish { why, seqs: first..=last, counts: segment.left, bytes: 0 })
    }

    /// What was given up was delivered after all.
    pub(crate) fn delivered(&mut self, counts: Counts) {
        self.totals.dropped = self.totals.dropped.minus(counts);
        self.totals.done += counts;
    }

    /// The segment of this name.
    pub(crate) fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.binary_search_by_key(&id, |segment| segment.id).ok().map(|index| &self.segments[index])
    }

    /// The segment that a block is in.
    pub(crate) fn segment_of(&self, seq: u64) -> Option<usize> {
        let index = self.segments.partition_point(|s| s.id.first <= seq).checked_sub(1)?;
        (self.segments[index].end() > seq).then_some(index)
    }

    /// What waits.
    pub(crate) fn left(&self) -> Counts {
        let mut left = Counts::default();
        self.segments.iter().for_each(|segment| left += segment.left);
        left
    }
}

#[cfg(test)]
mod tests;
