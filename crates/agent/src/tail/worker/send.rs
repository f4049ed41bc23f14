//! The way from lines to durable blocks: fills a block, hands it over, takes in what became of it.
//!
//! Invariants: blocks are handed over in order and settled in order. If one is refused, it and all after it
//! are forgotten, and their files are read again from what is durable.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pikepole_fleet::Timestamp;
use pikepole_spool::{Encoding, Mark, NewBlock};
use tokio::time::Instant;

use super::super::generation::Generation;
use super::super::identity::Position;
use super::super::lines::{Header, LINES, Writer};
use super::super::{Outcome, mark};
use super::Worker;

/// After a refusal.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// A block that is filled.
pub(super) struct Batch {
    writer: Writer,
    /// When its first line was put into it.
    pub(super) began: Instant,
    at: Timestamp,
    /// Whose lines come last, and where the next one would begin.
    expected: Option<(u64, u64)>,
    touched: BTreeSet<u64>,
    counts: BTreeMap<usize, Counts>,
}

/// What a block brings its sections.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    lines: u64,
    bytes: u64,
    truncated: u64,
}

/// A block that was handed over.
#[derive(Debug)]
pub(super) struct Flight {
    ticket: u64,
    bytes: usize,
    positions: Vec<(u64, Position)>,
    counts: BTreeMap<usize, Counts>,
    is_durable: bool,
}

/// A line and where it stands.
pub(super) struct Placed<'a> {
    pub(super) text: &'a [u8],
    pub(super) offset: u64,
    pub(super) is_cut: bool,
    pub(super) has_cr: bool,
}

impl Worker {
    /// Whether one more line of this length fits into the block.
    pub(super) fn has_room(&self, len: usize) -> bool {
        let Some(batch) = &self.batch else { return true };
        let is_full = batch.writer.lines() >= self.limits.window
            || batch.writer.len().saturating_add(len) > self.limits.block_bytes;
        !is_full
    }

    /// Whether a block can be handed over now.
    pub(super) fn can_send(&self) -> bool {
        let bytes: usize = self.flights.iter().map(|flight| flight.bytes).sum();
        self.flights.len() < self.limits.under_way && bytes < self.limits.bytes_under_way
    }

    /// Puts a line into the block.
    pub(super) fn put(&mut self, id: u64, line: &Placed<'_>, now: Instant, wall: Timestamp) {
        let Some(generation) = self.generations.get(&id) else { return };
        let Some(section) = self.sections.get(generation.section) else { return };
        let capacity = self.limits.block_bytes / 4;
        let batch = self.batch.get_or_insert_with(|| Batch {
            writer: Writer::new(capacity),
            began: now,
            at: wall,
            expected: None,
            touched: BTreeSet::new(),
            counts: BTreeMap::new(),
        });
        if batch.expected != Some((id, line.offset)) {
            use std::os::unix::ffi::OsStrExt as _;
            batch.writer.section(&Header {
                generation: id,
                offset: line.offset,
                path: generation.lineage.as_os_str().as_bytes(),
                agent: self.who.agent.as_bytes(),
                host: self.who.host.as_bytes(),
                beat: section.config.beat.as_bytes(),
                beat_version: section.config.beat_version.as_bytes(),
                fields: section.config.fields.as_bytes(),
            });
            batch.touched.insert(id);
        }
        batch.writer.line(line.text, line.is_cut, line.has_cr);
        let end = line.offset + line.text.len() as u64 + 1 + u64::from(line.has_cr);
        // After a line that was cut, the next one is not where it would be.
        batch.expected = (!line.is_cut).then_some((id, end));
        let counts = batch.counts.entry(generation.section).or_default();
        counts.lines += 1;
        counts.bytes += line.text.len() as u64;
        counts.truncated += u64::from(line.is_cut);
    }

