//! What is to be delivered: blocks of the queue, whole or in parts, and what is held against each.
//!
//! Not where it goes: that is decided by the planner.
//!
//! Invariants: the parts of a block never overlap and cover what is not settled of it. A block is done once,
//! when its last part is settled. A part is at one place only, however often it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pikepole_spool::Seq;
use tokio::time::Instant;

use super::endpoint::Key;

/// Earlier tries of a part whose acks are still understood.
const TRIES: usize = 4;
/// Closings that are remembered of one part.
const STRIKES: usize = 8;

/// Events of a block that are delivered together, as one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Batch {
    /// The block.
    pub(crate) seq: Seq,
    /// The first event.
    pub(crate) from: u32,
    /// The first event that is not in it.
    pub(crate) to: u32,
}

impl Batch {
    /// How many events.
    pub(crate) const fn events(self) -> u32 {
        self.to.saturating_sub(self.from)
    }

    fn halves(self) -> Option<[Self; 2]> {
        let middle = self.from + self.events() / 2;
        (self.events() > 1).then_some([Self { to: middle, ..self }, Self { from: middle, ..self }])
    }
}

/// A collector closed the connection on a part that was alone there.
#[derive(Debug, Clone)]
pub(super) struct Strike {
    pub(super) by: Arc<Key>,
    pub(super) at: Instant,
    /// That connection had acked something else before.
    pub(super) proven: bool,
    /// The collector went on and acked something else afterwards.
    pub(super) confirmed: bool,
}

/// What is held against a part.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    /// Who closed while it was in flight, alone or not.
    pub(super) avoid: BTreeSet<Arc<Key>>,
    /// Who closed on it alone.
    pub(super) strikes: Vec<Strike>,
    /// It waits until then.
    pub(super) not_before: Instant,
    /// It is a part of something that was proven bad.
    pub(super) is_part: bool,
}

impl Suspicion {
    pub(super) fn new(now: Instant) -> Self {
        Self { avoid: BTreeSet::new(), strikes: Vec::new(), not_before: now, is_part: false }
    }

    pub(super) fn strike(&mut self, strike: Strike) {
        if self.strikes.len() == STRIKES {
            self.strikes.remove(0);
        }
        self.strikes.push(strike);
    }

    /// How often, and by how many different collectors, among the strikes that count.
    pub(super) fn weigh(&self, counts: impl Fn(&Strike) -> bool) -> (usize, usize) {
        let counted: Vec<_> = self.strikes.iter().filter(|s| counts(s)).collect();
        let by: BTreeSet<_> = counted.iter().map(|s| &s.by).collect();
        (counted.len(), by.len())
    }
}

/// Where a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    Flying(u64),
    /// Being written to the dead letters; `None`: asked for, else when to ask again.
    Burying(Option<Instant>),
}

/// One part.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) bytes: u64,
    pub(super) place: Place,
    pub(super) suspicion: Option<Suspicion>,
    /// Why it is given up.
    pub(super) verdict: Option<String>,
    /// The whole body is kept: it is not made of events.
    pub(super) whole: bool,
    /// It was sent before.
    pub(super) again: bool,
    numbers: Vec<u64>,
}

/// All parts that are in the planner's hands.
#[derive(Debug, Default)]
pub(super) struct Pool {
    work: BTreeMap<Batch, Work>,
    plain: BTreeSet<Batch>,
    suspects: BTreeSet<Batch>,
    parts: BTreeMap<Seq, u32>,
    numbers: BTreeMap<u64, Batch>,
    bytes: u64,
}

impl Pool {
    /// Takes a block in; `false`: it is here already.
    pub(super) fn add(&mut self, seq: Seq, events: u32, bytes: u64) -> bool {
        if self.parts.contains_key(&seq) {
            return false;
        }
        self.parts.insert(seq, 0);
        self.insert(Batch { seq, from: 0, to: events }, bytes, None);
        true
    }

    fn insert(&mut self, batch: Batch, bytes: u64, suspicion: Option<Suspicion>) {
        let place = Place::Ready;
        let again = suspicion.is_some();
        let work = Work { bytes, place, suspicion, verdict: None, whole: false, again, numbers: Vec::new() };
        self.work.insert(batch, work);
        *self.parts.entry(batch.seq).or_default() += 1;
        self.bytes += bytes;
        self.index(batch);
    }

    /// Puts a part where its state says.
    fn index(&mut self, batch: Batch) {
        self.plain.remove(&batch);
        self.suspects.remove(&batch);
        match self.work.get(&batch) {
            Some(Work { place: Place::Ready, suspicion: None, .. }) => _ = self.plain.insert(batch),
            Some(Work { place: Place::Ready, suspicion: Some(_), .. }) => _ = self.suspects.insert(batch),
            _ => {}
        }
    }

