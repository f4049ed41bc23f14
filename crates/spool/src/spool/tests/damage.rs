//! Damage: what cannot be read is counted, the rest comes back, and a start is never refused.

use super::*;

/// A log of some segments; what it was made of.
fn made(blocks: u8, len: usize) -> Faulty {
    let disk = Faulty::default();
    let mut spool = open(&disk, &Options { segment_bytes: 15 * len as u64, ..options() });
    for n in 0..blocks {
        spool.append(new_block(n, len)).unwrap();
        if n % 3 == 2 {
            spool.commit().unwrap();
        }
    }
    spool.close().unwrap();
    disk
}

fn segments(disk: &Faulty) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".spool")).collect()
}

/// Opens, reads all, and holds the counts against what came back. Returns that.
fn hold_to_account(disk: &Faulty, blocks: u64, what: &str) -> (Vec<u64>, Stats) {
    let mut spool = open(disk, &Options { cache_bytes: 0, ..options() });
    let found = all(&mut spool);
    let stats = spool.stats();
    let lost: Vec<u64> = (1..=blocks).filter(|seq| !found.contains(seq)).collect();
    assert_eq!(stats.waiting.blocks, found.len() as u64, "{what}");
    assert_eq!(stats.waiting.events, found.iter().sum::<u64>(), "{what}: block n has n events");
    assert_eq!(stats.totals.damaged.blocks, lost.len() as u64, "{what}: {lost:?}");
    for seq in &found {
        let block = spool.read(Seq(*seq)).unwrap().unwrap();
        let given = new_block(u8::try_from(*seq - 1).unwrap(), block.body.len());
        assert!(block.body == given.body, "{what}: block {seq}");
    }
    (found, stats)
}

#[test]
fn every_flipped_bit_costs_what_it_hits_and_no_more() {
    let original = made(14, 30);
    let names = segments(&original);
    assert!(names.len() > 1, "{names:?}");
    for name in &names {
        let is_last = Some(name) == names.last();
        let len = original.bytes(name).len();
        for bit in 0..len * 8 {
            let disk = original.fork();
            disk.flip(name, bit);
            let what = format!("bit {} of byte {} of {name}", bit % 8, bit / 8);
            let (found, stats) = hold_to_account(&disk, 14, &what);
            assert!(found.len() >= 13, "{what}: {found:?}");
            let lost: u64 = (1..=14).filter(|seq| !found.contains(seq)).sum();
            // In the last segment a block's events are known by its head alone; in older ones by what is left over.
            if !is_last || stats.totals.damaged.events > 0 {
                assert_eq!(stats.totals.damaged.events, lost, "{what}");
            }
            if lost > 0 {
                assert!(
                    (64..400).contains(&stats.totals.damaged_bytes),
                    "{what}: {}",
                    stats.totals.damaged_bytes
                );
            }
        }
    }
}

#[test]
fn a_log_cut_at_any_byte_is_a_log_up_to_there() {
    let original = made(24, 60);
    let name = segments(&original).pop().unwrap();
    let bytes = original.bytes(&name);
    let whole = open(&original.fork(), &options()).durable().0;
    let mut before = 0;
    for len in 0..bytes.len() {
        let disk = original.fork();
        disk.put(&name, bytes[..len].to_vec());
        let mut spool = open(&disk, &Options { cache_bytes: 0, ..options() });
        let found = all(&mut spool);
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "cut at {len}");
        assert!(found.len() >= before, "cut at {len}");
        before = found.len();
        let last = found.len() as u64 - 1;
        assert_eq!(
            spool.marks()[&b"pos"[..]],
            Bytes::from(vec![u8::try_from(last).unwrap()]),
            "cut at {len}"
        );
        spool.append(new_block(0, 60)).unwrap();
        spool.commit().unwrap();
        assert_eq!(all(&mut spool).len(), before + 1);
    }
    assert_eq!(before as u64 + 1, whole);
}

#[test]
fn a_segment_that_is_gone_is_counted() {
    for which in 0..3 {
        let disk = made(40, 200);
        let names = segments(&disk);
        assert!(names.len() >= 4);
        disk.remove(&names[which]).unwrap();
        let (found, stats) = hold_to_account(&disk, 40, "gone");
        let lost: u64 = (1..=40).filter(|seq| !found.contains(seq)).sum();
        assert!(lost > 0);
        assert_eq!(stats.totals.damaged.events, lost);
        assert!(stats.totals.damaged_bytes > 1000);
    }
}

