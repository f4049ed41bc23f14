use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;

const GRACE: Duration = Duration::from_secs(61);

/// Every line has the name of the log that it was written to.
fn assert_named(w: &World, name: &str) {
    for got in w.got() {
        assert_eq!(got.path, name, "{got:?}");
    }
}

fn all(parts: &[&[String]]) -> Vec<String> {
    parts.concat()
}

#[test]
fn a_file_is_followed_line_by_line_however_short_it_is() {
    let mut w = World::new();
    w.write("access.log", "a");
    w.tick();
    assert!(w.texts().is_empty(), "half a line is not a line");
    w.write("access.log", "\nb\r\n\nhal");
    w.tick();
    assert_eq!(w.texts(), ["a", "b", ""]);
    w.write("access.log", "f\n");
    w.pass(GRACE * 20);
    assert_eq!(w.texts(), ["a", "b", "", "half"]);
    assert_eq!(w.got().iter().map(|got| got.offset).collect::<Vec<_>>(), [0, 2, 5, 6]);
    let status = w.status();
    assert_eq!((status.lines, status.files, status.unread_bytes), (4, 1, 0));
}

#[test]
fn a_writer_that_goes_on_in_the_renamed_file_is_read_to_its_end() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..10));
    w.tick();
    w.rename("access.log", "access.log.1");
    w.write("access.log.1", numbered("a", 10..20));
    w.write("access.log", numbered("b", 0..5));
    w.tick();
    // nginx workers reopen at different moments: both files get lines.
    w.write("access.log", numbered("b", 5..9));
    w.write("access.log.1", numbered("a", 20..25));
    w.pass(GRACE);
    w.write("access.log.1", numbered("a", 25..26));
    w.pass(GRACE);
    w.check(&all(&[&lines_of("a", 0..26), &lines_of("b", 0..9)]));
    assert_named(&w, "access.log");
    assert_eq!((w.status().renamed, w.status().truncated), (1, 0));
}

#[test]
fn the_older_generation_comes_first() {
    let mut w = World::new();
    w.is_full = true;
    w.tick();
    w.write("access.log", numbered("a", 0..500));
    w.tick();
    w.rename("access.log", "access.log.1");
    w.write("access.log", numbered("b", 0..500));
    w.tick();
    w.is_full = false;
    w.tick();
    assert_eq!(w.texts(), all(&[&lines_of("a", 0..500), &lines_of("b", 0..500)]));
}

#[test]
fn two_rotations_in_one_gap_lose_no_middle_file() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..10));
    w.tick();
    w.stop();
    w.write("access.log", numbered("a", 10..20));
    w.rename("access.log", "access.log.2");
    w.write("access.log.1", numbered("b", 0..10));
    w.write("access.log", numbered("c", 0..10));
    w.start();
    w.tick();
    assert_eq!(w.texts(), all(&[&lines_of("a", 0..20), &lines_of("b", 0..10), &lines_of("c", 0..10)]));
}

#[test]
fn copytruncate_goes_on_in_the_copy_and_begins_anew_in_the_file() {
    for lines in [3, 300] {
        let mut w = World::new();
        w.write("access.log", numbered("a", 0..lines));
        w.tick();
        w.write("access.log", numbered("a", lines..lines + 2));
        w.copy("access.log", "access.log.1");
        w.truncate("access.log");
        w.write("access.log", numbered("b", 0..1));
        w.tick();
        w.check(&all(&[&lines_of("a", 0..lines + 2), &lines_of("b", 0..1)]));
        assert_named(&w, "access.log");
        let status = w.status();
        assert_eq!((status.truncated, status.found_again, status.rest_missing), (1, 1, 0), "{lines}");
    }
}

#[test]
fn a_copy_that_is_seen_before_the_truncation_waits() {
    for lines in [3, 300] {
        let mut w = World::new();
        w.write("access.log", numbered("a", 0..lines));
        w.tick();
        w.copy("access.log", "access.log.1");
        w.tick();
        assert_eq!(w.status().held, 1, "{lines}");
        // Lines that come after the copy was made, and are read: the copy is shorter than what was read.
        w.write("access.log", numbered("a", lines..lines + 2));
        w.tick();
        w.truncate("access.log");
        w.tick();
        w.write("access.log", numbered("b", 0..2));
        w.pass(GRACE * 3);
        w.check(&all(&[&lines_of("a", 0..lines + 2), &lines_of("b", 0..2)]));
        assert_eq!(w.status().held, 0);
    }
}

