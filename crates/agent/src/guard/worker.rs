//! Makes room on one file system: lists, asks the planner, does one step, looks again. Blocking.
//!
//! Not the watch: whether a disk is low is decided in `guard.rs`.
//!
//! Invariants: one file at a time. After each step the free space is read anew, so it never does more than
//! is needed by one file. It gives back control within seconds, but for one compression, which asks whether
//! to go on.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Probe;
use super::compress::{compress, tidy};
use super::count::{MOST, SAMPLE};
use super::give_up::{delete, truncate};
use super::in_use::InUse;
use super::ledger::{Ledger, Loss};
use super::levels::{goal, is_possible};
use super::place::{Failure, Id, Place};
use super::planner::{Room, Step, next};
use super::scan::{Listing, scan};
use crate::clock::Clock;
use crate::config::{GuardConfig, Policy};

/// After this a pass ends, and the caller looks at every disk again.
const PASS_TIME: Duration = Duration::from_secs(5);
/// After this, compressing a file is tried again.
const AGAIN: Duration = Duration::from_secs(600);
/// Files that are remembered because they cannot be compressed.
const MAX_KNOWN: usize = 10_000;
/// Errors that are told of one pass.
const MAX_ERRORS: usize = 8;

/// What a pass came to.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Whether anything was done.
    pub(super) has_done: bool,
    /// What went wrong, in sentences.
    pub(super) errors: Vec<String>,
    /// Whether it is known of every process what it has open.
    pub(super) knows_writers: bool,
}

pub(super) struct Worker {
    pub(super) config: Arc<GuardConfig>,
    pub(super) probe: Probe,
    pub(super) clock: Clock,
    pub(super) ledger: Ledger,
    /// Who has which of these files open.
    pub(super) in_use: fn(&HashSet<Id>) -> InUse,
    pub(super) stop: Arc<AtomicBool>,
    /// Compressing these did not go: which file, its length, and when.
    pub(super) incompressible: BTreeMap<(Id, u64), Instant>,
}

impl Worker {
    /// Removes what interrupted compressions left over, in all folders. Touches nothing else.
    pub(super) fn tidy(&self) -> Passed {
        let mut passed = Passed { has_done: true, knows_writers: true, ..Passed::default() };
        if self.config.policy > Policy::Alert {
            passed.knows_writers = (self.in_use)(&HashSet::new()).is_complete;
            let listing = scan(&self.config, &self.config.paths, self.clock.now());
            self.remove_leftovers(&listing, &mut passed);
        }
        passed
    }

    /// Makes room in these folders, which are on one file system.
    pub(super) fn pass(&mut self, roots: &[PathBuf]) -> Passed {
        let passed = self.make_room(roots);
        self.ledger.flush();
        passed
    }

    fn make_room(&mut self, roots: &[PathBuf]) -> Passed {
        let began = Instant::now();
        let mut passed = Passed::default();
        let Some(root) = roots.first() else { return passed };
        let mut spent = HashSet::new();
        loop {
            let mut listing = self.list(roots, &spent, &mut passed);
            loop {
                let is_late = began.elapsed() >= PASS_TIME || self.stop.load(Ordering::Relaxed);
                let room = match self.room(root) {
                    Ok(room) if !is_late => room,
                    Ok(_) => return passed,
                    Err(error) => {
                        self.failed(&mut passed, root, &error);
                        return passed;
                    }
                };
                let Some(step) = next(self.config.policy, &room, &listing.files) else { return passed };
                let (Step::Compress(index) | Step::Delete(index) | Step::Truncate(index)) = step;
                let (Some(place), Some(file)) = (listing.places.get(index), listing.files.get_mut(index))
                else {
                    return passed;
                };
                let is_done = self.step(step, place, &room, &mut passed);
                passed.has_done |= is_done;
                match step {
                    // The new file is a candidate too, and time has passed.
                    Step::Compress(_) if is_done => break,
                    Step::Compress(_) => file.is_incompressible = true,
                    Step::Delete(_) | Step::Truncate(_) => {
                        file.is_spent = true;
                        spent.insert(place.id);
                    }
                }
            }
        }
    }

