//! What goes out of the queue: blocks to who takes or reads them, and what they say is done.
//!
//! Invariants: a block that could not be handed over is nobody's. One that cannot be read holds up nothing else: it is held
//! aside, alone or with its segment, and tried again with pauses. It is given up only if the device itself refuses it, after
//! so many tries; any other error may pass, and is waited for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use pikepole_spool::{Block, Order, ReadError, Seq};
use tokio::time::Instant;

use super::Worker;
use crate::queue::inbox::Reader;
use crate::queue::order::End;
use crate::queue::{Take, backoff};

/// Blocks that may be taken at once, and those that may be held aside.
const MAX_TAKEN: usize = 4096;
/// A block that the device refused so often is given up: with the pauses between, after about two minutes. Storage on a
/// network may fail for that long.
const READS: u32 = 30;
/// Reads that may fail before something else is done.
const FAILURES_AT_ONCE: usize = 8;
/// What nobody has asked for again for so long is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// A block that could not be read.
#[derive(Debug)]
pub(super) struct Unread {
    times: u32,
    until: Instant,
    held: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// It is somebody's, or may be asked for.
    No,
    /// It is not offered.
    Block,
    /// Nothing of its segment is.
    Segment,
}

impl Worker {
    pub(super) fn note_done(&mut self, now: Instant) {
        if self.noting.may(now) {
            self.done.append(&mut self.done_later);
        }
        let mut failed = None;
        for seq in std::mem::take(&mut self.done) {
            match self.spool.done(seq) {
                Ok(_) if self.full.is_some() => self.pace.hurry(now),
                Ok(_) => self.pace.noted(now),
                Err(error) => {
                    failed = Some(error);
                    self.done_later.insert(seq);
                }
            }
        }
        if let Some(error) = failed {
            tracing::warn!(%error, "cannot note in the spool what is done; trying again");
            self.failures += 1;
            self.noting.failed(&error, now);
        } else if self.done_later.is_empty() {
            self.noting.succeeded();
        }
    }

    pub(super) fn hand_out(&mut self, now: Instant) {
        self.end_rests(now);
        self.may_fail = if self.held < MAX_TAKEN { FAILURES_AT_ONCE } else { 0 };
        for _ in 0..self.readers.len() {
            let Some(Reader { seq, answer, _permit }) = self.readers.pop_front() else { break };
            if answer.is_closed() {
                continue;
            }
            match self.read(seq, now) {
                Ok(block) => {
                    // Who does not wait any more does not need it.
                    let _gone = answer.send(block);
                }
                Err(()) => self.readers.push_back(Reader { seq, answer, _permit }),
            }
        }
        let mut waiting = VecDeque::new();
        while self.spool.taken().saturating_sub(self.held) < MAX_TAKEN {
            let Some(taker) = self.takers.pop_front() else { break };
            if taker.answer.is_closed() {
                continue;
            }
            match self.next_block(taker.take, now) {
                Some(block) => {
                    let seq = block.seq;
                    if taker.answer.send(block).is_err() {
                        self.spool.give_back(seq);
                    }
                }
                None => waiting.push_back(taker),
            }
        }
        waiting.extend(std::mem::take(&mut self.takers));
        self.takers = waiting;
        if self.unread.is_empty() {
            self.read_trouble = None;
        }
    }

    /// Takes the block that somebody wants.
    fn next_block(&mut self, take: Take, now: Instant) -> Option<Arc<Block>> {
        let order = match take {
            Take::Oldest => Order::OldestFrom(Seq(0)),
            Take::NewestFirst => {
                self.spool.find(Order::Newest)?;
                match self.share.turn() {
                    End::Oldest => Order::OldestFrom(Seq(0)),
                    End::Newest => Order::Newest,
                }
            }
        };
        // Each turn that finds no block is the end of one that is damaged, or holds one aside.
        while let Some(seq) = self.spool.find(order) {
            self.spool.take(seq);
            match self.read(seq, now) {
                Ok(Some(block)) => return Some(block),
                Ok(None) => {
                    tracing::error!(seq = seq.0, "a block of the spool is damaged; it is lost");
                    self.spool.give_back(seq);
                    self.pace.noted(now);
                }
                Err(()) if self.hold_aside(seq, now) => {}
                Err(()) => {
                    self.spool.give_back(seq);
                    return None;
                }
            }
        }
        None
    }

