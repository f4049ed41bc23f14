//! What the spool promises, on a file system that fails on demand.

mod damage;
mod disk;
mod model;
mod room;
mod world;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::files::faulty::{Call, Fault, Faulty};
use crate::options::{Durability, Unreadable, WhenFull};
use world::{World, body, options};

fn new_block(n: u8, len: usize) -> NewBlock {
    NewBlock {
        kind: 1,
        events: u32::from(n) + 1,
        event_bytes: len as u64,
        at: u64::from(n) * 1000,
        encoding: if n.is_multiple_of(2) { Encoding::Stored } else { Encoding::Zstd },
        body: body(n.into(), len),
        marks: vec![Mark { key: "pos".into(), value: Some(Bytes::from(vec![n])) }],
    }
}

/// Appends; commits first if it must.
fn put(spool: &mut Spool, new: NewBlock) {
    while let Err(error) = spool.append(new.clone()) {
        assert!(matches!(error, AppendError::Busy), "{error}");
        spool.commit().unwrap();
    }
}

fn open(disk: &Faulty, options: &Options) -> Spool {
    Spool::open(Arc::new(disk.clone()), options.clone(), Unreadable::Refuse).unwrap().0
}

fn all(spool: &mut Spool) -> Vec<u64> {
    let mut seqs = Vec::new();
    let mut from = Seq(0);
    while let Some(seq) = spool.find(Order::OldestFrom(from)) {
        from = Seq(seq.0 + 1);
        if spool.read(seq).unwrap().is_some() {
            seqs.push(seq.0);
        }
    }
    seqs
}

#[test]
fn blocks_come_back_as_they_were_given() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    for n in 0..40 {
        put(&mut spool, new_block(n, 200));
    }
    spool.commit().unwrap();
    spool.close().unwrap();
    let mut spool = open(&disk, &Options { cache_bytes: 0, ..options() });
    for n in 0..40_u8 {
        let found = spool.read(Seq(u64::from(n) + 1)).unwrap().unwrap();
        let given = new_block(n, 200);
        assert_eq!((found.kind, found.events, found.event_bytes, found.at), (1, given.events, 200, given.at));
        assert_eq!(found.body, given.body);
    }
    assert_eq!(spool.marks()[&b"pos"[..]], Bytes::from_static(&[39]));
    assert_eq!(spool.stats().oldest_at, Some(0));
}

#[test]
fn nothing_is_offered_before_it_is_durable() {
    let mut spool = open(&Faulty::default(), &options());
    let seq = spool.append(new_block(0, 10)).unwrap();
    assert_eq!((spool.find(Order::Newest), spool.read(seq).unwrap()), (None, None));
    let job = spool.commit_begin().unwrap().unwrap();
    let later = spool.append(new_block(1, 10)).unwrap();
    spool.commit_end(job.run()).unwrap();
    assert_eq!(spool.find(Order::Newest), Some(seq));
    spool.commit().unwrap();
    assert_eq!(spool.find(Order::Newest), Some(later));
}

#[test]
fn readers_get_the_oldest_or_the_newest_that_nobody_has() {
    let mut spool = open(&Faulty::default(), &options());
    for n in 0..20 {
        spool.append(new_block(n, 300)).unwrap();
        spool.commit().unwrap();
    }
    spool.take(Seq(1));
    spool.take(Seq(20));
    spool.done(Seq(2)).unwrap();
    assert_eq!(spool.find(Order::OldestFrom(Seq(0))), Some(Seq(3)));
    assert_eq!(spool.find(Order::OldestFrom(Seq(7))), Some(Seq(7)));
    assert_eq!(spool.find(Order::Newest), Some(Seq(19)));
    spool.give_back(Seq(20));
    assert_eq!(spool.find(Order::Newest), Some(Seq(20)));
}

#[test]
fn fresh_blocks_are_not_read_from_the_disk() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &Options { cache_bytes: 4096, ..options() });
    for n in 0..20 {
        put(&mut spool, new_block(n, 500));
    }
    spool.commit().unwrap();
    disk.take_reads();
    assert!(spool.read(Seq(20)).unwrap().is_some());
    assert_eq!(disk.take_reads().0, 0);
    assert!(spool.read(Seq(1)).unwrap().is_some(), "and old ones are");
    assert!(disk.take_reads().0 > 0);
}

