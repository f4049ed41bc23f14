use bytes::Bytes;

use super::*;
use crate::frame::Kind;

fn header(seq: u64, events: u32) -> Header {
    Header {
        events,
        event_bytes: u64::from(events) * 10,
        at: seq * 100,
        ..Header::plain(Kind::Block, seq, b"")
    }
}

fn id(first: u64, id: u64) -> SegmentId {
    SegmentId { first, id, salt: 7 }
}

fn some() -> State {
    let mut state = State::default();
    state.begin(id(0, 1));
    for seq in 0..5 {
        state.block(
            &header(seq, 3),
            &[Mark { key: "a".into(), value: Some(Bytes::from(vec![u8::try_from(seq).unwrap()])) }],
        );
    }
    state.begin(id(5, 2));
    state
}

#[test]
fn a_checkpoint_says_all_of_it() {
    let mut state = some();
    state.finish(&Finish {
        why: Why::Done,
        seqs: 1..=2,
        counts: Counts { blocks: 2, events: 6, event_bytes: 60 },
        bytes: 0,
    });
    let bytes = state.encode();
    assert_eq!(State::decode(&bytes, id(5, 2)), Some(state.clone()));
    assert_eq!(state.left(), Counts { blocks: 3, events: 9, event_bytes: 90 });
    for end in 0..bytes.len() {
        assert_eq!(State::decode(&bytes[..end], id(5, 2)), None, "{end}");
    }
}

#[test]
fn a_block_is_finished_once() {
    let mut state = some();
    let one = Finish {
        why: Why::Done,
        seqs: 4..=4,
        counts: Counts { blocks: 1, events: 3, event_bytes: 30 },
        bytes: 0,
    };
    assert!(state.finish(&one));
    assert!(!state.finish(&one));
    assert_eq!(state.totals.done.events, 3);
    assert_eq!((state.segments[0].left_from(3), state.segments[0].left_from(4)), (Some(3), None));
    assert_eq!(state.segments[0].left_before(5), Some(3));
}

#[test]
fn blocks_without_a_head_are_lost_and_counted() {
    let mut state = some();
    state.block(&header(7, 2), &[]);
    assert_eq!(state.totals.damaged.blocks, 2);
    assert_eq!(state.totals.appended, Counts { blocks: 8, events: 17, event_bytes: 170 });
    assert!(!state.segments[1].is_left(6) && state.segments[1].is_left(7));
    assert_eq!(state.next, 8);
}

#[test]
fn what_a_lost_block_held_is_damage_when_nothing_else_is_left() {
    let mut state = some();
    state.finish(&Finish {
        why: Why::Damaged,
        seqs: 0..=0,
        counts: Counts { blocks: 1, ..Counts::default() },
        bytes: 0,
    });
    state.finish(&Finish {
        why: Why::Done,
        seqs: 1..=4,
        counts: Counts { blocks: 4, events: 12, event_bytes: 120 },
        bytes: 0,
    });
    assert_eq!(state.totals.damaged, Counts { blocks: 1, events: 3, event_bytes: 30 });
    assert_eq!(state.left(), Counts::default());
}
