//! Compressed files: what is not understood, what takes an inode's number over, and many of them.

use std::time::Duration;

use super::super::file::WITHOUT_BIRTH;
use super::*;

const GRACE: Duration = Duration::from_secs(61);

fn without_birth() -> World {
    WITHOUT_BIRTH.set(true);
    let mut w = World::new();
    w.tick();
    w
}

/// A number is used again: what was there is gone, and something else has its inode.
fn take_over(w: &mut World, from: &str, to: &str, bytes: &[u8]) {
    w.rename(from, "elsewhere");
    w.tick();
    let file = OpenOptions::new().write(true).truncate(true).open(w.path("elsewhere")).unwrap();
    (&file).write_all(bytes).unwrap();
    w.touch(&file);
    w.rename("elsewhere", to);
}

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_log_that_has_the_inode_of_a_dead_archive_is_read_as_text() {
    let mut w = without_birth();
    w.write("access.log.1", numbered("a", 0..300));
    w.gzip("access.log.1");
    w.tick();
    w.pass(GRACE);
    take_over(&mut w, "access.log.1.gz", "access.log", numbered("b", 0..5).as_bytes());
    w.tick();
    w.write("access.log", numbered("b", 5..9));
    w.tick();
    w.check(&[lines_of("a", 0..300), lines_of("b", 0..9)].concat());
    assert_eq!(w.got().last().unwrap().path, "access.log");
}

#[test]
fn a_copy_that_has_the_inode_of_a_dead_empty_log_is_a_copy() {
    let mut w = without_birth();
    w.write("access.log", "");
    w.tick();
    w.rename("access.log", "access.log.1");
    w.write("access.log", numbered("a", 0..3));
    w.pass(GRACE);
    w.pass(GRACE);
    // The empty archive is deleted, and the copy has its number and its name.
    w.write("access.log.1", numbered("a", 0..3));
    w.truncate("access.log");
    w.write("access.log", numbered("b", 0..3));
    w.pass(GRACE);
    w.check(&[lines_of("a", 0..3), lines_of("b", 0..3)].concat());
    assert_eq!((w.status().rest_missing, w.status().lost_files, w.status().expired), (0, 0, 0));
}

#[test]
fn a_copy_that_has_the_inode_of_a_log_that_was_closed_is_a_copy() {
    let mut w = without_birth();
    w.limits.max_open = 1;
    w.stop();
    w.start();
    w.write("access.log.2", numbered("a", 0..90));
    w.tick();
    w.write("access.log", numbered("b", 0..60));
    w.tick();
    // The older one is closed to make room, and deleted; the copy has its number, and no scan came between.
    let file = OpenOptions::new().write(true).truncate(true).open(w.path("access.log.2")).unwrap();
    (&file).write_all(numbered("b", 0..60).as_bytes()).unwrap();
    w.touch(&file);
    w.rename("access.log.2", "access.log.1");
    w.truncate("access.log");
    for _ in 0..3 {
        w.pass(GRACE);
    }
    w.check(&[lines_of("a", 0..90), lines_of("b", 0..60)].concat());
    assert_eq!(w.status().found_again, 1);
}

#[test]
fn an_archive_that_has_the_inode_of_a_dead_log_is_decompressed() {
    let mut w = without_birth();
    w.write("access.log", numbered("a", 0..300));
    w.tick();
    take_over(&mut w, "access.log", "access.log.1.gz", &gz(&numbered("b", 0..90)));
    w.tick();
    w.pass(GRACE);
    w.check(&[lines_of("a", 0..300), lines_of("b", 0..90)].concat());
}

#[test]
fn an_archive_that_has_the_inode_of_another_one_is_read() {
    // Before and after a restart, and whether or not the first one was read.
    for (is_first_start, restarts) in [(false, false), (false, true), (true, false), (true, true)] {
        WITHOUT_BIRTH.set(true);
        let mut w = World::new();
        if !is_first_start {
            w.tick();
        }
        w.write("access.log.1", numbered("a", 0..300));
        w.gzip("access.log.1");
        w.pass(GRACE);
        w.pass(GRACE);
        take_over(&mut w, "access.log.1.gz", "access.log.2.gz", &gz(&numbered("b", 0..9)));
        if restarts {
            w.crash();
        }
        w.pass(GRACE);
        w.pass(GRACE);
        let old = if is_first_start { vec![] } else { lines_of("a", 0..300) };
        w.check(&[old, lines_of("b", 0..9)].concat());
    }
}