    fn room(&self, root: &Path) -> Result<Room, String> {
        let space = (self.probe)(root).map_err(|e| format!("read the free space: {e}"))?;
        let min_free = self.config.min_free;
        if !is_possible(min_free, space.total) {
            // It could not be reached by giving up everything.
            return Err("min_free is more than half of the disk: nothing is touched".into());
        }
        Ok(Room { free: space.free, min_free, goal: goal(min_free) })
    }

    fn list(&self, roots: &[PathBuf], spent: &HashSet<Id>, passed: &mut Passed) -> Listing {
        let mut listing = scan(&self.config, roots, self.clock.now());
        self.remove_leftovers(&listing, passed);
        for error in &listing.errors {
            self.ledger.failed();
            note(passed, error.clone());
        }
        let used = (self.in_use)(&listing.places.iter().map(|place| place.id).collect());
        passed.knows_writers = used.is_complete;
        for (place, file) in listing.places.iter().zip(&mut listing.files) {
            // If in doubt, yes: compressing what somebody has open frees nothing and takes more.
            file.is_open = !used.is_complete || used.open.contains(&place.id);
            file.is_written = used.written.contains(&place.id);
            let failed = self.incompressible.get(&(place.id, place.len));
            file.is_incompressible = failed.is_some_and(|at| at.elapsed() < AGAIN);
            file.is_spent = spent.contains(&place.id);
        }
        listing
    }

    fn remove_leftovers(&self, listing: &Listing, passed: &mut Passed) {
        for place in &listing.leftovers {
            let path = place.path();
            match tidy(place) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "what an interrupted compression left is removed")
                }
                Err(Failure::Io(error)) => self.failed(passed, &path, &error),
                Err(_) => {}
            }
        }
    }

    fn step(&mut self, step: Step, place: &Place, room: &Room, passed: &mut Passed) -> bool {
        let path = place.path();
        let now = self.clock.now();
        // Reading hundreds of megabytes of each file would take longer than a writer to fill what is left.
        let most = if room.is_nearly_full() { SAMPLE } else { MOST };
        let result = match step {
            Step::Compress(_) => self.compress(place, room).map(|saved| {
                self.ledger.compressed(saved);
                tracing::warn!(path = %path.display(), saved, "compressed: the disk is low");
            }),
            Step::Delete(_) => delete(place, &self.ledger, now, most).map(|loss| tell(&loss, "deleted")),
            Step::Truncate(_) => {
                truncate(place, &self.ledger, now, most).map(|loss| tell(&loss, "truncated"))
            }
        };
        match result {
            Ok(()) => return true,
            Err(Failure::Gone) => tracing::debug!(path = %path.display(), "changed meanwhile, left alone"),
            Err(Failure::NoUse(why)) => tracing::info!(path = %path.display(), why, "not compressed"),
            Err(Failure::Io(error)) => self.failed(passed, &path, &error),
        }
        false
    }

    fn compress(&mut self, place: &Place, room: &Room) -> Result<u64, Failure> {
        let floor = room.floor(self.config.policy);
        let goes_on = || {
            let has_room = (self.probe)(&place.root).is_ok_and(|space| space.free > floor);
            has_room && !self.stop.load(Ordering::Relaxed)
        };
        let result = compress(place, room.budget(self.config.policy), &goes_on);
        if result.is_err() {
            if self.incompressible.len() >= MAX_KNOWN {
                self.incompressible.clear();
            }
            self.incompressible.insert((place.id, place.len), Instant::now());
        }
        result
    }

    fn failed(&self, passed: &mut Passed, path: &Path, error: &str) {
        self.ledger.failed();
        tracing::warn!(path = %path.display(), error, "the disk guard could not do something");
        note(passed, format!("{}: {error}", path.display()));
    }
}

fn note(passed: &mut Passed, error: String) {
    if passed.errors.len() < MAX_ERRORS && !passed.errors.contains(&error) {
        passed.errors.push(error);
    }
}

fn tell(loss: &Loss, how: &str) {
    let Loss { bytes, lines, is_estimated, .. } = loss;
    tracing::error!(path = %loss.path.display(), bytes, lines, is_estimated, how, "given up: the disk is low");
}
