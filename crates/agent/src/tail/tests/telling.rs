//! What the tail says about itself, and what it asks of the sink and of the scan.

use std::time::Duration;

use super::*;

const GRACE: Duration = Duration::from_secs(61);

#[test]
fn an_error_is_told_until_the_file_can_be_read_or_is_gone() {
    let mut w = World::new();
    w.tick();
    for n in 0..20 {
        w.write(&format!("access.log.{n}.gz"), b"\x1f\x8b\x08 no archive");
    }
    w.pass(GRACE);
    w.pass(GRACE);
    let errors = w.status().errors;
    assert_eq!(errors.len(), 17, "sixteen, and one for all others: {errors:?}");
    assert!(errors.contains_key("others"));
    for n in 0..20 {
        match n % 2 {
            0 => w.remove(&format!("access.log.{n}.gz")),
            _ => {
                w.write("plain", numbered(&format!("{n}"), 0..2));
                w.compress("plain", &format!("access.log.{n}.gz"));
                w.remove("plain");
            }
        }
    }
    w.pass(GRACE);
    w.pass(GRACE * 10);
    w.tick();
    let status = w.status();
    assert!(status.errors.is_empty(), "{:?}", status.errors);
    assert_eq!(status.lost_files, 10, "those that were deleted");
    w.check(
        &(0..20).filter(|n| n % 2 == 1).flat_map(|n| lines_of(&format!("{n}"), 0..2)).collect::<Vec<_>>(),
    );
}

#[test]
fn what_is_gone_unread_is_counted() {
    let mut w = World::new();
    w.limits.max_open = 1;
    w.crash();
    w.is_full = true;
    w.write("access-a.log", numbered("a", 0..900));
    w.write("access-b.log", numbered("b", 0..10));
    w.tick();
    // Only one of them could be opened.
    let open = fs::metadata(w.path("access-b.log")).unwrap().len();
    w.remove("access-b.log");
    w.remove("access-a.log");
    w.tick();
    w.is_full = false;
    w.pass(GRACE);
    let status = w.status();
    let lost_a = status.lost_bytes > open;
    assert_eq!(status.lost_files, 1, "{status:?}");
    assert_eq!(w.texts().len(), if lost_a { 10 } else { 900 });
}

#[test]
fn what_is_missing_is_told_until_it_is_forgotten() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..10));
    w.tick();
    w.truncate("access.log");
    w.write("access.log", "b\n");
    w.tick();
    assert_eq!((w.status().rest_missing, w.status().lost_files), (1, 0));
    w.pass(Duration::from_secs(90_000));
    assert_eq!((w.status().rest_missing, w.status().lost_files, w.status().expired), (0, 1, 1));
}

#[test]
fn lines_that_are_in_no_block_yet_are_under_way() {
    let mut w = World::new();
    w.tick();
    w.write("access.log", "one\n");
    w.worker.as_mut().unwrap().scan_soon();
    w.step();
    assert!(w.spool.lock().unwrap().pending.is_empty(), "it waits for others");
    let status = w.worker.as_ref().unwrap().status();
    assert_eq!((status.sections[0].unread_bytes, status.blocks_under_way), (0, 1));
}

#[test]
fn a_block_is_full_by_its_lines_too() {
    let mut w = World::new();
    w.write("access.log", "x\n".repeat(120));
    w.tick();
    assert_eq!(w.spool.lock().unwrap().fullness, [true, true, false], "two windows, and the rest of them");
}

#[test]
fn writing_beside_the_logs_asks_for_a_scan_now_and_then() {
    let mut w = World::new();
    w.write("access.log", "one\n");
    w.write("access.log.1.gz", b"\x1f\x8b\x08 being compressed");
    w.tick();
    w.tick();
    let [log, archive, other] = ["access.log", "access.log.1.gz", "other"].map(|name| w.path(name));
    let mut scans = 0;
    for _ in 0..100 {
        w.worker.as_mut().unwrap().written(&archive);
        w.worker.as_mut().unwrap().written(&other);
        w.advance(Duration::from_millis(10));
        scans += u32::from(w.step().unwrap().has_scanned);
    }
    assert_eq!(scans, 5, "in a second");
    w.worker.as_mut().unwrap().written(&log);
    assert!(!w.step().unwrap().has_scanned, "what is followed needs none");
    w.worker.as_mut().unwrap().changed(&archive, false);
    assert!(w.step().unwrap().has_scanned, "what is new needs one now");
}

#[test]
fn a_remembered_file_belongs_to_its_section_wherever_that_stands_now() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..300));
    w.tick();
    w.stop();
    w.write("access.log", numbered("a", 300..400));
    w.rename("access.log", "access.log.1");
    w.gzip("access.log.1");
    w.write("access.log", numbered("b", 0..3));
    // Another one is put before it.
    let pattern = Pattern::parse(&format!("{}/error.log", w.folder.path().display())).unwrap();
    w.configs.insert(0, config(vec![pattern], vec![]));
    w.start();
    w.pass(GRACE);
    w.pass(GRACE);
    w.check(&[lines_of("a", 0..400), lines_of("b", 0..3)].concat());
}

#[test]
fn a_large_log_leaves_small_ones_their_turn() {
    let mut w = World::new();
    // The spool takes a block at a time.
    w.limits.under_way = 1;
    w.crash();
    w.write("access-0-large.log", numbered("large", 0..9_000));
    for n in 1..=10 {
        w.write(&format!("access-{n}.log"), numbered(&format!("{n}"), 0..3));
    }
    let mut small = 0;
    for _ in 0..400 {
        w.step();
        w.spool.lock().unwrap().commit_one();
        w.advance(Duration::from_millis(1));
        small = w.texts().iter().filter(|text| !text.starts_with("large")).count();
        if small == 30 {
            break;
        }
    }
    let large: usize =
        w.got().iter().filter(|got| got.text.starts_with("large")).map(|got| got.text.len()).sum();
    assert!(small == 30 && large < 3 * w.limits.quantum, "{small} lines beside {large} bytes");
}

#[test]
fn what_was_left_out_of_a_listing_is_not_forgotten() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..3));
    w.tick();
    w.rename("access.log", "elsewhere");
    let names = 4_100;
    for n in 0..names {
        fs::write(w.path(&format!("access-{n}.log")), "").unwrap();
    }
    w.pass(GRACE);
    w.pass(Duration::from_secs(90_000));
    w.rename("elsewhere", "access-0.log");
    w.pass(GRACE);
    assert_eq!(w.texts(), lines_of("a", 0..3), "it is known still");
    assert_eq!((w.status().expired, w.status().lost_files), (0, 0));
}

#[test]
fn comparing_opens_no_more_files_than_reading() {
    let mut w = World::new();
    for n in 0..6 {
        w.write(&format!("access-{n}.log"), numbered("a", n * 10..n * 10 + 10));
    }
    w.tick();
    w.stop();
    for n in 0..6 {
        w.write(&format!("access-{n}.log"), numbered("b", n..n + 1));
    }
    w.write("access-6.log", numbered("c", 0..10));
    (w.limits.max_open, w.is_full) = (3, true);
    w.start();
    w.step();
    assert!(w.worker.as_ref().unwrap().status().open_files <= 3);
    w.is_full = false;
    for _ in 0..4 {
        w.tick();
    }
    w.check(&[lines_of("a", 0..60), lines_of("b", 0..6), lines_of("c", 0..10)].concat());
}