    /// Changes a part.
    pub(super) fn change(&mut self, batch: Batch, change: impl FnOnce(&mut Work)) {
        if let Some(work) = self.work.get_mut(&batch) {
            change(work);
            self.index(batch);
        }
    }

    /// It was sent as `number`.
    pub(super) fn sent(&mut self, batch: Batch, conn: u64, number: u64) {
        let Some(work) = self.work.get_mut(&batch) else { return };
        work.place = Place::Flying(conn);
        if work.numbers.len() == TRIES {
            self.numbers.remove(&work.numbers.remove(0));
        }
        work.numbers.push(number);
        self.numbers.insert(number, batch);
        self.index(batch);
    }

    /// It is delivered or given up; the block, if that was its last part.
    pub(super) fn settle(&mut self, batch: Batch) -> Option<Seq> {
        let work = self.remove(batch)?;
        drop(work);
        let parts = self.parts.get_mut(&batch.seq)?;
        *parts -= 1;
        if *parts > 0 {
            return None;
        }
        self.parts.remove(&batch.seq);
        Some(batch.seq)
    }

    fn remove(&mut self, batch: Batch) -> Option<Work> {
        let work = self.work.remove(&batch)?;
        for number in &work.numbers {
            self.numbers.remove(number);
        }
        self.bytes -= work.bytes;
        self.index(batch);
        Some(work)
    }

    /// Makes two of one; each is as suspect as the whole was, with nothing proven against it.
    pub(super) fn split(&mut self, batch: Batch, now: Instant) {
        let Some(halves) = batch.halves() else { return };
        let Some(work) = self.remove(batch) else { return };
        for half in halves {
            let bytes = share(work.bytes, batch.events(), half.events());
            let suspicion = Suspicion { is_part: true, ..Suspicion::new(now) };
            self.insert(half, bytes, Some(suspicion));
        }
        if let Some(parts) = self.parts.get_mut(&batch.seq) {
            *parts -= 1;
        }
    }

    /// Everything of a block that is no more; how many events.
    pub(super) fn forget(&mut self, seq: Seq) -> u64 {
        let all = Batch { seq, from: 0, to: 0 }..=Batch { seq, from: u32::MAX, to: u32::MAX };
        let parts: Vec<Batch> = self.work.range(all).map(|(batch, _)| *batch).collect();
        for batch in &parts {
            self.remove(*batch);
        }
        self.parts.remove(&seq);
        parts.iter().map(|batch| u64::from(batch.events())).sum()
    }

    pub(super) fn get(&self, batch: Batch) -> Option<&Work> {
        self.work.get(&batch)
    }

    pub(super) fn by_number(&self, number: u64) -> Option<Batch> {
        self.numbers.get(&number).copied()
    }

    /// Ready, nothing held against them, oldest first.
    pub(super) const fn plain(&self) -> &BTreeSet<Batch> {
        &self.plain
    }

    /// Ready and suspect, oldest first.
    pub(super) const fn suspects(&self) -> &BTreeSet<Batch> {
        &self.suspects
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Batch, &Work)> {
        self.work.iter().map(|(batch, work)| (*batch, work))
    }

    /// The blocks that are not done.
    pub(super) fn blocks(&self) -> Vec<Seq> {
        self.parts.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.work.len()
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A collector closed because it went away: what was only in flight there is plain again.
    pub(super) fn absolve(&mut self, by: &Arc<Key>) {
        let mut cleared = Vec::new();
        for (batch, work) in &mut self.work {
            let Some(suspicion) = &mut work.suspicion else { continue };
            suspicion.strikes.retain(|strike| strike.by != *by || strike.confirmed);
            let was_there = suspicion.avoid.remove(by);
            let is_clear = suspicion.avoid.is_empty() && suspicion.strikes.is_empty();
            if was_there && is_clear && !suspicion.is_part && work.place == Place::Ready {
                cleared.push(*batch);
            }
        }
        for batch in cleared {
            self.change(batch, |work| work.suspicion = None);
        }
    }

    /// Changes every suspicion.
    pub(super) fn suspicions(&mut self, mut change: impl FnMut(&mut Suspicion)) {
        self.work.values_mut().filter_map(|work| work.suspicion.as_mut()).for_each(&mut change);
    }
}

/// The bytes of some of the events, as if all were equal.
fn share(bytes: u64, all: u32, some: u32) -> u64 {
    bytes.saturating_mul(u64::from(some)) / u64::from(all.max(1))
}
