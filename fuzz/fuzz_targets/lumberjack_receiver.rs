//! Any client of Lumberjack. The first byte says how its bytes are cut, the second what they are: the rest of the
//! input itself, or frames that are built from it, plain and deflated, some of them damaged.
//!
//! Invariants: no bytes panic; every cut gives the same, or is refused as well, perhaps for something else; a unit has the events that it says; what is verbatim
//! inflates to those events; what is accepted is acked, in frames of 6 bytes, and nothing else is. Time that passes
//! and room that comes and goes change nothing but the signs of life, which nobody gets who does not wait.
#![no_main]

use std::io::Write as _;
use std::time::Duration;

use flate2::write::ZlibEncoder;
use libfuzzer_sys::fuzz_target;
use pikepole_lumberjack::encode::{events, v1_to_json};
use pikepole_lumberjack::{Event, Limits, Payload, Receiver, Refused, Sink, WindowEnd};

fuzz_target!(|input: &[u8]| {
    let [cut, kind, rest @ ..] = input else { return };
    let bytes = if kind & 1 == 0 { rest.to_vec() } else { Built::of(rest) };
    let (whole, pieces) = (read(&bytes, bytes.len(), false), read(&bytes, usize::from(*cut), kind & 2 != 0));
    if whole.0.is_none() || pieces.0.is_none() {
        assert_eq!(pieces, whole, "cut into pieces of {cut}");
    } else {
        // Before a stream is found to be damaged more may come out of it, if it comes in pieces.
        assert!(pieces.1.ends.starts_with(&whole.1.ends), "cut into pieces of {cut}");
    }
});

/// Frames built from bytes, so that what has to be right in every bit (a checksum, a length) usually is.
struct Built<'a> {
    input: std::slice::Iter<'a, u8>,
    seq: u32,
}

impl<'a> Built<'a> {
    fn of(input: &'a [u8]) -> Vec<u8> {
        let mut built = Self { input: input.iter(), seq: 0 };
        let mut bytes = Vec::new();
        while !built.input.as_slice().is_empty() {
            built.frame(&mut bytes, true);
        }
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.input.next().copied().unwrap_or_default()
    }

    fn some(&mut self, most: u8) -> &'a [u8] {
        let count = usize::from(self.byte() % most).min(self.input.len());
        let (some, rest) = self.input.as_slice().split_at(count);
        self.input = rest.iter();
        some
    }

    fn head(bytes: &mut Vec<u8>, version: u8, kind: u8, number: u32) {
        bytes.extend_from_slice(&[version, kind]);
        bytes.extend_from_slice(&number.to_be_bytes());
    }

    fn text(bytes: &mut Vec<u8>, text: &[u8]) {
        bytes.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(text);
    }

    fn frame(&mut self, bytes: &mut Vec<u8>, may_nest: bool) {
        let what = self.byte();
        let version = if what & 0x80 == 0 { b'2' } else { b'1' };
        match what % 8 {
            0 => {
                self.seq = 0;
                Self::head(bytes, version, b'W', u32::from(self.byte() % 16));
            }
            1..=3 => {
                self.seq += 1;
                Self::head(bytes, version, b'J', self.seq);
                Self::text(bytes, self.some(220));
            }
            4 => {
                self.seq += 1;
                Self::head(bytes, version, b'D', self.seq);
                let pairs = self.byte() % 6;
                bytes.extend_from_slice(&u32::from(pairs).to_be_bytes());
                for _ in 0..pairs * 2 {
                    Self::text(bytes, self.some(40));
                }
            }
            5 | 6 if may_nest => self.compressed(bytes, version),
            7 => bytes.extend_from_slice(self.some(20)),
            _ => {}
        }
    }

    /// A stream of some frames; one in eight is damaged, cut short, or longer than it says.
    fn compressed(&mut self, bytes: &mut Vec<u8>, version: u8) {
        let mut inside = Vec::new();
        for _ in 0..self.byte() % 12 {
            self.frame(&mut inside, false);
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::new(u32::from(self.byte() % 4)));
        encoder.write_all(&inside).expect("into memory");
        let mut stream = encoder.finish().expect("into memory");
        match self.byte() {
            damage @ 0..8 => {
                let at = usize::from(self.byte()) % stream.len();
                stream[at] ^= 1 << damage;
            }
            8..16 => stream.truncate(usize::from(self.byte()) % stream.len()),
            16..24 => stream.extend_from_slice(self.some(9)),
            _ => {}
        }
        Self::head(bytes, version, b'C', u32::try_from(stream.len()).expect("short"));
        bytes.extend_from_slice(&stream);
    }
}

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

/// What is refused, what was told, and the acks, without those of nothing. It may be halting: time passes, and room
/// is not always there.
fn read(bytes: &[u8], size: usize, halting: bool) -> (Option<Refused>, Told, Vec<u8>) {
    let mut now = Duration::ZERO;
    let mut receiver = Receiver::new(limits(), now);
    let mut told = Told::default();
    let mut acks = Vec::new();
    let mut refused = None;
    for piece in bytes.chunks(size.max(1)) {
        if halting {
            receiver.pause(piece, now);
            now += Duration::from_secs(60);
            receiver.timeout(now).expect("nobody is judged while we read nothing");
            let alive = receiver.output().expect("it waits for us");
            assert!(alive.len() >= 6 && alive[alive.len() - 4..] == [0; 4], "{alive:?}");
            receiver.resume(now);
            now += Duration::from_secs(4);
            receiver.timeout(now).expect("there is a second left");
            let alive = receiver.output();
            assert!(alive.is_none() || told.ends.iter().any(|end| end.last), "{alive:?}");
        }
        if let Err(why) = receiver.input(piece, now, &mut told) {
            refused = Some(why);
            break;
        }
        // One zero for all empty windows; how many there were depends on the cut.
        acks.extend_from_slice(&receiver.output().unwrap_or_default());
        assert!(receiver.open_bytes() < 2_000, "{} bytes", receiver.open_bytes());
    }
    assert_eq!(receiver.held(), told.ends.len());
    for end in told.ends.iter().rev() {
        receiver.accept(end.number, now);
    }
    acks.extend_from_slice(&receiver.output().unwrap_or_default());
    assert_eq!((receiver.held_bytes(), acks.len() % 6), (0, 0));
    let acks: Vec<u8> = acks.chunks(6).filter(|ack| ack[2..] != [0; 4]).flatten().copied().collect();
    let windows = told.ends.iter().filter(|end| end.last && end.last_seq > 0).count();
    assert_eq!(acks.len() / 6, windows, "{acks:?}");
    (refused, told, acks)
}
