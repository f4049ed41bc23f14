//! Files that nobody knows, paired with generations that have lost theirs; the rest is new.
//!
//! Not a judgement of one pair: that is in `identity.rs`.
//!
//! Invariant: two files that stand side by side are two, but for a copy, which waits until what it was made
//! of is truncated or gone, or until it has waited so long that it is taken for a log of its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::super::file::{Filled, Source, stat_file};
use super::super::identity::{
    Beginning, Candidate, FileId, Look, Lost, PREFIX, Position, Tail, Verdict, judge,
};
use super::super::list::{self, Found, Listing};
use super::Worker;
use super::find::Held;
use crate::config::Start;

/// What is read to find the last line's end.
const LOOK_BACK: usize = 64 * 1024;

/// A file that no generation knows.
pub(super) struct Fresh {
    pub(super) found: Found,
    /// Its first bytes; `None`: they cannot be read, or not yet.
    head: Option<Vec<u8>>,
    /// It is open only while it waits: there may be thousands.
    source: Option<Source>,
    /// It was deleted while it waited.
    is_gone: bool,
}

impl Fresh {
    /// Of two that are alike the lower one is no copy.
    fn rank(&self) -> (bool, bool, u64) {
        (!self.found.is_in_paths, self.found.is_gz, self.found.stat.id.ino)
    }

    /// Compares it with what a lost generation knows. Opened only if its first bytes fit.
    fn look(&mut self, beginning: &Beginning, position: &Position) -> Look {
        let Some(head) = &self.head else { return Look::Unreadable };
        let known = &beginning.bytes;
        if beginning.base == 0 {
            let len = head.len().min(known.len());
            match len {
                0 => return Look::Differs,
                _ if head[..len] != known[..len] => return Look::Differs,
                // It can be read from its beginning only, and that is all that is known of it.
                _ if self.found.is_gz && len < known.len() => return Look::Shorter,
                _ if self.found.is_gz => return Look::Fits,
                _ => {}
            }
        }
        let size = self.found.stat.size;
        let look = match &mut self.source {
            Some(source) => source.look(size, beginning, position),
            None => open(&self.found).and_then(|mut source| source.look(size, beginning, position)),
        };
        look.map_or(Look::Unreadable, |(look, _)| look)
    }
}

fn open(found: &Found) -> std::io::Result<Source> {
    Source::open(found.path(), found.stat.id, found.is_gz)
}

/// What is known of a generation that has lost its file.
struct Seeker {
    id: u64,
    section: usize,
    place: FileId,
    beginning: Beginning,
    position: Position,
    why: Lost,
}

/// A pair that is possible; of several the least is the best.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Match {
    is_over: bool,
    /// That of which most was read is the least likely to be another.
    read: Reverse<u64>,
    is_gz: bool,
    size: Reverse<u64>,
    /// Which of the files.
    index: usize,
    /// Which generation.
    id: u64,
}

/// Whether one may be a copy of the other, as far as both go. Of a log of its own more is asked.
fn is_alike(one: &[u8], other: &[u8], is_in_paths: bool) -> bool {
    let len = one.len().min(other.len());
    len > 0 && one[..len] == other[..len] && (!is_in_paths || len >= PREFIX)
}

impl Worker {
    /// Finds out what the files are that no generation knows.
    pub(super) fn pair(&mut self, listing: &Listing, unclaimed: &[usize], now: Instant) {
        let mut candidates: Vec<&Found> = unclaimed.iter().filter_map(|at| listing.files.get(*at)).collect();
        // What was rotated is older than what is written, and so is what was written earlier.
        candidates.sort_by_key(|found| (found.is_in_paths, found.stat.modified));
        let mut fresh = self.release(listing, &candidates);
        let mut opaque = Vec::new();
        for found in candidates {
            // An empty one is nothing yet, unless it is a log.
            if found.stat.size == 0 && !found.is_in_paths {
                continue;
            }
            if self.is_known_opaque(found) {
                opaque.push(found);
                continue;
            }
            match self.look_into(found) {
                Ok(one) if is_opaque(&one) => opaque.push(found),
                Ok(one) if self.has_started => fresh.push(one),
                Ok(one) => self.first_seen(one, now),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.scan_asked = true,
                Err(error) => self.failed(found.section, found.path().into(), &error),
            }
        }
        self.adopt_all(&mut fresh, now);
        self.opaque(listing.opaque.iter().chain(opaque));
        let mut stands = BTreeMap::new();
        let twins: Vec<_> = (0..fresh.len()).map(|index| self.twin(index, &fresh, &mut stands)).collect();
        for (fresh, twin) in fresh.into_iter().zip(twins) {
            if let Some(fresh) = self.hold(fresh, twin, now) {
                self.new_file(fresh, now);
            }
        }
    }

