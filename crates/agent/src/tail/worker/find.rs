//! The scan: which file on the disk is which generation, what was truncated, what is gone.
//!
//! Not the pairing of files that nobody knows: that is in `pair.rs`.
//!
//! Invariant: a file that changed is compared with what is known of it before any new file beside it is
//! judged, so that a copy is not taken for a log of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use pikepole_fleet::Timestamp;
use tokio::time::Instant;

use super::super::file::{Source, stat_file};
use super::super::generation::Generation;
use super::super::identity::FileId;
use super::super::list::{self, Found, Listing};
use super::super::{mark, status};
use super::Worker;

/// Generations that are remembered; then those that are gone longest are forgotten.
const MAX_GENERATIONS: usize = 4_096;
/// Bytes of their marks, with long names too: the spool keeps 6 MiB of marks.
const MAX_BYTES: usize = 5 << 20;
/// A deleted file that nothing took the place of is given up only after so many times the grace.
const ALONE: u32 = 10;

/// A file that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) found: Found,
    /// Its first bytes, as they were then; `None`: they cannot be read yet.
    pub(super) head: Option<Vec<u8>>,
    /// Kept open: should it be deleted, it may have to be read after all.
    pub(super) source: Option<Source>,
    /// As it was when it last changed.
    pub(super) seen: (u64, i128),
    pub(super) since: Instant,
}

impl Worker {
    /// Looks at everything.
    pub(super) fn scan(&mut self, now: Instant, wall: Timestamp) {
        let mut listing = {
            let configs: Vec<_> = self.sections.iter().map(|section| &section.config).collect();
            list::list(&configs)
        };
        self.errors_before = std::mem::take(&mut self.status.errors);
        for (path, error) in std::mem::take(&mut listing.errors) {
            status::note(&mut self.status.errors, &self.errors_before, &path, &error);
        }
        let unclaimed = self.claim(&listing, now);
        self.observe_unlisted(now);
        self.compare_changed(!unclaimed.is_empty(), now);
        self.pair(&listing, &unclaimed, now);
        self.open_ready(now);
        self.forget_errors(&listing);
        self.folders = std::mem::take(&mut listing.folders);
        self.expire(&listing, wall);
        self.mark_dirty();
    }

    /// Gives each file to the generation that knows its inode; the rest is nobody's.
    fn claim(&mut self, listing: &Listing, now: Instant) -> Vec<usize> {
        let mut by_age: Vec<(u64, u64)> = Vec::with_capacity(self.generations.len());
        for generation in self.generations.values_mut() {
            generation.is_listed = false;
            by_age.push((generation.age, generation.id));
        }
        by_age.sort_unstable();
        let inode = |found: &Found| (found.stat.id.dev, found.stat.id.ino);
        let mut left: BTreeMap<_, usize> =
            listing.files.iter().enumerate().map(|(index, found)| (inode(found), index)).collect();
        let mut replaced = Vec::new();
        // The newest first: an older one of the same inode was overwritten by it.
        for (_, id) in by_age.iter().rev() {
            let Some(generation) = self.generations.get_mut(id).filter(|g| !g.is_overwritten) else {
                continue;
            };
            let place = (generation.place.dev, generation.place.ino);
            // What was compressed is text now, or the other way round: a number that was used again.
            let is_same = |index: &usize| {
                let found = listing.files.get(*index);
                found.is_some_and(|f| f.stat.id.is(&generation.place) && f.is_gz == generation.is_gz)
            };
            let Some(index) = left.get(&place).copied().filter(is_same) else {
                let is_taken =
                    listing.at_inode(place).is_some_and(|found| found.stat.id.is(&generation.place));
                if is_taken {
                    generation.overwritten();
                }
                continue;
            };
            let Some(found) = listing.files.get(index) else { continue };
            if generation.is_doubtful(found) && !generation.is_still(found) {
                generation.overwritten();
                continue;
            }
            left.remove(&place);
            // What was a copy of something read does not grow; this is another file.
            let has_grown = generation.size > 0 && found.stat.size > generation.size;
            if generation.is_ignored && !generation.is_gz && has_grown {
                replaced.push(*id);
            }
            self.listed(*id, found, now);
        }
        replaced.into_iter().for_each(|id| self.replace(id, now));
        let mut unclaimed: Vec<usize> = left.into_values().collect();
        unclaimed.sort_unstable();
        unclaimed
    }

