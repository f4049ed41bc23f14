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
mod warnings;
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
pub(crate) use warnings::warnings;

/// After a pass that could do nothing, the next one waits.
const FRUITLESS: Duration = Duration::from_secs(15);
/// A loss is told as trouble for so long, also after a restart.
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
        let folder = place::open_root(path).map_err(|errno| place::unopened(path, errno))?;
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
    let totals = ledger.totals();
    let told_for = |at: pikepole_fleet::Timestamp| LOSS_TOLD.saturating_sub(clock.now().since(at));
    let loss_told_until = totals.last_loss.map(|at| Instant::now() + told_for(at.0));
    let worker = Worker {
        config: Arc::clone(&config),
        probe: Arc::clone(&probe),
        clock,
        ledger: ledger.clone(),
        in_use: in_use::in_use,
        stop: Arc::clone(&stop.0),
        incompressible: BTreeMap::new(),
    };
    let guard = Guard {
        config,
        probe,
        ledger,
        disks: BTreeMap::new(),
        unread: Vec::new(),
        barred: Vec::new(),
        knows_writers: true,
        given: given_files(&totals),
        loss_told_until,
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
    /// What went wrong in the last pass.
    failing: Vec<String>,
    /// The last pass could do nothing: when the next one is worth it.
    wait_until: Option<Instant>,
}

struct Guard {
    config: Arc<GuardConfig>,
    probe: Probe,
    ledger: Ledger,
    /// By their device.
    disks: BTreeMap<u64, Disk>,
    /// Folders whose free space could not be read.
    unread: Vec<(PathBuf, String)>,
    /// Folders in which the policy can do nothing, and why.
    barred: Vec<(PathBuf, String)>,
    knows_writers: bool,
    /// Files that were given up, when it was last looked.
    given: u64,
    loss_told_until: Option<Instant>,
    /// On which disk, or on none in particular.
    work: JoinSet<(Worker, Option<u64>, Passed)>,
}

impl Guard {
    async fn run(mut self, worker: Worker, reports: watch::Sender<Option<Report>>) {
        let mut ticks = interval(self.config.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was left over is removed before anything else, also on a disk with room.
        self.work.spawn_blocking(move || {
            let passed = worker.tidy();
            (worker, None, passed)
        });
        let mut idle = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.sample().await,
                Some(done) = self.work.join_next() => {
                    let Ok((worker, device, passed)) = done else {
                        self.unread.push(("disk_guard".into(), "it ended unexpectedly; restart the agent".into()));
                        reports.send_replace(Some(self.report()));
                        return;
                    };
                    idle = Some(worker);
                    self.passed(device, passed);
                    self.sample().await;
                }
            }
            if let Some(worker) = idle.take() {
                idle = self.work_on(worker);
            }
            reports.send_replace(Some(self.report()));
        }
    }

    /// Reads the free space of each folder, and whether anything may be done there: a policy that cannot do
    /// anything is told while there is time.
    async fn sample(&mut self) {
        let (config, probe) = (Arc::clone(&self.config), Arc::clone(&self.probe));
        let read = move || {
            let is_barred = |path| (config.policy > Policy::Alert).then(|| place::barred(path)).flatten();
            config.paths.iter().map(|path| (probe(path), is_barred(path))).collect::<Vec<_>>()
        };
        let Ok(spaces) = tokio::task::spawn_blocking(read).await else { return };
        let now = Instant::now();
        for disk in self.disks.values_mut() {
            disk.roots.clear();
        }
        self.unread.clear();
        self.barred.clear();
        for (path, (space, barred)) in self.config.paths.iter().zip(spaces) {
            self.barred.extend(barred.map(|why| (path.clone(), why)));
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

    /// Has the low disk with the least room worked on, of those where it is worth it; else gives the worker back.
    fn work_on(&mut self, mut worker: Worker) -> Option<Worker> {
        let (now, min_free) = (Instant::now(), self.config.min_free);
        let mut next: Option<(u64, u64, &Disk)> = None;
        for (device, disk) in &mut self.disks {
            let Some(space) = disk.space else { continue };
            if !disk.levels.is_low || !levels::is_possible(min_free, space.total) {
                disk.wait_until = None;
                disk.failing.clear();
                continue;
            }
            let is_waiting = disk.wait_until.is_some_and(|until| now < until);
            if !is_waiting && next.is_none_or(|(free, ..)| space.free < free) {
                next = Some((space.free, *device, disk));
            }
        }
        let Some((_, device, disk)) = next.filter(|_| self.config.policy > Policy::Alert) else {
            return Some(worker);
        };
        let roots = disk.roots.clone();
        self.work.spawn_blocking(move || {
            let passed = worker.pass(&roots);
            (worker, Some(device), passed)
        });
        None
    }

    fn passed(&mut self, device: Option<u64>, passed: Passed) {
        if let Some(disk) = device.and_then(|device| self.disks.get_mut(&device)) {
            disk.wait_until = (!passed.has_done).then(|| Instant::now() + FRUITLESS);
            disk.failing = passed.errors;
        }
        if self.knows_writers && !passed.knows_writers {
            tracing::warn!(
                "the disk guard may not see which files other processes have open: it needs CAP_SYS_PTRACE"
            );
        }
        self.knows_writers = passed.knows_writers;
        let given = given_files(&self.ledger.totals());
        if given > self.given {
            self.given = given;
            self.loss_told_until = Some(Instant::now() + LOSS_TOLD);
        }
    }
}

fn given_files(totals: &Totals) -> u64 {
    totals.by_policy().iter().map(|(_, given)| given.files).sum()
}

#[cfg(test)]
mod tests;