    /// Its first bytes. Of one that waits and has not changed they are known.
    fn look_into(&mut self, found: &Found) -> std::io::Result<Fresh> {
        let held = self.held.get_mut(&inode(found)).filter(|held| {
            let is_same = held.found.stat.id == found.stat.id && held.found.is_gz == found.is_gz;
            is_same && held.seen == (found.stat.size, found.stat.modified)
        });
        let (head, source) = match held {
            Some(held) => (held.head.clone(), held.source.take()),
            None => {
                let head = match open(found)?.head() {
                    Ok(head) => Some(head),
                    // It is being compressed, perhaps.
                    Err(_) if found.is_gz => None,
                    Err(error) => return Err(error),
                };
                self.recovered(found.section, found.path());
                (head, None)
            }
        };
        Ok(Fresh { found: found.clone(), head, source, is_gone: false })
    }

    /// Gives files to generations that have lost theirs, the best pair first.
    fn adopt_all(&mut self, fresh: &mut Vec<Fresh>, now: Instant) {
        if fresh.is_empty() {
            return;
        }
        let is_lost = |g: &&super::Generation| g.lost().is_some() && !g.beginning.bytes.is_empty();
        let seeker = |g: &super::Generation| Seeker {
            id: g.id,
            section: g.section,
            place: g.place,
            beginning: g.beginning.clone(),
            position: g.position,
            why: g.lost().unwrap_or(Lost::Missing),
        };
        let seekers: Vec<Seeker> = self.generations.values().filter(is_lost).map(seeker).collect();
        let mut matches = Vec::new();
        for (index, one) in fresh.iter_mut().enumerate() {
            let Found { section, stat, is_in_paths, is_gz, .. } = one.found;
            let candidate = Candidate { id: stat.id, is_in_paths, is_gz };
            for seeker in seekers.iter().filter(|seeker| seeker.section == section) {
                let Seeker { id, place, beginning, position, why, .. } = seeker;
                let look = one.look(beginning, position);
                let verdict = judge(*place, beginning, *why, candidate, look);
                if verdict != Verdict::Unrelated {
                    let (read, size) = (Reverse(position.offset), Reverse(stat.size));
                    let is_over = verdict == Verdict::IsOver;
                    matches.push(Match { is_over, read, is_gz, size, index, id: *id });
                }
            }
        }
        matches.sort_unstable();
        let (mut chosen, mut generations) = (BTreeMap::new(), BTreeSet::new());
        for Match { is_over, index, id, .. } in matches {
            if chosen.contains_key(&index) || !generations.insert(id) {
                continue;
            }
            chosen.insert(index, (id, is_over));
        }
        for (index, one) in std::mem::take(fresh).into_iter().enumerate() {
            match chosen.get(&index) {
                Some((id, is_over)) => self.adopt(*id, one, *is_over, now),
                None => fresh.push(one),
            }
        }
    }

    fn adopt(&mut self, id: u64, fresh: Fresh, is_over: bool, now: Instant) {
        let Fresh { found, source, is_gone, .. } = fresh;
        self.held.remove(&inode(&found));
        let Some(generation) = self.generations.get_mut(&id) else { return };
        tracing::info!(path = %found.path().display(), offset = generation.position.offset, "found again");
        generation.move_to(found.stat.id, found.path(), found.is_gz, now);
        generation.is_ignored |= is_over;
        generation.observe(&found.stat, now);
        if is_gone {
            generation.is_listed = false;
            generation.source = source;
        }
        if let Some(section) = self.sections.get_mut(found.section) {
            section.status.found_again += 1;
        }
    }

