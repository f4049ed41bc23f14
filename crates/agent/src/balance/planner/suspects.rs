//! Poison: the event on which every collector closes the connection. Found without giving up anything else.
//!
//! What is in flight when a collector closes by itself is suspect: not when one of our time limits, a roster
//! or the kernel ended it. A suspect is sent alone, elsewhere if there is another place. If a collector closes
//! on it then, that is a strike. It counts only if
//! - that connection had acked something else before: the collector works;
//! - the collector acks something else again within [`CONFIRM`], and no attempt to connect to it failed
//!   meanwhile: it did not restart, it refuses just this.
//!
//! If the collector cannot be connected to, it closed because it went away: what was in flight there and has
//! nothing else against it is suspect no more. To know that soon, the first attempt is an early one.
//!
//! Two different collectors' strikes split the suspect into halves; each half begins anew. A single event
//! becomes a dead letter after three strikes of at least two collectors. Where there is only one collector,
//! three of its strikes do for both. If there is nothing else to send, nothing can be proven: then strikes
//! split without proof, because halves do no harm and prove each other; nothing is ever given up so.
//!
//! Invariant: nothing is given up unless collectors took other events before and after.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Planner;
use super::batch::{Batch, Place, Strike, Suspicion};
use super::endpoint::{Endpoint, Key};

/// After a collector closed on a suspect, others go first for this time.
pub(super) const PAUSE: Duration = Duration::from_millis(150);
/// So long after a strike an ack of something else proves that the collector lives.
const CONFIRM: Duration = Duration::from_secs(30);
/// A suspect with enough strikes waits so long for their proof before it is sent again.
const HOLD: Duration = Duration::from_secs(5);
/// If the queue has given nothing for this time, it has nothing.
const DRY: Duration = Duration::from_millis(100);
/// While something is suspect, it is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A collector that was connected within this time is one that a suspect may still be sent to.
const RECENT: Duration = Duration::from_secs(60);
/// Strikes of two different collectors split.
const COLLECTORS: usize = 2;
/// Strikes that make a dead letter, and that a single collector needs for anything.
const STRIKES: usize = 3;

impl Planner {
    /// A collector acked something: what it closed on before was its own choice.
    pub(super) fn confirm(&mut self, by: &Arc<Key>, now: Instant) {
        self.pool.suspicions(|suspicion| {
            let open = suspicion.strikes.iter_mut().filter(|s| s.by == *by && !s.confirmed);
            open.filter(|s| s.at + CONFIRM >= now).for_each(|s| s.confirmed = true);
        });
    }

    /// A collector cannot be connected to: it closed because it went away.
    pub(super) fn absolve(&mut self, by: &Arc<Key>) {
        self.pool.absolve(by);
    }

    /// Splits and gives up what is proven.
    pub(super) fn judge(&mut self, now: Instant) {
        if self.pool.suspects().is_empty() || self.is_stopping {
            return;
        }
        let nothing_else = self.is_nothing_else(now);
        for batch in self.pool.suspects().iter().copied().collect::<Vec<_>>() {
            let Some(suspicion) = self.pool.get(batch).and_then(|work| work.suspicion.as_ref()) else {
                continue;
            };
            let proven = suspicion.weigh(|s| s.proven && s.confirmed);
            let claimed = suspicion.weigh(|_| true);
            let is_only = self.is_only_collector(suspicion, now);
            let is_single = batch.events() == 1;
            if is_single && is_enough(proven, STRIKES, is_only) {
                let why = format!("{} closed the connection on it", names(suspicion));
                self.bury(batch, false, why);
            } else if !is_single
                && (is_enough(proven, COLLECTORS, is_only)
                    || nothing_else && is_enough(claimed, COLLECTORS, is_only))
            {
                self.pool.split(batch, now);
            }
        }
    }

