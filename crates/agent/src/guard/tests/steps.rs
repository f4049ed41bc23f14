//! Each policy, each protection, each interruption.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::guard::place::Failure;

#[test]
fn alert_touches_nothing() {
    let world = World::new();
    world.file("access.log.1", 600, &log(256));
    let mut worker = world.worker("alert", "", 0);
    assert!(!world.pass(&mut worker).has_done);
    assert_eq!((world.names(), worker.ledger.totals()), (vec!["access.log.1".into()], Totals::default()));
}

#[test]
fn compressing_keeps_everything_but_the_size() {
    let world = World::new();
    let path = world.file("access.log.1", 600, &log(512));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
    }
    let before = fs::metadata(&path).unwrap();
    let mut worker = world.worker("compress_rotated", "", 900 * KB);
    let passed = world.pass(&mut worker);
    assert_eq!((passed.has_done, passed.errors.len()), (true, 0), "{passed:?}");
    assert_eq!(world.names(), ["access.log.1.gz"]);
    let gz = world.logs.join("access.log.1.gz");
    let after = fs::metadata(&gz).unwrap();
    let kept = |m: &fs::Metadata| (m.uid(), m.gid(), m.mode(), m.mtime(), m.mtime_nsec());
    assert_eq!(kept(&after), kept(&before));
    assert_eq!(gunzip(&gz), log(512));
    let totals = worker.ledger.totals();
    let saved = (before.blocks() - after.blocks()) * 512;
    assert_eq!((totals.compressed_files, totals.compressed_bytes), (1, saved));
    assert!(!world.pass(&mut worker).has_done, "enough is free, and it is compressed already");
}

#[test]
fn the_oldest_goes_first_and_no_more_than_needed_and_the_count_is_exact() {
    let world = World::new();
    for n in 1..=5 {
        world.file(&format!("access.log.{n}"), 100 * n, &noise(128));
    }
    world.file("access.log", 0, &log(64));
    world.file("deep/er/error.log.9", 9000, &[log(128), b"a last line without its end".to_vec()].concat());
    let mut worker = world.worker("delete_oldest_rotated", "", 500 * KB); // less than half: gzip is not tried
    // Down to 1.1 MiB: 627 kB are missing, so five of six.
    assert!(world.pass(&mut worker).errors.is_empty());
    assert_eq!(world.names(), ["access.log", "access.log.1", "deep"]);
    assert!(!world.logs.join("deep/er/error.log.9").exists());
    let given = worker.ledger.totals().deleted;
    let lines_of_noise = noise(128).iter().filter(|b| **b == b'\n').count() as u64
        + u64::from(noise(128).last() != Some(&b'\n'));
    assert_eq!((given.files, given.estimated), (5, 0));
    assert_eq!((given.bytes, given.lines), (5 * 128 * KB + 27, 4 * lines_of_noise + 128 * 16 + 1));
    // The count survives a restart.
    let again = Ledger::open(world.state.records(), Timestamp::from_millis(NOW));
    assert_eq!(again.totals(), worker.ledger.totals());
}

#[test]
fn truncating_comes_last_takes_the_largest_first_and_leaves_the_writer_its_file() {
    let world = World::new();
    let small = world.file("error.log", 0, &log(64));
    let large = world.file("access.log", 0, &log(512));
    world.file("access.log.1", 600, &log(128));
    world.file("data.db", 600, &log(512));
    let mut writer = OpenOptions::new().append(true).open(&large).unwrap();
    let before = fs::metadata(&large).unwrap();
    let mut worker = world.worker("truncate", "", 500 * KB);
    assert!(world.pass(&mut worker).errors.is_empty());
    assert_eq!(world.names(), ["access.log", "data.db", "error.log"]);
    assert_eq!(fs::metadata(&large).unwrap().ino(), before.ino());
    writer.write_all(b"and on it goes\n").unwrap();
    assert_eq!(fs::read(&large).unwrap(), b"and on it goes\n");
    assert_eq!(fs::read(&small).unwrap(), log(64), "enough is free without it");
    assert_eq!(fs::read(world.logs.join("data.db")).unwrap(), log(512));
    let totals = worker.ledger.totals();
    let given =
        |files, kilobytes: u64| Given { files, bytes: kilobytes * KB, lines: kilobytes * 16, estimated: 0 };
    assert_eq!((totals.deleted, totals.truncated), (given(1, 128), given(1, 512)));
}

