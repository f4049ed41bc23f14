//! What goes out of the queue: blocks to who takes or reads them, and what they say is done.
//!
//! Invariants: a block that could not be handed over is nobody's. A read that fails is tried again with pauses, and given up
//! after so many; until then the block is not lost.

use std::collections::VecDeque;
use std::sync::Arc;

use pikepole_spool::{Block, Order, ReadError, Seq};
use tokio::time::Instant;

use super::Worker;
use crate::queue::Take;
use crate::queue::inbox::Reader;
use crate::queue::order::End;

/// Blocks that may be taken at once.
const MAX_TAKEN: usize = 4096;
/// A block that failed to be read so often is given up: with the pauses between, after about 20 s.
const READS: u32 = 8;

impl Worker {
    pub(super) fn note_done(&mut self, now: Instant) {
        while self.reading.may(now) {
            let Some(seq) = self.done.pop_first() else { break };
            match self.spool.done(seq) {
                Ok(_) if self.full.is_some() => self.pace.hurry(now),
                Ok(_) => self.pace.noted(now),
                Err(error) => {
                    self.done.insert(seq);
                    self.read_failed(seq, &error, now);
                }
            }
        }
    }

    pub(super) fn hand_out(&mut self, now: Instant) {
        while self.reading.may(now) {
            let Some(Reader { seq, answer, _permit }) = self.readers.pop_front() else { break };
            match self.read(seq, now) {
                Ok(block) => {
                    // Who does not wait any more does not need it.
                    let _gone = answer.send(block);
                }
                Err(()) => self.readers.push_front(Reader { seq, answer, _permit }),
            }
        }
        let mut waiting = VecDeque::new();
        while self.reading.may(now) && self.spool.taken() < MAX_TAKEN {
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
        // Each turn that finds no block is the end of one that is damaged.
        while let Some(seq) = self.spool.find(order) {
            self.spool.take(seq);
            match self.read(seq, now) {
                Ok(Some(block)) => return Some(block),
                Ok(None) => {
                    tracing::error!(seq = seq.0, "a block of the spool is damaged; it is lost");
                    self.spool.give_back(seq);
                    self.pace.noted(now);
                }
                Err(()) => {
                    self.spool.give_back(seq);
                    return None;
                }
            }
        }
        None
    }

    fn read(&mut self, seq: Seq, now: Instant) -> Result<Option<Arc<Block>>, ()> {
        match self.spool.read(seq) {
            Ok(block) => {
                self.reading.succeeded();
                self.unread.remove(&seq);
                Ok(block)
            }
            Err(error) => {
                self.read_failed(seq, &error, now);
                Err(())
            }
        }
    }

    fn read_failed(&mut self, seq: Seq, error: &ReadError, now: Instant) {
        self.failures += 1;
        self.reading.failed(error, now);
        let times = self.unread.entry(seq).or_default();
        *times += 1;
        if *times < READS {
            tracing::warn!(%error, seq = seq.0, "cannot read a block of the spool; trying again");
            return;
        }
        tracing::error!(%error, seq = seq.0, "cannot read a block of the spool; what the disk does not give is lost");
        self.unread.remove(&seq);
        if self.spool.give_up(seq).is_none() {
            self.pace.noted(now);
        }
    }
}
