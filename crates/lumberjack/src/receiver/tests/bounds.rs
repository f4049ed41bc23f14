//! Every limit, and what is above it.

use super::*;

fn refused(limits: &Limits, bytes: &[u8]) -> Option<Refused> {
    cut(limits, &[bytes]).err()
}

#[test]
fn an_event_above_the_limit_is_refused_before_it_comes() {
    let limits = Limits { event: 20, ..Limits::default() };
    let plain = |n: usize| [w(1), j(1, &vec![b'x'; n])].concat();
    assert_eq!(refused(&limits, &plain(20)), None);
    let too_large = Some(Refused::EventTooLarge { size: 21, limit: 20 });
    assert_eq!(refused(&limits, &plain(21)), too_large);
    assert_eq!(refused(&limits, &plain(21)[..16]), too_large, "its head is enough");
    assert_eq!(refused(&limits, &[w(1), c(&[j(1, &[b'x'; 21])])].concat()), too_large);
    let most = [w(1), [&head(Version::V2, b'J', 1)[..], &[0xff; 4]].concat()].concat();
    let size = u64::from(u32::MAX);
    assert_eq!(refused(&limits, &most), Some(Refused::EventTooLarge { size, limit: 20 }));
}

#[test]
fn a_data_frame_above_the_limits_is_refused_before_it_comes() {
    let limits = Limits { event: 20, v1_pairs: 2, ..Limits::default() };
    let window = head(Version::V1, b'W', 1);
    let frame = |pairs: &[(&str, &str)]| [&window[..], &d(1, pairs)].concat();
    assert_eq!(refused(&limits, &frame(&[("a", "b"), ("c", "d")])), None, "20 bytes with their lengths");
    let too_large = Some(Refused::EventTooLarge { size: 21, limit: 20 });
    assert_eq!(refused(&limits, &frame(&[("a", "b"), ("c", "de")])), too_large);
    let many = frame(&[("", ""); 3]);
    let too_many = Some(Refused::TooManyPairs { pairs: 3, limit: 2 });
    assert_eq!(refused(&limits, &many[..16]), too_many, "its head is enough");
}

#[test]
fn a_compressed_frame_above_the_limit_is_refused_before_it_comes() {
    let limits = Limits { compressed: 100, ..Limits::default() };
    let window = |n| [&w(1)[..], &head(Version::V2, b'C', n)].concat();
    assert_eq!(refused(&limits, &window(100)), None);
    let too_large = Some(Refused::CompressedTooLarge { size: 101, limit: 100 });
    assert_eq!(refused(&limits, &window(101)), too_large);
}

#[test]
fn a_bomb_is_refused_after_its_first_mebibyte() {
    let zeros = vec![0; 3 << 20];
    let bomb = [w(1), c(&[j(1, &zeros)])].concat();
    let Some(Refused::TooDense { inflated, .. }) = refused(&Limits::default(), &bomb) else { panic!() };
    assert!(inflated <= 2 << 20, "{inflated} bytes were inflated");
    let small = [w(1), c(&[j(1, &zeros[..1 << 19])])].concat();
    assert_eq!(refused(&Limits::default(), &small), None, "a short run of zeros");
}

#[test]
fn a_dense_window_is_refused_above_what_a_window_may_inflate_to() {
    let limits = Limits { inflated: 100_000, ..Limits::default() };
    let dense = |n| [w(1), c(&[j(1, &vec![0; n])])].concat();
    assert_eq!(refused(&limits, &dense(90_000)), None);
    assert!(matches!(refused(&limits, &dense(300_000)), Some(Refused::TooDense { .. })));
    let mut seed = 1_u32;
    let mut noise = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    };
    let log: Vec<u8> = (0..300_000).map(|_| noise()).collect();
    assert_eq!(refused(&limits, &[w(1), c(&[j(1, &log)])].concat()), None, "a large one is streamed");
}

/// Number, count, bytes, and whether it is the last of its window.
type Part = (u64, u32, u64, bool);

fn units(limits: &Limits, bytes: &[u8]) -> (Receiver, Vec<Part>, Told) {
    let (receiver, told) = cut(limits, &[bytes]).unwrap();
    let units = told.ends.iter().map(|e| (e.number, e.events, e.event_bytes, e.last)).collect();
    (receiver, units, told)
}

