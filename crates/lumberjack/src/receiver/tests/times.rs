//! Acks in their order, signs of life, and windows that make no progress.

use super::*;

fn windows(count: usize) -> Receiver {
    let bytes: Vec<u8> = (0..count).flat_map(|_| [w(1), j(1, b"{}")].concat()).collect();
    read(&bytes).unwrap().0
}

fn out(receiver: &mut Receiver) -> Vec<u8> {
    receiver.output().unwrap_or_default().to_vec()
}

#[test]
fn windows_are_acked_in_order_whatever_is_safe_first() {
    let bytes: Vec<u8> = (1..=3).flat_map(|seq| [w(1), j(seq, b"{}")].concat()).collect();
    let (mut receiver, _) = read(&bytes).unwrap();
    receiver.accept(2, at(0));
    receiver.accept(2, at(0));
    receiver.accept(77, at(0));
    assert_eq!((receiver.held(), out(&mut receiver)), (3, vec![]));
    receiver.accept(0, at(0));
    assert_eq!((receiver.held(), out(&mut receiver)), (2, b"2A\0\0\0\x01".to_vec()));
    receiver.accept(1, at(0));
    receiver.accept(0, at(0));
    assert_eq!((receiver.held(), out(&mut receiver)), (0, b"2A\0\0\0\x022A\0\0\0\x03".to_vec()));
}

#[test]
fn alive_is_said_while_a_window_is_held_and_never_else() {
    let mut receiver = Receiver::new(Limits::default(), at(0));
    assert_eq!(receiver.next_timeout(), None, "an idle connection may be closed");
    let mut told = Told::default();
    receiver.input(&[w(1), j(1, b"{}")].concat(), at(10), &mut told).unwrap();
    assert_eq!(receiver.next_timeout(), Some(at(13)));
    receiver.timeout(at(12)).unwrap();
    assert_eq!(out(&mut receiver), b"");
    for second in [13, 16, 19] {
        receiver.timeout(at(second)).unwrap();
        assert_eq!(out(&mut receiver), b"2A\0\0\0\0");
        assert_eq!(receiver.next_timeout(), Some(at(second + 3)));
    }
    receiver.accept(0, at(20));
    assert_eq!((out(&mut receiver), receiver.next_timeout()), (b"2A\0\0\0\x01".to_vec(), None));
    receiver.timeout(at(99)).unwrap();
    assert_eq!(out(&mut receiver), b"");
}

#[test]
fn a_sign_of_life_comes_after_the_last_ack_of_any_kind() {
    let mut receiver = windows(2);
    receiver.accept(0, at(2));
    assert_eq!(receiver.next_timeout(), Some(at(5)));
}

#[test]
fn a_client_of_version_1_is_told_in_its_version() {
    let window = [&head(Version::V1, b'W', 1)[..], &d(1, &[])].concat();
    let (mut receiver, _) = read(&window).unwrap();
    receiver.timeout(at(3)).unwrap();
    assert_eq!(out(&mut receiver), b"1A\0\0\0\0");
}

#[test]
fn an_incomplete_window_is_not_kept_alive() {
    let limits = Limits { window: 1, ..Limits::default() };
    let (receiver, told) = cut(&limits, &[&[w(2), j(1, b"{}")].concat()]).unwrap();
    assert_eq!((told.ends.len(), receiver.next_timeout()), (1, Some(at(5))), "its progress is watched");
}

/// Beats leave a server that says nothing for 30 s, and send all again.
#[test]
fn whoever_has_sent_what_we_do_not_take_is_told_that_we_are_alive() {
    let (zero, v1_zero) = (b"2A\0\0\0\0".to_vec(), b"1A\0\0\0\0".to_vec());
    let mut told = Told::default();
    for (taken, untaken, zero) in [
        (vec![], w(1), &zero),
        (w(2), j(1, b"{}"), &zero),
        (b"1".to_vec(), b"W".to_vec(), &v1_zero),
        (vec![], head(Version::V1, b'W', 1).to_vec(), &v1_zero),
    ] {
        let mut receiver = Receiver::new(Limits::default(), at(0));
        receiver.input(&taken, at(10), &mut told).unwrap();
        receiver.pause(&untaken, at(10));
        receiver.pause(&untaken, at(12));
        for second in [13, 16, 19] {
            assert_eq!((receiver.next_timeout(), out(&mut receiver)), (Some(at(second)), vec![]));
            receiver.timeout(at(second)).unwrap();
            assert_eq!(&out(&mut receiver), zero);
        }
        receiver.resume(at(20));
        assert_ne!(receiver.next_timeout(), Some(at(22)), "only while it waits for us");
    }
}

#[test]
fn a_window_that_we_take_by_fits_and_starts_is_told_in_time() {
    let mut receiver = Receiver::new(Limits::default(), at(0));
    let mut told = Told::default();
    receiver.input(&w(9), at(10), &mut told).unwrap();
    receiver.pause(b"2J", at(11));
    receiver.resume(at(12));
    receiver.pause(b"2J", at(12));
    assert_eq!(receiver.next_timeout(), Some(at(13)), "a short rest in between is no sign of life");
}

