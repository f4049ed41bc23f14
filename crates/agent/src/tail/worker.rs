//! Does the tailing, one step at a time: takes in what became durable, looks for files, reads, hands over.
//!
//! Not the thread, and not the waiting: whoever calls [`Worker::step`] does that, with the time as it is.
//!
//! Invariants: a step never waits for the spool. What is handed over and not confirmed is bounded in blocks
//! and bytes. A position goes to the spool in the block that reaches it, or when nothing of its file is
//! under way, so that no mark is ever ahead of its lines.

mod find;
mod pair;
mod read;
mod send;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use pikepole_fleet::Timestamp;
use tokio::time::Instant;

use super::generation::Generation;
use super::mark;
use super::status::{SectionStatus, TailStatus};
use super::{Limits, Outcome, Sink, Who};
use crate::config::TailConfig;
use find::Held;
use send::{Batch, Flight};

/// What one `[[tail]]` is made of.
struct Section {
    config: TailConfig,
    status: SectionStatus,
}

/// Everything.
pub(super) struct Worker {
    sections: Vec<Section>,
    who: Who,
    limits: Limits,
    sink: Box<dyn Sink>,
    receipts: super::Receipts,
    outcomes: Receiver<Outcome>,
    generations: BTreeMap<u64, Generation>,
    /// Those that wait until it is clear whether they are copies.
    held: HashMap<(u64, u64), Held>,
    batch: Option<Batch>,
    flights: VecDeque<Flight>,
    next_ticket: u64,
    next_age: u64,
    buffer: Vec<u8>,
    /// Whose turn was the last.
    turn: usize,
    has_started: bool,
    scanned_at: Option<Instant>,
    scan_asked: bool,
    is_waiting: bool,
    /// After a refusal nothing is handed over until then.
    resume_at: Option<Instant>,
    refused: u64,
    status: TailStatus,
    /// Of the scan before: what is told once is not told every second.
    errors_before: BTreeMap<String, String>,
    /// Folders of the last scan.
    folders: BTreeSet<PathBuf>,
    /// Between two scans.
    every: Duration,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stepped {
    /// When to step again if nothing happens.
    pub(super) wait: Duration,
    /// Whether there was a scan, so that the folders may be others.
    pub(super) has_scanned: bool,
}

impl Worker {
    /// `marks` are all that the spool has.
    pub(super) fn new(
        configs: Vec<TailConfig>,
        who: Who,
        limits: Limits,
        marks: &BTreeMap<Bytes, Bytes>,
        sink: Box<dyn Sink>,
        (receipts, outcomes): (super::Receipts, Receiver<Outcome>),
        now: Instant,
    ) -> Self {
        let remembered = mark::read(marks);
        let generations: BTreeMap<_, _> = remembered
            .generations
            .into_iter()
            .map(|(id, (identity, position))| (id, Generation::remembered(id, identity, position, now)))
            .collect();
        let quantum = limits.quantum;
        let next_age = generations.values().map(|g| g.age.saturating_add(1)).max().unwrap_or(1);
        let longest = configs.iter().map(|config| config.max_line).max().unwrap_or(0);
        let paths = |config: &TailConfig| config.paths.iter().map(|path| path.text().to_string()).collect();
        let sections = configs.into_iter().map(|config| {
            let status = SectionStatus { paths: paths(&config), ..SectionStatus::default() };
            Section { config, status }
        });
        Self {
            sections: sections.collect(),
            who,
            every: limits.scan_every,
            limits,
            sink,
            receipts,
            outcomes,
            generations,
            held: HashMap::new(),
            batch: None,
            flights: VecDeque::new(),
            next_ticket: 0,
            next_age,
            // A line that is cut needs two bytes more to be known as one.
            buffer: vec![0; quantum.max(longest + 2)],
            turn: 0,
            has_started: remembered.has_started,
            scanned_at: None,
            scan_asked: true,
            is_waiting: false,
            resume_at: None,
            refused: 0,
            status: TailStatus::default(),
            errors_before: BTreeMap::new(),
            folders: BTreeSet::new(),
        }
    }

