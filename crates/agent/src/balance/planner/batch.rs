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
use super::suspicion::Suspicion;

/// Earlier tries of a part whose acks are still understood.
const TRIES: usize = 4;
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
    /// It shares no window with others: one that it shared was too much.
    lone: bool,
    numbers: Vec<u64>,
}

/// What a part weighs that may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    pub(super) bytes: u64,
    pub(super) lone: bool,
}

/// All parts that are in the planner's hands.
#[derive(Debug, Default)]
pub(super) struct Pool {
    work: BTreeMap<Batch, Work>,
    plain: BTreeMap<Batch, Weight>,
    /// Events and bytes of `plain`.
    waiting: (u64, u64),
    suspects: BTreeMap<Batch, u64>,
    groups: BTreeMap<u64, BTreeSet<Batch>>,
    next_group: u64,
    graves: BTreeSet<Batch>,
    parts: BTreeMap<Seq, u32>,
    numbers: BTreeMap<u64, Vec<Batch>>,
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
        let (verdict, numbers) = (None, Vec::new());
        let work =
            Work { bytes, place, suspicion, verdict, whole: false, again: false, lone: false, numbers };
        self.work.insert(batch, work);
        *self.parts.entry(batch.seq).or_default() += 1;
        self.bytes += bytes;
        self.index(batch);
    }

    /// Puts a part where its state says.
    fn index(&mut self, batch: Batch) {
        let events = u64::from(batch.events());
        if let Some(weight) = self.plain.remove(&batch) {
            self.waiting = (self.waiting.0 - events, self.waiting.1 - weight.bytes);
        }
        if let Some(group) = self.suspects.remove(&batch)
            && let Some(members) = self.groups.get_mut(&group)
        {
            members.remove(&batch);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
        self.graves.remove(&batch);
        let Some(work) = self.work.get(&batch) else { return };
        match (work.place, &work.suspicion) {
            (Place::Ready, None) => {
                self.waiting = (self.waiting.0 + events, self.waiting.1 + work.bytes);
                self.plain.insert(batch, Weight { bytes: work.bytes, lone: work.lone });
            }
            (Place::Ready, Some(suspicion)) => {
                self.suspects.insert(batch, suspicion.group);
                self.groups.entry(suspicion.group).or_default().insert(batch);
            }
            (Place::Burying(_), _) => _ = self.graves.insert(batch),
            (Place::Flying(_), _) => {}
        }
    }

    /// Changes a part.
    pub(super) fn change(&mut self, batch: Batch, change: impl FnOnce(&mut Work)) {
        if let Some(work) = self.work.get_mut(&batch) {
            change(work);
            self.index(batch);
        }
    }

    /// They were sent together, as `number`.
    pub(super) fn sent(&mut self, batches: &[Batch], conn: u64, number: u64) {
        for batch in batches {
            let Some(work) = self.work.get_mut(batch) else { continue };
            work.place = Place::Flying(conn);
            let oldest = (work.numbers.len() == TRIES).then(|| work.numbers.remove(0));
            work.numbers.push(number);
            if let Some(oldest) = oldest {
                self.unname(oldest, *batch);
            }
            self.index(*batch);
        }
        self.numbers.insert(number, batches.to_vec());
    }

    fn unname(&mut self, number: u64, batch: Batch) {
        if let Some(named) = self.numbers.get_mut(&number) {
            named.retain(|other| *other != batch);
            if named.is_empty() {
                self.numbers.remove(&number);
            }
        }
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
            self.unname(*number, batch);
        }
        self.bytes -= work.bytes;
        self.index(batch);
        Some(work)
    }

    /// Makes two of one group; each is as suspect as the whole was, with nothing proven against it. A group of
    /// several parts is first split between them.
    pub(super) fn split(&mut self, group: u64, now: Instant) {
        let members: Vec<Batch> = self.group(group).collect();
        let mut suspect = || {
            self.next_group += 1;
            Suspicion { is_part: true, ..Suspicion::new(self.next_group, now) }
        };
        let suspicions = [suspect(), suspect()];
        if let [batch] = members.as_slice() {
            return self.halve(*batch, suspicions.map(Some));
        }
        let (first, second) = members.split_at(members.len() / 2);
        for (half, suspicion) in [first, second].into_iter().zip(suspicions) {
            for batch in half {
                self.change(*batch, |work| work.suspicion = Some(suspicion.clone()));
            }
        }
    }

    /// They were too much for one window.
    pub(super) fn lighten(&mut self, batches: &[Batch]) {
        match batches {
            [batch] => {
                let is_plain = self.plain.contains_key(batch);
                if is_plain {
                    self.halve(*batch, [None, None]);
                }
            }
            _ => batches.iter().for_each(|batch| self.change(*batch, |work| work.lone = true)),
        }
    }

    fn halve(&mut self, batch: Batch, suspicions: [Option<Suspicion>; 2]) {
        let Some(halves) = batch.halves() else { return };
        let Some(work) = self.remove(batch) else { return };
        for (half, suspicion) in halves.into_iter().zip(suspicions) {
            self.insert(half, share(work.bytes, batch.events(), half.events()), suspicion);
            self.change(half, |part| (part.again, part.lone) = (work.again, true));
        }
        if let Some(parts) = self.parts.get_mut(&batch.seq) {
            *parts -= 1;
        }
    }

    /// For what becomes suspect together.
    pub(super) const fn new_group(&mut self) -> u64 {
        self.next_group += 1;
        self.next_group
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

    /// What was sent as `number` and is not settled; the number means nothing from now on.
    pub(super) fn take_number(&mut self, number: u64) -> Vec<Batch> {
        self.numbers.remove(&number).unwrap_or_default()
    }

    /// Ready, nothing held against them, oldest first.
    pub(super) const fn plain(&self) -> &BTreeMap<Batch, Weight> {
        &self.plain
    }

    /// Events and bytes that are ready and plain.
    pub(super) const fn waiting(&self) -> (u64, u64) {
        self.waiting
    }

    /// Groups that are ready and suspect, with the suspicion that all parts of each share.
    pub(super) fn suspects(&self) -> impl Iterator<Item = (u64, &Suspicion)> {
        self.groups.iter().filter_map(|(group, members)| {
            let work = members.first().and_then(|first| self.work.get(first))?;
            Some((*group, work.suspicion.as_ref()?))
        })
    }

    /// The parts of a group, oldest first.
    pub(super) fn group(&self, group: u64) -> impl Iterator<Item = Batch> {
        self.groups.get(&group).into_iter().flatten().copied()
    }

    /// The only event of a group, if it has no more.
    pub(super) fn single(&self, group: u64) -> Option<Batch> {
        let mut members = self.group(group);
        members.next().filter(|batch| batch.events() == 1 && members.next().is_none())
    }

    pub(super) fn count_suspects(&self) -> usize {
        self.groups.len()
    }

    /// What becomes a dead letter.
    pub(super) fn graves(&self) -> impl Iterator<Item = (Batch, &Work)> {
        self.graves.iter().filter_map(|batch| self.work.get(batch).map(|work| (*batch, work)))
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
