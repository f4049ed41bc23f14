//! Any bytes from a server of Lumberjack, in answer to up to seven windows, whose sizes come first.
//!
//! Invariants: no bytes panic; every cut gives the same; windows are acked once, the oldest first; a partial ack
//! is never the whole; a refused connection stays refused.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pikepole_lumberjack::{Acked, Refused, Sender};

fuzz_target!(|input: &[u8]| {
    let Some((sizes, bytes)) = input.split_first_chunk::<7>() else { return };
    let whole = read(sizes, bytes, bytes.len());
    for size in [1, 5, 7] {
        assert_eq!(read(sizes, bytes, size), whole, "cut into pieces of {size}");
    }
});

fn read(sizes: &[u8], bytes: &[u8], size: usize) -> (Option<Refused>, Vec<Acked>) {
    let mut sender = Sender::new(Duration::ZERO);
    let sizes: Vec<u32> = sizes.iter().filter(|size| **size > 0).map(|size| u32::from(*size)).collect();
    for (number, events) in (0..).zip(&sizes) {
        sender.sent(number, *events, Duration::ZERO);
    }
    let mut told = Vec::new();
    let mut pieces = bytes.chunks(size.max(1));
    let now = Duration::from_secs(1);
    let refused = pieces.find_map(|piece| sender.input(piece, now, &mut |acked| told.push(acked)).err());
    if let Some(refused) = refused {
        assert_eq!(sender.input(b"2A\0\0\0\0", now, &mut |_| {}), Err(refused));
    }
    let mut next = 0;
    for acked in &told {
        match acked {
            Acked::Window { number } => {
                assert_eq!(*number, next);
                next += 1;
            }
            Acked::Partial { number, events } => {
                assert!(*number == next && *events > 0 && *events < sizes[next as usize]);
            }
            Acked::KeepAlive => {}
        }
    }
    assert_eq!(sender.in_flight() as u64 + next, sizes.len() as u64);
    (refused, told)
}