    fn listed(&mut self, id: u64, found: &Found, now: Instant) {
        let Some(generation) = self.generations.get_mut(&id) else { return };
        generation.is_listed = true;
        generation.target.clone_from(&found.target);
        generation.section = found.section;
        if generation.absent_since.take().is_some() {
            generation.is_dirty = true;
        }
        if !found.names.contains(&generation.path) {
            let was_live = generation.path == generation.lineage;
            generation.path = found.path().into();
            generation.is_dirty = true;
            if let Some(section) = self.sections.get_mut(found.section).filter(|_| was_live) {
                section.status.renamed += 1;
            }
        }
        generation.observe(&found.stat, now);
        generation.look_again();
    }

    /// Files that have no name any more, or one that is not ours.
    fn observe_unlisted(&mut self, now: Instant) {
        for generation in self.generations.values_mut().filter(|g| !g.is_listed) {
            let stat = generation.source.as_ref().and_then(|source| stat_file(source.file()).ok());
            if let Some(stat) = stat {
                generation.observe(&stat, now);
            }
        }
    }

    /// Opens what is to be read, even while nothing can be read: it may be deleted before its turn.
    fn open_ready(&mut self, now: Instant) {
        let is_closed = |g: &&Generation| g.source.is_none() && g.is_ready(now);
        let closed: Vec<u64> = self.generations.values().filter(is_closed).map(|g| g.id).collect();
        for id in closed {
            if !self.make_room_to_open(id) {
                return;
            }
            let Some(generation) = self.generations.get_mut(&id) else { continue };
            let (section, path) = (generation.section, generation.path.clone());
            match generation.open() {
                Ok(_) => self.recovered(section, &path),
                Err(error) => {
                    generation.retry_at = Some(now + super::read::AGAIN);
                    self.failed(section, path, &error);
                }
            }
        }
    }

    /// Finds what was truncated: by its size, and by its content where there is a file that may be its copy.
    fn compare_changed(&mut self, is_copy_possible: bool, now: Instant) {
        let mut replaced = Vec::new();
        let mut open = self.generations.values().filter(|g| g.source.is_some()).count();
        for generation in self.generations.values_mut() {
            let is_read = !generation.is_gz && !generation.is_ignored && generation.lost().is_none();
            if !is_read || generation.position.offset == 0 {
                continue;
            }
            let was_open = generation.source.is_some();
            let is_shorter = generation.size < generation.position.offset;
            let has_changed = generation.end != Some((generation.size, generation.modified));
            // What cannot be compared now is compared before it is read.
            let mut differs =
                || is_copy_possible && has_changed && matches!(generation.compare(now), Ok(false));
            if is_shorter || differs() {
                replaced.push(generation.id);
            }
            // It is compared whether there is room or not, and open only if there is.
            if !was_open && open >= self.limits.max_open {
                generation.close();
            }
            open += usize::from(!was_open && generation.source.is_some());
        }
        replaced.into_iter().for_each(|id| self.replace(id, now));
    }

    /// Its inode holds something else: a new generation begins.
    pub(super) fn replace(&mut self, id: u64, now: Instant) {
        let Some(old) = self.generations.get_mut(&id) else { return };
        let (section, place, path) = (old.section, old.place, old.path.clone());
        let (lineage, is_gz, is_listed) = (old.lineage.clone(), old.is_gz, old.is_listed);
        tracing::info!(path = %path.display(), offset = old.position.offset, size = old.size, "truncated or rewritten");
        old.overwritten();
        if let Some(section) = self.sections.get_mut(section) {
            section.status.truncated += 1;
        }
        self.scan_asked = true;
        if !is_listed {
            // Nobody can open it any more.
            return;
        }
        let new = self.begin(section, place, path, now);
        if let Some(new) = self.generations.get_mut(&new) {
            new.lineage = lineage;
            new.is_gz = is_gz;
        }
    }

    /// A new generation, to be read from its beginning.
    pub(super) fn begin(&mut self, section: usize, place: FileId, path: PathBuf, now: Instant) -> u64 {
        let id = loop {
            let id = fastrand::u64(..);
            if id != 0 && !self.generations.contains_key(&id) {
                break id;
            }
        };
        let age = self.next_age;
        self.next_age += 1;
        self.generations.insert(id, Generation::new(id, age, section, place, path, now));
        if let Some(section) = self.sections.get_mut(section) {
            section.status.new_generations += 1;
        }
        id
    }

