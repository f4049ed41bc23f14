//! The events of one unit, from the first to the block that is kept of them. Pure.
//!
//! Events are copied into one buffer as they come: only at the end is it known whether the unit can be kept as
//! it came.
//!
//! Invariant: every event is in the block or among the dead letters, in its order, once.

use std::net::SocketAddr;

use bytes::Bytes;
use pikepole_lumberjack::encode::{WindowEncoder, v1_to_json};
use pikepole_lumberjack::{Payload, WindowEnd};
use pikepole_spool::{Encoding, NewBlock};

use super::check::fault;
use crate::dead::Letter;
use crate::wire;

/// A buffer that had to grow for a large unit is given back above this.
const KEEP_BUFFER: usize = 2 << 20;

/// Events on their way.
#[derive(Debug)]
pub(super) struct Unit {
    peer: SocketAddr,
    /// The payloads, one after the other.
    payloads: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// Those that cannot go on, and why.
    faults: Vec<(usize, String)>,
    /// The unit as it came, if that is what can be kept.
    verbatim: Option<Bytes>,
    event_bytes: u64,
    events: u64,
}

impl Unit {
    /// An empty one.
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            payloads: Vec::new(),
            ends: Vec::new(),
            faults: Vec::new(),
            verbatim: None,
            event_bytes: 0,
            events: 0,
        }
    }

    /// Takes an event in.
    pub(super) fn push(&mut self, payload: Payload<'_>) {
        let begin = self.payloads.len();
        match payload {
            Payload::Json(json) => self.payloads.extend_from_slice(json),
            Payload::Pairs(pairs) => self.payloads.extend_from_slice(&v1_to_json(pairs)),
        }
        if let Some(why) = fault(&self.payloads[begin..]) {
            self.faults.push((self.ends.len(), why));
        }
        self.ends.push(self.payloads.len());
    }

    /// The whole unit, as it is to be stored; this one begins anew.
    pub(super) fn finish(&mut self, end: WindowEnd) -> Self {
        let mut unit = Self::new(self.peer);
        unit.faults = std::mem::take(&mut self.faults);
        (unit.event_bytes, unit.events) = (end.event_bytes, u64::from(end.events));
        match end.verbatim {
            // Nothing of it is needed one by one, and the buffers stay where they are.
            Some(verbatim) if unit.faults.is_empty() => {
                unit.verbatim = Some(verbatim);
                self.payloads.clear();
                self.payloads.shrink_to(KEEP_BUFFER);
                self.ends.clear();
            }
            _ => {
                unit.payloads = std::mem::take(&mut self.payloads);
                unit.ends = std::mem::take(&mut self.ends);
            }
        }
        unit
    }

    /// Events of the unit.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Events that cannot go on.
    pub(super) fn letters(&self) -> u64 {
        self.faults.len() as u64
    }

    /// Those events.
    pub(super) fn dead_letters(&self) -> Vec<Letter> {
        let letter = |(index, why): &(usize, String)| Letter {
            source: format!("relay {}", self.peer),
            reason: why.clone(),
            event: self.payload(*index).to_vec(),
        };
        self.faults.iter().map(letter).collect()
    }

    /// Whether [`Unit::into_block`] takes milliseconds.
    pub(super) fn needs_encoding(&self) -> bool {
        self.verbatim.is_none()
    }

    /// What is kept; `None`: no event can go on. `at` is in milliseconds since 1970.
    pub(super) fn into_block(self, level: u32, at: u64) -> Option<NewBlock> {
        let block = |events, event_bytes, body| NewBlock {
            kind: wire::WINDOW,
            events,
            event_bytes,
            at,
            encoding: Encoding::Stored,
            body,
            marks: Vec::new(),
        };
        if let Some(body) = self.verbatim {
            return Some(block(u32::try_from(self.events).ok()?, self.event_bytes, body));
        }
        let mut encoder = WindowEncoder::new();
        encoder.begin(level);
        let mut faults = self.faults.iter().map(|(index, _)| *index).peekable();
        for index in 0..self.ends.len() {
            if faults.next_if_eq(&index).is_none() {
                let is_in = encoder.push(self.payload(index));
                debug_assert!(is_in, "a unit is far smaller than what a window may have");
            }
        }
        let window = encoder.finish();
        (window.events > 0).then(|| block(window.events, window.event_bytes, window.body))
    }

    fn payload(&self, index: usize) -> &[u8] {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.payloads[begin..self.ends[index]]
    }
}

#[cfg(test)]
mod tests {
    use pikepole_lumberjack::{Limits, encode};

    use super::*;

    fn end(events: u32, verbatim: Option<&'static [u8]>) -> WindowEnd {
        WindowEnd {
            number: 0,
            events,
            last_seq: events,
            event_bytes: 7,
            last: true,
            verbatim: verbatim.map(Bytes::from_static),
        }
    }

    fn unit(events: &[&str], verbatim: Option<&'static [u8]>) -> Unit {
        let mut unit = Unit::new("127.0.0.1:9".parse().unwrap());
        for event in events {
            unit.push(Payload::Json(event.as_bytes()));
        }
        unit.finish(end(u32::try_from(events.len()).unwrap(), verbatim))
    }

    fn read(block: &NewBlock) -> Vec<String> {
        let mut events = Vec::new();
        let mut keep = |event: &[u8]| events.push(String::from_utf8(event.to_vec()).unwrap());
        encode::events(&block.body, true, &Limits::default(), &mut keep).unwrap();
        events
    }

    #[test]
    fn a_whole_window_is_kept_as_it_came() {
        let unit = unit(&["{}", "{\"a\":1}"], Some(b"zlib"));
        assert!(!unit.needs_encoding());
        let block = unit.into_block(3, 5).unwrap();
        assert_eq!((block.events, block.event_bytes, block.at), (2, 7, 5));
        assert_eq!(
            (&block.body[..], block.kind, block.encoding),
            (&b"zlib"[..], wire::WINDOW, Encoding::Stored)
        );
    }

    #[test]
    fn an_event_that_cannot_go_on_is_a_dead_letter_and_the_others_go() {
        for verbatim in [None, Some(&b"zlib"[..])] {
            let unit = unit(&["{\"a\":1}", "{half", "{}", "[]"], verbatim);
            let letters = unit.dead_letters();
            assert_eq!((unit.events(), unit.letters()), (4, 2));
            assert_eq!((&letters[0].event[..], &letters[1].event[..]), (&b"{half"[..], &b"[]"[..]));
            assert_eq!(letters[0].source, "relay 127.0.0.1:9");
            let block = unit.into_block(3, 5).unwrap();
            assert_eq!((block.events, block.event_bytes), (2, 9));
            assert_eq!(read(&block), ["{\"a\":1}", "{}"]);
        }
    }

    #[test]
    fn a_unit_of_which_nothing_can_go_on_is_no_block() {
        assert_eq!(unit(&["x", "y"], Some(b"zlib")).into_block(3, 5), None);
    }

    #[test]
    fn a_unit_begins_where_the_last_one_ended() {
        let mut shipper = Unit::new("127.0.0.1:9".parse().unwrap());
        for text in ["{\"n\":1}", "{\"n\":2}"] {
            shipper.push(Payload::Json(text.as_bytes()));
            assert_eq!(read(&shipper.finish(end(1, None)).into_block(1, 0).unwrap()), [text]);
        }
    }
}
