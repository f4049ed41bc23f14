//! The disk guard: watches the disks that logs are on, tells early, and makes room as far as it may.
//!
//! Not a shipper and not logrotate: a disk with room is left alone.
//!
//! Invariants: no loss is silent; what is given up is counted before it is gone, and told. The free space is
//! read on while a step takes its time. Wall-clock time only dates: alarms go by tokio's clock.

mod compress;
mod count;
mod forecast;
mod give_up;
mod in_use;
mod ledger;
mod levels;
mod place;
mod planner;
mod scan;
mod status;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{fstat, fstatvfs};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clock::Clock;
use crate::config::{GuardConfig, Policy};
use crate::state::Records;
use crate::trouble::Kind;
pub(crate) use forecast::Forecast;
use ledger::Ledger;
use levels::Levels;
use worker::{Passed, Worker};

pub use ledger::{Given, Totals};
pub use status::{DiskGuardStatus, DiskStatus};

/// After a pass that could do nothing, the next one waits.
const FRUITLESS: Duration = Duration::from_secs(15);
/// A loss is told as trouble for so long.
const LOSS_TOLD: Duration = Duration::from_secs(3600);

/// The free space of one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// Which one.
    pub(crate) device: u64,
    /// What a program without privileges may still write, in bytes.
    pub(crate) free: u64,
    /// In bytes.
    pub(crate) total: u64,
}

/// Reads the free space of a folder's file system. Blocking.
pub(crate) type Probe = Arc<dyn Fn(&Path) -> std::io::Result<Space> + Send + Sync>;

/// What the guard says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) status: DiskGuardStatus,
    pub(crate) troubles: Vec<(Kind, String, String)>,
}

/// Asks the system.
pub(crate) fn system_probe() -> Probe {
    Arc::new(|path| {
        let folder = place::open_root(path)?;
        let (stat, space) = (fstat(&folder)?, fstatvfs(&folder)?);
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        Ok(Space { device: stat.st_dev, free: bytes(space.f_bavail), total: bytes(space.f_blocks) })
    })
}

/// Watches until it is dropped; a step that runs then is broken off.
pub(crate) async fn watch(
    config: GuardConfig,
    records: Records,
    probe: Probe,
    clock: Clock,
    reports: watch::Sender<Option<Report>>,
) {
    let config = Arc::new(config);
    let stop = StopOnDrop(Arc::default());
    let ledger = tokio::task::spawn_blocking({
        let clock = clock.clone();
        move || Ledger::open(records, clock.now())
    });
    let Ok(ledger) = ledger.await else { return tracing::error!("the disk guard could not start") };
    let worker = Worker {
        config: Arc::clone(&config),
        probe: Arc::clone(&probe),
        clock,
        ledger: ledger.clone(),
        in_use: in_use::in_use,
        stop: Arc::clone(&stop.0),
        incompressible: BTreeMap::new(),
    };
    let given = given_files(&ledger.totals());
    let guard = Guard {
        config,
        probe,
        ledger,
        disks: BTreeMap::new(),
        unread: Vec::new(),
        failing: Vec::new(),
        knows_writers: true,
        wait_until: None,
        given,
        lost_at: None,
        work: JoinSet::new(),
    };
    guard.run(worker, reports).await;
    drop(stop);
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Disk {
    roots: Vec<PathBuf>,
    space: Option<Space>,
    forecast: Forecast,
    levels: Levels,
}

struct Guard {
    config: Arc<GuardConfig>,
    probe: Probe,
    ledger: Ledger,
    /// By their device.
    disks: BTreeMap<u64, Disk>,
    /// Folders whose free space could not be read.
    unread: Vec<(PathBuf, String)>,
    /// What went wrong in the last pass.
    failing: Vec<String>,
    knows_writers: bool,
    wait_until: Option<Instant>,
    /// Files that were given up, when it was last looked.
    given: u64,
    lost_at: Option<Instant>,
    work: JoinSet<(Worker, Passed)>,
}

impl Guard {
    async fn run(mut self, worker: Worker, reports: watch::Sender<Option<Report>>) {
        let mut ticks = interval(self.config.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was left over is removed before anything else, also on a disk with room.
        self.work.spawn_blocking(move || {
            let passed = worker.tidy();
            (worker, passed)
        });
        let mut idle = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.sample().await,
                Some(done) = self.work.join_next() => {
                    let Ok((worker, passed)) = done else {
                        self.unread.push(("disk_guard".into(), "it ended unexpectedly; restart the agent".into()));
                        reports.send_replace(Some(self.report()));
                        return;
                    };
                    idle = Some(worker);
                    self.passed(passed);
                    self.sample().await;
                }
            }
            if let Some(worker) = idle.take() {
                idle = self.work_on(worker);
            }
            reports.send_replace(Some(self.report()));
        }
    }

    /// Reads the free space of each folder.
    async fn sample(&mut self) {
        let (config, probe) = (Arc::clone(&self.config), Arc::clone(&self.probe));
        let read = move || config.paths.iter().map(|path| probe(path)).collect::<Vec<_>>();
        let Ok(spaces) = tokio::task::spawn_blocking(read).await else { return };
        let now = Instant::now();
        for disk in self.disks.values_mut() {
            disk.roots.clear();
        }
        self.unread.clear();
        for (path, space) in self.config.paths.iter().zip(spaces) {
            match space {
                Ok(space) => {
                    let disk = self.disks.entry(space.device).or_default();
                    disk.roots.push(path.clone());
                    disk.space = Some(space);
                }
                Err(error) => self.unread.push((path.clone(), error.to_string())),
            }
        }
        self.disks.retain(|_, disk| !disk.roots.is_empty());
        for disk in self.disks.values_mut() {
            let Some(space) = disk.space else { continue };
            disk.forecast.observe(now, space.free, space.total);
            let (is_known, left) = (disk.forecast.is_known(), disk.forecast.until_full());
            disk.levels.observe(space.free, self.config.min_free, is_known, left);
        }
    }

    /// Has the disk with the least room worked on, if one is low; else gives the worker back.
    fn work_on(&mut self, mut worker: Worker) -> Option<Worker> {
        let min_free = self.config.min_free;
        let can = |disk: &&Disk| {
            disk.levels.is_low && disk.space.is_some_and(|s| levels::is_possible(min_free, s.total))
        };
        let low = self.disks.values().filter(can);
        let roots = low.min_by_key(|disk| disk.space.map(|space| space.free)).map(|disk| disk.roots.clone());
        let Some(roots) = roots.filter(|_| self.config.policy > Policy::Alert) else {
            self.wait_until = None;
            self.failing.clear();
            return Some(worker);
        };
        if self.wait_until.is_some_and(|until| Instant::now() < until) {
            return Some(worker);
        }
        self.work.spawn_blocking(move || {
            let passed = worker.pass(&roots);
            (worker, passed)
        });
        None
    }

    fn passed(&mut self, passed: Passed) {
        self.wait_until = (!passed.has_done).then(|| Instant::now() + FRUITLESS);
        self.failing = passed.errors;
        self.knows_writers = passed.knows_writers;
        let given = given_files(&self.ledger.totals());
        if given > self.given {
            self.given = given;
            self.lost_at = Some(Instant::now());
        }
    }
}

fn given_files(totals: &Totals) -> u64 {
    totals.by_policy().iter().map(|(_, given)| given.files).sum()
}

#[cfg(test)]
mod tests;