    /// Closes what is read to its end and will not grow.
    pub(super) fn retire(&mut self, now: Instant, wall: Timestamp) {
        let newest: BTreeMap<PathBuf, u64> = {
            let mut newest = BTreeMap::new();
            for generation in self.generations.values().filter(|g| g.lost().is_none()) {
                let age = newest.entry(generation.lineage.clone()).or_insert(0);
                *age = generation.age.max(*age);
            }
            newest
        };
        let (mut final_ones, mut given_up) = (Vec::new(), Vec::new());
        for generation in self.generations.values_mut().filter(|g| g.source.is_some()) {
            let grace = self.sections.get(generation.section).map(|section| section.config.rotate_grace);
            let grace = grace.unwrap_or(Duration::from_secs(60));
            let quiet = now.saturating_duration_since(generation.grew_at);
            if generation.is_failing {
                if generation.links == 0 && quiet >= grace * ALONE {
                    given_up.push(generation.id);
                } else if generation.is_gz && generation.links > 0 && quiet >= grace {
                    // It is opened again when it changes.
                    generation.close();
                }
                continue;
            }
            let at_end = generation.end == Some((generation.size, generation.modified));
            if !at_end || generation.is_live() {
                continue;
            }
            let has_newer = newest.get(&generation.lineage).is_some_and(|age| *age > generation.age);
            let is_final = generation.is_finished
                || (quiet >= grace && has_newer)
                || (quiet >= grace * ALONE && generation.links == 0);
            if is_final && !generation.is_finished {
                final_ones.push(generation.id);
            } else if is_final && generation.is_durable() {
                generation.close();
            }
        }
        for id in final_ones {
            // A line without an end is given now: nobody will end it.
            let has_rest = self.generations.get(&id).is_some_and(|g| g.size > g.position.offset);
            if has_rest && !self.finish(id, now, wall) {
                continue;
            }
            if let Some(generation) = self.generations.get_mut(&id) {
                generation.finished();
            }
        }
        for id in given_up {
            // It is deleted and cannot be read: nothing will ever make it better.
            let Some(generation) = self.generations.get_mut(&id) else { continue };
            if let Some(section) = self.sections.get_mut(generation.section) {
                section.status.given_up(generation);
            }
            generation.finished();
            generation.close();
        }
    }

    /// Errors of files that are not there any more.
    fn forget_errors(&mut self, listing: &Listing) {
        if self.sections.iter().all(|section| section.status.errors.is_empty()) {
            return;
        }
        let listed = listing.files.iter().chain(&listing.opaque).flat_map(|found| &found.names);
        let open = self.generations.values().filter(|g| g.lost().is_none()).map(|g| &g.path);
        let there: BTreeSet<String> = listed.chain(open).map(|path| path.display().to_string()).collect();
        for section in &mut self.sections {
            section.status.errors.retain(|path, _| there.contains(path));
        }
    }

    fn expire(&mut self, listing: &Listing, wall: Timestamp) {
        // What was left out of the listing is not gone.
        if listing.is_cut {
            return self.forget_excess(BTreeSet::new());
        }
        let under_way: BTreeSet<u64> = self.under_way();
        let mut gone = BTreeSet::new();
        for generation in self.generations.values_mut().filter(|g| g.lost().is_some()) {
            let since = *generation.absent_since.get_or_insert_with(|| {
                generation.is_dirty = true;
                wall
            });
            let expire = self.sections.get(generation.section).map(|section| section.config.expire);
            let is_over = wall.since(since) >= expire.unwrap_or(Duration::from_secs(86_400));
            let is_nothing = !generation.is_remembered && generation.position.offset == 0;
            if !under_way.contains(&generation.id) && (is_over || is_nothing) {
                gone.insert(generation.id);
            }
        }
        self.forget_excess(gone);
    }

    /// Forgets these, and those that are gone longest if there are more than can be remembered.
    fn forget_excess(&mut self, mut gone: BTreeSet<u64>) {
        let under_way = self.under_way();
        let kept = || self.generations.values().filter(|g| !gone.contains(&g.id));
        let (mut count, mut bytes) = kept().fold((0, 0), |(n, bytes), g| (n + 1, bytes + g.mark_bytes()));
        if count > MAX_GENERATIONS || bytes > MAX_BYTES {
            let is_absent = |g: &&Generation| g.lost().is_some() && !under_way.contains(&g.id);
            let mut absent: Vec<_> = kept().filter(is_absent).collect();
            absent.sort_unstable_by_key(|g| (g.absent_since, g.id));
            let mut excess = Vec::new();
            for generation in absent {
                if count <= MAX_GENERATIONS && bytes <= MAX_BYTES {
                    break;
                }
                (count, bytes) = (count - 1, bytes - generation.mark_bytes());
                excess.push(generation.id);
            }
            gone.extend(excess);
        }
        let mut marks = Vec::new();
        for id in gone {
            let Some(generation) = self.generations.remove(&id) else { continue };
            if generation.is_remembered {
                marks.extend(mark::forget(id));
            }
            if let Some(section) = self.sections.get_mut(generation.section) {
                section.status.forgot(&generation);
            }
        }
        if !marks.is_empty() {
            self.sink.mark(marks);
        }
    }
}