    /// Where each suspect that may go now goes: the connection is kept free for it. Some go on with the rest.
    pub(super) fn reserve(&self, now: Instant) -> Vec<(Batch, Arc<Key>)> {
        let mut reserved: Vec<(Batch, Arc<Key>)> = Vec::new();
        if self.pool.suspects().is_empty() {
            return reserved;
        }
        let can_prove = self.is_something_else(now);
        let count = self.ups().count();
        let most = if can_prove { (count / 2).max(1) } else { count };
        for batch in self.pool.suspects() {
            let alone = self.ups().filter(|(_, up)| up.flight.front().is_some_and(|f| f.alone)).count();
            if reserved.len() + alone >= most {
                break;
            }
            let Some(suspicion) = self.pool.get(*batch).and_then(|work| work.suspicion.as_ref()) else {
                continue;
            };
            if self.ready_at(suspicion, *batch, now) > now {
                continue;
            }
            let taken = |key: &Arc<Key>| reserved.iter().any(|(_, other)| other == key);
            let free = self.ups().filter(|(key, up)| {
                let is_alone = up.flight.front().is_some_and(|flight| flight.alone);
                let may = up.windows > 0 || (!can_prove && up.flight.is_empty());
                !taken(key) && !is_alone && may
            });
            let only = self.is_only_collector(suspicion, now);
            let best = free.filter_map(|(key, up)| {
                let strikes = suspicion.strikes.iter().filter(|s| s.by == *key).count();
                let rank = if strikes > 0 { 2 } else { u8::from(suspicion.avoid.contains(key)) };
                (rank < 2 || only).then_some(((rank, strikes, up.windows == 0, up.flight.len()), key))
            });
            if let Some((_, key)) = best.min_by_key(|(rank, _)| *rank) {
                reserved.push((*batch, key.clone()));
            }
        }
        reserved
    }

    pub(super) fn suspects_wake(&self) -> Option<Instant> {
        if self.pool.suspects().is_empty() {
            return None;
        }
        // A moment in the past has been acted upon, as far as there was a place: what changes it is an input.
        let waits = self.pool.suspects().iter().filter_map(|batch| {
            let suspicion = self.pool.get(*batch)?.suspicion.as_ref()?;
            Some(self.ready_at(suspicion, *batch, self.polled))
        });
        let times = waits.chain(self.fetching.map(|since| since + DRY)).chain([self.polled + LOOK_AGAIN]);
        times.filter(|at| *at > self.polled).min()
    }

    /// When a suspect may be sent. One with enough strikes waits for their proof.
    fn ready_at(&self, suspicion: &Suspicion, batch: Batch, now: Instant) -> Instant {
        let is_only = self.is_only_collector(suspicion, now);
        let least = if batch.events() == 1 { STRIKES } else { COLLECTORS };
        let is_claimed = is_enough(suspicion.weigh(|s| s.proven), least, is_only);
        match suspicion.strikes.last() {
            Some(last) if is_claimed => suspicion.not_before.max(last.at + HOLD),
            _ => suspicion.not_before,
        }
    }

    /// No collector is left that did not strike, nor will one soon be back.
    fn is_only_collector(&self, suspicion: &Suspicion, now: Instant) -> bool {
        let is_recent = |e: &Endpoint| {
            let last = e.up().map(|_| now).or(e.last_up);
            e.wanted && last.is_some_and(|at| at + RECENT > now)
        };
        let struck = |key: &Arc<Key>| suspicion.strikes.iter().any(|s| s.by == *key);
        !self.endpoints.iter().any(|(key, endpoint)| is_recent(endpoint) && !struck(key))
    }

    /// Something is there, or may come, that is not suspect.
    fn is_something_else(&self, now: Instant) -> bool {
        self.fetching.is_some_and(|since| since + DRY > now) || !self.pool.plain().is_empty()
    }

    /// All there is is suspect, and at rest.
    fn is_nothing_else(&self, now: Instant) -> bool {
        let flying = self.pool.iter().any(|(_, work)| matches!(work.place, Place::Flying(_)));
        !flying && !self.is_something_else(now)
    }
}

/// Whether so many strikes by so many collectors are enough.
const fn is_enough((strikes, collectors): (usize, usize), least: usize, is_only: bool) -> bool {
    (collectors >= COLLECTORS && strikes >= least) || (is_only && strikes >= STRIKES)
}

fn names(suspicion: &Suspicion) -> String {
    let mut names: Vec<&str> = suspicion.strikes.iter().map(|s: &Strike| s.by.instance.as_str()).collect();
    names.dedup();
    names.join(", ")
}