    /// Hands the block over. `is_full`: it was not time that made it end.
    pub(super) fn send(&mut self, is_full: bool) {
        let Some(batch) = self.batch.take() else { return };
        let (mut marks, mut positions) = (Vec::new(), Vec::new());
        for id in &batch.touched {
            let Some(generation) = self.generations.get_mut(id) else { continue };
            if generation.is_dirty {
                marks.push(generation.identity_mark());
                generation.is_dirty = false;
                generation.is_remembered = true;
            }
            marks.push(mark::position(*id, &generation.position));
            positions.push((*id, generation.position));
        }
        let event_bytes = batch.counts.values().map(|counts| counts.bytes).sum();
        let events = batch.writer.lines();
        let body = Bytes::from(batch.writer.finish());
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let bytes = body.len();
        self.flights.push_back(Flight { ticket, bytes, positions, counts: batch.counts, is_durable: false });
        let at = batch.at.as_millis();
        let block = NewBlock { kind: LINES, events, event_bytes, at, encoding: Encoding::Zstd, body, marks };
        self.sink.append(block, is_full, self.receipts.receipt(ticket));
    }

    /// Hands over a block that has waited long enough.
    pub(super) fn linger(&mut self, now: Instant) {
        let waited = self.batch.as_ref().map(|batch| now.saturating_duration_since(batch.began));
        if waited.is_some_and(|waited| waited >= self.limits.linger) {
            self.is_waiting = !self.can_send();
            if !self.is_waiting {
                self.send(false);
            }
        }
    }

    /// Takes in what became of the blocks.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Ok(Outcome { ticket, is_durable }) = self.outcomes.try_recv() {
            let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) else {
                continue;
            };
            if !is_durable {
                self.refuse(now);
                continue;
            }
            flight.is_durable = true;
        }
        while self.flights.front().is_some_and(|flight| flight.is_durable) {
            let Some(flight) = self.flights.pop_front() else { break };
            for (id, position) in flight.positions {
                if let Some(generation) = self.generations.get_mut(&id) {
                    generation.durable = position;
                }
            }
            for (section, counts) in flight.counts {
                let Some(section) = self.sections.get_mut(section) else { continue };
                section.status.lines += counts.lines;
                section.status.bytes += counts.bytes;
                section.status.truncated_lines += counts.truncated;
            }
        }
    }

    /// The spool did not take a block: what is not durable is read again.
    fn refuse(&mut self, now: Instant) {
        self.refused += 1;
        self.resume_at = Some(now + PAUSE);
        tracing::warn!("the spool did not take a block of tailed lines; they are read again");
        let durable = self.flights.iter().take_while(|flight| flight.is_durable).count();
        self.flights.truncate(durable);
        self.batch = None;
        let confirmed: BTreeMap<u64, Position> =
            self.flights.iter().flat_map(|flight| flight.positions.iter().copied()).collect();
        for generation in self.generations.values_mut() {
            if let Some(position) = confirmed.get(&generation.id) {
                generation.durable = *position;
            }
            generation.rewind();
        }
    }

    /// Files that have something under way.
    pub(super) fn under_way(&self) -> BTreeSet<u64> {
        let handed_over = self.flights.iter().flat_map(|flight| flight.positions.iter().map(|(id, _)| *id));
        handed_over.chain(self.batch.iter().flat_map(|batch| batch.touched.iter().copied())).collect()
    }

    /// Whether the block can take nothing more.
    pub(super) fn is_full(&self) -> bool {
        !self.has_room(0)
    }

    /// Gives the spool what changed without a line: only of files that have nothing under way.
    pub(super) fn mark_dirty(&mut self) {
        let busy = self.under_way();
        let mut marks: Vec<Mark> = Vec::new();
        for generation in self.generations.values_mut().filter(|g| !busy.contains(&g.id)) {
            if is_worth_marking(generation) {
                marks.push(generation.identity_mark());
                marks.push(mark::position(generation.id, &generation.position));
                generation.durable = generation.position;
                generation.is_dirty = false;
                generation.is_remembered = true;
            }
        }
        if !self.has_started {
            self.has_started = true;
            marks.push(mark::started());
        }
        if !marks.is_empty() {
            self.sink.mark(marks);
        }
    }
}

/// One of which nothing was read is found again as it was found.
fn is_worth_marking(generation: &Generation) -> bool {
    let is_moved = !generation.is_durable();
    let is_something = generation.is_remembered || generation.position.offset > 0 || generation.is_ignored;
    is_something && (generation.is_dirty || is_moved)
}