#[test]
fn segments_full_of_garbage_do_not_stop_a_start() {
    let original = made(40, 200);
    let names = segments(&original);
    for garbled in [&names[..1], &names[names.len() - 1..], &names[1..3], &names[..]] {
        let disk = original.fork();
        for name in garbled {
            disk.put(name, (0..3500_u32).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect());
        }
        let mut spool = open(&disk, &options());
        let before = all(&mut spool).len();
        assert!(before > 0 || garbled.len() == names.len());
        spool.append(new_block(1, 100)).unwrap();
        spool.commit().unwrap();
        assert_eq!(all(&mut spool).len(), before + 1);
    }
}

#[test]
fn damage_while_running_is_counted_once() {
    let disk = made(40, 200);
    let mut spool = open(&disk, &Options { cache_bytes: 0, ..options() });
    let name = segments(&disk).remove(1);
    let bytes = disk.bytes(&name);
    let at = bytes.windows(4).rposition(|w| w == crate::frame::MAGIC).unwrap();
    disk.flip(&name, (at - 5) * 8);
    let found = all(&mut spool);
    assert_eq!(found.len(), 39);
    let damaged = spool.stats().totals.damaged;
    assert_eq!((damaged.blocks, all(&mut spool).len()), (1, 39));
    assert_eq!(damaged, spool.stats().totals.damaged);
    spool.commit().unwrap();
    drop(spool);
    disk.crash(|| false);
    let mut spool = open(&disk, &options());
    assert_eq!((all(&mut spool).len(), spool.stats().totals.damaged), (39, damaged), "and remembered");
    assert!(spool.stats().totals.damaged_bytes > 64);
    assert!(Files::list(&disk, Some("quarantine")).unwrap().len() == 1, "its bytes are kept");
}

/// After some failed reads of one block, whatever the error, a whole segment was counted as damaged and unlinked.
#[test]
fn giving_up_a_block_costs_what_the_device_refuses_and_no_more() {
    let disk = made(40, 2000);
    let mut spool = open(&disk, &Options { cache_bytes: 0, ..options() });
    let name = segments(&disk).remove(0);
    for fault in [Fault::Stop, Fault::Denied] {
        disk.fail_always("open", Some(&name), fault);
        assert!(matches!(spool.read(Seq(1)), Err(ReadError::Io(_))));
        assert!(!spool.read(Seq(1)).unwrap_err().is_of_device());
        assert!(spool.give_up(Seq(1)).is_err(), "it may pass");
        disk.heal();
    }
    // The device does not open it: nobody knows what is in it.
    disk.fail_always("open", Some(&name), Fault::Io);
    assert!(spool.give_up(Seq(1)).is_err());
    disk.heal();
    assert_eq!(spool.stats().totals.damaged, Counts::default());
    assert!(spool.give_up(Seq(1)).unwrap().is_some(), "it can be read after all");
    // One sector: the head of a block, and the bodies of it and of the one before.
    let bytes = disk.bytes(&name);
    let heads: Vec<usize> =
        (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == crate::frame::MAGIC).collect();
    disk.fail_reads(&name, 8192..8200, Fault::Io);
    let hit = |range: &std::ops::Range<usize>| range.start < 12_288 && range.end > 8192;
    let refused = heads.windows(2).map(|pair| pair[0]..pair[1]).filter(hit).count();
    let mut given_up = Vec::new();
    for seq in 1..=40 {
        if spool.read(Seq(seq)).is_err() && spool.give_up(Seq(seq)).unwrap().is_none() {
            given_up.push(seq);
        }
    }
    disk.heal();
    let stats = spool.stats();
    assert_eq!(stats.waiting.blocks + stats.totals.damaged.blocks, 40);
    assert!(
        (1..=refused as u64).contains(&stats.totals.damaged.blocks),
        "{refused}: {:?}",
        stats.totals.damaged
    );
    let found = all(&mut spool);
    assert_eq!(stats.totals.damaged.events, (1..=40).filter(|seq| !found.contains(seq)).sum::<u64>());
    // When the rest is done, the segment does not go: somebody may get it back.
    for seq in found {
        spool.done(Seq(seq)).unwrap();
    }
    for _ in 0..3 {
        spool.commit().unwrap();
    }
    assert!(!disk.names().contains(&name));
    assert_eq!(disk.bytes(&format!("quarantine/{name}")), bytes);
}