/// What is cut between two looks of one scan looks as it does here, where its size and time tell nothing.
#[test]
fn a_copy_of_what_is_cut_in_this_moment_is_not_read_as_a_log_of_its_own() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..300));
    w.tick();
    let modified = fs::metadata(w.path("access.log")).unwrap().modified().unwrap();
    w.copy("access.log", "access.log.1");
    fs::write(w.path("access.log"), numbered("b", 0..300)).unwrap();
    File::options().write(true).open(w.path("access.log")).unwrap().set_modified(modified).unwrap();
    w.tick();
    assert_eq!((w.status().held, w.status().new_generations), (1, 1));
    w.write("access.log", numbered("b", 300..302));
    w.tick();
    w.check(&all(&[&lines_of("a", 0..300), &lines_of("b", 0..302)]));
    assert_eq!((w.status().truncated, w.status().found_again, w.status().held), (1, 1, 0));
}

#[test]
fn truncated_and_grown_beyond_the_old_offset_is_seen_by_its_content() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..100));
    w.tick();
    w.write("access.log", numbered("a", 100..110));
    w.copy("access.log", "access.log.1");
    w.truncate("access.log");
    w.write("access.log", numbered("b", 0..500));
    w.tick();
    w.check(&all(&[&lines_of("a", 0..110), &lines_of("b", 0..500)]));
    // Without a copy nothing can be done, but what is there is read.
    w.truncate("access.log");
    w.write("access.log", numbered("c", 0..900));
    w.tick();
    w.check(&all(&[&lines_of("a", 0..110), &lines_of("b", 0..500), &lines_of("c", 0..900)]));
    assert_eq!((w.status().truncated, w.status().rest_missing), (2, 1));
}

#[test]
fn the_same_first_lines_after_a_truncation_are_no_proof() {
    let mut w = World::new();
    let header = "#Fields: date time\n".repeat(80);
    w.write("access.log", format!("{header}{}", numbered("a", 0..20)));
    w.tick();
    w.truncate("access.log");
    w.write("access.log", format!("{header}{}", numbered("b", 0..90)));
    w.tick();
    let texts = w.texts();
    for text in all(&[&lines_of("a", 0..20), &lines_of("b", 0..90)]) {
        assert!(texts.contains(&text), "{text}");
    }
}

#[test]
fn a_truncation_while_the_agent_is_down_is_found_in_the_copy() {
    for lines in [3, 300] {
        let mut w = World::new();
        w.write("access.log", numbered("a", 0..lines));
        w.tick();
        w.stop();
        w.write("access.log", numbered("a", lines..lines + 5));
        w.copy("access.log", "access.log.1");
        w.truncate("access.log");
        w.write("access.log", numbered("b", 0..lines * 3));
        w.rename("access.log.1", "access.log.2");
        w.copy("access.log", "access.log.1");
        w.truncate("access.log");
        w.write("access.log", numbered("c", 0..2));
        w.start();
        w.pass(GRACE);
        w.pass(GRACE);
        w.check(&all(&[&lines_of("a", 0..lines + 5), &lines_of("b", 0..lines * 3), &lines_of("c", 0..2)]));
    }
}

#[test]
fn what_was_compressed_while_the_agent_was_down_is_read_from_its_position() {
    for lines in [3, 2_000] {
        let mut w = World::new();
        w.write("access.log", numbered("a", 0..lines));
        w.tick();
        w.stop();
        w.write("access.log", numbered("a", lines..lines * 2));
        w.rename("access.log", "access.log.1");
        w.gzip("access.log.1");
        w.write("access.log", numbered("b", 0..5));
        w.start();
        w.tick();
        w.pass(GRACE);
        w.check(&all(&[&lines_of("a", 0..lines * 2), &lines_of("b", 0..5)]));
        assert_eq!(w.status().gz_read, 1);
        assert_named(&w, "access.log");
        // Once is enough, after a restart too.
        w.crash();
        w.pass(GRACE);
        w.check(&all(&[&lines_of("a", 0..lines * 2), &lines_of("b", 0..5)]));
    }
}

#[test]
fn a_compressed_file_that_nobody_knows_is_read_whole() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..10));
    w.tick();
    w.stop();
    w.write("access.log.1", numbered("b", 0..3_000));
    w.gzip("access.log.1");
    w.start();
    w.tick();
    w.pass(GRACE);
    w.check(&all(&[&lines_of("a", 0..10), &lines_of("b", 0..3_000)]));
    assert_named(&w, "access.log");
}