#[test]
fn a_start_reads_the_last_segment_only() {
    let disk = Faulty::default();
    let options = Options { max_bytes: 10 << 20, segment_bytes: 4096, ..options() };
    let mut spool = open(&disk, &options);
    for n in 0..3000_u32 {
        spool.append(new_block(u8::try_from(n % 250).unwrap(), 300)).unwrap();
        if n % 5 == 0 {
            spool.commit().unwrap();
        }
    }
    spool.close().unwrap();
    let segments = disk.names().iter().filter(|name| name.ends_with(".spool")).count();
    let total: usize = disk.names().iter().map(|name| disk.bytes(name).len()).sum();
    assert!(segments > 100, "{segments}");
    disk.take_reads();
    let mut spool = open(&disk, &options);
    let stats = spool.stats();
    let (bytes, opened) = disk.take_reads();
    assert_eq!(stats.waiting.blocks, 3000);
    let opened: BTreeSet<_> = opened.iter().filter(|name| *name != "reserve").collect();
    assert_eq!(opened.len(), 1, "{opened:?}");
    assert!(bytes < total as u64 / 10, "{bytes} of {total}");
}

#[test]
fn what_is_done_gives_its_room_back() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    for round in 0..30 {
        for n in 0..10 {
            spool.append(new_block(n, 400)).unwrap();
        }
        spool.commit().unwrap();
        for seq in all(&mut spool) {
            assert!(spool.done(Seq(seq)).unwrap());
        }
        spool.commit().unwrap();
        assert!(spool.stats().disk_bytes < 20_000, "round {round}: {}", spool.stats().disk_bytes);
    }
    assert_eq!(spool.stats().totals.done.blocks, 300);
}

#[test]
fn idle_marks_outlive_the_segments_they_were_written_in() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    spool.mark(vec![Mark { key: "idle".into(), value: Some("7".into()) }]).unwrap();
    for n in 0..50 {
        let seq = spool.append(new_block(n, 400)).unwrap();
        spool.commit().unwrap();
        spool.done(seq).unwrap();
    }
    spool.close().unwrap();
    assert!(disk.names().iter().filter(|name| name.ends_with(".spool")).count() < 4);
    assert_eq!(open(&disk, &options()).marks()[&b"idle"[..]], Bytes::from_static(b"7"));
}

#[test]
fn a_full_spool_takes_nothing_until_something_is_done() {
    let disk = Faulty::default();
    let options = Options { max_bytes: 40_000, ..options() };
    let mut spool = open(&disk, &options);
    let mut taken = 0;
    let full = loop {
        match spool.append(new_block(0, 400)) {
            Ok(_) => taken += 1,
            Err(AppendError::Busy) => {}
            Err(error) => break error,
        }
        spool.commit().unwrap();
    };
    assert!(matches!(full, AppendError::Full(Full::MaxBytes)), "{full}");
    assert!(spool.stats().disk_bytes <= 40_000);
    assert_eq!(all(&mut spool).len(), taken);
    for seq in 1..=20 {
        spool.done(Seq(seq)).unwrap();
    }
    spool.commit().unwrap();
    spool.append(new_block(0, 400)).unwrap();
}

#[test]
fn min_free_is_left_to_others() {
    let disk = Faulty::default();
    disk.set_capacity(100_000);
    let mut spool = open(&disk, &Options { min_free: 60_000, ..options() });
    let full = loop {
        if let Err(error) = spool.append(new_block(0, 400)) {
            break error;
        }
        spool.commit().unwrap();
    };
    assert!(matches!(full, AppendError::Full(Full::MinFree)), "{full}");
    assert!(disk.free().unwrap() >= 59_000, "{:?}", disk.free());
}

#[test]
fn drop_oldest_counts_what_it_gives_up() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &Options { max_bytes: 40_000, when_full: WhenFull::DropOldest, ..options() });
    for n in 0..200 {
        put(&mut spool, new_block(n, 400));
        spool.commit().unwrap();
    }
    let left = all(&mut spool);
    let stats = spool.stats();
    assert_eq!(left, (200 - left.len() as u64 + 1..=200).collect::<Vec<_>>(), "the newest stay");
    let gone: u64 = (1..=200 - left.len() as u64).sum();
    assert_eq!(stats.totals.dropped.events, gone, "block n has n events");
    assert_eq!(stats.totals.dropped.event_bytes, (200 - left.len() as u64) * 400);
    assert!(stats.disk_bytes <= 40_000);
}

