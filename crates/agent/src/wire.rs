//! Blocks of the spool as windows on the wire: what is sent of a block, whole or in part.
//!
//! Not the protocol, and not the meaning of a line: those are `pikepole-lumberjack` and `tail/lines.rs`.
//!
//! Invariant: a block has the same events in the same order whenever it is read, so that a part of it can be
//! named by the places of its events.

use bytes::Bytes;
use pikepole_lumberjack::encode::{EncodedWindow, EventReader, WindowEncoder};
use pikepole_spool::{Block, Seq};

use crate::balance::{Encode, Part};
use crate::tail::lines::{self, LINES};

/// Kind of a block: the zlib stream of a window's JSON frames. The number is on disks, and is never used again.
pub(crate) const WINDOW: u8 = 1;

/// Makes windows.
#[derive(Debug)]
pub(crate) struct Wire {
    level: u32,
    reader: EventReader,
    encoder: WindowEncoder,
}

impl Wire {
    /// With zlib's level, 0 to 9. At 0 nothing goes out compressed.
    pub(crate) fn new(level: u32) -> Self {
        // What is in the spool was accepted once; a limit that changed since must not strand it.
        Self { level, reader: EventReader::new(usize::MAX), encoder: WindowEncoder::new() }
    }

    /// Every event of a block, in order.
    fn each(&mut self, block: &Block, mut each: impl FnMut(u32, &[u8])) -> Result<(), String> {
        let mut index = 0;
        let mut one = |json: &[u8]| {
            each(index, json);
            index += 1;
        };
        match block.kind {
            WINDOW => self.reader.read(&block.body, true, &mut one).map_err(|e| e.to_string())?,
            LINES => lines::events(&block.body, block.at, &mut one).map_err(|e| e.to_string())?,
            kind => return Err(format!("a block of kind {kind}, which this version does not know")),
        }
        if index == block.events { Ok(()) } else { Err(format!("{index} events, not {}", block.events)) }
    }
}

impl Wire {
    fn append(&mut self, part: &Part, encoder: &mut WindowEncoder) -> Result<(), String> {
        let mut is_too_large = false;
        self.each(&part.block, |index, json| {
            if part.events.contains(&index) {
                is_too_large |= !encoder.push(json);
            }
        })?;
        if is_too_large { Err("more than a window can have".into()) } else { Ok(()) }
    }
}

impl Encode for Wire {
    type Window = EncodedWindow;

    fn encode(&mut self, parts: &[Part]) -> Result<EncodedWindow, (Seq, String)> {
        if let [Part { block, events }] = parts
            && block.kind == WINDOW
            && self.level > 0
            && *events == (0..block.events)
        {
            let (events, event_bytes) = (block.events, block.event_bytes);
            return Ok(EncodedWindow { events, event_bytes, body: block.body.clone(), compressed: true });
        }
        let mut encoder = std::mem::take(&mut self.encoder);
        encoder.begin(self.level);
        let read = parts
            .iter()
            .try_for_each(|part| self.append(part, &mut encoder).map_err(|why| (part.block.seq, why)));
        let window = encoder.finish();
        self.encoder = encoder;
        read.map(|()| window)
    }

    fn event(&mut self, block: &Block, index: u32) -> Result<Bytes, String> {
        let mut found = None;
        self.each(block, |at, json| {
            if at == index {
                found = Some(Bytes::copy_from_slice(json));
            }
        })?;
        found.ok_or_else(|| format!("it has no event {index}"))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use pikepole_lumberjack::{Limits, encode};

    use super::*;

    const EVENTS: [&str; 3] = ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"];

    fn block() -> Block {
        let mut encoder = WindowEncoder::new();
        encoder.begin(3);
        for event in EVENTS {
            assert!(encoder.push(event.as_bytes()));
        }
        let window = encoder.finish();
        Block { seq: Seq(1), kind: WINDOW, events: 3, event_bytes: 21, at: 5, body: window.body }
    }

    fn part(block: &Block, events: Range<u32>) -> [Part; 1] {
        [Part { block: Arc::new(block.clone()), events }]
    }

    fn read(window: &EncodedWindow) -> Vec<String> {
        let mut events = Vec::new();
        let mut keep = |json: &[u8]| events.push(String::from_utf8_lossy(json).into_owned());
        encode::events(&window.body, window.compressed, &Limits::default(), &mut keep).unwrap();
        assert_eq!(events.len(), window.events as usize);
        events
    }

    #[test]
    fn a_window_goes_on_as_it_came_and_in_parts_as_it_must() {
        let mut wire = Wire::new(3);
        let whole = wire.encode(&part(&block(), 0..3)).unwrap();
        assert_eq!((whole.body.clone(), read(&whole)), (block().body, EVENTS.map(String::from).to_vec()));
        let part = wire.encode(&part(&block(), 1..3)).unwrap();
        assert_eq!(
            (read(&part), part.compressed),
            (EVENTS[1..].iter().map(|e| (*e).to_string()).collect(), true)
        );
        assert_eq!(wire.event(&block(), 2).unwrap(), EVENTS[2]);
    }

    #[test]
    fn several_blocks_share_a_window_and_a_bad_one_is_named() {
        let mut wire = Wire::new(3);
        let other = Block { seq: Seq(2), ..block() };
        let parts = [part(&block(), 0..3), part(&other, 1..2)].concat();
        let window = wire.encode(&parts).unwrap();
        let expected = [&EVENTS[..], &EVENTS[1..2]].concat();
        assert_eq!(
            (read(&window), window.events, window.compressed),
            (expected.iter().map(|e| (*e).into()).collect(), 4, true)
        );
        let bad = Block { seq: Seq(7), kind: 9, ..block() };
        let parts = [part(&block(), 0..3), part(&bad, 0..3), part(&other, 0..3)].concat();
        assert_eq!(wire.encode(&parts).unwrap_err().0, Seq(7));
    }

    #[test]
    fn nothing_is_compressed_at_level_0() {
        let plain = Wire::new(0).encode(&part(&block(), 0..3)).unwrap();
        assert!(!plain.compressed && read(&plain).len() == 3);
    }

    #[test]
    fn what_is_not_as_it_says_is_an_error_and_the_next_block_is_not_touched() {
        let mut wire = Wire::new(3);
        let odd = [
            Block { body: Bytes::from_static(b"no zlib"), ..block() },
            Block { events: 4, ..block() },
            Block { kind: 9, ..block() },
            Block { kind: LINES, ..block() },
        ];
        for block in &odd {
            wire.encode(&part(block, 0..2)).unwrap_err();
            wire.event(block, 0).unwrap_err();
        }
        wire.event(&block(), 3).unwrap_err();
        assert_eq!(read(&wire.encode(&part(&block(), 0..2)).unwrap()).len(), 2);
    }
}
