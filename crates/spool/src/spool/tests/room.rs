//! A spool that is full, or on a disk that is: what is given up then, what is not, and what still goes in.

use super::*;

fn drop_oldest() -> Options {
    Options { when_full: WhenFull::DropOldest, ..options() }
}

/// Some segments of blocks.
fn filled(disk: &Faulty, options: &Options, blocks: u8) -> Spool {
    let mut spool = open(disk, options);
    for n in 0..blocks {
        put(&mut spool, new_block(n, 400));
        spool.commit().unwrap();
    }
    spool
}

/// Any error while the reserve was made counted as a full disk, and one segment after the other was dropped.
#[test]
fn a_reserve_that_may_not_be_made_drops_nothing() {
    let disk = Faulty::default();
    drop(filled(&disk, &drop_oldest(), 60));
    disk.fail_always("allocate", None, Fault::Denied);
    let mut spool = open(&disk, &drop_oldest());
    for n in 0..20 {
        let error = spool.append(new_block(n, 400)).unwrap_err();
        assert!(matches!(error, AppendError::Io(_)), "{error}");
        assert_eq!(error.to_string(), "cannot write the spool: Permission denied (os error 13)");
        spool.commit().unwrap();
    }
    assert_eq!(all(&mut spool).len(), 60);
    disk.heal();
    put(&mut spool, new_block(0, 400));
    assert_eq!(spool.stats().totals.dropped, Counts::default());
}

/// Others filled the disk, and the whole backlog went although that made no room.
#[test]
fn a_disk_that_others_fill_takes_no_more_than_helps() {
    let disk = Faulty::default();
    let min_free = 100_000;
    let options = Options { min_free, ..drop_oldest() };
    disk.set_capacity(300_000);
    let mut spool = filled(&disk, &options, 60);
    let free = disk.free().unwrap();
    let own = spool.stats().disk_bytes;
    // All that is here is less than what is missing.
    disk.put("other", vec![0; usize::try_from(free - min_free + own).unwrap()]);
    for _ in 0..20 {
        assert!(matches!(spool.append(new_block(0, 400)), Err(AppendError::Full(Full::MinFree))));
        spool.commit().unwrap();
    }
    assert_eq!(spool.stats().totals.dropped, Counts::default());
    // Now it is enough; but whatever comes free is taken by others at once.
    disk.put("other", vec![0; usize::try_from(free - min_free + own / 2).unwrap()]);
    for _ in 0..20 {
        let _full = spool.append(new_block(0, 400));
        spool.commit().unwrap();
        let taken = usize::try_from(disk.free().unwrap().saturating_sub(min_free - own / 2)).unwrap();
        disk.put("other", vec![0; disk.bytes("other").len() + taken]);
    }
    let dropped = spool.stats().totals.dropped.blocks;
    assert!((1..10).contains(&dropped), "{dropped}: one segment was tried");
    // And when it stays free, as much goes as is needed.
    disk.put("other", vec![0; usize::try_from(free - min_free + own / 4).unwrap()]);
    put(&mut spool, new_block(60, 400));
    spool.commit().unwrap();
    let left = all(&mut spool);
    assert!(left.len() > 10 && left.ends_with(&[61]), "{left:?}");
    assert!(disk.free().unwrap() >= min_free);
}

#[test]
fn what_is_given_up_while_it_is_under_way_and_delivered_all_the_same_counts_as_done() {
    let disk = Faulty::default();
    let mut spool = filled(&disk, &Options { max_bytes: 60_000, ..drop_oldest() }, 20);
    for seq in [1, 2, 3] {
        spool.take(Seq(seq));
        assert!(spool.read(Seq(seq)).unwrap().is_some());
    }
    for n in 20..200 {
        put(&mut spool, new_block(n, 400));
        spool.commit().unwrap();
    }
    assert!(!all(&mut spool).contains(&1), "it was given up");
    let before = spool.stats().totals;
    assert!(spool.done(Seq(1)).unwrap());
    assert!(!spool.done(Seq(1)).unwrap(), "once");
    spool.give_back(Seq(2));
    assert!(!spool.done(Seq(2)).unwrap(), "that one went unseen");
    let after = spool.stats().totals;
    assert_eq!((after.done.events, before.dropped.events - after.dropped.events), (1, 1));
    assert_eq!(
        spool.stats().waiting.events + after.dropped.events + after.done.events,
        after.appended.events
    );
}