    /// Holds a block aside that has to rest. False: it has not, or there are too many.
    fn hold_aside(&mut self, seq: Seq, now: Instant) -> bool {
        let unread = self.unread.get_mut(&seq).filter(|unread| unread.until > now && self.held < MAX_TAKEN);
        let is_held = unread.map(|unread| unread.held = Held::Block).is_some();
        self.held += usize::from(is_held);
        is_held
    }

    /// A block. `Err` means later: it is not to be read now, or that failed.
    fn read(&mut self, seq: Seq, now: Instant) -> Result<Option<Arc<Block>>, ()> {
        if self.unread.get(&seq).is_some_and(|unread| now < unread.until) {
            return Err(());
        }
        if !self.spool.is_cached(seq) && self.may_fail == 0 {
            return Err(());
        }
        if let Some(job) = self.spool.index_job(seq) {
            // One at a time; who comes while it is at work asks again.
            if self.indexing.is_none() && self.indexer.try_send(job).is_ok() {
                self.indexing = Some(seq);
            }
            return Err(());
        }
        let result = self.spool.read(seq);
        self.was_read(seq, result, now)
    }

    /// Where the blocks of a segment are is known now, or why it is not.
    pub(super) fn end_index(&mut self, indexed: pikepole_spool::Indexed, now: Instant) {
        let Some(seq) = self.indexing.take() else { return };
        let Err(error) = self.spool.index_end(indexed) else { return };
        if self.was_read(seq, Err(error), now).is_err()
            && let Some(unread) = self.unread.get_mut(&seq).filter(|unread| unread.held == Held::No)
        {
            unread.held = Held::Segment;
            self.spool.set_aside(seq, true);
        }
    }

    fn was_read(
        &mut self,
        seq: Seq,
        result: Result<Option<Arc<Block>>, ReadError>,
        now: Instant,
    ) -> Result<Option<Arc<Block>>, ()> {
        let error = match result {
            Ok(block) => {
                self.unread.remove(&seq);
                return Ok(block);
            }
            Err(error) => error,
        };
        self.failures += 1;
        self.may_fail = self.may_fail.saturating_sub(1);
        self.read_trouble = Some(error.to_string());
        let unread = self.unread.entry(seq).or_insert(Unread { times: 0, until: now, held: Held::No });
        unread.times = unread.times.saturating_add(1);
        unread.until = now + backoff(unread.times);
        if unread.times.is_power_of_two() {
            tracing::warn!(%error, seq = seq.0, times = unread.times, "cannot read a block of the spool; trying again");
        }
        if unread.times < READS || !error.is_of_device() {
            return Err(());
        }
        let given_up = self.spool.give_up(seq).map_err(|_| ())?;
        self.unread.remove(&seq);
        if given_up.is_none() {
            tracing::error!(%error, seq = seq.0, "the device does not give back a block of the spool; it is lost");
            self.pace.noted(now);
        }
        Ok(given_up)
    }

    /// What has rested long enough is offered again.
    fn end_rests(&mut self, now: Instant) {
        for (seq, unread) in &mut self.unread {
            if unread.until > now {
                continue;
            }
            match std::mem::replace(&mut unread.held, Held::No) {
                Held::No => {}
                Held::Block => {
                    self.spool.give_back(*seq);
                    self.held -= 1;
                }
                Held::Segment => self.spool.set_aside(*seq, false),
            }
        }
        self.unread.retain(|_, unread| unread.held != Held::No || now < unread.until + FORGET);
    }

    /// When there is something to be read again.
    pub(super) fn next_read(&self, now: Instant) -> Option<Instant> {
        let was_cut_short = self.may_fail == 0 && self.held < MAX_TAKEN;
        if was_cut_short && !(self.takers.is_empty() && self.readers.is_empty()) {
            return Some(now);
        }
        let held = self.unread.values().filter(|unread| unread.held != Held::No || !self.readers.is_empty());
        held.map(|unread| unread.until).min()
    }
}