#[test]
fn what_is_protected_linked_live_fresh_or_special_stays() {
    let world = World::new();
    let outside = TempDir::new().unwrap();
    let victim = outside.path().join("access.log.1");
    fs::write(&victim, log(64)).unwrap();
    fs::create_dir(outside.path().join("folder")).unwrap();
    fs::write(outside.path().join("folder/access.log.1"), log(64)).unwrap();
    symlink(&victim, world.logs.join("link.log.1")).unwrap();
    symlink(outside.path().join("folder"), world.logs.join("linked")).unwrap();
    let hard = world.file("hard.log.1", 900, &log(64));
    fs::hard_link(&hard, outside.path().join("other-name")).unwrap();
    world.file("audit.log.1", 900, &log(64));
    world.file("audit.log.2.gz", 900, &log(64));
    world.file("exact.log.1.gz", 900, &log(64));
    world.file("legal/access.log.1", 900, &log(64));
    world.file("fresh.log.1", SETTLE - 1, &log(64));
    world.file("live.log", 900, &log(64));
    world.file("notes.txt", 900, &log(64));
    Command::new("mkfifo").arg(world.logs.join("pipe.log.1")).status().unwrap();
    let written = world.file("written.log.1", 900, &log(64));
    let _holder = Holder::of(&written, ">>");
    set_age(&written, 900);
    world.file("gone.log.1", 900, &log(64));
    let before = world.names();
    let mut worker = world.worker(
        "delete_oldest_rotated",
        "protect = [\"audit*\", \"exact.log.[0-9]\", \"**/legal\"]\n",
        0,
    );
    assert!(world.pass(&mut worker).errors.is_empty());
    let after: Vec<String> = before.into_iter().filter(|name| name != "gone.log.1").collect();
    assert_eq!(world.names(), after);
    assert!(
        world.logs.join("legal/access.log.1").exists() && outside.path().join("folder/access.log.1").exists()
    );
    assert_eq!((worker.ledger.totals().deleted.files, fs::read(&victim).unwrap()), (1, log(64)));
}

#[test]
fn truncate_spares_what_is_protected_and_links_too() {
    let world = World::new();
    let outside = TempDir::new().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, log(64)).unwrap();
    symlink(&victim, world.logs.join("link.log")).unwrap();
    let hard = world.file("hard.log", 0, &log(64));
    fs::hard_link(&hard, outside.path().join("other-name")).unwrap();
    let audit = world.file("audit.log", 0, &log(64));
    let fresh = world.file("access.log.1", 0, &log(64));
    let mut worker = world.worker("truncate", "protect = [\"audit.log\"]\n", 0);
    assert!(world.pass(&mut worker).errors.is_empty());
    for path in [&victim, &hard, &audit] {
        assert_eq!(fs::metadata(path).unwrap().len(), 64 * KB, "{}", path.display());
    }
    assert_eq!(
        fs::metadata(fresh).unwrap().len(),
        0,
        "still written under its new name: emptied, not deleted"
    );
}

#[test]
fn the_agents_own_files_and_a_folder_that_is_a_link_are_not_touched() {
    let world = World::new();
    world.file("state/x.log.1", 900, &log(64));
    world.file("out.log.1", 900, &log(64));
    let mut worker = world.worker("delete_oldest_rotated", "", 0);
    let config = Arc::make_mut(&mut worker.config);
    config.own = vec![world.logs.join("state"), world.logs.join("out.log.1")];
    assert!(!world.pass(&mut worker).has_done);
    let link = world._folders.1.path().join("logs");
    symlink(&world.logs, &link).unwrap();
    let mut worker = world.worker("delete_oldest_rotated", "", 0);
    let passed = worker.pass(std::slice::from_ref(&link));
    assert_eq!((passed.has_done, passed.errors.len()), (false, 1), "{passed:?}");
}

#[test]
fn a_reader_that_holds_a_deleted_file_does_not_keep_its_bytes() {
    let world = World::new();
    let path = world.file("access.log.1", 900, &noise(512));
    let holder = fs::File::open(&path).unwrap();
    let mut worker = world.worker("delete_oldest_rotated", "", 900 * KB);
    world.pass(&mut worker);
    assert_eq!((holder.metadata().unwrap().nlink(), holder.metadata().unwrap().blocks()), (0, 0));
    assert_eq!(worker.ledger.totals().deleted.bytes, 512 * KB);
}

#[test]
fn a_file_that_somebody_reads_is_not_compressed() {
    let world = World::new();
    let path = world.file("access.log.1", 900, &log(512));
    let holder = Holder::of(&path, "<");
    let mut worker = world.worker("compress_rotated", "", 900 * KB);
    assert!(!world.pass(&mut worker).has_done);
    drop(holder);
    assert!(world.pass(&mut worker).has_done);
}