    /// Does what can be done now, about one quantum of each file at most.
    pub(super) fn step(&mut self, now: Instant, wall: Timestamp) -> Stepped {
        self.settle(now);
        let is_due = self.scanned_at.is_none_or(|at| now.saturating_duration_since(at) >= self.every);
        let has_scanned = is_due || self.scan_asked;
        if has_scanned {
            self.scan_asked = false;
            self.scanned_at = Some(now);
            self.scan(now, wall);
        }
        let has_more = self.read(now, wall);
        self.linger(now);
        if has_scanned {
            self.retire(now, wall);
        }
        self.report();
        Stepped { wait: self.wait(now, has_more), has_scanned }
    }

    /// Somebody wrote here: it is read now, not at the next scan.
    pub(super) fn written(&mut self, path: &Path) {
        let mut is_known = false;
        for generation in self.generations.values_mut().filter(|g| g.source.is_some()) {
            // A link's target is written under another name.
            if generation.path == path || generation.is_link {
                generation.end = None;
                is_known |= generation.path == path;
            }
        }
        if !is_known {
            self.changed(path);
        }
    }

    /// A name came, went, or is another file's now.
    pub(super) fn changed(&mut self, path: &Path) {
        let is_ours = |section: &Section| {
            let TailConfig { paths, rotated, .. } = &section.config;
            paths.iter().chain(rotated).any(|pattern| pattern.matches(path))
        };
        self.scan_asked |= self.sections.iter().any(is_ours);
    }

    /// Looks at everything now.
    pub(super) fn scan_soon(&mut self) {
        self.scan_asked = true;
    }

    /// Where files can come and go.
    pub(super) fn folders(&self) -> &BTreeSet<PathBuf> {
        &self.folders
    }

    /// What there is to tell.
    pub(super) fn status(&self) -> &TailStatus {
        &self.status
    }

    fn wait(&self, now: Instant, has_more: bool) -> Duration {
        if has_more || self.scan_asked {
            return Duration::ZERO;
        }
        let since = |at: Instant| now.saturating_duration_since(at);
        let scan = self.scanned_at.map_or(Duration::ZERO, |at| self.every.saturating_sub(since(at)));
        match &self.batch {
            Some(batch) if !self.is_waiting => {
                scan.min(self.limits.linger.saturating_sub(since(batch.began)))
            }
            _ => scan,
        }
    }

    fn report(&mut self) {
        let mut status = TailStatus {
            sections: self.sections.iter().map(|section| section.status.clone()).collect(),
            generations: self.generations.len() as u64,
            max_open_files: self.limits.max_open as u64,
            blocks_under_way: self.flights.len() as u64,
            is_waiting: self.is_waiting,
            refused: self.refused,
            unwatched_folders: self.status.unwatched_folders,
            errors: std::mem::take(&mut self.status.errors),
            ..TailStatus::default()
        };
        for section in &mut status.sections {
            section.held = 0;
        }
        for generation in self.generations.values() {
            status.open_files += u64::from(generation.source.is_some());
            let Some(section) = status.sections.get_mut(generation.section) else { continue };
            section.files += u64::from(generation.lost().is_none());
            section.unread_bytes += generation.unread();
            section.rest_missing += u64::from(generation.is_overwritten && !generation.is_ignored);
            if generation.source.is_some() && generation.links == 0 {
                section.pinned_deleted_bytes += generation.allocated;
            }
        }
        for held in self.held.values() {
            if let Some(section) = status.sections.get_mut(held.found.section) {
                section.held += 1;
            }
        }
        self.status = status;
    }

    /// For the status: how many folders inotify cannot watch.
    pub(super) fn unwatched(&mut self, folders: usize) {
        self.status.unwatched_folders = folders as u64;
        // Without inotify looking often is all there is.
        self.every = if folders > 0 { self.limits.scan_every / 4 } else { self.limits.scan_every };
    }
}
