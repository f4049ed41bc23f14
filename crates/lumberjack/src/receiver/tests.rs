use std::io::Write;

use super::*;
use crate::frame::{Payload, head};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// All that a sink is told.
#[derive(Debug, Default, PartialEq)]
struct Told {
    events: Vec<(u32, Vec<u8>)>,
    ends: Vec<WindowEnd>,
}

impl Sink for Told {
    fn event(&mut self, event: Event<'_>) {
        let bytes = match event.payload {
            Payload::Json(json) => json.to_vec(),
            Payload::Pairs(pairs) => pairs.as_bytes().to_vec(),
        };
        self.events.push((event.seq, bytes));
    }
    fn window(&mut self, end: WindowEnd) {
        self.ends.push(end);
    }
}

fn w(events: u32) -> Vec<u8> {
    head(Version::V2, b'W', events).to_vec()
}

fn j(seq: u32, json: &[u8]) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap();
    [&head(Version::V2, b'J', seq)[..], &length.to_be_bytes(), json].concat()
}

fn d(seq: u32, pairs: &[(&str, &str)]) -> Vec<u8> {
    let length = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let mut frame = [&head(Version::V1, b'D', seq)[..], &length(pairs.len())].concat();
    for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
        frame.extend_from_slice(&length(text.len()));
        frame.extend_from_slice(text.as_bytes());
    }
    frame
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(3));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn c_of(version: Version, stream: &[u8]) -> Vec<u8> {
    [&head(version, b'C', u32::try_from(stream.len()).unwrap())[..], stream].concat()
}

fn c(frames: &[Vec<u8>]) -> Vec<u8> {
    c_of(Version::V2, &zlib(&frames.concat()))
}

/// As it is after all the bytes, cut as told.
fn cut(limits: &Limits, pieces: &[&[u8]]) -> Result<(Receiver, Told), Refused> {
    let mut receiver = Receiver::new(limits.clone(), at(0));
    let mut told = Told::default();
    for piece in pieces {
        receiver.input(piece, at(0), &mut told)?;
    }
    Ok((receiver, told))
}

fn read(bytes: &[u8]) -> Result<(Receiver, Told), Refused> {
    cut(&Limits::default(), &[bytes])
}

fn accept_all(receiver: &mut Receiver, told: &Told) -> Vec<u8> {
    for end in &told.ends {
        receiver.accept(end.number, at(0));
    }
    receiver.output().unwrap_or_default().to_vec()
}

/// Streams with all that there is, and the acks they get.
fn corpus() -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    let (a, b) = (j(1, b"{\"a\":1}"), j(2, b"{}"));
    let both = [a.clone(), b.clone()];
    let line = d(7, &[("line", "GET /"), ("", ""), ("offset", "17")]);
    let v1 = |kind, n| head(Version::V1, kind, n).to_vec();
    vec![
        ("plain", [w(2), both.concat()].concat(), b"2A\0\0\0\x02"),
        ("compressed", [w(2), c(&both)].concat(), b"2A\0\0\0\x02"),
        ("two streams in a window", [w(2), c(&both[..1]), c(&both[1..])].concat(), b"2A\0\0\0\x02"),
        ("plain and compressed", [w(2), a.clone(), c(&both[1..])].concat(), b"2A\0\0\0\x02"),
        ("an empty stream in a window", [w(1), c(&[]), a.clone()].concat(), b"2A\0\0\0\x01"),
        ("numbers that go on", [w(1), a.clone(), w(1), c(&both[1..])].concat(), b"2A\0\0\0\x012A\0\0\0\x02"),
        ("an empty event", [w(1), j(9, b"")].concat(), b"2A\0\0\0\x09"),
        ("version 1", [v1(b'W', 1), line.clone()].concat(), b"1A\0\0\0\x07"),
        (
            "version 1, compressed",
            [v1(b'W', 2), c_of(Version::V1, &zlib(&[line.clone(), d(8, &[])].concat()))].concat(),
            b"1A\0\0\0\x08",
        ),
        ("one version after the other", [v1(b'W', 1), line, w(1), a].concat(), b"1A\0\0\0\x072A\0\0\0\x01"),
    ]
}

#[test]
fn every_way_to_send_a_window_is_read_and_acked() {
    for (name, bytes, acks) in corpus() {
        let (mut receiver, told) = read(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let numbers: Vec<u64> = told.ends.iter().map(|end| end.number).collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "{name}");
        assert!(receiver.is_at_boundary());
        assert_eq!(receiver.output(), None, "{name}: nothing is acked before it is accepted");
        assert_eq!(accept_all(&mut receiver, &told), acks, "{name}");
        assert_eq!((receiver.held(), receiver.held_bytes()), (0, 0), "{name}");
    }
}

#[test]
fn a_stream_reads_the_same_however_it_is_cut() {
    for (name, bytes, _) in corpus() {
        let (_, whole) = read(&bytes).unwrap();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(cut(&Limits::default(), &single).unwrap().1, whole, "{name} byte by byte");
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let (_, told) = cut(&Limits::default(), &pieces).unwrap();
                assert_eq!(told, whole, "{name} cut at {first} and {second}");
            }
        }
    }
}

