use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn sender(windows: &[u32]) -> Sender {
    let mut sender = Sender::new(at(0));
    for (number, events) in (100..).zip(windows) {
        sender.sent(number, *events, at(0));
    }
    sender
}

fn acks(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| ack(Version::V2, *n)).collect()
}

fn take(sender: &mut Sender, bytes: &[u8]) -> Result<Vec<Acked>, Refused> {
    let mut found = Vec::new();
    sender.input(bytes, at(1), &mut |acked| found.push(acked))?;
    Ok(found)
}

#[test]
fn windows_are_acked_oldest_first_however_the_acks_are_cut() {
    let bytes = b"2A\0\0\0\x002A\0\0\0\x022A\0\0\0\x032A\0\0\0\x07";
    let expected = [
        Acked::KeepAlive,
        Acked::Partial { number: 100, events: 2 },
        Acked::Window { number: 100 },
        Acked::Window { number: 101 },
    ];
    for size in 1..=bytes.len() {
        let mut sender = sender(&[3, 7]);
        let found: Vec<Acked> =
            bytes.chunks(size).flat_map(|piece| take(&mut sender, piece).unwrap()).collect();
        assert_eq!(found, expected, "{size}");
        assert_eq!(sender.in_flight(), 0);
    }
}

#[test]
fn an_ack_that_cannot_be_is_refused_and_stays_so() {
    let refused = |windows: &[u32], bytes: &[u8]| {
        let mut sender = sender(windows);
        let refused = take(&mut sender, bytes).unwrap_err();
        assert_eq!(take(&mut sender, &acks(&[0])), Err(refused), "a dead connection came back");
        refused
    };
    assert_eq!(refused(&[], &acks(&[1])), Refused::AckUnasked(1));
    assert_eq!(refused(&[5], &acks(&[5, 5])), Refused::AckUnasked(5), "a doubled ack");
    assert_eq!(refused(&[5, 3], &acks(&[5, 5])), Refused::AckTooHigh { ack: 5, events: 3 });
    assert_eq!(refused(&[5], &acks(&[6])), Refused::AckTooHigh { ack: 6, events: 5 });
    assert_eq!(refused(&[5], &acks(&[3, 2])), Refused::AckBackwards { ack: 2, before: 3 });
    assert_eq!(refused(&[5], b"1"), Refused::MixedVersions);
    assert_eq!(refused(&[5], b"H"), Refused::UnknownVersion(b'H'));
    assert_eq!(refused(&[5], b"2W"), Refused::UnknownFrame(b'W'));
}

#[test]
fn a_doubled_ack_confirms_nothing_of_a_larger_window() {
    let mut sender = sender(&[5, 8]);
    let found = take(&mut sender, &acks(&[5, 5])).unwrap();
    assert_eq!(found, [Acked::Window { number: 100 }, Acked::Partial { number: 101, events: 5 }]);
    assert_eq!(sender.in_flight(), 1);
}

#[test]
fn a_repeated_partial_ack_is_a_sign_of_life_and_no_progress() {
    let mut sender = sender(&[5]);
    let mut times = Vec::new();
    for (second, n) in [(1, 2), (2, 2), (3, 0), (4, 4)] {
        sender.input(&acks(&[n]), at(second), &mut |_| {}).unwrap();
        times.push((sender.last_heard(), sender.last_progress()));
    }
    assert_eq!(times, [(at(1), at(1)), (at(2), at(1)), (at(3), at(1)), (at(4), at(4))]);
}

#[test]
fn waiting_begins_when_something_is_sent() {
    let mut sender = Sender::new(at(0));
    sender.sent(1, 3, at(50));
    assert_eq!((sender.last_heard(), sender.last_progress()), (at(50), at(50)));
    sender.sent(2, 3, at(60));
    assert_eq!(sender.last_heard(), at(50), "it is the oldest that we wait for");
    sender.sent(3, 0, at(60));
    assert_eq!(sender.in_flight(), 2, "nobody acks a window without events");
}
