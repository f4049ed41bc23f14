//! Reads files in turns, and puts their lines into blocks.
//!
//! Invariants: in one step a file gets one quantum, so that a busy one does not keep others waiting. Of one
//! log the older generation is read to its end before the newer one. What was read is given only after the
//! file was compared again: if it was truncated meanwhile, it is thrown away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pikepole_fleet::Timestamp;
use tokio::time::Instant;

use super::super::file::{Filled, Source};
use super::super::split::{self, Piece};
use super::Worker;
use super::send::Placed;

/// After an error a file is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// What a line takes in a block beside its bytes and a header that may come before it.
const OVERHEAD: usize = 16;

/// Logs of which something compressed is read at once: a decoder takes up to two megabytes.
const MAX_GZ: usize = 4;

/// Whose turn comes next.
#[derive(Debug, Default)]
pub(super) struct Next {
    /// This log's, or the one's that follows it.
    lineage: PathBuf,
    /// Bytes of its quantum that it has had already.
    spent: usize,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There is no more now.
    Done,
    /// It could not be read, or is another file: what it has is not known.
    Failed,
    /// There is more.
    More,
    /// The spool takes no more now.
    Stopped,
}

impl Worker {
    /// Gives every file that may have something one turn. Whether there is more.
    pub(super) fn read(&mut self, now: Instant, wall: Timestamp) -> bool {
        self.is_waiting = self.resume_at.is_some_and(|at| now < at) || (self.is_full() && !self.can_send());
        if self.is_waiting {
            return false;
        }
        let mut lineages = self.lineages(now);
        let first = lineages.iter().position(|(lineage, _)| *lineage >= self.turn.lineage);
        lineages.rotate_left(first.unwrap_or(0));
        let mut decoding = lineages.iter().filter(|(_, ids)| self.is_decoding(ids.first())).count();
        let mut has_more = false;
        for (at, (lineage, ids)) in lineages.iter().enumerate() {
            // One that was stopped in its turn has only the rest of it.
            let is_resumed = at == 0 && *lineage == self.turn.lineage;
            let mut spent = if is_resumed { self.turn.spent } else { 0 };
            for id in ids {
                let is_decoding = self.is_decoding(Some(id));
                if self.generations.get(id).is_some_and(|g| g.is_gz) && !is_decoding && decoding >= MAX_GZ {
                    // One of the others comes to its end.
                    has_more = true;
                    break;
                }
                let turn = self.take_turn(*id, false, &mut spent, now, wall);
                decoding = (decoding + usize::from(self.is_decoding(Some(id))))
                    .saturating_sub(usize::from(is_decoding));
                match turn {
                    Turn::Done | Turn::Failed => {}
                    Turn::More => {
                        has_more = true;
                        break;
                    }
                    Turn::Stopped => {
                        self.turn = Next { lineage: lineage.clone(), spent };
                        self.is_waiting = true;
                        return false;
                    }
                }
            }
        }
        // Whoever was second is the first of the next round.
        let next = lineages.into_iter().nth(1).map(|(lineage, _)| lineage);
        self.turn = Next { lineage: next.unwrap_or_default(), spent: 0 };
        has_more
    }

    fn is_decoding(&self, id: Option<&u64>) -> bool {
        let source = id.and_then(|id| self.generations.get(id)).and_then(|g| g.source.as_ref());
        source.is_some_and(Source::is_decoding)
    }

    /// Files that may have something, those of one log together, oldest first.
    fn lineages(&self, now: Instant) -> Vec<(PathBuf, Vec<u64>)> {
        let mut ready: Vec<_> = self.generations.values().filter(|g| g.is_ready(now)).collect();
        ready.sort_by_key(|generation| generation.age);
        let mut lineages: BTreeMap<&PathBuf, Vec<u64>> = BTreeMap::new();
        for generation in ready {
            lineages.entry(&generation.lineage).or_default().push(generation.id);
        }
        lineages.into_iter().map(|(lineage, ids)| (lineage.clone(), ids)).collect()
    }

    /// Gives what is left of a file whose last line has no end. Whether it is all in a block.
    pub(super) fn finish(&mut self, id: u64, now: Instant, wall: Timestamp) -> bool {
        self.take_turn(id, true, &mut 0, now, wall) == Turn::Done
    }

