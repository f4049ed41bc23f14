//! Any bytes from a client of Lumberjack. The first byte says how they are cut.
//!
//! Invariants: no bytes panic; every cut gives the same, or is refused as well, perhaps for something else; a unit has the events that it says; what is verbatim
//! inflates to those events; what is accepted is acked, in frames of 6 bytes, and nothing else is.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pikepole_lumberjack::encode::{events, v1_to_json};
use pikepole_lumberjack::{Event, Limits, Payload, Receiver, Refused, Sink, WindowEnd};

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let (whole, pieces) = (read(bytes, bytes.len()), read(bytes, usize::from(*cut)));
    if whole.0.is_none() || pieces.0.is_none() {
        assert_eq!(pieces, whole, "cut into pieces of {cut}");
    } else {
        // Before a stream is found to be damaged more may come out of it, if it comes in pieces.
        assert!(pieces.1.ends.starts_with(&whole.1.ends), "cut into pieces of {cut}");
    }
});

#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Events of the unit that is open.
    open: Vec<Vec<u8>>,
    events: u64,
    ends: Vec<WindowEnd>,
}

impl Sink for Told {
    fn event(&mut self, event: Event<'_>) {
        self.open.push(match event.payload {
            Payload::Json(json) => json.to_vec(),
            Payload::Pairs(pairs) => v1_to_json(pairs),
        });
    }

    fn window(&mut self, end: WindowEnd) {
        let unit = std::mem::take(&mut self.open);
        assert_eq!((end.number, end.events as usize), (self.ends.len() as u64, unit.len()));
        if let Some(stream) = &end.verbatim {
            let mut again = Vec::new();
            events(stream, true, &limits(), &mut |json| again.push(json.to_vec())).expect("it was read once");
            assert_eq!(again, unit);
        }
        self.events += unit.len() as u64;
        self.ends.push(end);
    }
}

/// Small, so that a small input reaches them.
fn limits() -> Limits {
    Limits { window: 5, unit: 300, event: 200, compressed: 1_000, v1_pairs: 4, verbatim: 500, ..Limits::default() }
}

fn read(bytes: &[u8], size: usize) -> (Option<Refused>, Told, Vec<u8>) {
    let mut receiver = Receiver::new(limits(), Duration::ZERO);
    let mut told = Told::default();
    let mut pieces = bytes.chunks(size.max(1));
    let refused = pieces.find_map(|piece| receiver.input(piece, Duration::ZERO, &mut told).err());
    assert_eq!(receiver.held(), told.ends.len());
    // One zero for all empty windows; how many there were depends on the cut no longer.
    let mut acks = receiver.output().unwrap_or_default().to_vec();
    for end in told.ends.iter().rev() {
        receiver.accept(end.number, Duration::ZERO);
    }
    acks.extend_from_slice(&receiver.output().unwrap_or_default());
    assert_eq!(receiver.held_bytes(), 0);
    let windows = told.ends.iter().filter(|end| end.last).count();
    assert!(acks.len() % 6 == 0 && acks.len() / 6 - windows <= 1, "{acks:?}");
    (refused, told, acks)
}