/// No rotation was remembered while the spool was full, and a close waited for ever.
#[test]
fn a_full_spool_takes_some_marks_and_no_end_of_them() {
    let disk = Faulty::default();
    let options = Options { max_bytes: 60_000, ..options() };
    let mut spool = open(&disk, &options);
    loop {
        match spool.append(new_block(0, 400)) {
            Err(AppendError::Full(_)) => break,
            Err(AppendError::Busy) | Ok(_) => spool.commit().unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    let mut written = 0_u32;
    for n in 0..2000_u32 {
        let mark = Mark { key: "file".into(), value: Some(Bytes::from(n.to_string())) };
        match spool.mark(vec![mark]) {
            Ok(()) => written = n,
            Err(AppendError::Busy | AppendError::Full(_)) => {}
            Err(error) => panic!("{error}"),
        }
        spool.commit().unwrap();
    }
    assert!(written > 1000, "{written}");
    assert!(spool.stats().disk_bytes < 60_000 + 2 * options.reserve_bytes, "{}", spool.stats().disk_bytes);
    drop(spool);
    disk.crash(|| false);
    let mut spool = open(&disk, &options);
    assert_eq!(spool.marks()[&b"file"[..]], Bytes::from(written.to_string()));
    // What is done can still be noted, and makes room.
    for seq in all(&mut spool) {
        spool.done(Seq(seq)).unwrap();
        spool.commit().unwrap();
    }
    put(&mut spool, new_block(0, 400));
}

/// Each try left one more segment behind.
#[test]
fn a_disk_on_which_every_fsync_fails_does_not_fill() {
    let disk = Faulty::default();
    let mut spool = filled(&disk, &options(), 3);
    let before = disk.names().len();
    disk.fail_always("sync", None, Fault::Io);
    spool.append(new_block(3, 400)).unwrap();
    for _ in 0..50 {
        assert!(spool.commit().is_err());
    }
    let mut on_disk: u64 = Files::list(&disk, None).unwrap().iter().map(|entry| entry.len).sum();
    on_disk += options().reserve_bytes;
    assert!(disk.names().len() <= before + 1, "{:?}", disk.names());
    assert!(spool.stats().disk_bytes.abs_diff(on_disk) <= options().reserve_bytes, "{on_disk}");
    disk.heal();
    spool.commit().unwrap();
    assert_eq!(all(&mut spool), [1, 2, 3, 4]);
    drop(spool);
    disk.crash(|| false);
    assert_eq!(all(&mut open(&disk, &options())), [1, 2, 3, 4]);
}

/// It came back beside the first segment of the next run, with the same id: their salts, which are random, said which is last.
#[test]
fn a_segment_that_never_was_durable_does_not_come_back_after_the_next_start() {
    let disk = Faulty::default();
    let mut spool = open(&disk, &options());
    spool.append(new_block(0, 400)).unwrap();
    let name = disk.names().into_iter().find(|name| name.ends_with(".spool")).unwrap();
    disk.fail(Call::Sync, 0, Fault::Io);
    assert!(spool.commit().is_err());
    drop(spool);
    let mut spool = open(&disk, &options());
    spool.append(new_block(1, 400)).unwrap();
    drop(spool);
    disk.crash(|| true);
    assert!(!disk.names().contains(&name), "{:?}", disk.names());
}

#[test]
fn copies_of_damage_do_not_wedge_a_small_spool() {
    let disk = Faulty::default();
    let options = Options { max_bytes: 60_000, cache_bytes: 0, ..options() };
    for round in 0..12 {
        let mut spool = open(&disk, &options);
        for n in 0..20 {
            put(&mut spool, new_block(n, 800));
            spool.commit().unwrap();
        }
        let name = disk.names().into_iter().find(|name| name.ends_with(".spool")).unwrap();
        let len = disk.bytes(&name).len();
        for at in (300..len).step_by(400) {
            disk.flip(&name, at * 8);
        }
        for seq in all(&mut spool) {
            spool.done(Seq(seq)).unwrap();
        }
        spool.commit().unwrap();
        let kept: u64 = Files::list(&disk, Some("quarantine")).unwrap().iter().map(|entry| entry.len).sum();
        assert!((1..=7_500).contains(&kept), "{kept} in round {round}");
    }
}

#[test]
fn room_that_an_earlier_run_had_allocated_is_given_back() {
    let disk = Faulty::default();
    disk.set_capacity(1 << 20);
    let options = Options { reserve_bytes: 100_000, ..options() };
    drop(filled(&disk, &options, 3));
    for _ in 0..3 {
        drop(open(&disk, &options));
    }
    let stats = filled(&disk, &options, 0).stats();
    let used = (1 << 20) - disk.free().unwrap();
    assert_eq!(used, stats.disk_bytes);
}