    /// `spent`: bytes of its quantum that the log has had.
    fn take_turn(
        &mut self,
        id: u64,
        is_final: bool,
        spent: &mut usize,
        now: Instant,
        wall: Timestamp,
    ) -> Turn {
        if !self.make_room_to_open(id) {
            return Turn::Failed;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let from = self.generations.get(&id).map_or(0, |generation| generation.position.offset);
        let quantum = self.limits.quantum.saturating_sub(*spent);
        let turn = self.turn_with(id, is_final, (&mut buffer, quantum), now, wall);
        self.buffer = buffer;
        let Some(generation) = self.generations.get_mut(&id) else { return Turn::Failed };
        let given = generation.position.offset.saturating_sub(from);
        *spent = spent.saturating_add(usize::try_from(given).unwrap_or(usize::MAX));
        let error = match turn {
            Ok(turn) => {
                if turn != Turn::Failed {
                    generation.is_failing = false;
                    let (section, path) = (generation.section, generation.path.clone());
                    self.recovered(section, &path);
                }
                return turn;
            }
            Err(error) => error,
        };
        generation.retry_at = Some(now + AGAIN);
        generation.is_failing = true;
        if generation.is_gz {
            // Tried again when it has changed.
            generation.end = Some((generation.size, generation.modified));
        }
        let (section, path) = (generation.section, generation.path.clone());
        if error.kind() == std::io::ErrorKind::NotFound {
            self.scan_asked = true;
        } else {
            self.failed(section, path, &error);
        }
        Turn::Failed
    }

    fn turn_with(
        &mut self,
        id: u64,
        is_final: bool,
        (buffer, quantum): (&mut [u8], usize),
        now: Instant,
        wall: Timestamp,
    ) -> std::io::Result<Turn> {
        let Some(generation) = self.generations.get_mut(&id) else { return Ok(Turn::Done) };
        if !generation.is_compared() && !generation.compare(now)? {
            self.replace(id, now);
            return Ok(Turn::Failed);
        }
        let filled = generation.fill(buffer)?;
        let (len, is_end) = match filled {
            Filled::Bytes { len, is_end } => (len, is_end),
            Filled::Busy => return Ok(Turn::More),
            Filled::Short => (0, true),
            Filled::Differs => {
                self.replace(id, now);
                return Ok(Turn::Failed);
            }
        };
        if !generation.compare(now)? {
            self.replace(id, now);
            return Ok(Turn::Failed);
        }
        let start = generation.position.offset;
        let hole = self.skip_hole(id, &buffer[..len]);
        if hole == Some(Turn::More) {
            return Ok(Turn::More);
        }
        let turn = self.feed(id, (&buffer[..len], quantum), is_final || is_end, now, wall);
        if turn != Turn::Done {
            return Ok(turn);
        }
        let Some(generation) = self.generations.get_mut(&id) else { return Ok(Turn::Done) };
        let is_all = if generation.is_gz { is_end } else { start + len as u64 >= generation.size };
        if !is_all {
            return Ok(Turn::More);
        }
        generation.reached_end(wall);
        if generation.is_gz {
            generation.finished();
            if let Some(section) = self.sections.get_mut(generation.section) {
                section.status.gz_read += 1;
            }
        }
        Ok(Turn::Done)
    }

    /// Skips the NULs before the first byte of a file, those of a hole without reading them.
    fn skip_hole(&mut self, id: u64, read: &[u8]) -> Option<Turn> {
        let generation = self.generations.get_mut(&id)?;
        let is_begun =
            generation.position.offset > generation.beginning.base || !generation.beginning.bytes.is_empty();
        if is_begun || read.first() != Some(&0) {
            return None;
        }
        let nuls = read.iter().take_while(|byte| **byte == 0).count();
        let start = generation.position.offset;
        let mut end = start + nuls as u64;
        if nuls == read.len() {
            let data = generation.source.as_ref().map_or(end, |source| source.after_hole(end));
            end = data.max(end);
        }
        generation.skip_hole(end);
        if let Some(section) = self.sections.get_mut(generation.section) {
            section.status.nuls_skipped += end - start;
        }
        // The rest is read from there.
        Some(Turn::More)
    }

    /// Puts lines into blocks, as many as there are, as the quantum allows, or as the spool takes.
    fn feed(
        &mut self,
        id: u64,
        (read, quantum): (&[u8], usize),
        is_final: bool,
        now: Instant,
        wall: Timestamp,
    ) -> Turn {
        let Some(generation) = self.generations.get(&id) else { return Turn::Failed };
        let (start, mut is_skipping) = (generation.position.offset, generation.position.is_skipping);
        let max_line =
            self.sections.get(generation.section).map_or(1 << 20, |section| section.config.max_line);
        let (mut at, mut done, mut turn) = (0, 0, Turn::Done);
        loop {
            if at >= quantum && at < read.len() {
                turn = Turn::More;
                break;
            }
            match split::next(read, at, is_skipping, max_line, is_final) {
                Piece::Line { text, has_cr, is_cut, goes_on, next } => {
                    if !self.has_room(text.len() + OVERHEAD) {
                        self.advance(id, &read[done..at], is_skipping);
                        done = at;
                        if !self.can_send() {
                            turn = Turn::Stopped;
                            break;
                        }
                        self.send(true);
                    }
                    let offset = start + at as u64;
                    self.put(id, &Placed { text, offset, is_cut, has_cr }, now, wall);
                    (at, is_skipping) = (next, goes_on);
                }
                Piece::Skipped { next, is_over } => (at, is_skipping) = (next, !is_over),
                Piece::NeedMore => break,
            }
        }
        self.advance(id, &read[done..at], is_skipping);
        turn
    }

    fn advance(&mut self, id: u64, read: &[u8], is_skipping: bool) {
        if let Some(generation) = self.generations.get_mut(&id).filter(|_| !read.is_empty()) {
            generation.advance(read, is_skipping);
        }
    }

    /// Whether one more file can be open; closes one that has nothing to read, if that helps.
    pub(super) fn make_room_to_open(&mut self, id: u64) -> bool {
        if self.generations.get(&id).is_none_or(|g| g.source.is_some()) {
            return true;
        }
        let open = self.generations.values().filter(|g| g.source.is_some());
        if open.clone().count() < self.limits.max_open {
            return true;
        }
        let is_idle = |g: &&super::Generation| {
            g.is_listed && g.is_durable() && g.end == Some((g.size, g.modified)) && !g.is_overwritten
        };
        let idle = open.filter(is_idle).min_by_key(|g| g.grew_at).map(|g| g.id);
        if let Some(generation) = idle.and_then(|id| self.generations.get_mut(&id)) {
            generation.close();
        } else {
            let most = self.limits.max_open;
            let error =
                format!("more than {most} files have something to read; raise the limit of open files");
            super::super::status::note(&mut self.status.errors, &self.errors_before, &PathBuf::new(), &error);
        }
        idle.is_some()
    }
}