#[test]
fn a_stream_that_ends_early_never_ends_a_window_that_is_not_whole() {
    for (name, bytes, _) in corpus() {
        for end in 0..bytes.len() {
            let (receiver, told) = read(&bytes[..end]).unwrap();
            let ended: u64 = told.ends.iter().map(|end| u64::from(end.events)).sum();
            assert!(told.events.len() as u64 >= ended);
            assert_eq!(receiver.held(), told.ends.len());
            if end > 0 && receiver.held() == 0 {
                assert!(!receiver.is_at_boundary(), "{name} at {end}: a window is begun, and none is whole");
            }
        }
    }
}

#[test]
fn what_came_as_one_stream_can_be_sent_on_as_it_is() {
    let frames = [j(1, b"{\"a\":1}"), j(2, b"{}")];
    let verbatim = |bytes: Vec<u8>| read(&bytes).unwrap().1.ends.pop().unwrap().verbatim;
    assert_eq!(verbatim([w(2), c(&frames)].concat()).unwrap(), zlib(&frames.concat()));
    let counting = [j(3, b"{}"), j(4, b"{}")];
    assert_eq!(verbatim([w(2), c(&counting)].concat()), None, "not numbered from 1");
    assert_eq!(verbatim([w(2), frames.concat()].concat()), None, "not compressed");
    assert_eq!(verbatim([w(2), c(&frames[..1]), c(&frames[1..])].concat()), None, "two streams");
    assert_eq!(verbatim([w(2), frames[0].clone(), c(&frames[1..])].concat()), None, "partly plain");
    let tight = Limits { verbatim: 10, ..Limits::default() };
    let (_, told) = cut(&tight, &[&[w(2), c(&frames)].concat()]).unwrap();
    assert_eq!(told.ends[0].verbatim, None, "above the budget");
}

#[test]
fn what_breaks_the_protocol_is_refused() {
    let a = j(1, b"{}");
    let v1_event = d(1, &[("line", "x")]);
    let cases: Vec<(Vec<u8>, Refused)> = vec![
        (b"\x16\x03\x01".to_vec(), Refused::UnknownVersion(0x16)),
        (b"2X".to_vec(), Refused::UnknownFrame(b'X')),
        (b"2A".to_vec(), Refused::UnknownFrame(b'A')),
        (a.clone(), Refused::OutsideWindow(b'J')),
        (c(&[]), Refused::OutsideWindow(b'C')),
        ([w(2), a.clone(), w(2)].concat(), Refused::PrematureWindow(1)),
        ([w(2), c(&[w(2)])].concat(), Refused::PrematureWindow(2)),
        ([w(1), a.clone(), a.clone()].concat(), Refused::OutsideWindow(b'J')),
        ([w(1), c(&[a.clone(), a.clone()])].concat(), Refused::BeyondWindow),
        ([w(1), c(&[c(std::slice::from_ref(&a))])].concat(), Refused::Nested),
        ([w(1), v1_event].concat(), Refused::MixedVersions),
        ([w(1), c_of(Version::V1, b"")].concat(), Refused::MixedVersions),
        ([w(1), c_of(Version::V2, b"")].concat(), Refused::UnfinishedStream),
        ([w(1), c_of(Version::V2, b"no zlib")].concat(), Refused::CorruptStream),
        ([w(1), c_of(Version::V2, &[&zlib(&a)[..], b"x"].concat())].concat(), Refused::TrailingBytes),
        ([w(1), c(&[a[..9].to_vec()])].concat(), Refused::TornFrame),
        ([w(2), c(&[a.clone(), a[..11].to_vec()])].concat(), Refused::TornFrame),
    ];
    for (bytes, refused) in cases {
        assert_eq!(read(&bytes).err(), Some(refused));
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(cut(&Limits::default(), &pieces).err(), Some(refused), "byte by byte");
    }
    let stream = zlib(&a);
    let cut_short = c_of(Version::V2, &stream[..stream.len() - 1]);
    assert_eq!(read(&[w(1), cut_short].concat()).err(), Some(Refused::UnfinishedStream));
    let mut wrong_sum = stream;
    *wrong_sum.last_mut().unwrap() ^= 1;
    assert_eq!(read(&[w(1), c_of(Version::V2, &wrong_sum)].concat()).err(), Some(Refused::CorruptStream));
}

#[test]
fn a_refused_connection_stays_refused() {
    let mut receiver = Receiver::new(Limits::default(), at(0));
    let mut told = Told::default();
    let refused = receiver.input(b"GET / HTTP/1.1", at(0), &mut told).unwrap_err();
    assert_eq!(receiver.input(&[w(1), j(1, b"{}")].concat(), at(0), &mut told), Err(refused));
    assert_eq!(receiver.timeout(at(9)), Err(refused));
    assert_eq!(told, Told::default());
}

mod bounds;
mod times;
