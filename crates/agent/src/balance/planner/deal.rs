//! Deals batches out: the next window to a collector with room, by power of two choices.
//!
//! Invariant: oldest first among what is ready; a suspect has its connection to itself.

use std::sync::Arc;

use tokio::time::Instant;

use super::batch::Batch;
use super::endpoint::{Endpoint, Key};
use super::up::{Flight, Stage, Up};
use super::{Action, MOST_WINDOWS, Planner};

/// Parts in the planner's hands, however small they are.
const MOST_PARTS: usize = 4096;
/// Bytes of blocks that share a window; less if little may be in flight.
const MOST_SHARED: u64 = 1 << 20;
/// A block with less than this part of a full window's events, and of its bytes, shares one. What a shipper had compressed
/// is compressed anew for it: that pays only where a collector's acks, and not our processor, are what is waited for.
const SMALL_EVENTS: u64 = 4;
const SMALL_BYTES: u64 = 16;
/// Seconds: collectors that ack within it are alike.
const ALIKE: f64 = 0.005;
/// The size of a block before one was seen.
const TYPICAL: u64 = 256 << 10;

impl Planner {
    pub(super) fn deal(&mut self, now: Instant) {
        if self.is_stopping {
            return;
        }
        let reserved = self.reserve(now);
        while let Some((_, first)) = self.pool.plain().first_key_value() {
            let Some(key) = self.choose(first.bytes, &reserved, now) else { break };
            let run = self.run(&key);
            self.send(&key, run, false, now);
        }
        self.fetch(now);
        for (group, key) in reserved {
            let is_free = self.endpoints.get(&key).is_some_and(|endpoint| !endpoint.is_busy());
            if is_free {
                let run = self.pool.group(group).collect();
                self.send(&key, run, true, now);
            }
        }
    }

    /// Asks for the next block if somebody is there. While all are busy, blocks are taken up to one window: the
    /// small ones will share it. So where acks are slow it is windows that are few, not events.
    pub(super) fn fetch(&mut self, now: Instant) {
        let bytes = if self.typical == 0 { TYPICAL } else { self.typical };
        if self.is_stopping || self.fetching.is_some() || self.pool.len() >= MOST_PARTS {
            return;
        }
        let (events, waiting) = self.pool.waiting();
        let most = self.most_shared();
        // One that is small always fits in.
        let is_window = events + most.0 / SMALL_EVENTS > most.0 || waiting + most.1 / SMALL_BYTES > most.1;
        let held: u64 = self.pool.bytes();
        let limit = self.policy.max_in_flight.saturating_mul(2);
        if !is_window && (held == 0 || held + bytes <= limit) && self.ups().next().is_some() {
            self.fetching = Some(now);
            self.actions.push(Action::Fetch);
        }
    }

    /// Events and bytes of blocks that share a window.
    fn most_shared(&self) -> (u64, u64) {
        let bytes = MOST_SHARED.min(self.policy.max_in_flight / MOST_WINDOWS as u64);
        (self.policy.window.into(), bytes)
    }

    /// What goes next, to a collector with room for the first: one block as it is, or several small ones.
    fn run(&self, key: &Arc<Key>) -> Vec<Batch> {
        let most = self.most_shared();
        let (load, up) = (self.load(), self.endpoints.get(key).and_then(Endpoint::up));
        let (mut run, mut events, mut bytes) = (Vec::new(), 0, 0);
        for (batch, weight) in self.pool.plain() {
            let own = u64::from(batch.events());
            (events, bytes) = (events + own, bytes + weight.bytes);
            let is_little = own * SMALL_EVENTS <= most.0 && weight.bytes * SMALL_BYTES <= most.1;
            let is_small = !weight.lone && is_little;
            let is_room = events <= most.0 && bytes <= most.1 && up.is_some_and(|up| fits(up, bytes, load));
            if !(run.is_empty() || is_small && is_room) {
                break;
            }
            run.push(*batch);
            if !is_small {
                break;
            }
        }
        run
    }

    fn load(&self) -> Load {
        let (most, count) = (self.policy.max_in_flight, self.ups().count() as u64);
        Load { total: self.in_flight(), most, own: (most / count.max(1)).saturating_mul(2).min(most) }
    }