#[test]
fn a_numbered_chain_is_read_once() {
    let mut w = World::new();
    let mut wanted = Vec::new();
    for n in 0..5 {
        w.write("access.log", numbered(&format!("g{n}"), 0..200));
        wanted.extend(lines_of(&format!("g{n}"), 0..200));
        if n % 2 == 0 {
            w.tick();
        }
        for old in (3..5).rev() {
            if w.path(&format!("access.log.{old}.gz")).exists() {
                w.rename(&format!("access.log.{old}.gz"), &format!("access.log.{}.gz", old + 1));
            }
        }
        if w.path("access.log.2").exists() {
            w.rename("access.log.2", "access.log.3");
            w.compress("access.log.3", "access.log.3.gz");
            // Both are there for a while.
            w.tick();
            w.remove("access.log.3");
        }
        if w.path("access.log.1").exists() {
            w.rename("access.log.1", "access.log.2");
        }
        w.rename("access.log", "access.log.1");
        w.pass(GRACE);
    }
    w.pass(GRACE * 20);
    w.check(&wanted);
}

#[test]
fn a_file_that_is_deleted_unread_is_read_to_its_end_and_closed() {
    let mut w = World::new();
    w.is_full = true;
    w.write("access.log", numbered("a", 0..3_000));
    w.tick();
    w.rename("access.log", "access.log.1");
    w.write("access.log", numbered("b", 0..3));
    w.tick();
    w.remove("access.log.1");
    w.pass(GRACE * 30);
    let status = w.status();
    assert!(status.pinned_deleted_bytes > 0 && status.unread_bytes > 0, "{status:?}");
    w.is_full = false;
    w.pass(GRACE);
    w.check(&all(&[&lines_of("a", 0..3_000), &lines_of("b", 0..3)]));
    w.pass(GRACE);
    w.tick();
    assert_eq!(w.status().pinned_deleted_bytes, 0);
}

#[test]
fn a_file_that_is_deleted_and_made_again_is_another_one() {
    let mut w = World::new();
    // The same first lines: an inode that is used again must not skip them.
    w.write("access.log", numbered("a", 0..10));
    w.tick();
    w.stop();
    w.remove("access.log");
    w.write("access.log", numbered("a", 0..12));
    w.start();
    w.pass(GRACE);
    let texts = w.texts();
    assert_eq!(texts.iter().filter(|text| *text == "a-3").count(), 2, "{texts:?}");
    assert!(texts.contains(&"a-11".to_string()));
}

#[test]
fn two_logs_that_begin_alike_are_both_read() {
    let mut w = World::new();
    w.write("access-a.log", "header\n");
    w.tick();
    w.write("access-b.log", "header\nb\n");
    w.tick();
    w.remove("access-a.log");
    w.pass(GRACE * 20);
    w.write("access-c.log", "header\nc\n");
    w.pass(GRACE * 2);
    let mut texts = w.texts();
    texts.sort();
    assert_eq!(texts, ["b", "c", "header", "header", "header"]);
}

#[test]
fn links_lead_to_one_file() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..3));
    fs::hard_link(w.path("access.log"), w.path("access-2.log")).unwrap();
    symlink("access.log", w.path("access-3.log")).unwrap();
    w.write("target", numbered("t", 0..3));
    symlink("target", w.path("access-4.log")).unwrap();
    w.tick();
    w.remove("access.log");
    w.write("access-2.log", numbered("a", 3..5));
    w.tick();
    w.check(&all(&[&lines_of("a", 0..5), &lines_of("t", 0..3)]));
}

#[test]
fn the_hole_of_a_writer_that_does_not_append_is_skipped_and_counted() {
    let mut w = World::new();
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).open(w.path("access.log")).unwrap();
    let mut written = 0;
    let mut wanted = Vec::new();
    for round in 0..3 {
        let text = numbered(&format!("r{round}"), 0..300);
        file.seek(SeekFrom::Start(written)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        written += text.len() as u64;
        w.touch(&file);
        w.tick();
        wanted.extend(lines_of(&format!("r{round}"), 0..300));
        w.copy("access.log", "access.log.9");
        w.rename("access.log.9", &format!("access.log.{round}"));
        w.truncate("access.log");
        if round == 1 {
            w.tick();
        }
    }
    w.pass(GRACE * 2);
    w.check(&wanted);
    assert!(w.status().nuls_skipped > 4_000, "{:?}", w.status());
}