#[test]
fn a_window_above_the_limit_comes_in_parts_and_is_acked_once() {
    let limits = Limits { window: 3, ..Limits::default() };
    let events: Vec<Vec<u8>> = (1..=7).map(|seq| j(seq, b"{}")).collect();
    for bytes in [[w(7), events.concat()].concat(), [w(7), c(&events)].concat()] {
        let (mut receiver, parts, told) = units(&limits, &bytes);
        assert_eq!(parts, [(0, 3, 6, false), (1, 3, 6, false), (2, 1, 2, true)]);
        assert_eq!(told.ends[2].verbatim, None, "a part is not the stream");
        assert_eq!(told.events.len(), 7);
        receiver.accept(0, at(0));
        receiver.accept(2, at(0));
        assert_eq!((receiver.held(), receiver.output()), (2, None));
        receiver.accept(1, at(0));
        assert_eq!(receiver.output().unwrap(), &b"2A\0\0\0\x07"[..]);
    }
    let exact = [w(3), c(&events[..3])].concat();
    let (_, parts, told) = units(&limits, &exact);
    assert_eq!(parts, [(0, 3, 6, true)]);
    assert!(told.ends[0].verbatim.is_some());
}

#[test]
fn a_part_that_is_accepted_is_not_held_while_its_window_goes_on() {
    let limits = Limits { window: 1, ..Limits::default() };
    let mut receiver = Receiver::new(limits, at(0));
    let mut told = Told::default();
    receiver.input(&w(100), at(0), &mut told).unwrap();
    for seq in 1..100 {
        receiver.input(&j(seq, b"{}"), at(0), &mut told).unwrap();
        assert_eq!(receiver.held(), 1);
        receiver.accept(u64::from(seq) - 1, at(0));
        assert_eq!((receiver.held(), receiver.held_bytes()), (0, 0));
    }
    assert_eq!((receiver.output(), receiver.next_timeout()), (None, Some(at(5))));
}

#[test]
fn large_events_close_a_part_too() {
    let limits = Limits { unit: 100, ..Limits::default() };
    let events: Vec<Vec<u8>> = (1..=5).map(|seq| j(seq, &[b'x'; 60])).collect();
    let (_, parts, _) = units(&limits, &[w(5), events.concat()].concat());
    assert_eq!(parts, [(0, 2, 120, false), (1, 2, 120, false), (2, 1, 60, true)]);
}

#[test]
fn nothing_is_allocated_because_a_peer_says_so() {
    let declared = [w(u32::MAX), [&head(Version::V2, b'J', 1)[..], &(16_u32 << 20).to_be_bytes()].concat()];
    let (receiver, _) = read(&declared.concat()).unwrap();
    assert!(receiver.torn.capacity() < 64);
    let compressed = [&w(1)[..], &head(Version::V2, b'C', 64 << 20), &zlib(b"")[..2]].concat();
    let (receiver, _) = read(&compressed).unwrap();
    let Some(window) = receiver.window else { panic!() };
    assert!(window.kept_capacity() < 64);
}

#[test]
fn memory_for_a_large_event_is_given_back() {
    let large = j(1, &vec![b'x'; 3 << 20]);
    let (receiver, _) = cut(&Limits::default(), &[&w(1), &large[..100], &large[100..]]).unwrap();
    assert_eq!(receiver.torn.capacity(), 0);
    let compressed = [w(2), c_of(Version::V2, &stored(&large)), c(&[j(2, b"{}")])].concat();
    let (receiver, _) = read(&compressed).unwrap();
    assert_eq!((receiver.inflater.grown(), receiver.open_bytes()), (0, 0));
}

/// Not compressed, but zlib.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Else a few connections with one large event each take all memory there is.
#[test]
fn bytes_of_an_event_that_is_not_whole_are_counted() {
    let large = j(1, &vec![b'x'; 3 << 20]);
    let plain = [w(1), large.clone()].concat();
    let zlib = [w(1), c_of(Version::V2, &stored(&large))].concat();
    for (bytes, least) in [(plain, 2 << 20), (zlib, 3 << 20)] {
        let (receiver, told) = read(&bytes[..(2 << 20) + 100]).unwrap();
        assert!(told.events.is_empty());
        assert!(receiver.open_bytes() >= least, "{} of {least}", receiver.open_bytes());
    }
}

#[test]
fn a_stream_that_goes_on_and_gives_nothing_is_refused() {
    let empty_block = b"\x00\x00\x00\xff\xff";
    let stream = |blocks: usize| [b"\x78\x01".as_slice(), &empty_block.repeat(blocks)].concat();
    let bytes = |blocks| [w(1), c_of(Version::V2, &stream(blocks))].concat();
    let all = bytes(20_000);
    assert!(matches!(refused(&Limits::default(), &all), Some(Refused::Barren { .. })));
    assert_eq!(refused(&Limits::default(), &all[..60_000]), None);
    let pieces: Vec<&[u8]> = all.chunks(1_000).collect();
    assert!(matches!(cut(&Limits::default(), &pieces), Err(Refused::Barren { .. })));
}