#[test]
fn a_full_disk_does_not_keep_us_from_noting_what_is_done() {
    let disk = Faulty::default();
    // The last segment grows out of what was reserved for it, so that not even a note has room in it.
    let mut spool = open(&disk, &Options { reserve_bytes: 500, segment_bytes: 6000, ..options() });
    while spool.next < 60 || spool.active.as_ref().is_none_or(|active| active.len < active.head + 5000) {
        spool.append(new_block(0, 400)).unwrap();
        spool.commit().unwrap();
    }
    disk.set_capacity(100_000);
    let free = disk.free().unwrap();
    disk.put("other", vec![0; usize::try_from(free).unwrap()]);
    assert!(matches!(spool.append(new_block(0, 400)), Err(AppendError::Full(_))));
    let blocks = all(&mut spool);
    for seq in &blocks {
        spool.done(Seq(*seq)).unwrap();
    }
    for _ in 0..3 {
        spool.commit().unwrap();
    }
    assert!(disk.free().unwrap() > 30_000, "{:?}", disk.free());
    drop(spool);
    disk.crash(|| false);
    assert_eq!(all(&mut open(&disk, &options())), Vec::<u64>::new(), "and it was durable");
}

#[test]
fn what_a_failed_fsync_left_open_is_written_again_elsewhere() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    spool.append(new_block(0, 100)).unwrap();
    spool.commit().unwrap();
    spool.append(new_block(1, 100)).unwrap();
    disk.fail(Call::Sync, 0, Fault::Io);
    assert!(matches!(spool.commit(), Err(CommitError::Io(_))));
    assert_eq!(all(&mut spool), [1], "nobody was told that 2 is durable");
    assert!(spool.stats().trouble.is_some());
    spool.commit().unwrap();
    assert!(spool.stats().trouble.is_none());
    drop(spool);
    disk.crash(|| false);
    assert_eq!(all(&mut open(&disk, &options())), [1, 2]);
}

#[test]
fn durability_none_never_syncs() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &Options { durability: Durability::None, ..options() });
    for n in 0..50 {
        spool.append(new_block(n, 400)).unwrap();
        spool.commit().unwrap();
    }
    spool.close().unwrap();
    assert_eq!((disk.calls("sync"), disk.calls("sync_folder")), (0, 0));
    assert_eq!(all(&mut open(&disk, &options())).len(), 50);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    spool.append(new_block(0, 100)).unwrap();
    spool.close().unwrap();
    let name = disk.names().into_iter().find(|name| name.ends_with(".spool")).unwrap();
    let mut bytes = disk.bytes(&name);
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    disk.put(&name, bytes.clone());
    let error = Spool::open(Arc::new(disk.clone()), options(), Unreadable::Refuse).err().unwrap();
    assert!(error.to_string().contains("version 2"), "{error}");
    assert_eq!(disk.bytes(&name), bytes);
}

#[test]
fn marks_are_bounded() {
    let mut spool =
        open(&Faulty::default(), &Options { max_bytes: 64 << 20, segment_bytes: 64 << 20, ..options() });
    let large = Mark { key: "k".into(), value: Some(Bytes::from(vec![0; crate::MAX_MARK + 1])) };
    assert!(matches!(spool.mark(vec![large]), Err(AppendError::Marks)));
    let mut refused = false;
    for n in 0..900_u32 {
        let mark = Mark { key: n.to_string().into(), value: Some(Bytes::from(vec![0; 10_000])) };
        refused |= spool.mark(vec![mark]).is_err();
        spool.commit().unwrap();
    }
    assert!(refused);
}

#[test]
fn a_log_line_that_looks_like_a_record_is_none() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    spool.append(new_block(0, 100)).unwrap();
    spool.close().unwrap();
    let name = disk.names().into_iter().find(|name| name.ends_with(".spool")).unwrap();
    let copy = NewBlock { encoding: Encoding::Stored, body: disk.bytes(&name).into(), ..new_block(2, 0) };
    let mut spool = open(&disk, &options());
    spool.append(copy).unwrap();
    spool.append(new_block(4, 10)).unwrap();
    spool.close().unwrap();
    // The record that holds the copy loses its head, so the search goes through its body.
    let last = disk.names().into_iter().rfind(|name| name.ends_with(".spool")).unwrap();
    let bytes = disk.bytes(&last);
    let at = bytes
        .windows(4)
        .enumerate()
        .filter(|(_, w)| *w == crate::frame::MAGIC)
        .map(|(n, _)| n)
        .nth(1)
        .unwrap();
    disk.flip(&last, (at + 20) * 8);
    assert_eq!(all(&mut open(&disk, &Options { cache_bytes: 0, ..options() })), [1, 3]);
}

