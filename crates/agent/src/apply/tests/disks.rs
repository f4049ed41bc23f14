//! An output on a disk that is really full, and on one that is really read-only.

use std::io::Write as _;

use super::*;
use crate::inside;

/// A rig whose output is on a disk of 64 kB of its own, with the test's folder there; `None`: that is elsewhere.
fn on_a_disk(name: &str) -> Option<(Rig, PathBuf)> {
    let test = format!("apply::tests::disks::{name}");
    let disk = inside::run_inside(&test, "mount -t tmpfs -o size=64k none .")?;
    let mut rig = Rig::new();
    rig.renders[0].output = disk.join("one.json");
    Some((rig, disk))
}

fn names(disk: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(disk).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn an_output_on_a_full_disk_stays_as_it_was_until_there_is_room() {
    let name = "an_output_on_a_full_disk_stays_as_it_was_until_there_is_room";
    let Some((rig, disk)) = on_a_disk(name) else { return };
    let output = disk.join("one.json");
    let applier = rig.start();
    applier.apply(0, roster(&[1])).await;
    let before = std::fs::read_to_string(&output).unwrap();
    let mut fill = std::fs::File::create(disk.join("fill")).unwrap();
    while fill.write_all(&[0; 4096]).is_ok() {}
    let full = applier.apply(0, roster(&[1, 2])).await;
    let (found, detail) = full.failure.clone().unwrap();
    assert_eq!((found, full.written, full.reloaded), (Kind::WriteFailed, false, false), "{detail}");
    assert!(detail.contains("No space left"), "{detail}");
    assert_eq!((std::fs::read_to_string(&output).unwrap(), rig.reloads()), (before, 1));
    std::fs::remove_file(disk.join("fill")).unwrap();
    drop(fill);
    assert_eq!(names(&disk), std::slice::from_ref(&output), "nothing is left over");
    let done = applier.apply(0, roster(&[1, 2])).await;
    assert_eq!(done, Finished { written: true, reloaded: true, failure: None });
}

#[tokio::test]
async fn an_output_on_a_disk_that_became_read_only_stays_as_it_was_until_it_may_be_written() {
    let name = "an_output_on_a_disk_that_became_read_only_stays_as_it_was_until_it_may_be_written";
    let Some((rig, disk)) = on_a_disk(name) else { return };
    let remount = |how: &str| {
        let mut mount = std::process::Command::new("mount");
        let status = mount.args(["-o", how]).arg(&disk).status().unwrap();
        assert!(status.success(), "mount -o {how}: {status}");
    };
    let output = disk.join("one.json");
    let applier = rig.start();
    applier.apply(0, roster(&[1])).await;
    let before = std::fs::read_to_string(&output).unwrap();
    remount("remount,ro");
    let failed = applier.apply(0, roster(&[1, 2])).await;
    let (found, detail) = failed.failure.clone().unwrap();
    assert_eq!((found, failed.written, failed.reloaded), (Kind::WriteFailed, false, false), "{detail}");
    assert!(detail.contains("Read-only file system"), "{detail}");
    assert_eq!((std::fs::read_to_string(&output).unwrap(), rig.reloads()), (before, 1));
    // What has not changed needs no writing, and is no failure.
    assert_eq!(applier.apply(0, roster(&[1])).await.failure, None);
    remount("remount,rw");
    let done = applier.apply(0, roster(&[1, 2])).await;
    assert_eq!(done, Finished { written: true, reloaded: true, failure: None });
    assert_eq!(names(&disk), [output], "nothing is left over");
}
