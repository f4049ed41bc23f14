//! The bytes of the state, and of a `finished` record. `docs/spool-format.md` has the tables.
//!
//! Invariant: `decode` returns what was given to `encode`, or nothing; it refuses states that cannot be.

use super::bits::Bits;
use super::{Counts, Finish, MAX_BLOCKS, MAX_SEGMENTS, Segment, State, Totals, Why};
use crate::codec::{Input, put_u32, put_u64};
use crate::frame::SegmentId;
use crate::marks::{self, Marks};

/// Bytes of one entry of a `finished` record.
const FINISH: usize = 49;

impl State {
    /// The state. Segments without blocks are left out: the last one, if it is the one this is written into.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Vec::new();
        let totals = &self.totals;
        for counts in [totals.appended, totals.done, totals.dropped, totals.damaged] {
            put_counts(&mut to, counts);
        }
        put_u64(&mut to, totals.damaged_bytes);
        let with_blocks = || self.segments.iter().filter(|segment| segment.blocks > 0);
        put_u32(&mut to, u32::try_from(with_blocks().count()).expect("segments are bounded"));
        for segment in with_blocks() {
            put_u64(&mut to, segment.id.first);
            put_u64(&mut to, segment.id.id);
            put_u32(&mut to, segment.id.salt);
            put_u32(&mut to, segment.blocks);
            put_u64(&mut to, segment.len);
            put_u64(&mut to, segment.at);
            put_counts(&mut to, segment.left);
            to.push(u8::from(!segment.finished.is_empty()));
            if !segment.finished.is_empty() {
                to.extend_from_slice(&segment.finished.to_bytes(segment.blocks));
            }
        }
        marks::encode(&self.marks.list(), &mut to);
        to
    }

    /// The state at the beginning of this segment.
    pub(crate) fn decode(bytes: &[u8], id: SegmentId) -> Option<Self> {
        let mut input = Input::new(bytes);
        let mut state = Self {
            totals: Totals {
                appended: counts(&mut input)?,
                done: counts(&mut input)?,
                dropped: counts(&mut input)?,
                damaged: counts(&mut input)?,
                damaged_bytes: input.u64()?,
            },
            ..Self::default()
        };
        let older = usize::try_from(input.u32()?).ok().filter(|n| *n <= MAX_SEGMENTS)?;
        for _ in 0..older {
            let found = segment(&mut input)?;
            let is_in_order = found.id.first >= state.next && found.end() <= id.first;
            if !is_in_order {
                return None;
            }
            state.next = found.end();
            state.segments.push_back(found);
        }
        let mut known = Marks::default();
        known.apply(&marks::decode(&mut input)?);
        state.marks = known;
        state.begin(id);
        input.is_empty().then_some(state)
    }
}

fn segment(input: &mut Input<'_>) -> Option<Segment> {
    let id = SegmentId { first: input.u64()?, id: input.u64()?, salt: input.u32()? };
    let blocks = input.u32().filter(|n| (1..=MAX_BLOCKS).contains(n))?;
    id.first.checked_add(blocks.into())?;
    let (len, at, left) = (input.u64()?, input.u64()?, counts(input)?);
    let finished = match input.u8()? {
        0 => Bits::default(),
        1 => Bits::from_bytes(input.take(blocks.div_ceil(8) as usize)?),
        _ => return None,
    };
    Some(Segment { id, blocks, len, at, left, finished })
}

fn put_counts(to: &mut Vec<u8>, counts: Counts) {
    put_u64(to, counts.blocks);
    put_u64(to, counts.events);
    put_u64(to, counts.event_bytes);
}

fn counts(input: &mut Input<'_>) -> Option<Counts> {
    Some(Counts { blocks: input.u64()?, events: input.u64()?, event_bytes: input.u64()? })
}

/// The body of a `finished` record.
pub(crate) fn encode_finished(entries: &[Finish]) -> Vec<u8> {
    let mut to = Vec::with_capacity(4 + entries.len() * FINISH);
    put_u32(&mut to, u32::try_from(entries.len()).expect("entries are bounded"));
    for entry in entries {
        to.push(entry.why as u8);
        put_u64(&mut to, *entry.seqs.start());
        put_u64(&mut to, *entry.seqs.end());
        put_counts(&mut to, entry.counts);
        put_u64(&mut to, entry.bytes);
    }
    to
}

/// The entries of a `finished` record.
pub(crate) fn decode_finished(bytes: &[u8]) -> Option<Vec<Finish>> {
    let mut input = Input::new(bytes);
    let mut entries = Vec::new();
    for _ in 0..input.u32()? {
        let why = match input.u8()? {
            1 => Why::Done,
            2 => Why::Dropped,
            3 => Why::Damaged,
            _ => return None,
        };
        let (first, last) = (input.u64()?, input.u64()?);
        entries.push(Finish { why, seqs: first..=last, counts: counts(&mut input)?, bytes: input.u64()? });
    }
    input.is_empty().then_some(entries)
}