#[test]
fn an_index_is_built_elsewhere_and_ahead() {
    let disk = made(40, 200);
    let mut spool = open(&disk, &Options { cache_bytes: 0, ..options() });
    let job = spool.index_job(Seq(1)).unwrap();
    let late = spool.index_job(Seq(2)).unwrap();
    spool.index_end(job.run()).unwrap();
    assert!(spool.index_job(Seq(1)).is_none());
    disk.take_reads();
    assert!(spool.read(Seq(2)).unwrap().is_some());
    assert!(disk.take_reads().0 < 400, "a head and a body");
    spool.index_end(late.run()).unwrap();
    // Its segment is gone when the walk over it ends.
    let late = spool.index_job(Seq(40)).or_else(|| spool.index_job(Seq(20))).unwrap();
    for seq in all(&mut spool) {
        spool.done(Seq(seq)).unwrap();
    }
    spool.commit().unwrap();
    spool.commit().unwrap();
    spool.index_end(late.run()).unwrap();
    assert_eq!(spool.stats().totals.damaged, Counts::default());
    assert!(spool.index_job(Seq(1)).is_none(), "there is no such block");
}

#[test]
fn what_is_set_aside_is_not_offered() {
    let disk = made(40, 200);
    let mut spool = open(&disk, &options());
    spool.set_aside(Seq(1), true);
    let next = spool.find(Order::OldestFrom(Seq(0))).unwrap();
    assert!(next > Seq(3), "{next:?}");
    spool.set_aside(Seq(2), false);
    assert_eq!(spool.find(Order::OldestFrom(Seq(0))), Some(Seq(1)));
}

/// It was skipped, became a leftover, and the first commit unlinked it: acked events, uncounted.
#[test]
fn a_segment_that_may_not_be_opened_fails_the_start_and_stays() {
    let disk = made(40, 200);
    let newest = segments(&disk).pop().unwrap();
    let before = all(&mut open(&disk.fork(), &options())).len();
    disk.fail_always("open", Some(&newest), Fault::Denied);
    for unreadable in [Unreadable::Refuse, Unreadable::GiveUp] {
        let error = Spool::open(Arc::new(disk.clone()), options(), unreadable).err().unwrap();
        assert!(error.to_string().contains(&newest), "{error}");
    }
    disk.heal();
    assert_eq!(all(&mut open(&disk, &options())).len(), before);
}

/// Opens it as somebody does who has tried often enough.
fn open_given_up(disk: &Faulty) -> (Spool, Recovered) {
    let options = Options { cache_bytes: 0, ..options() };
    Spool::open(Arc::new(disk.clone()), options, Unreadable::GiveUp).unwrap()
}

#[test]
fn a_newest_segment_that_the_device_does_not_open_is_counted_and_put_aside() {
    let disk = made(40, 200);
    let newest = segments(&disk).pop().unwrap();
    let bytes = disk.bytes(&newest);
    disk.fail_always("open", Some(&newest), Fault::Io);
    assert!(Spool::open(Arc::new(disk.clone()), options(), Unreadable::Refuse).is_err());
    let (mut spool, recovered) = open_given_up(&disk);
    assert_eq!(recovered.damaged_bytes, bytes.len() as u64);
    assert_eq!((recovered.unreadable_segments, recovered.is_damaged()), (1, true));
    let found = all(&mut spool);
    assert!(found.len() < 40 && found.len() > 20, "{found:?}");
    for n in 0..3 {
        put(&mut spool, new_block(n, 100));
        spool.commit().unwrap();
    }
    assert_eq!(spool.stats().totals.damaged_bytes, bytes.len() as u64);
    disk.heal();
    assert_eq!(disk.bytes(&format!("quarantine/{newest}")), bytes, "for people");
}