    /// Lets go of what waited and is claimed now. What was deleted while it waited goes on waiting.
    fn release(&mut self, listing: &Listing, candidates: &[&Found]) -> Vec<Fresh> {
        let inodes: BTreeSet<_> = candidates.iter().map(|found| inode(found)).collect();
        let is_claimed = |found: &Found| {
            let at = listing.at_inode(inode(found));
            !inodes.contains(&inode(found)) && at.is_some_and(|at| at.stat.id.is(&found.stat.id))
        };
        let is_there = |found: &Found, has_source: bool| has_source || inodes.contains(&inode(found));
        self.held.retain(|_, held| is_there(&held.found, held.source.is_some()) && !is_claimed(&held.found));
        let gone = self.held.iter_mut().filter(|(inode, _)| !inodes.contains(*inode));
        let fresh = gone.filter_map(|(_, held)| {
            let mut source = held.source.take()?;
            let (mut found, mut head) = (held.found.clone(), held.head.clone());
            // Whoever has it open may have written since.
            if let Ok(stat) = stat_file(source.file())
                && (stat.size, stat.modified) != held.seen
            {
                (found.stat, head) = (stat, source.head().ok());
            }
            Some(Fresh { found, head, source: Some(source), is_gone: true })
        });
        fresh.collect()
    }

    /// Keeps a file that must wait, because it may be a copy of one that is there; gives back what need not.
    fn hold(&mut self, fresh: Fresh, twin: Option<bool>, now: Instant) -> Option<Fresh> {
        let inode = inode(&fresh.found);
        let Some(twin_is_listed) = twin else {
            self.held.remove(&inode);
            return Some(fresh);
        };
        let seen = (fresh.found.stat.size, fresh.found.stat.modified);
        let since = match self.held.remove(&inode) {
            Some(held) if held.seen == seen => held.since,
            _ => now,
        };
        let grace = self.sections.get(fresh.found.section).map(|section| section.config.rotate_grace);
        let is_over = grace.is_some_and(|grace| now.saturating_duration_since(since) >= grace);
        if twin_is_listed && is_over {
            return Some(fresh);
        }
        // Not at the cost of files that are read.
        let has_room = self.held.len() < self.limits.max_open / 4;
        let source = if has_room { fresh.source.or_else(|| open(&fresh.found).ok()) } else { None };
        self.held.insert(inode, Held { found: fresh.found, head: fresh.head, source, seen, since });
        None
    }

    /// Whether there is a file with the same beginning, and if so, whether it has a name. `stands`: how the
    /// files of generations begin as they are now, read once for all.
    fn twin(&mut self, index: usize, fresh: &[Fresh], stands: &mut BTreeMap<u64, Vec<u8>>) -> Option<bool> {
        let one = fresh.get(index)?;
        let Some(head) = &one.head else {
            // It is being compressed.
            return one.found.is_gz.then_some(true);
        };
        let found = &one.found;
        let is_better = |other: &&Fresh| {
            other.found.section == found.section && other.rank() < one.rank() && !other.found.is_gz
        };
        let is_same = |other: &Fresh| {
            let may_be = found.is_gz || found.stat.size <= other.found.stat.size;
            may_be && other.head.as_ref().is_some_and(|other| is_alike(head, other, found.is_in_paths))
        };
        let others = fresh.iter().filter(is_better).filter(|other| is_same(other));
        let mut twin = others.map(|other| !other.is_gone).reduce(|all, one| all && one);
        for generation in self.generations.values_mut() {
            if generation.lost().is_some() || generation.section != found.section {
                continue;
            }
            // A copy is not longer than what it is made of.
            if !found.is_gz && generation.is_listed && found.stat.size > generation.longest() {
                continue;
            }
            // What is compressed is known by what was read of it. So is what was cut since it was compared.
            let is_read = generation.beginning.base == 0
                && is_alike(head, &generation.beginning.bytes, found.is_in_paths);
            let mut stands_alike = || {
                let head_of = |g: &mut super::Generation| if g.is_gz { None } else { g.head().ok() };
                let stands = stands.entry(generation.id);
                let stands = stands.or_insert_with(|| head_of(generation).unwrap_or_default());
                is_alike(head, stands, found.is_in_paths)
            };
            if is_read || stands_alike() {
                twin = Some(twin.unwrap_or(true) && generation.is_listed);
            }
        }
        twin
    }