#[test]
fn a_line_that_is_too_long_is_cut_and_following_goes_on() {
    let mut w = World::with(|config| config.max_line = 100);
    w.write("access.log", format!("{}\nshort\n", "x".repeat(10_000)));
    w.write("access.log", "y".repeat(250));
    w.tick();
    w.crash();
    w.write("access.log", format!("{}\nend\n", "y".repeat(250)));
    w.tick();
    let got = w.got();
    let short: Vec<_> = got.iter().map(|got| (got.text.as_str(), got.is_cut, got.offset)).collect();
    let (x, y) = ("x".repeat(100), "y".repeat(100));
    assert_eq!(
        short,
        [(x.as_str(), true, 0), ("short", false, 10_001), (&y, true, 10_007), ("end", false, 10_508)]
    );
    assert_eq!((w.status().lines, w.status().truncated_lines), (1, 0), "since the crash");
}

#[test]
fn a_last_line_without_an_end_is_given_when_nobody_can_end_it() {
    let mut w = World::new();
    w.write("access.log", "whole\nhalf");
    w.pass(GRACE * 30);
    assert_eq!(w.texts(), ["whole"], "it may still be written");
    w.rename("access.log", "access.log.1");
    w.write("access.log", "new\n");
    w.tick();
    assert_eq!(w.texts(), ["whole", "new"]);
    w.pass(GRACE);
    w.tick();
    assert_eq!(w.texts(), ["whole", "new", "half"]);
    assert!(w.got()[2].is_cut && w.status().truncated_lines == 1);
}

#[test]
fn at_the_first_start_what_was_rotated_is_left_and_end_leaves_what_was_written() {
    let mut w = World::with(|config| config.start = Start::End);
    w.write("access.log.2", numbered("z", 0..500));
    w.gzip("access.log.2");
    w.write("access.log.1", numbered("y", 0..500));
    w.write("access.log", "old\nhal");
    w.tick();
    w.write("access.log", "f\nnew\n");
    w.tick();
    // What is found later is read from its beginning.
    w.write("access-2.log", "later\n");
    w.rename("access.log.2.gz", "access.log.3.gz");
    w.rename("access.log.1", "access.log.2");
    w.gzip("access.log.2");
    w.tick();
    w.crash();
    w.pass(GRACE * 2);
    w.pass(GRACE * 2);
    let mut texts = w.texts();
    texts.sort();
    assert_eq!(texts, ["half", "later", "new"]);
}

#[test]
fn what_is_gone_for_a_day_is_forgotten_even_across_restarts() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..3));
    w.write("access-b.log", numbered("b", 0..3));
    w.tick();
    w.rename("access.log", "elsewhere");
    w.write("access.log", numbered("c", 0..1));
    w.pass(GRACE);
    w.tick();
    w.tick();
    let before = w.spool.lock().unwrap().marks.len();
    w.crash();
    w.pass(Duration::from_secs(80_000));
    w.crash();
    w.tick();
    assert_eq!(w.spool.lock().unwrap().marks.len(), before);
    w.pass(Duration::from_secs(8_000));
    w.tick();
    assert_eq!(w.spool.lock().unwrap().marks.len(), before - 2);
    assert_eq!(w.status().expired, 1);
}

#[test]
fn a_block_that_is_refused_is_read_again() {
    let mut w = World::new();
    w.is_full = true;
    w.write("access.log", numbered("a", 0..300));
    w.tick();
    w.spool.lock().unwrap().commit_one();
    w.spool.lock().unwrap().commit_one();
    // Dropped without a word, with all that came after.
    w.spool.lock().unwrap().pending.clear();
    w.is_full = false;
    w.tick();
    w.tick();
    w.check(&lines_of("a", 0..300));
    assert!(w.worker.as_ref().unwrap().status().refused > 0);
}

#[test]
fn what_is_under_way_is_bounded() {
    let mut w = World::new();
    w.is_full = true;
    w.write("access.log", numbered("a", 0..20_000));
    w.tick();
    assert_eq!(w.spool.lock().unwrap().pending.iter().filter(|e| matches!(e, Entry::Block(..))).count(), 8);
    assert!(w.worker.as_ref().unwrap().status().is_waiting);
    w.is_full = false;
    w.tick();
    w.check(&lines_of("a", 0..20_000));
}

#[test]
fn what_changed_within_one_tick_of_the_kernel_is_seen() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..9));
    w.pass(Duration::ZERO);
    let written = fs::metadata(w.path("access.log")).unwrap().modified().unwrap();
    w.truncate("access.log");
    w.write("access.log", numbered("b", 0..9));
    let file = OpenOptions::new().append(true).open(w.path("access.log")).unwrap();
    file.set_modified(written).unwrap();
    w.tick();
    w.check(&all(&[&lines_of("a", 0..9), &lines_of("b", 0..9)]));
}