#[test]
fn a_log_that_has_the_inode_of_another_one_has_its_own_name() {
    let mut w = without_birth();
    w.write("access-old.log", "header\nold\n");
    w.tick();
    w.stop();
    take_over(&mut w, "access-old.log", "access-new.log", b"header\nnew and longer\n");
    w.start();
    w.tick();
    let got: Vec<_> = w.got().into_iter().map(|got| (got.path, got.text)).collect();
    let wanted = [
        ("access-old.log", "header"),
        ("access-old.log", "old"),
        ("access-new.log", "header"),
        ("access-new.log", "new and longer"),
    ];
    assert_eq!(got, wanted.map(|(path, text)| (path.to_string(), text.to_string())));
}

#[test]
fn what_is_compressed_by_something_else_is_never_text() {
    let mut w = World::new();
    w.tick();
    w.write("access.log", numbered("a", 0..3));
    w.write("access.log.2.xz", b"\xfd7zXZ\0\nnot a line\n");
    // Its name says nothing, but what it begins with does.
    w.write("access.log.3", b"\x28\xb5\x2f\xfd\nnot a line\n");
    w.pass(GRACE);
    w.write("access.log.3", b"nor this\n");
    w.pass(GRACE);
    w.crash();
    w.pass(GRACE);
    assert_eq!(w.texts(), lines_of("a", 0..3));
    let status = w.status();
    assert_eq!((status.unreadable_files, status.rest_unreadable), (2, 0));
    assert!(status.errors.is_empty(), "nothing was expected of them: {:?}", status.errors);
}

#[test]
fn a_rest_that_was_compressed_by_something_else_is_told() {
    let mut w = World::new();
    w.tick();
    w.write("access.log", numbered("a", 0..3));
    w.tick();
    w.stop();
    w.write("access.log", numbered("a", 3..9));
    w.remove("access.log");
    w.write("access.log.1.bz2", b"BZh9 what was in it");
    w.write("access.log", numbered("b", 0..3));
    w.start();
    w.tick();
    w.tick();
    let status = w.status();
    assert_eq!((status.unreadable_files, status.rest_unreadable, status.errors_total), (1, 1, 1));
    assert!(status.errors.keys().next().unwrap().ends_with("access.log.1.bz2"));
    // What was read to its end before it was compressed misses nothing.
    w.rename("access.log", "access.log.2");
    w.write("access.log", "new\n");
    w.pass(GRACE);
    w.pass(GRACE);
    w.stop();
    w.remove("access.log.2");
    w.write("access.log.2.bz2", b"BZh9 all that was in it");
    w.start();
    w.tick();
    assert_eq!((w.status().unreadable_files, w.status().rest_unreadable), (2, 1));
}

#[test]
fn many_archives_are_read_without_many_decoders_or_open_files() {
    let mut w = World::new();
    w.limits.max_open = 40;
    w.crash();
    w.tick();
    w.stop();
    let mut wanted = Vec::new();
    for n in 0..60 {
        let text = numbered(&format!("{n}"), 0..400);
        w.write(&format!("access-{n}.log.1.gz"), gz(&text));
        wanted.extend(lines_of(&format!("{n}"), 0..400));
    }
    w.start();
    w.is_full = true;
    let (mut most_open, mut most_decoding) = (0, 0);
    for _ in 0..10_000 {
        w.step();
        let worker = w.worker.as_ref().unwrap();
        most_open = most_open.max(worker.status().open_files);
        most_decoding = most_decoding.max(worker.decoders());
        w.advance(Duration::from_millis(100));
        if !w.spool.lock().unwrap().commit_one() && worker_is_done(&w) {
            break;
        }
    }
    w.is_full = false;
    w.tick();
    w.check(&wanted);
    assert!(most_open <= 40 && (1..=4).contains(&most_decoding), "{most_open} {most_decoding}");
}

fn worker_is_done(w: &World) -> bool {
    w.status().gz_read == 60
}

#[test]
fn at_the_first_start_no_archive_stays_open() {
    let mut w = World::new();
    for n in 0..50 {
        w.write(&format!("access.log.{n}.gz"), gz(&numbered("old", 0..400)));
    }
    w.tick();
    assert_eq!(w.texts(), [""; 0]);
    let worker = w.worker.as_ref().unwrap();
    assert_eq!((worker.status().open_files, worker.decoders()), (0, 0));
}
