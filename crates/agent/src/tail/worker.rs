//! Does the tailing, one step at a time: takes in what became durable, looks for files, reads, hands over.
//!
//! Not the thread, and not the waiting: whoever calls [`Worker::step`] does that, with the time as it is.
//!
//! Invariants: a step never waits for the spool. What is handed over and not confirmed is bounded in blocks
//! and bytes. A position goes to the spool in the block that reaches it, or when nothing of its file is
//! under way, so that no mark is ever ahead of its lines.

mod find;
mod opaque;
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
use super::mark::{self, Identity};
use super::status::{SectionStatus, TailStatus};
use super::{Limits, Outcome, Sink, Who};
use crate::config::{Pattern, TailConfig};
use find::Held;
use opaque::Opaque;
use read::Next;
use send::{Batch, Flight};

/// A scan that somebody's writing suggests comes at least so long after the last one.
const HINTED: Duration = Duration::from_millis(200);

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
    /// Compressed files that cannot be read.
    opaque: BTreeMap<PathBuf, Opaque>,
    batch: Option<Batch>,
    flights: VecDeque<Flight>,
    next_ticket: u64,
    next_age: u64,
    buffer: Vec<u8>,
    /// Whose turn it is.
    turn: Next,
    has_started: bool,
    scanned_at: Option<Instant>,
    scan_asked: bool,
    /// A file that is not followed was written: what there is to know of it is known soon enough.
    scan_hinted: bool,
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
        let remember = remembered.generations.into_iter().map(|(id, (mut identity, position))| {
            identity.section = section_of(&identity, &configs);
            (id, Generation::remembered(id, identity, position, now))
        });
        let generations: BTreeMap<_, _> = remember.collect();
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
            opaque: BTreeMap::new(),
            batch: None,
            flights: VecDeque::new(),
            next_ticket: 0,
            next_age,
            // A line that is cut needs two bytes more to be known as one.
            buffer: vec![0; quantum.max(longest + 2)],
            turn: Next::default(),
            has_started: remembered.has_started,
            scanned_at: None,
            scan_asked: true,
            scan_hinted: false,
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
        let is_due = self.scanned_at.is_none_or(|at| now.saturating_duration_since(at) >= self.spacing());
        let has_scanned = is_due || self.scan_asked;
        if has_scanned {
            (self.scan_asked, self.scan_hinted) = (false, false);
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
        for generation in self.generations.values_mut().filter(|g| g.is_followed()) {
            // A link's target is written under another name.
            if generation.path == path || generation.target.as_deref() == Some(path) {
                generation.end = None;
                is_known = true;
            }
        }
        self.scan_hinted |= !is_known && self.is_ours(path);
    }

    /// A name came, went, or is another file's now.
    pub(super) fn changed(&mut self, path: &Path, is_folder: bool) {
        // There may be thousands of folders that nothing of ours is in.
        let is_hint = is_folder && self.patterns().any(|pattern| pattern.is_below(path));
        self.scan_hinted |= is_hint;
        self.scan_asked |= !is_folder && self.is_ours(path);
    }

    fn is_ours(&self, path: &Path) -> bool {
        self.patterns().any(|pattern| pattern.matches(path))
    }

    fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.sections.iter().flat_map(|Section { config, .. }| config.paths.iter().chain(&config.rotated))
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

    /// Between two scans, as things are.
    fn spacing(&self) -> Duration {
        if self.scan_hinted { self.every.min(HINTED) } else { self.every }
    }

    fn wait(&self, now: Instant, has_more: bool) -> Duration {
        if has_more || self.scan_asked {
            return Duration::ZERO;
        }
        let since = |at: Instant| now.saturating_duration_since(at);
        let scan = self.scanned_at.map_or(Duration::ZERO, |at| self.spacing().saturating_sub(since(at)));
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
            blocks_under_way: self.flights.len() as u64 + u64::from(self.batch.is_some()),
            is_waiting: self.is_waiting,
            refused: self.refused,
            unwatched_folders: self.status.unwatched_folders,
            errors: std::mem::take(&mut self.status.errors),
            ..TailStatus::default()
        };
        let opaque = self.count_opaque();
        for (index, section) in status.sections.iter_mut().enumerate() {
            (section.unreadable_files, section.rest_unreadable) =
                opaque.get(&index).copied().unwrap_or_default();
        }
        for generation in self.generations.values() {
            status.open_files += u64::from(generation.source.is_some());
            let Some(section) = status.sections.get_mut(generation.section) else { continue };
            section.files += u64::from(generation.lost().is_none());
            section.unread_bytes += generation.unread();
            section.missing_bytes += generation.missing();
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

    /// Files that are being decompressed.
    #[cfg(test)]
    pub(super) fn decoders(&self) -> usize {
        let sources = self.generations.values().filter_map(|g| g.source.as_ref());
        sources.filter(|source| source.is_decoding()).count()
    }

    /// For the status: how many folders inotify cannot watch.
    pub(super) fn unwatched(&mut self, folders: usize) {
        self.status.unwatched_folders = folders as u64;
        // Without inotify looking often is all there is.
        self.every = if folders > 0 { self.limits.scan_every / 4 } else { self.limits.scan_every };
    }
}

/// Which section a remembered file belongs to: there may be others now, in another order.
fn section_of(identity: &Identity, configs: &[TailConfig]) -> u32 {
    let fits = |patterns: &[Pattern], path: &Path| patterns.iter().any(|pattern| pattern.matches(path));
    let by_name = configs.iter().position(|config| fits(&config.paths, &identity.lineage));
    let by_name = by_name.or_else(|| configs.iter().position(|c| fits(&c.rotated, &identity.path)));
    by_name.and_then(|index| u32::try_from(index).ok()).unwrap_or(identity.section)
}
