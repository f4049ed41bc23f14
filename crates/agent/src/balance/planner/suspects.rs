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
//! Blocks that shared a window are suspect together. Two different collectors' strikes split the suspect into
//! halves, between its blocks while it has several; each half begins anew. A single event
//! becomes a dead letter after three strikes of at least two collectors. Where there is only one collector,
//! three of its strikes do for both. If there is nothing else to send, nothing can be proven: then strikes
//! split without proof, because halves do no harm and prove each other; nothing is ever given up so.
//!
//! Invariant: nothing is given up unless collectors took other events before and after.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Planner;
use super::batch::Place;
use super::endpoint::{Endpoint, Key};
use super::suspicion::{Strike, Suspicion};
use super::up::Up;

/// So long after a strike an ack of something else proves that the collector lives. A proxy that is hardly used
/// has something to send that often.
const CONFIRM: Duration = Duration::from_secs(600);
/// A suspect with enough strikes waits so long for their proof before it is sent again.
const HOLD: Duration = Duration::from_secs(5);
/// If the queue has given nothing for this time, it has nothing.
const DRY: Duration = Duration::from_millis(100);
/// While something is suspect, it is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A collector that was connected, or acked something if it fails, within this time is one that a suspect may
/// still be sent to.
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
        if self.pool.count_suspects() == 0 || self.is_stopping {
            return;
        }
        let nothing_else = self.is_nothing_else(now);
        let (mut bad, mut large) = (Vec::new(), Vec::new());
        for (group, suspicion) in self.pool.suspects() {
            let is_only = self.is_only_collector(suspicion, now);
            let proven = suspicion.weigh(|s| s.proven && s.confirmed);
            let claimed = suspicion.weigh(|_| true);
            match self.pool.single(group) {
                Some(event) if is_enough(proven, STRIKES, is_only) => bad.push((event, names(suspicion))),
                Some(_) => {}
                None if is_enough(proven, COLLECTORS, is_only) => large.push(group),
                None if nothing_else && is_enough(claimed, COLLECTORS, is_only) => large.push(group),
                None => {}
            }
        }
        large.into_iter().for_each(|group| self.pool.split(group, now));
        for (event, names) in bad {
            self.bury(event, false, format!("{names} closed the connection on it"));
        }
    }

    /// Where each suspect that may go now goes: the connection is kept free for it. Some go on with the rest.
    pub(super) fn reserve(&self, now: Instant) -> Vec<(u64, Arc<Key>)> {
        let mut reserved: Vec<(u64, Arc<Key>)> = Vec::new();
        if self.pool.count_suspects() == 0 {
            return reserved;
        }
        let can_prove = self.is_something_else(now);
        let count = self.ups().count();
        let most = if can_prove { (count / 2).max(1) } else { count };
        let is_alone = |up: &Up| up.flight.front().is_some_and(|flight| flight.alone);
        let alone = self.ups().filter(|(_, up)| is_alone(up)).count();
        for (group, suspicion) in self.pool.suspects() {
            if reserved.len() + alone >= most {
                break;
            }
            if self.ready_at(group, suspicion, now) > now {
                continue;
            }
            let is_taken = |key: &Arc<Key>| reserved.iter().any(|(_, other)| other == key);
            let is_any_good = !can_prove && suspicion.proof_until <= now;
            let free = self.ups().filter(|(key, up)| {
                let may = up.windows > 0 || (is_any_good && up.flight.is_empty());
                may && !is_taken(key) && !is_alone(up)
            });
            let only = self.is_only_collector(suspicion, now);
            let best = free.filter_map(|(key, up)| {
                let strikes = suspicion.strikes.iter().filter(|s| s.by == *key).count();
                let rank = if strikes > 0 { 2 } else { u8::from(suspicion.avoid.contains(key)) };
                (rank < 2 || only).then_some(((rank, strikes, up.windows == 0, up.flight.len()), key))
            });
            if let Some((_, key)) = best.min_by_key(|(rank, _)| *rank) {
                reserved.push((group, key.clone()));
            }
        }
        reserved
    }

    pub(super) fn suspects_wake(&self) -> Option<Instant> {
        if self.pool.count_suspects() == 0 {
            return None;
        }
        // A moment in the past has been acted upon, as far as there was a place: what changes it is an input.
        let waits = self.pool.suspects().flat_map(|(group, suspicion)| {
            [self.ready_at(group, suspicion, self.polled), suspicion.proof_until]
        });
        let times = waits.chain(self.fetching.map(|since| since + DRY)).chain([self.polled + LOOK_AGAIN]);
        times.filter(|at| *at > self.polled).min()
    }

    /// When a suspect may be sent. One with enough strikes waits for their proof.
    fn ready_at(&self, group: u64, suspicion: &Suspicion, now: Instant) -> Instant {
        let is_only = self.is_only_collector(suspicion, now);
        let least = if self.pool.single(group).is_some() { STRIKES } else { COLLECTORS };
        let is_claimed = is_enough(suspicion.weigh(|s| s.proven), least, is_only);
        match suspicion.strikes.last() {
            Some(last) if is_claimed => suspicion.not_before.max(last.at + HOLD),
            _ => suspicion.not_before,
        }
    }

    /// No collector is left that did not strike, nor will one soon be back. One that only accepts connections is
    /// none: it would be waited for as long as it is listed.
    fn is_only_collector(&self, suspicion: &Suspicion, now: Instant) -> bool {
        let is_recent = |e: &Endpoint| {
            let last = if e.failures == 0 { e.up().map(|_| now).or(e.last_up) } else { e.last_ack };
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