    fn new_file(&mut self, fresh: Fresh, now: Instant) -> u64 {
        let Fresh { found, source, is_gone, .. } = fresh;
        let id = self.begin(found.section, found.stat.id, found.path().into(), now);
        let lineage = self.sections.get(found.section).map(|s| list::lineage(found.path(), &s.config.paths));
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.is_gz = found.is_gz;
            generation.lineage = lineage.unwrap_or_else(|| found.path().into());
            generation.observe(&found.stat, now);
            generation.target = found.target;
            generation.is_listed = !is_gone;
            generation.source = source.filter(|_| is_gone);
        }
        id
    }

    /// At the very first start what was rotated before is not read, and with `start = "end"` nothing is
    /// that was written before.
    fn first_seen(&mut self, fresh: Fresh, now: Instant) {
        let found = fresh.found.clone();
        let start = self.sections.get(found.section).map(|section| section.config.start);
        if found.is_in_paths && !found.is_gz && start == Some(Start::Beginning) {
            self.new_file(fresh, now);
            return;
        }
        let end = match found.is_gz {
            true => Ok(beginning(fresh.head.as_deref())),
            false => open(&found).and_then(|mut source| end_of(&mut source, found.stat.size)),
        };
        let id = self.new_file(fresh, now);
        let Some(generation) = self.generations.get_mut(&id) else { return };
        generation.is_ignored = found.is_gz;
        match end {
            Ok((beginning, position)) => {
                generation.beginning = beginning;
                generation.position = position;
                generation.move_to(found.stat.id, found.path(), found.is_gz, now);
            }
            Err(error) => self.failed(found.section, found.path().into(), &error),
        }
    }

    pub(super) fn failed(&mut self, section: usize, path: PathBuf, error: &std::io::Error) {
        if let Some(section) = self.sections.get_mut(section) {
            section.status.failed(&path, error);
        }
    }

    /// It can be read.
    pub(super) fn recovered(&mut self, section: usize, path: &Path) {
        if let Some(section) = self.sections.get_mut(section) {
            section.status.recovered(path);
        }
    }
}

/// Whether it is compressed, although its name does not say how.
fn is_opaque(one: &Fresh) -> bool {
    let is_plain = !one.found.is_gz && !one.found.is_in_paths;
    is_plain && one.head.as_deref().is_some_and(list::is_compressed)
}

/// The beginning of a compressed file that is not read.
fn beginning(head: Option<&[u8]>) -> (Beginning, Position) {
    let mut beginning = Beginning::default();
    beginning.grow(0, head.unwrap_or_default());
    (beginning, Position::default())
}

/// The beginning of a file, and the position after its last whole line.
fn end_of(source: &mut Source, size: u64) -> std::io::Result<(Beginning, Position)> {
    let from = size.saturating_sub(LOOK_BACK as u64);
    let mut last = vec![0; usize::try_from(size - from).unwrap_or(0)];
    let filled = source.fill(&Position { offset: from, ..Position::default() }, &mut last)?;
    let Filled::Bytes { len, .. } = filled else { return Ok(Default::default()) };
    last.truncate(len);
    let line_end = memchr::memrchr(b'\n', &last).map(|at| at + 1);
    // Without an end in sight the rest of that line is skipped.
    let is_skipping = line_end.is_none() && from > 0;
    last.truncate(line_end.unwrap_or(if from > 0 { len } else { 0 }));
    let offset = from + last.len() as u64;
    let mut bytes = vec![0; PREFIX.min(usize::try_from(offset).unwrap_or(usize::MAX))];
    let mut beginning = Beginning::default();
    if let Filled::Bytes { len, .. } = source.fill(&Position::default(), &mut bytes)? {
        beginning.grow(0, &bytes[..len]);
    }
    Ok((beginning, Position { offset, is_skipping, tail: Tail::of(&last) }))
}

fn inode(found: &Found) -> (u64, u64) {
    (found.stat.id.dev, found.stat.id.ino)
}
