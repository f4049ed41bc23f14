//! The window that is being read: what is missing, what its unit holds, whether it can be kept as it came.
//!
//! Not the bytes of its events: those are with the sink.
//!
//! Invariant: `verbatim` is there only when inflating it gives exactly the events that the sink was given.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::acks::{Acks, Unit};
use super::{Sink, WindowEnd};
use crate::frame::{Event, Payload, Version};
use crate::limits::{BARREN, Limits, RATIO_FROM};
use crate::refused::Refused;

#[derive(Debug)]
pub(super) struct Window {
    version: Version,
    /// Events that are still to come.
    left: u32,
    /// Events of the current unit.
    events: u32,
    unit_bytes: u64,
    last_seq: u32,
    compressed: u64,
    inflated: u64,
    /// Compressed bytes of which nothing came.
    barren: u64,
    kept: Kept,
}

/// The compressed frame as it came.
#[derive(Debug)]
enum Kept {
    /// Nothing came yet.
    Nothing,
    /// All there is so far.
    Whole(BytesMut),
    /// Not what the whole window is, or too large.
    Gone,
}

impl Window {
    pub(super) fn new(version: Version, events: u32) -> Self {
        let kept = if version == Version::V2 { Kept::Nothing } else { Kept::Gone };
        Self {
            version,
            left: events,
            events: 0,
            unit_bytes: 0,
            last_seq: 0,
            compressed: 0,
            inflated: 0,
            barren: 0,
            kept,
        }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// Bytes of the unit's events, and of the stream that is kept.
    pub(super) fn bytes(&self) -> u64 {
        let kept = if let Kept::Whole(kept) = &self.kept { kept.len() as u64 } else { 0 };
        self.unit_bytes + kept
    }

    pub(super) fn begin_compressed(&mut self, size: u32, limits: &Limits) {
        self.kept = match self.kept {
            Kept::Nothing if size as usize <= limits.verbatim => Kept::Whole(BytesMut::new()),
            _ => Kept::Gone,
        };
    }

    /// An event came that is not in a compressed frame.
    pub(super) fn plain(&mut self) {
        self.kept = Kept::Gone;
    }

    pub(super) fn keep(&mut self, bytes: &[u8], limits: &Limits) {
        if let Kept::Whole(kept) = &mut self.kept {
            if kept.len() + bytes.len() <= limits.verbatim {
                kept.extend_from_slice(bytes);
            } else {
                self.kept = Kept::Gone;
            }
        }
    }

    /// Counts what came out of compressed bytes, and refuses a bomb, and a stream that only goes on.
    pub(super) fn inflated(&mut self, taken: usize, made: usize, limits: &Limits) -> Result<(), Refused> {
        self.compressed += taken as u64;
        self.inflated += made as u64;
        self.barren = if made == 0 { self.barren + taken as u64 } else { 0 };
        if self.barren > BARREN {
            return Err(Refused::Barren { compressed: self.barren });
        }
        let denser = |ratio: u32| self.inflated > self.compressed.saturating_mul(u64::from(ratio));
        let bomb = self.inflated > RATIO_FROM && denser(limits.ratio);
        if bomb || self.inflated > limits.inflated && denser(limits.dense) {
            return Err(Refused::TooDense { compressed: self.compressed, inflated: self.inflated });
        }
        Ok(())
    }

    pub(super) fn event(&mut self, event: &Event<'_>, limits: &Limits) {
        self.left -= 1;
        self.events += 1;
        self.unit_bytes += event.payload.len() as u64;
        self.last_seq = event.seq;
        let in_order = event.seq == self.events && matches!(event.payload, Payload::Json(_));
        if !in_order || self.is_full(limits) && self.left > 0 {
            self.kept = Kept::Gone;
        }
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.events >= limits.window || self.unit_bytes >= limits.unit as u64
    }

    /// Hands over what is there, if it is enough for a unit and not all.
    pub(super) fn close_part(
        &mut self,
        limits: &Limits,
        acks: &mut Acks,
        now: Duration,
        sink: &mut impl Sink,
    ) {
        if self.left > 0 && self.is_full(limits) {
            self.hand_over(None, acks, now, sink);
            (self.events, self.unit_bytes) = (0, 0);
        }
    }

    /// Hands over the rest.
    pub(super) fn close(mut self, acks: &mut Acks, now: Duration, sink: &mut impl Sink) {
        let verbatim = match std::mem::replace(&mut self.kept, Kept::Gone) {
            Kept::Whole(kept) => Some(kept.freeze()),
            Kept::Nothing | Kept::Gone => None,
        };
        self.hand_over(verbatim, acks, now, sink);
    }

    fn hand_over(&self, verbatim: Option<Bytes>, acks: &mut Acks, now: Duration, sink: &mut impl Sink) {
        let last = self.left == 0;
        let ack = last.then_some((self.version, self.last_seq));
        let number = acks.add(Unit { ack, bytes: self.unit_bytes, accepted: false }, now);
        let (events, last_seq, event_bytes) = (self.events, self.last_seq, self.unit_bytes);
        sink.window(WindowEnd { number, events, last_seq, event_bytes, last, verbatim });
    }
}

#[cfg(test)]
impl Window {
    pub(super) fn kept_capacity(&self) -> usize {
        match &self.kept {
            Kept::Whole(kept) => kept.capacity(),
            Kept::Nothing | Kept::Gone => 0,
        }
    }
}
