//! What the disk remembers, and what happens when it is full, gone, spoiled or silent.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::future::pending;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pikepole_directory::engine::{Setup, Stores};
use pikepole_directory::source::SourceError;
use pikepole_directory::source::sim::SimCloud;
use pikepole_directory::store::file::FileStore;
use pikepole_directory::store::{SaveError, Store, StoreError, Stored, Version};
use pikepole_fleet::{AlertKind, FactKind, FleetName, FleetState, Lifecycle, Notice};
use tokio::time::Instant;

use crate::engine_rig::{Rig, Wall, group, grow, pass};

const FINE: u8 = 0;
const FULL: u8 = 1;
const SILENT: u8 = 2;

/// A disk with switches.
#[derive(Default)]
struct Disk {
    mode: AtomicU8,
    record: Mutex<Option<Stored>>,
    saves: Mutex<u32>,
}

impl Disk {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    async fn work(&self) -> Result<(), StoreError> {
        match self.mode.load(Ordering::SeqCst) {
            FULL => Err(StoreError::Unavailable("cannot write: no space left on device".into())),
            SILENT => pending().await,
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Disk {
    async fn load(&self, _: &FleetName) -> Result<Option<Stored>, StoreError> {
        Ok(self.record.lock().unwrap().clone())
    }

    async fn save(&self, state: &FleetState, expected: Option<Version>) -> Result<Version, SaveError> {
        *self.saves.lock().unwrap() += 1;
        self.work().await?;
        let mut record = self.record.lock().unwrap();
        if record.as_ref().map(|r| r.version) != expected {
            return Err(SaveError::Conflict);
        }
        let version = Version(expected.map_or(1, |v| v.0 + 1));
        *record = Some(Stored { version, state: state.clone() });
        Ok(version)
    }
}

async fn on(disk: &Arc<Disk>) -> Rig {
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    grow(&cloud, "f", 5);
    let disk = Arc::clone(disk) as Arc<dyn Store>;
    let rig = Rig::start_on(cloud, wall, &["f"], |s| s.stores = Stores::on_disk(Ok(disk))).await;
    pass(2).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 5);
    rig
}

async fn in_folder(dir: &Path) -> impl FnOnce(&mut Setup) + use<> {
    let disk = FileStore::open(dir).await.map(|s| Arc::new(s) as Arc<dyn Store>).map_err(|e| e.to_string());
    move |setup| setup.stores = Stores::on_disk(disk)
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_without_its_source_the_last_roster_is_served_with_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    let ids = grow(&cloud, "f", 3);
    let rig = Rig::start_on(cloud.clone(), wall.clone(), &["f"], in_folder(dir.path()).await).await;
    pass(61).await;
    rig.learn("f", &ids[0], FactKind::Terminating).await;
    let (hosts, revision) = (rig.hosts("f"), rig.revision("f"));
    let confirmed = rig.fleet("f").freshness().unwrap().confirmed_at;
    rig.kill().await;

    cloud.fail_with(Some(SourceError::Unreachable("503".into())));
    wall.step(3_600);
    let rig = Rig::start_on(cloud, wall, &["f"], in_folder(dir.path()).await).await;
    assert_eq!((rig.hosts("f"), rig.revision("f")), (hosts.clone(), revision), "before the source was asked");
    assert_eq!(hosts.unwrap().len(), 2, "the event of a moment before the end is remembered");
    pass(60).await;
    let age = rig.fleet("f").age(rig.wall.now()).unwrap();
    let least = rig.wall.now().since(confirmed);
    assert!((least..=least + Duration::from_secs(60)).contains(&age), "{age:?}, and not about {least:?}");
    assert!(rig.engine.is_stale(rig.fleet("f")) && rig.engine.is_ready());
    rig.cloud.heal();
    rig.cloud.set_lifecycle(&group("f"), &ids[0], Lifecycle::Leaving);
    pass(60).await;
    assert_eq!(rig.revision("f"), revision, "the same list is the same revision, across a restart");
}

#[tokio::test(start_paused = true)]
async fn a_store_folder_that_becomes_a_file_is_an_alert_and_rosters_still_change() {
    let dir = tempfile::tempdir().unwrap();
    let (path, away) = (dir.path().join("store"), dir.path().join("away"));
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    grow(&cloud, "f", 3);
    let mut rig = Rig::start_on(cloud, wall, &["f"], in_folder(&path).await).await;
    pass(2).await;
    std::fs::rename(&path, &away).unwrap();
    std::fs::write(&path, "not a folder").unwrap();
    grow(&rig.cloud, "f", 2);
    pass(60).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 5);
    let told = rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::StoreFailing, Notice::Raised), 1, "{told:?}");
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&away, &path).unwrap();
    pass(60).await;
    assert_eq!(Rig::told_of(&rig.told(), AlertKind::StoreFailing, Notice::Resolved), 1);
    rig.stop().await;
    let cloud = SimCloud::new(Wall::new().clock());
    let rig = Rig::open(cloud, Wall::new(), &["f"], in_folder(&path).await).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 5, "what was missed is written when the folder is back");
}