/// Fails at the first, second, … call of a long scenario, until none is left to fail.
#[test]
fn nothing_is_lost_whichever_call_fails() {
    for (call, fault) in [
        (Call::Change, Fault::Io),
        (Call::Change, Fault::Full),
        (Call::Change, Fault::Stop),
        (Call::Sync, Fault::Io),
        (Call::Read, Fault::Io),
    ] {
        for keep in [0_u64, u64::MAX, 0x9999_6666_1234_fedc] {
            for nth in 0.. {
                let mut world = World::new(options());
                world.disk.fail(call, nth, fault);
                world.scenario();
                if world.disk.heal() {
                    assert!(nth > 20, "the scenario makes {nth} calls");
                    break;
                }
                world.crash(keep);
                world.scenario();
                world.crash(keep);
            }
        }
    }
}

/// What was done was in a segment whose fsync failed, and no block was: the next commit had nothing to do.
#[test]
fn what_is_done_is_not_forgotten_by_a_failed_fsync() {
    for fault in [Fault::Io, Fault::Full] {
        let disk = Faulty::default();
        let mut spool = open(&disk, &options());
        spool.append(new_block(0, 100)).unwrap();
        spool.append(new_block(1, 100)).unwrap();
        spool.commit().unwrap();
        spool.done(Seq(1)).unwrap();
        disk.fail(if fault == Fault::Io { Call::Sync } else { Call::Change }, 0, fault);
        while spool.commit().is_err() || spool.needs_commit() {}
        drop(spool);
        disk.crash(|| false);
        assert_eq!(all(&mut open(&disk, &options())), [2]);
    }
}

/// The name of a segment that could not be begun ended the one before it, which went on.
#[test]
fn a_segment_that_failed_to_begin_does_not_cut_the_one_before() {
    for call in [Call::Read, Call::Change] {
        for nth in 0..6 {
            let disk = Faulty::default();
            let mut spool = open(&disk, &options());
            for n in 0..8 {
                spool.append(new_block(n, 500)).unwrap();
            }
            let job = spool.commit_begin().unwrap().unwrap();
            let committed = job.run();
            disk.fail(call, nth, Fault::Io);
            spool.commit_end(committed).unwrap();
            disk.heal();
            spool.append(new_block(8, 10)).unwrap();
            spool.commit().unwrap();
            // Some of what was made or removed since the last sync is there, and some is not.
            for bits in 0..256_u32 {
                let (crashed, mut n) = (disk.fork(), 0);
                crashed.crash(|| {
                    n += 1;
                    bits >> (n % 8) & 1 == 1
                });
                let found = all(&mut open(&crashed, &options()));
                assert_eq!(found, (1..=9).collect::<Vec<_>>(), "{call:?} {nth} {bits:b}");
            }
        }
    }
}

#[test]
fn no_segment_goes_before_it_is_durable_that_nothing_of_it_is_left() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    for n in 0..30 {
        spool.append(new_block(n, 400)).unwrap();
        spool.commit().unwrap();
    }
    for seq in all(&mut spool) {
        spool.done(Seq(seq)).unwrap();
    }
    // There is no room for the note of it.
    disk.fail(Call::Change, 0, Fault::Full);
    spool.commit().unwrap();
    drop(spool);
    disk.crash(|| false);
    let mut spool = open(&disk, &options());
    assert_eq!(all(&mut spool).len() as u64, 30 - spool.stats().totals.done.blocks);
    assert_eq!(spool.stats().totals.damaged, Counts::default());
}

#[test]
fn what_stands_in_a_segment_behind_the_beginning_of_the_next_does_not_count() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    spool.append(new_block(0, 100)).unwrap();
    spool.commit().unwrap();
    spool.append(new_block(1, 100)).unwrap();
    let left = disk.names().into_iter().find(|name| name.ends_with(".spool")).unwrap();
    let bytes = disk.bytes(&left);
    disk.fail(Call::Sync, 0, Fault::Io);
    assert!(spool.commit().is_err());
    spool.commit().unwrap();
    spool.close().unwrap();
    // What could not be synced was written all the same, and the head of the next segment is damaged.
    disk.put(&left, bytes);
    let last = disk.names().into_iter().rfind(|name| name.ends_with(".spool")).unwrap();
    disk.flip(&last, 80 * 8);
    let mut spool = open(&disk, &options());
    assert_eq!(all(&mut spool), [1, 2]);
    assert_eq!(spool.stats().totals.appended.blocks, 2);
}
