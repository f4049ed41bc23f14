//! The guard as it runs, on virtual time.

use std::sync::Mutex;

use super::*;

const GB: u64 = 1_000_000_000;

async fn until(reports: &mut watch::Receiver<Option<Report>>, what: impl Fn(&Report) -> bool) -> Report {
    let found = reports.wait_for(|report| report.as_ref().is_some_and(&what));
    tokio::time::timeout(Duration::from_secs(7200), found).await.unwrap().unwrap().clone().unwrap()
}

fn has(report: &Report, kind: Kind) -> bool {
    report.troubles.iter().any(|(found, ..)| *found == kind)
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fills_is_told_early_then_when_it_is_low_and_until_it_has_room_again() {
    let world = World::new();
    world.file("access.log.1", 900, &log(256));
    let start = Instant::now();
    let freed = Arc::new(Mutex::new(0));
    let more = Arc::clone(&freed);
    // 150 MB a second on a disk of 200 GB.
    let probe: Probe = Arc::new(move |_| {
        let gone = start.elapsed().as_millis() as u64 * 150_000;
        Ok(Space {
            device: 1,
            free: (200 * GB + *more.lock().unwrap()).saturating_sub(gone),
            total: 200 * GB,
        })
    });
    let mut config = world.config("alert", "");
    config.min_free = 10 * GB;
    let (sender, mut reports) = watch::channel(None);
    let clock = Clock::from_fn(|| Timestamp::from_millis(NOW));
    let guard = tokio::spawn(watch(config, world.state.records(), probe, clock, sender));
    let first = until(&mut reports, |r| !r.status.disks.is_empty()).await;
    assert_eq!((first.troubles.len(), first.status.disks[0].full_in_seconds), (0, None));
    let early = until(&mut reports, |r| has(r, Kind::DiskFilling)).await;
    assert!(start.elapsed() <= Duration::from_secs(25), "{:?}", start.elapsed());
    let left = early.status.disks[0].full_in_seconds.unwrap();
    assert!((1300..1340).contains(&left), "{left}");
    let low = until(&mut reports, |r| has(r, Kind::DiskLow)).await;
    assert!(low.status.disks[0].free < 10 * GB && has(&low, Kind::DiskFilling));
    assert_eq!(world.names(), ["access.log.1"], "alert only tells");
    *freed.lock().unwrap() = 1000 * GB;
    until(&mut reports, |r| !has(r, Kind::DiskLow)).await;
    until(&mut reports, |r| !has(r, Kind::DiskFilling)).await;
    guard.abort();
}

#[tokio::test(start_paused = true)]
async fn a_low_disk_is_relieved_at_once_and_the_loss_is_told_for_an_hour() {
    let world = World::new();
    for n in 1..=3 {
        world.file(&format!("access.log.{n}"), 100 * n, &noise(128));
    }
    let probe = disk_of(1000 * KB + used(&world.logs));
    let config = world.config("delete_oldest_rotated", "");
    let (sender, mut reports) = watch::channel(None);
    let clock = Clock::from_fn(|| Timestamp::from_millis(NOW));
    let start = Instant::now();
    let guard = tokio::spawn(watch(config, world.state.records(), probe, clock, sender));
    let told = until(&mut reports, |r| has(r, Kind::LogsGivenUp) && !has(r, Kind::DiskLow)).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!((told.status.totals.deleted.files, world.names().len()), (1, 2));
    let (.., detail) = told.troubles.iter().find(|(kind, ..)| *kind == Kind::LogsGivenUp).unwrap();
    assert!(detail.contains("1 files, 131072 bytes"), "{detail}");
    until(&mut reports, |r| !has(r, Kind::LogsGivenUp)).await;
    assert!(start.elapsed() >= Duration::from_secs(3590), "{:?}", start.elapsed());
    guard.abort();
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_missing_is_told_and_guarded_when_it_comes() {
    let world = World::new();
    let mut config = world.config("alert", "");
    let late = world.logs.join("late");
    config.paths = vec![late.clone()];
    let (sender, mut reports) = watch::channel(None);
    let clock = Clock::from_fn(|| Timestamp::from_millis(NOW));
    let guard = tokio::spawn(watch(config, world.state.records(), system_probe(), clock, sender));
    let told = until(&mut reports, |r| has(r, Kind::DiskGuardFailed)).await;
    assert!(told.status.disks.is_empty() && told.troubles[0].2.contains("No such file"), "{told:?}");
    fs::create_dir(&late).unwrap();
    let good = until(&mut reports, |r| !has(r, Kind::DiskGuardFailed)).await;
    assert!(good.status.disks[0].total > 0);
    guard.abort();
}

#[tokio::test(start_paused = true)]
async fn a_disk_on_which_nothing_can_be_done_does_not_keep_another_one_waiting() {
    let world = World::new();
    world.file("a/access.log", 0, &noise(64));
    for n in 1..=3 {
        world.file(&format!("b/access.log.{n}"), 100 * n, &noise(128));
    }
    let (a, b) = (world.logs.join("a"), world.logs.join("b"));
    let (first, size) = (a.clone(), 1000 * KB + used(&b));
    let probe: Probe = Arc::new(move |path| match path == first {
        true => Ok(Space { device: 1, free: 10 * KB, total: 1 << 40 }),
        false => Ok(Space { device: 2, free: size.saturating_sub(used(path)), total: 1 << 40 }),
    });
    let mut config = world.config("delete_oldest_rotated", "");
    config.paths = vec![a, b.clone()];
    let (sender, mut reports) = watch::channel(None);
    let clock = Clock::from_fn(|| Timestamp::from_millis(NOW));
    let start = Instant::now();
    let guard = tokio::spawn(watch(config, world.state.records(), probe, clock, sender));
    let told = until(&mut reports, |r| r.status.disks.len() == 2 && !r.status.disks[1].low).await;
    assert!(start.elapsed() < FRUITLESS, "{:?}", start.elapsed());
    assert_eq!((told.status.totals.deleted.files, told.status.disks[0].low), (1, true));
    assert!(!b.join("access.log.3").exists() && b.join("access.log.2").exists());
    guard.abort();
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_told_for_its_hour_though_the_agent_is_started_again() {
    let world = World::new();
    let loss = |n: u32| ledger::Loss {
        path: world.logs.join(format!("access.log.{n}")),
        inode: 1,
        is_deleted: true,
        bytes: 7,
        lines: 1,
        is_estimated: false,
    };
    let at = Timestamp::from_millis;
    // One is over; of another it is not known yet that it came to it.
    for (minutes, is_pending, is_told) in [(61, false, false), (50, false, true), (61, true, true)] {
        let ledger = Ledger::open(world.state.records(), at(NOW));
        ledger.intend(&loss(minutes));
        ledger.done(loss(minutes), at(NOW));
        ledger.flush();
        if is_pending {
            ledger.intend(&loss(1));
        }
        let later = NOW + u64::from(minutes) * 60_000;
        let (sender, mut reports) = watch::channel(None);
        let config = world.config("alert", "");
        let clock = Clock::from_fn(move || at(later));
        let guard = tokio::spawn(watch(config, world.state.records(), disk_of(1 << 40), clock, sender));
        let start = Instant::now();
        let told = until(&mut reports, |r| !r.status.disks.is_empty()).await;
        assert_eq!(has(&told, Kind::LogsGivenUp), is_told, "after {minutes} minutes");
        if is_told {
            until(&mut reports, |r| !has(r, Kind::LogsGivenUp)).await;
            let left = Duration::from_secs(if is_pending { 3600 } else { 600 });
            assert!(start.elapsed() >= left - Duration::from_secs(10), "{:?}", start.elapsed());
        }
        guard.abort();
    }
}