#[tokio::test(start_paused = true)]
async fn a_record_spoiled_at_rest_is_put_aside_with_an_alert_and_comes_back_from_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    grow(&cloud, "f", 3);
    let rig = Rig::start_on(cloud.clone(), wall.clone(), &["f"], in_folder(dir.path()).await).await;
    pass(2).await;
    rig.kill().await;
    std::fs::write(dir.path().join("fleets/f.rec"), "['10.0.0.1:5044']").unwrap();
    let mut rig = Rig::open(cloud, wall, &["f"], in_folder(dir.path()).await).await;
    assert!(rig.fleet("f").published().is_none(), "unknown, not empty");
    assert_eq!(Rig::told_of(&rig.told(), AlertKind::StoreQuarantined, Notice::Raised), 1);
    rig.begin();
    pass(2).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 3);
    assert!(rig.is_open(AlertKind::StoreQuarantined), "until somebody has looked at it");
    delete_quarantined(dir.path());
    pass(10).await;
    assert_eq!(Rig::told_of(&rig.told(), AlertKind::StoreQuarantined, Notice::Resolved), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_spoiled_under_a_running_directory_is_told_of_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    grow(&cloud, "f", 3);
    let mut rig = Rig::start_on(cloud, wall, &["f"], in_folder(dir.path()).await).await;
    pass(2).await;
    std::fs::write(dir.path().join("fleets/f.rec"), "spoiled").unwrap();
    grow(&rig.cloud, "f", 1);
    pass(37).await;
    let told = rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::StoreQuarantined, Notice::Raised), 1, "{told:?}");
    assert_eq!(Rig::told_of(&told, AlertKind::StoreFailing, Notice::Raised), 0, "{told:?}");
    assert!(dir.path().join("fleets/f.rec").metadata().unwrap().len() > 100, "written anew");
    delete_quarantined(dir.path());
}

fn delete_quarantined(dir: &Path) {
    let entries = std::fs::read_dir(dir.join("fleets")).unwrap().map(|e| e.unwrap().path());
    let aside: Vec<_> = entries.filter(|p| p.to_string_lossy().contains("quarantined")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    std::fs::remove_file(&aside[0]).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_an_alert_and_what_was_missed_is_written_when_there_is_room() {
    let disk = Arc::new(Disk::default());
    let mut rig = on(&disk).await;
    disk.set(FULL);
    grow(&rig.cloud, "f", 2);
    pass(600).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 7);
    let told = rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::StoreFailing, Notice::Raised), 1, "{told:?}");
    assert!(rig.engine.counters().store_failures.load(Ordering::SeqCst) > 1);
    disk.set(FINE);
    pass(37).await;
    assert_eq!(Rig::told_of(&rig.told(), AlertKind::StoreFailing, Notice::Resolved), 1);
    let stored = disk.record.lock().unwrap().clone().unwrap().state;
    assert_eq!(stored.roster.unwrap().members().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_holds_up_no_change() {
    let disk = Arc::new(Disk::default());
    let mut rig = on(&disk).await;
    disk.set(SILENT);
    let ids: Vec<_> = rig.cloud.instances(&group("f")).into_iter().map(|i| i.id).collect();
    let begin = Instant::now();
    for id in &ids[..3] {
        rig.learn("f", id, FactKind::Terminating).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(6), "three events took {:?}", begin.elapsed());
    assert_eq!(rig.hosts("f").unwrap().len(), 2);
    let before = *disk.saves.lock().unwrap();
    pass(300).await;
    let tries = *disk.saves.lock().unwrap() - before;
    assert!((2..=10).contains(&tries), "{tries} tries in five minutes");
    assert!(rig.fleet("f").age(rig.wall.now()).unwrap() <= Duration::from_secs(42), "reconciles go on");
    assert!(rig.is_open(AlertKind::StoreFailing));
    disk.set(FINE);
    pass(80).await;
    assert_eq!(Rig::told_of(&rig.told(), AlertKind::StoreFailing, Notice::Resolved), 1);
    let stored = disk.record.lock().unwrap().clone().unwrap().state;
    assert!(ids[..3].iter().all(|id| stored.overlay.is_dying(id)));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_opened_is_an_alert_and_the_directory_serves() {
    let wall = Wall::new();
    let cloud = SimCloud::new(wall.clock());
    grow(&cloud, "f", 2);
    let stores = Stores::on_disk(Err("cannot open the lock /x/lock: read-only file system".into()));
    let mut rig = Rig::start_on(cloud, wall, &["f"], |setup| setup.stores = stores).await;
    pass(2).await;
    assert_eq!(rig.hosts("f").unwrap().len(), 2);
    let told = rig.told();
    assert_eq!(told, [(AlertKind::StoreFailing, "disk".to_string(), Notice::Raised)]);
}
