//! What needs another file system, or other rights than root's.

use super::*;
use crate::guard::place::Failure;
use crate::inside::{self, AS_IN_THE_UNIT, limited};

fn run_inside(name: &str, setup: &str) -> Option<PathBuf> {
    inside::run_inside(&format!("guard::tests::disks::{name}"), setup)
}

/// The world of a test that runs inside: its logs are where the file system is.
fn world_in(logs: PathBuf) -> World {
    World { logs, ..World::new() }
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_compressing_keeps_the_original() {
    let name = "a_disk_that_is_full_in_the_middle_of_compressing_keeps_the_original";
    let Some(folder) = run_inside(name, "mount -t tmpfs -o size=1536k none .") else { return };
    let world = world_in(folder);
    let text: Vec<u8> = noise(1024).chunks(64).flat_map(|c| [c, &[b'x'; 32][..]].concat()).collect();
    let text = text[..1200 * KB as usize].to_vec(); // takes two thirds when compressed: more than there is
    world.file("access.log.1", 900, &text);
    let worker = world.worker("compress_rotated", "", 0);
    let result = compress::compress(&found(&world, &worker, "access.log.1"), u64::MAX, &|| true);
    let Err(Failure::Io(error)) = result else { panic!("{result:?}") };
    assert!(error.contains("No space left"), "{error}");
    assert_eq!(
        (world.names(), fs::read(world.logs.join("access.log.1")).unwrap()),
        (vec!["access.log.1".into()], text)
    );
}

#[test]
fn a_real_disk_is_read_and_relieved_and_others_are_not_entered() {
    let name = "a_real_disk_is_read_and_relieved_and_others_are_not_entered";
    let setup = "mount -t tmpfs -o size=8m none . && cd \"$PWD\"; mkdir other; \
                 mount -t tmpfs -o size=8m none other; head -c 70000 /dev/zero > other/f; \
                 touch -d @1700000000 other/f; touch bound.log.1; mount --bind other/f bound.log.1";
    let Some(folder) = run_inside(name, setup) else { return };
    let world = world_in(folder);
    world.file("other/access.log.1", 9000, &noise(512));
    for n in 1..=14 {
        world.file(&format!("access.log.{n:02}"), 100 * n, &noise(512));
    }
    world.file("access.log", 0, &noise(700));
    let mut worker = world.worker("delete_oldest_rotated", "", 0);
    worker.probe = system_probe();
    assert!(world.pass(&mut worker).errors.is_empty());
    // 324 kB were free, 1.1 MiB shall be: two files.
    assert_eq!(worker.ledger.totals().deleted.files, 2);
    assert!(!world.logs.join("access.log.13").exists() && world.logs.join("access.log.12").exists());
    assert!(world.logs.join("other/access.log.1").exists() && world.logs.join("bound.log.1").exists());
    let space = system_probe()(&world.logs).unwrap();
    assert!(space.free >= MIN_FREE && space.total == 8 << 20, "{space:?}");
}

#[test]
fn a_disk_that_became_read_only_is_an_error_and_no_loss() {
    let name = "a_disk_that_became_read_only_is_an_error_and_no_loss";
    let setup = "mount -t tmpfs -o size=8m none . && cd \"$PWD\"; head -c 70000 /dev/zero > access.log.1; \
                 touch -d @1700000000 access.log.1; mount -o remount,ro .";
    let Some(folder) = run_inside(name, setup) else { return };
    let world = world_in(folder);
    for policy in ["delete_oldest_rotated", "compress_rotated"] {
        let mut worker = world.worker(policy, "", 900 * KB);
        let passed = world.pass(&mut worker);
        assert!(!passed.has_done && passed.errors.iter().any(|e| e.contains("Read-only")), "{passed:?}");
        let totals = worker.ledger.totals();
        assert_eq!((totals.deleted, totals.compressed_files), (Given::default(), 0));
        assert!(totals.errors > 0 && !worker.ledger.has_pending());
    }
    assert_eq!(world.names(), ["access.log.1"]);
}

#[test]
fn what_is_not_permitted_is_an_error_and_no_loss() {
    let name = "what_is_not_permitted_is_an_error_and_no_loss";
    // A folder of root's, with a file that nobody may read but not delete.
    let setup = "mkdir logs; head -c 70000 /dev/zero > logs/access.log.1; touch -d @1700000000 logs/access.log.1; \
                 chmod 755 . logs";
    let setup = limited(setup, "setpriv --reuid 65534 --regid 65534 --clear-groups");
    let Some(folder) = run_inside(name, &setup) else { return };
    let world = world_in(folder.join("logs"));
    let mut worker = world.worker("delete_oldest_rotated", "", 400 * KB);
    worker.in_use = in_use::in_use;
    let passed = world.pass(&mut worker);
    assert!(!passed.has_done && passed.errors.iter().any(|e| e.contains("ermission denied")), "{passed:?}");
    assert!(!passed.knows_writers, "nobody may not ask every process");
    assert_eq!((worker.ledger.totals().deleted, world.names().len()), (Given::default(), 1));
}

#[test]
fn a_file_that_is_open_in_a_process_that_may_not_be_asked_is_not_compressed() {
    let name = "a_file_that_is_open_in_a_process_that_may_not_be_asked_is_not_compressed";
    // Whoever has it open has all of root's rights, and the test has not.
    let setup = "head -c 300000 /dev/zero > access.log.1; touch -d @1700000000 access.log.1; mkfifo ready end; \
                 (exec 3<access.log.1; echo > ready; : < end) & read -r line < ready || :";
    let Some(folder) = run_inside(name, &limited(setup, AS_IN_THE_UNIT)) else { return };
    let world = world_in(folder.clone());
    let mut worker = world.worker("compress_rotated", "", 900 * KB);
    worker.in_use = in_use::in_use;
    let (start, passed) = (worker.tidy(), world.pass(&mut worker));
    drop(OpenOptions::new().write(true).open(folder.join("end")).unwrap());
    assert!(!start.knows_writers && !passed.knows_writers, "{passed:?}");
    assert!(!passed.has_done && passed.errors.is_empty(), "{passed:?}");
    assert!(folder.join("access.log.1").exists());
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_can_do_nothing_is_told_while_the_disk_has_room() {
    let name = "a_policy_that_can_do_nothing_is_told_while_the_disk_has_room";
    // As the unit has it: everything is read-only, and processes with more rights may not be asked.
    let setup =
        "mount -t tmpfs -o size=8m none . && cd \"$PWD\"; mount -o remount,ro .; chmod 700 \"$1\" || :";
    let Some(folder) = run_inside(name, &limited(setup, AS_IN_THE_UNIT)) else { return };
    let world = world_in(folder);
    for (policy, words) in [
        ("alert", &[][..]),
        ("compress_rotated", &["CAP_SYS_PTRACE", "ReadWritePaths="][..]),
        ("delete_oldest_rotated", &["ReadWritePaths="][..]),
    ] {
        let (sender, mut reports) = watch::channel(None);
        let config = world.config(policy, "");
        let clock = Clock::from_fn(|| Timestamp::from_millis(NOW));
        let guard = tokio::spawn(watch(config, world.state.records(), system_probe(), clock, sender));
        let told = |r: &Report| {
            let detail: Vec<_> = r.troubles.iter().map(|(_, _, detail)| detail.clone()).collect();
            let is_told = |word: &&str| detail.iter().any(|d| d.contains(word));
            r.status.disks.len() == 1 && detail.len() == words.len() && words.iter().all(is_told)
        };
        let found = reports.wait_for(|report| report.as_ref().is_some_and(told));
        let is_told = tokio::time::timeout(Duration::from_secs(60), found).await.is_ok();
        assert!(is_told, "{policy}: {:?}", reports.borrow());
        guard.abort();
    }
}
