//! The same promises on a real file system, and on one that really runs full.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::files::Disk;

const INNER: &str = "PIKEPOLE_SPOOL_TINY_DISK";

fn open_disk(folder: &Path, options: &Options) -> Spool {
    Spool::open(Arc::new(Disk::new(folder).unwrap()), options.clone(), Unreadable::Refuse).unwrap().0
}

#[test]
fn a_real_file_system_keeps_what_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { cache_bytes: 0, ..options() };
    let mut spool = open_disk(folder.path(), &options);
    for n in 0..100 {
        put(&mut spool, new_block(n, 700));
    }
    spool.commit().unwrap();
    for seq in 1..=40 {
        assert!(spool.done(Seq(seq)).unwrap());
    }
    spool.commit().unwrap();
    // As `kill -9` leaves it.
    drop(spool);
    let mut spool = open_disk(folder.path(), &options);
    assert_eq!(all(&mut spool), (41..=100).collect::<Vec<_>>());
    assert_eq!(spool.read(Seq(77)).unwrap().unwrap().body, body(76, 700));
    let stats = spool.stats();
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    let bytes: u64 = files.filter(std::fs::Metadata::is_file).map(|meta| meta.len()).sum();
    assert_eq!(stats.disk_bytes, bytes + options.reserve_bytes, "the reserve has room and no length");
}

/// Runs itself again where it may mount a disk of one MiB; does nothing where that is not permitted.
#[test]
fn a_disk_that_is_really_full_corrupts_nothing() {
    if let Some(folder) = std::env::var_os(INNER) {
        return fill_and_drain(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let in_namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(folder.path()).env(INNER, folder.path());
        command
    };
    let mount = "mount -t tmpfs -o size=1m tmpfs \"$1\"";
    if !in_namespace(mount).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: mounting a disk is not permitted here");
        return;
    }
    let name = "spool::tests::disk::a_disk_that_is_really_full_corrupts_nothing";
    let mut command = in_namespace(&format!("{mount} && shift && exec \"$@\""));
    let output = command.arg(std::env::current_exe().unwrap()).args(["--exact", name]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn fill_and_drain(folder: &Path) {
    let options = Options { segment_bytes: 100_000, reserve_bytes: 64 << 10, cache_bytes: 0, ..options() };
    for round in 0..3 {
        let mut spool = open_disk(folder, &options);
        let mut blocks = 0;
        let full = loop {
            match spool.append(new_block(0, 3000)) {
                Ok(_) => blocks += 1,
                Err(AppendError::Busy) => {}
                Err(error) => break error,
            }
            spool.commit().unwrap();
        };
        assert!(matches!(full, AppendError::Full(_)), "{full}");
        assert!(blocks > 200, "{blocks} in round {round}");
        // Somebody else takes what is left.
        let other = folder.join("other");
        let fill = std::fs::File::create(&other).unwrap();
        while io::Write::write_all(&mut &fill, &[7; 4096]).is_ok() {}
        assert!(matches!(spool.append(new_block(0, 3000)), Err(AppendError::Full(_))));
        let found = all(&mut spool);
        assert_eq!(found.len(), blocks);
        for seq in found {
            assert!(spool.done(Seq(seq)).unwrap());
        }
        while spool.needs_commit() {
            spool.commit().unwrap();
        }
        assert!(spool.stats().free_bytes.unwrap() > 500_000, "{:?}", spool.stats());
        drop(spool);
        let mut spool = open_disk(folder, &options);
        assert_eq!((all(&mut spool).len(), spool.stats().totals.damaged), (0, Counts::default()));
        std::fs::remove_file(other).unwrap();
    }
}