    fn choose(&mut self, bytes: u64, reserved: &[(u64, Arc<Key>)], now: Instant) -> Option<Arc<Key>> {
        let load = self.load();
        let is_free = |key: &Arc<Key>| !reserved.iter().any(|(_, other)| other == key);
        let mut open: Vec<(Arc<Key>, bool)> = self
            .ups()
            .filter(|(key, up)| is_free(key) && fits(up, bytes, load))
            .map(|(key, _)| (key.clone(), self.is_near(key)))
            .collect();
        if open.iter().any(|(_, near)| *near) {
            open.retain(|(_, near)| *near);
        }
        if open.len() < 2 {
            return open.pop().map(|(key, _)| key);
        }
        let first = self.dice.usize(..open.len());
        let second = (first + 1 + self.dice.usize(..open.len() - 1)) % open.len();
        let usual = self.usual_latency(now);
        let cost = |place: usize| {
            let endpoint = open.get(place).and_then(|(key, _)| self.endpoints.get(key));
            endpoint.map_or(f64::INFINITY, |endpoint| cost(endpoint, bytes, usual, now))
        };
        let best = if cost(second) < cost(first) { second } else { first };
        open.get(best).map(|(key, _)| key.clone())
    }

    fn is_near(&self, key: &Arc<Key>) -> bool {
        let zone = self.endpoints.get(key).and_then(|endpoint| endpoint.zone.as_ref());
        self.policy.zone.is_some() && zone == self.policy.zone.as_ref()
    }

    /// For those whose latency is not known yet.
    fn usual_latency(&self, now: Instant) -> f64 {
        let known: Vec<f64> = self.endpoints.values().filter_map(|e| e.latency.fading(now)).collect();
        if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
    }

    fn send(&mut self, key: &Arc<Key>, batches: Vec<Batch>, alone: bool, now: Instant) {
        let bytes = batches.iter().filter_map(|batch| self.pool.get(*batch)).map(|work| work.bytes).sum();
        let Some(up) = self.endpoints.get_mut(key).and_then(Endpoint::up_mut) else { return };
        self.next_number += 1;
        let (conn, number) = (up.conn, self.next_number);
        let stage = Stage::Planned;
        up.sent(Flight { number, batches: batches.clone(), bytes, sent: now, alone, stage });
        self.pool.sent(&batches, conn, number);
        self.actions.push(Action::Send { conn, number, batches });
    }
}

/// How much is in flight.
#[derive(Clone, Copy)]
struct Load {
    /// Everywhere.
    total: u64,
    /// What that may be.
    most: u64,
    /// What one collector may have of it: nobody hoards.
    own: u64,
}

/// Whether a collector may get so many bytes more. One that has nothing may always have one window.
fn fits(up: &Up, bytes: u64, load: Load) -> bool {
    let total = load.total + bytes;
    let is_empty = up.flight.is_empty();
    let is_modest = is_empty || up.bytes + bytes <= load.own;
    let is_in_budget = total <= load.most || (is_empty && total <= load.most.saturating_mul(2));
    up.has_room() && is_modest && (is_in_budget || load.total == 0)
}

/// The bytes that would be before it, by how long acks take.
fn cost(endpoint: &Endpoint, bytes: u64, usual: f64, now: Instant) -> f64 {
    let in_flight = endpoint.up().map_or(0, |up| up.bytes);
    let latency = endpoint.latency.fading(now).unwrap_or(usual);
    (in_flight + bytes) as f64 * grade(latency)
}

/// A latency in seconds, coarsely: without it the collector that is slowest by a hair would get nothing while
/// there is little to send.
fn grade(latency: f64) -> f64 {
    latency.max(ALIKE).log2().round().exp2()
}

#[cfg(test)]
mod tests {
    use super::grade;

    #[test]
    fn collectors_that_are_about_as_fast_are_alike_and_slow_ones_are_not() {
        assert_eq!((grade(0.0), grade(0.0002)), (grade(0.004), grade(0.005)));
        assert_eq!(grade(0.020), grade(0.018));
        assert!(grade(0.100) > 2.0 * grade(0.020));
    }
}