#[test]
fn a_renamed_file_that_nothing_took_the_place_of_is_still_written() {
    let mut w = World::new();
    w.write("access.log", "whole\nhalf");
    w.tick();
    w.rename("access.log", "access.log.1");
    w.pass(GRACE * 5);
    w.pass(GRACE * 5);
    w.write("access.log.1", " a line\n");
    w.tick();
    assert_eq!(w.texts(), ["whole", "half a line"]);
}

#[test]
fn what_cannot_be_read_yet_is_open_before_it_is_deleted() {
    let mut w = World::new();
    w.is_full = true;
    w.write("access-a.log", numbered("a", 0..3_000));
    w.tick();
    assert!(w.worker.as_ref().unwrap().status().is_waiting);
    w.write("access-b.log", numbered("b", 0..10));
    w.tick();
    w.remove("access-b.log");
    w.pass(GRACE);
    w.is_full = false;
    w.pass(GRACE);
    w.check(&all(&[&lines_of("a", 0..3_000), &lines_of("b", 0..10)]));
}

#[test]
fn a_deleted_file_is_open_until_its_lines_are_durable() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..10));
    w.is_full = true;
    w.tick();
    w.remove("access.log");
    w.write("access.log", numbered("b", 0..10));
    for _ in 0..4 {
        w.pass(GRACE);
    }
    // The spool takes none of it.
    w.spool.lock().unwrap().pending.clear();
    w.is_full = false;
    w.tick();
    w.tick();
    w.check(&all(&[&lines_of("a", 0..10), &lines_of("b", 0..10)]));
}

#[test]
fn a_copy_that_has_just_begun_is_not_a_log() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..300));
    w.tick();
    let text = fs::read(w.path("access.log")).unwrap();
    w.write("access.log.1", "");
    w.tick();
    w.write("access.log.1", &text[..100]);
    w.tick();
    w.write("access.log.1", &text[100..]);
    w.tick();
    w.truncate("access.log");
    w.pass(GRACE * 2);
    w.pass(GRACE * 2);
    w.check(&lines_of("a", 0..300));
}

#[test]
fn what_is_deleted_while_it_is_taken_for_a_copy_is_read_after_all() {
    let mut w = World::new();
    w.tick();
    w.write("access.log", "line");
    w.write("access.log.1", numbered("line", 0..500));
    w.gzip("access.log.1");
    w.tick();
    assert_eq!(w.status().held, 1);
    w.remove("access.log.1.gz");
    w.tick();
    w.write("access.log", " one\n");
    for _ in 0..3 {
        w.pass(GRACE);
    }
    w.check(&all(&[&lines_of("line", 0..500), &["line one".to_string()]]));
}

#[test]
fn what_is_written_to_a_deleted_file_while_it_is_taken_for_a_copy_is_read_once() {
    for is_compressed in [false, true] {
        let mut w = World::new();
        w.tick();
        w.write("access.log.2", numbered("line", 0..100));
        w.tick();
        w.remove("access.log.2");
        // So short, it may be a copy of the one that is deleted and still open.
        w.write("access.log.1", "line");
        w.tick();
        assert_eq!(w.status().held, 1);
        let writer = OpenOptions::new().append(true).open(w.path("access.log.1")).unwrap();
        (&writer).write_all(format!("-x\n{}", numbered("b", 0..200)).as_bytes()).unwrap();
        w.touch(&writer);
        if is_compressed {
            w.gzip("access.log.1");
        } else {
            w.remove("access.log.1");
        }
        w.write("access.log", "c-0\n");
        for _ in 0..4 {
            w.pass(GRACE);
        }
        let one = ["line-x".to_string()];
        w.check(&all(&[&lines_of("line", 0..100), &one, &lines_of("b", 0..200), &lines_of("c", 0..1)]));
        assert_eq!((w.status().held, w.status().unread_bytes), (0, 0));
    }
}

#[test]
fn of_two_generations_with_one_inode_the_newer_has_it_after_a_crash() {
    let mut w = World::new();
    w.write("access.log", numbered("a", 0..20));
    w.is_full = true;
    w.tick();
    // The old one is under way when the truncation is seen, so its loss is not marked before the new lines.
    w.copy("access.log", "access.log.1");
    w.truncate("access.log");
    w.write("access.log", numbered("b", 0..60));
    w.tick();
    w.is_full = false;
    w.commit();
    w.crash_at = Some(usize::MAX);
    w.crash();
    w.tick();
    w.pass(GRACE * 2);
    w.pass(GRACE * 2);
    w.check(&all(&[&lines_of("a", 0..20), &lines_of("b", 0..60)]));
}