#[test]
fn a_file_that_vanished_was_replaced_or_has_grown_is_left_alone() {
    let world = World::new();
    let worker = world.worker("truncate", "", 0);
    let now = Timestamp::from_millis(NOW);
    for (name, change) in [("vanished.log.1", 0), ("replaced.log.1", 1), ("grown.log.1", 2)] {
        let path = world.file(name, 900, &log(64));
        let place = found(&world, &worker, name);
        match change {
            0 => fs::remove_file(&path).unwrap(),
            1 => {
                fs::write(world.logs.join("new"), b"other").unwrap();
                fs::rename(world.logs.join("new"), &path).unwrap();
            }
            _ => OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap(),
        }
        let before = fs::read(&path).ok();
        assert!(
            matches!(give_up::delete(&place, &worker.ledger, now, u64::MAX), Err(Failure::Gone)),
            "{name}"
        );
        let result = compress::compress(&place, u64::MAX, &|| true);
        assert!(matches!(result, Err(Failure::Gone)), "{name}: {result:?}");
        assert_eq!(fs::read(&path).ok(), before, "{name}");
    }
    assert_eq!(worker.ledger.totals(), Totals::default());
    assert_eq!(world.names(), ["grown.log.1", "replaced.log.1"]);
}

#[test]
fn a_live_file_that_was_replaced_or_got_a_second_name_is_not_emptied() {
    let world = World::new();
    let worker = world.worker("truncate", "", 0);
    let now = Timestamp::from_millis(NOW);
    for name in ["replaced.log", "linked.log"] {
        let path = world.file(name, 0, &log(64));
        let place = found(&world, &worker, name);
        if name == "replaced.log" {
            fs::rename(&path, world.logs.join("replaced.log.1")).unwrap();
            fs::write(&path, log(32)).unwrap();
        } else {
            fs::hard_link(&path, world.logs.join("second")).unwrap();
        }
        assert!(
            matches!(give_up::truncate(&place, &worker.ledger, now, u64::MAX), Err(Failure::Gone)),
            "{name}"
        );
        assert!(fs::metadata(&path).unwrap().len() > 0, "{name}");
    }
    assert_eq!(worker.ledger.totals(), Totals::default());
}

#[test]
fn what_a_writer_adds_while_the_loss_is_written_down_is_counted() {
    let world = World::new();
    let worker = world.worker("truncate", "", 0);
    let path = world.file("access.log", 0, &[log(64), b"begun".to_vec()].concat());
    let place = found(&world, &worker, "access.log");
    let mut live = give_up::Live::count(&place, u64::MAX).unwrap();
    assert_eq!((live.loss().bytes, live.loss().lines), (64 * KB + 5, 64 * 16 + 1));
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b" and ended\none more\n").unwrap();
    let loss = live.empty().unwrap();
    assert_eq!((loss.bytes, loss.lines, loss.is_estimated), (64 * KB + 25, 64 * 16 + 2, false));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    // What is not counted is said to be an estimate, and its bytes are exact all the same.
    fs::write(&path, log(64)).unwrap();
    let place = found(&world, &worker, "access.log");
    let mut live = give_up::Live::count(&place, 32 * KB).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&log(64)).unwrap();
    let loss = live.empty().unwrap();
    assert_eq!((loss.bytes, loss.lines, loss.is_estimated), (128 * KB, 128 * 16, true));
}

#[test]
fn a_rotated_file_that_is_written_while_its_loss_is_written_down_stays() {
    let world = World::new();
    let worker = world.worker("delete_oldest_rotated", "", 0);
    let path = world.file("access.log.1", 900, &log(64));
    let place = found(&world, &worker, "access.log.1");
    let rotated = give_up::Rotated::count(&place, u64::MAX).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more\n").unwrap();
    assert!(matches!(rotated.delete(), Err(Failure::Gone)));
    assert_eq!(fs::metadata(&path).unwrap().len(), 64 * KB + 5);
}

#[test]
fn a_disk_that_is_nearly_full_is_not_kept_waiting_by_the_count() {
    let world = World::new();
    let long = "a line of 16 b.\n".repeat(1 << 20); // twice what is read then
    for (name, free, is_estimated) in [("access.log.1", 900 * KB, false), ("access.log.2", 100 * KB, true)] {
        world.file(name, 900, long.as_bytes());
        let mut worker = world.worker("delete_oldest_rotated", "", free);
        worker.in_use = |_| in_use::InUse::default(); // so that nothing is compressed
        let before = worker.ledger.totals().deleted;
        world.pass(&mut worker);
        let after = worker.ledger.totals().deleted;
        assert_eq!((after.files - before.files, after.lines - before.lines), (1, 1 << 20), "{name}");
        assert_eq!(after.estimated - before.estimated, u64::from(is_estimated), "{name}");
    }
}

