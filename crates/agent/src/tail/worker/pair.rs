//! Files that nobody knows, paired with generations that have lost theirs; the rest is new.
//!
//! Not a judgement of one pair: that is in `identity.rs`.
//!
//! Invariant: two files that stand side by side are two, but for a copy, which waits until what it was made
//! of is truncated or gone, or until it has waited so long that it is taken for a log of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tokio::time::Instant;

use super::super::file::{Filled, Source};
use super::super::identity::{Beginning, Candidate, Look, Lost, PREFIX, Position, Tail, Verdict, judge};
use super::super::list::{self, Found, Listing};
use super::Worker;
use super::find::Held;
use crate::config::Start;

/// What is read to find the last line's end.
const LOOK_BACK: usize = 64 * 1024;

/// A file that no generation knows.
struct Fresh {
    found: Found,
    source: Source,
    /// Its first bytes; `None`: they cannot be read, or not yet.
    head: Option<Vec<u8>>,
    /// It was deleted while it waited.
    is_gone: bool,
}

impl Fresh {
    /// Of two that are alike the lower one is no copy.
    fn rank(&self) -> (bool, bool, u64) {
        (!self.found.is_in_paths, self.found.is_gz, self.found.stat.id.ino)
    }
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
        for found in candidates {
            // An empty one is nothing yet, unless it is a log.
            if found.stat.size == 0 && !found.is_in_paths {
                continue;
            }
            match Source::open(found.path(), found.stat.id, found.is_gz) {
                Ok(mut source) => {
                    let head = source.head().ok();
                    fresh.push(Fresh { found: found.clone(), source, head, is_gone: false });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.scan_asked = true,
                Err(error) => self.failed(found.section, found.path().into(), &error),
            }
        }
        self.adopt_all(&mut fresh, now);
        if self.has_started {
            let twins: Vec<_> = (0..fresh.len()).map(|index| self.twin(index, &fresh)).collect();
            for (fresh, twin) in fresh.into_iter().zip(twins) {
                if let Some(fresh) = self.hold(fresh, twin, now) {
                    self.new_file(fresh, now);
                }
            }
        } else {
            for fresh in fresh {
                self.first_seen(fresh, now);
            }
        }
    }

    /// Gives files to generations that have lost theirs, the best pair first.
    fn adopt_all(&mut self, fresh: &mut Vec<Fresh>, now: Instant) {
        let lost: Vec<_> = {
            let is_lost = |g: &&super::Generation| g.lost().is_some() && !g.beginning.bytes.is_empty();
            let mut lost: Vec<_> = self.generations.values().filter(is_lost).collect();
            lost.sort_by_key(|generation| generation.age);
            let known = |g: &&super::Generation| {
                let why = g.lost().unwrap_or(Lost::Missing);
                (g.id, g.section, g.place, g.beginning.clone(), g.position, why)
            };
            lost.iter().map(known).collect()
        };
        let mut pairs = Vec::new();
        for (index, Fresh { found, source, .. }) in fresh.iter_mut().enumerate() {
            let Found { is_in_paths, is_gz, .. } = *found;
            let candidate = Candidate { id: found.stat.id, is_in_paths, is_gz };
            for (id, section, place, beginning, position, why) in &lost {
                if *section != found.section {
                    continue;
                }
                let look =
                    source.look(found.stat.size, beginning, position).map_or(Look::Unreadable, |l| l.0);
                let verdict = judge(*place, beginning, *why, candidate, look);
                if verdict != Verdict::Unrelated {
                    let is_over = verdict == Verdict::IsOver;
                    let others = u64::MAX - position.offset;
                    pairs.push(((is_over, others, is_gz, u64::MAX - found.stat.size), index, *id));
                }
            }
        }
        pairs.sort_unstable();
        let (mut chosen, mut generations) = (BTreeMap::new(), BTreeSet::new());
        for ((is_over, ..), index, id) in pairs {
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
            generation.source = Some(source);
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
            let head = source.head().ok();
            Some(Fresh { found: held.found.clone(), source, head, is_gone: true })
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
        let source = (self.held.len() < self.limits.max_open / 4).then_some(fresh.source);
        self.held.insert(inode, Held { found: fresh.found, source, seen, since });
        None
    }

    /// Whether there is a file with the same beginning, and if so, whether it has a name.
    fn twin(&mut self, index: usize, fresh: &[Fresh]) -> Option<bool> {
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
        let mut twin = fresh.iter().filter(is_better).any(is_same).then_some(true);
        for generation in self.generations.values_mut() {
            if generation.lost().is_some() || generation.section != found.section {
                continue;
            }
            // A copy is not longer than what it is made of.
            if !found.is_gz && generation.is_listed && found.stat.size > generation.longest() {
                continue;
            }
            // What is compressed is known by what was read of it. So is what was cut since it was compared.
            let read =
                if generation.beginning.base == 0 { generation.beginning.bytes.clone() } else { Vec::new() };
            let stands = if generation.is_gz { Vec::new() } else { generation.head().unwrap_or_default() };
            if [read, stands].iter().any(|other| is_alike(head, other, found.is_in_paths)) {
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
            generation.is_link = found.is_link;
            generation.lineage = lineage.unwrap_or_else(|| found.path().into());
            generation.observe(&found.stat, now);
            generation.is_listed = !is_gone;
            generation.source = is_gone.then_some(source);
        }
        id
    }

    /// At the very first start what was rotated before is not read, and with `start = "end"` nothing is
    /// that was written before.
    fn first_seen(&mut self, mut fresh: Fresh, now: Instant) {
        let found = fresh.found.clone();
        let start = self.sections.get(found.section).map(|section| section.config.start);
        if found.is_in_paths && !found.is_gz && start == Some(Start::Beginning) {
            self.new_file(fresh, now);
            return;
        }
        let source = &mut fresh.source;
        let end = if found.is_gz { head(source) } else { end_of(source, found.stat.size) };
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
}

/// The beginning of a compressed file that is not read.
fn head(source: &mut Source) -> std::io::Result<(Beginning, Position)> {
    let mut bytes = vec![0; PREFIX];
    let filled = source.fill(&Position::default(), &mut bytes)?;
    let Filled::Bytes { len, .. } = filled else { return Ok(Default::default()) };
    bytes.truncate(len);
    let mut beginning = Beginning::default();
    beginning.grow(0, &bytes);
    Ok((beginning, Position::default()))
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