#[test]
fn what_the_device_does_not_give_back_at_a_start_is_damage_and_not_torn() {
    let disk = made(40, 2000);
    let newest = segments(&disk).pop().unwrap();
    let len = disk.bytes(&newest).len() as u64;
    // All of it, its beginning, and its end, which may be newer than the last `synced` record.
    for (range, least) in [(0..len, 20), (0..4096, 35), (len - 10..len, 35)] {
        let disk = disk.fork();
        disk.fail_reads(&newest, range.clone(), Fault::Io);
        assert!(Spool::open(Arc::new(disk.clone()), options(), Unreadable::Refuse).is_err());
        let (mut spool, recovered) = open_given_up(&disk);
        spool.append(new_block(1, 10)).unwrap();
        spool.commit().unwrap();
        let is_there = disk.names().iter().any(|name| name.ends_with(&newest));
        disk.heal();
        assert!(is_there, "{range:?}: nobody has read it");
        let found = all(&mut spool);
        assert_eq!(recovered.torn_bytes, 0, "{range:?}");
        assert!(recovered.damaged_bytes > 0, "{range:?}: {recovered:?}");
        assert!(found.len() > least, "{range:?}: {}", found.len());
    }
}

#[test]
fn an_error_that_is_not_of_the_device_is_never_damage() {
    let disk = made(40, 200);
    for name in segments(&disk) {
        let disk = disk.fork();
        disk.fail_reads(&name, 100..200, Fault::Denied);
        if let Ok((mut spool, _)) = Spool::open(Arc::new(disk.clone()), options(), Unreadable::GiveUp) {
            disk.heal();
            assert_eq!(all(&mut spool).len(), 40);
        }
        disk.heal();
        assert_eq!(all(&mut open(&disk, &options())).len(), 40);
    }
}

#[test]
fn a_block_that_is_under_way_is_not_lost_with_its_segment() {
    let disk = made(40, 200);
    let mut spool = open(&disk, &Options { cache_bytes: 0, ..options() });
    let name = segments(&disk).remove(0);
    let next: u64 = segments(&disk)[1][..20].parse().unwrap();
    spool.take(Seq(1));
    assert!(spool.read(Seq(1)).unwrap().is_some());
    disk.fail_reads(&name, 0..u64::MAX, Fault::Io);
    assert_eq!(spool.give_up(Seq(2)).unwrap(), None);
    assert_eq!(spool.stats().totals.damaged.blocks, next - 2);
    assert!(spool.done(Seq(1)).unwrap());
    assert_eq!(spool.stats().totals.done.events, 1);
}

#[test]
fn a_segment_that_was_only_just_being_begun_is_no_damage() {
    let original = made(14, 30);
    let id = SegmentId { first: open(&original.fork(), &options()).durable().0, id: 99, salt: 7 };
    for bytes in
        [Vec::new(), vec![0; 30], vec![0; 64], vec![0; 3000], id.head(), [id.head(), vec![0; 3000]].concat()]
    {
        let disk = original.fork();
        disk.put(&id.name(), bytes);
        let (mut spool, recovered) = open_given_up(&disk);
        assert!(!recovered.is_damaged(), "{recovered:?}");
        assert_eq!(all(&mut spool).len(), 14);
    }
}

/// No `synced` record vouched for what a start had told to be durable: one bit in it, and the next start cut it and all
/// behind it as torn.
#[test]
fn what_a_start_found_is_damage_and_not_torn_at_the_next() {
    for is_power_cut in [false, true] {
        let disk = Faulty::default();
        let mut spool = open(&disk, &options());
        for n in 0..3 {
            spool.append(new_block(n, 100)).unwrap();
        }
        drop(spool);
        assert_eq!(open(&disk, &options()).durable(), Seq(4), "told to be durable");
        let name = segments(&disk).remove(0);
        let len = disk.bytes(&name).len();
        assert_eq!(open(&disk, &options()).durable(), Seq(4));
        assert_eq!(disk.bytes(&name).len(), len, "starts do not let it grow");
        let payload = disk.bytes(&name).windows(100).position(|w| w == body(0, 100)).unwrap();
        disk.flip(&name, payload * 8);
        if is_power_cut {
            disk.crash(|| false);
        }
        let (found, stats) = hold_to_account(&disk, 3, "flipped");
        assert_eq!((found, stats.recovered.torn_bytes), (vec![2, 3], 0));
        assert_eq!(open(&disk, &options()).marks()[&b"pos"[..]], Bytes::from_static(&[2]));
    }
}