#[test]
fn what_does_not_fit_or_is_stopped_leaves_the_original_alone() {
    let world = World::new();
    world.file("noise.log.1", 900, &noise(512));
    world.file("access.log.1", 900, &log(512));
    let worker = world.worker("compress_rotated", "", 0);
    let (noise, text) = (found(&world, &worker, "noise.log.1"), found(&world, &worker, "access.log.1"));
    for (place, budget, goes_on) in
        [(&noise, u64::MAX, true), (&text, 4 * KB, true), (&text, u64::MAX, false)]
    {
        let result = compress::compress(place, budget, &|| goes_on);
        assert!(matches!(result, Err(Failure::NoUse(_))), "{result:?}");
        assert_eq!(world.names(), ["access.log.1", "noise.log.1"]);
    }
}

#[test]
fn a_compression_that_was_killed_is_tidied_up_or_finished() {
    let world = World::new();
    world.file(".pikepole-gz.access.log.2.gz", 900, b"half of");
    world.file("access.log.2", 900, &log(256));
    let worker = world.worker("compress_rotated", "", 0);
    worker.tidy();
    assert_eq!(world.names(), ["access.log.2"]);
    // Killed between the new file's name and the old one's end: both are whole.
    let place = found(&world, &worker, "access.log.2");
    compress::compress(&place, u64::MAX, &|| true).unwrap();
    world.file("access.log.2", 900, &log(256));
    let place = found(&world, &worker, "access.log.2");
    compress::compress(&place, u64::MAX, &|| true).unwrap();
    assert_eq!(world.names(), ["access.log.2.gz"]);
    // A file of that name with something else in it is not ours.
    world.file("access.log.2", 900, &log(128));
    let place = found(&world, &worker, "access.log.2");
    assert!(matches!(compress::compress(&place, u64::MAX, &|| true), Err(Failure::NoUse(_))));
    assert_eq!((world.names().len(), gunzip(&world.logs.join("access.log.2.gz"))), (2, log(256)));
}

#[test]
fn a_clock_that_stepped_back_makes_no_file_old() {
    let world = World::new();
    world.file("access.log.1", 900, &log(256));
    let early = NOW - 1_000_000_000;
    let mut worker = world.worker_at("delete_oldest_rotated", "", 0, early);
    assert!(!world.pass(&mut worker).has_done);
    let mut worker = world.worker_at("delete_oldest_rotated", "", 0, u64::MAX);
    assert!(world.pass(&mut worker).has_done);
}

#[test]
fn a_loss_is_counted_though_the_agent_was_killed_and_only_if_it_happened() {
    let world = World::new();
    let path = world.file("access.log.1", 900, &log(64));
    let now = Timestamp::from_millis(NOW);
    let loss = ledger::Loss {
        path: path.clone(),
        inode: fs::metadata(&path).unwrap().ino(),
        is_deleted: true,
        bytes: 64 * KB,
        lines: 1024,
        is_estimated: false,
    };
    Ledger::open(world.state.records(), now).intend(&loss);
    assert_eq!(Ledger::open(world.state.records(), now).totals(), Totals::default());
    Ledger::open(world.state.records(), now).intend(&loss);
    fs::remove_file(&path).unwrap();
    let counted = Given { files: 1, bytes: 64 * KB, lines: 1024, estimated: 0 };
    assert_eq!(Ledger::open(world.state.records(), now).totals().deleted, counted);
    assert_eq!(Ledger::open(world.state.records(), now).totals().deleted, counted, "once");
    // Killed when it was done and that was not written down yet.
    let path = world.file("access.log.2", 900, &log(64));
    let loss = ledger::Loss { inode: fs::metadata(&path).unwrap().ino(), path: path.clone(), ..loss };
    let ledger = Ledger::open(world.state.records(), now);
    ledger.intend(&loss);
    fs::remove_file(&path).unwrap();
    ledger.done(loss, now);
    let twice = Ledger::open(world.state.records(), now).totals().deleted;
    assert_eq!((twice.files, twice), (2, ledger.totals().deleted));
}

#[test]
fn a_min_free_that_cannot_be_had_gives_up_nothing() {
    let world = World::new();
    world.file("access.log.1", 900, &log(256));
    let mut worker = world.worker("truncate", "", 0);
    worker.probe = Arc::new(|_| Ok(Space { device: 1, free: 0, total: 2 * MIN_FREE }));
    let passed = world.pass(&mut worker);
    assert_eq!((passed.has_done, passed.errors.len(), world.names().len()), (false, 1, 1));
}