#[test]
fn units_are_acked_when_the_ack_of_their_window_is() {
    let limits = Limits { window: 2, ..Limits::default() };
    let events: Vec<Vec<u8>> = (1..=3).map(|seq| j(seq, b"{}")).collect();
    let bytes = [w(3), events.concat(), w(1), j(1, b"{}"), w(3), events[..2].concat()].concat();
    let (mut receiver, told) = cut(&limits, &[&bytes]).unwrap();
    assert_eq!(told.ends.len(), 4, "two parts, a window, and a part of one that is not whole");
    let acked = [1, 0, 3, 2].map(|number| {
        receiver.accept(number, at(0));
        receiver.acked()
    });
    assert_eq!(acked, [0, 2, 2, 3]);
}

#[test]
fn what_a_client_did_not_finish_is_forgotten_with_its_end() {
    let bytes = [w(1), j(1, b"{}"), w(1), j(1, b"{}")[..11].to_vec()].concat();
    let (mut receiver, told) = read(&bytes).unwrap();
    receiver.end();
    assert_eq!((receiver.is_at_boundary(), receiver.open_bytes(), receiver.held()), (true, 0, 1));
    receiver.timeout(at(60)).unwrap();
    assert_eq!(out(&mut receiver), b"2A\0\0\0\0");
    assert_eq!(accept_all(&mut receiver, &told), b"2A\0\0\0\x01");
}

#[test]
fn empty_windows_are_answered_with_one_zero() {
    let mut receiver = windows(1);
    let mut told = Told::default();
    receiver.input(&w(0).repeat(1_000), at(0), &mut told).unwrap();
    assert_eq!(out(&mut receiver), b"2A\0\0\0\0");
    assert_eq!((told, receiver.held()), (Told::default(), 1));
}

#[test]
fn a_window_without_progress_is_refused() {
    let stalled = Refused::Stalled { bytes: 16_384, seconds: 5 };
    for begun in [b"2".to_vec(), w(1), [w(2), j(1, b"{}")].concat(), [w(1), c(&[])].concat()] {
        let mut receiver = Receiver::new(Limits::default(), at(0));
        receiver.input(&begun, at(100), &mut Told::default()).unwrap();
        assert_eq!(receiver.next_timeout(), Some(at(105)));
        assert_eq!(receiver.timeout(at(104)), Ok(()));
        assert_eq!(receiver.timeout(at(105)), Ok(()), "what came meanwhile may still be taken");
        assert_eq!(receiver.next_timeout(), Some(at(105) + Duration::from_millis(500)));
        assert_eq!(receiver.timeout(at(106)), Err(stalled));
    }
}

#[test]
fn a_slow_link_passes_and_a_trickle_does_not() {
    let event = j(1, &vec![b'x'; 200_000]);
    let mut receiver = Receiver::new(Limits::default(), at(0));
    let mut told = Told::default();
    receiver.input(&w(1), at(0), &mut told).unwrap();
    for (i, piece) in event.chunks(16_384).enumerate() {
        let now = at(4 * (i as u64 + 1));
        receiver.timeout(now).unwrap();
        receiver.input(piece, now, &mut told).unwrap();
    }
    assert_eq!(told.ends.len(), 1, "it took 52 s and came");

    let mut receiver = Receiver::new(Limits::default(), at(0));
    receiver.input(&w(1), at(0), &mut told).unwrap();
    receiver.input(&event[..8_000], at(2), &mut told).unwrap();
    receiver.input(&event[8_000..16_000], at(4), &mut told).unwrap();
    receiver.timeout(at(5)).unwrap();
    receiver.input(&event[16_000..16_100], at(5), &mut told).unwrap();
    assert!(receiver.timeout(at(6)).is_err());
}

/// Its bytes had come in time: we had not looked.
#[test]
fn a_client_is_not_left_because_we_were_stopped_ourselves() {
    let event = j(1, &vec![b'x'; 100_000]);
    let mut receiver = Receiver::new(Limits::default(), at(0));
    let mut told = Told::default();
    receiver.input(&w(1), at(0), &mut told).unwrap();
    receiver.timeout(at(60)).unwrap();
    receiver.input(&event[..50_000], at(60), &mut told).unwrap();
    assert_eq!((receiver.timeout(at(61)), receiver.next_timeout()), (Ok(()), Some(at(65))));
}

#[test]
fn what_we_do_not_read_is_not_held_against_the_client() {
    let mut receiver = Receiver::new(Limits::default(), at(0));
    receiver.input(&w(1), at(0), &mut Told::default()).unwrap();
    receiver.pause(b"2J", at(0));
    assert_eq!((receiver.next_timeout(), receiver.timeout(at(60))), (Some(at(3)), Ok(())));
    receiver.resume(at(60));
    assert_eq!(receiver.next_timeout(), Some(at(65)));
    receiver.resume(at(64));
    assert_eq!(receiver.next_timeout(), Some(at(65)), "going on is not progress");
}
