//! Deals batches out: the next one to a collector with room, by power of two choices.
//!
//! Invariant: oldest first among what is ready; a suspect has its connection to itself.

use std::sync::Arc;

use tokio::time::Instant;

use super::batch::Batch;
use super::endpoint::{Endpoint, Flight, Key, Up};
use super::{Action, Planner};

/// Parts in the planner's hands, however small they are.
const MOST_PARTS: usize = 1024;
/// Seconds: collectors that ack within it are alike.
const ALIKE: f64 = 0.005;
/// The size of a block before one was seen.
const TYPICAL: u64 = 256 << 10;

impl Planner {
    pub(super) fn deal(&mut self, now: Instant) {
        if self.is_stopping {
            return;
        }
        self.fetch(now);
        let reserved = self.reserve(now);
        while let Some(batch) = self.pool.plain().first().copied() {
            let bytes = self.pool.get(batch).map_or(0, |work| work.bytes);
            let Some(key) = self.choose(bytes, &reserved, now) else { break };
            self.send(&key, batch, false, now);
        }
        self.fetch(now);
        for (batch, key) in reserved {
            let is_free = self.endpoints.get(&key).is_some_and(|endpoint| !endpoint.is_busy());
            if is_free {
                self.send(&key, batch, true, now);
            }
        }
    }

    /// Asks for the next block if somebody has room for it.
    pub(super) fn fetch(&mut self, now: Instant) {
        let bytes = if self.typical == 0 { TYPICAL } else { self.typical };
        if self.is_stopping
            || self.fetching.is_some()
            || !self.pool.plain().is_empty()
            || self.pool.len() >= MOST_PARTS
        {
            return;
        }
        let load = self.load();
        let held: u64 = self.pool.bytes();
        let most = self.policy.max_in_flight.saturating_mul(2);
        let is_wanted = self.ups().any(|(_, up)| fits(up, bytes, load));
        if is_wanted && (held == 0 || held + bytes <= most) {
            self.fetching = Some(now);
            self.actions.push(Action::Fetch);
        }
    }

    fn load(&self) -> Load {
        let (most, count) = (self.policy.max_in_flight, self.ups().count() as u64);
        Load { total: self.in_flight(), most, own: (most / count.max(1)).saturating_mul(2).min(most) }
    }

    fn choose(&mut self, bytes: u64, reserved: &[(Batch, Arc<Key>)], now: Instant) -> Option<Arc<Key>> {
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

    fn send(&mut self, key: &Arc<Key>, batch: Batch, alone: bool, now: Instant) {
        let Some(work) = self.pool.get(batch) else { return };
        let (bytes, again) = (work.bytes, work.again);
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let counts = &mut endpoint.counts;
        counts.windows_sent += 1;
        counts.events_sent += u64::from(batch.events());
        counts.bytes_sent += bytes;
        self.totals.events_sent += u64::from(batch.events());
        self.totals.bytes_sent += bytes;
        if again {
            counts.events_resent += u64::from(batch.events());
            self.totals.events_resent += u64::from(batch.events());
        }
        let Some(up) = endpoint.up_mut() else { return };
        self.next_number += 1;
        let (conn, number) = (up.conn, self.next_number);
        up.sent(Flight { number, batch, bytes, sent: now, alone });
        self.pool.sent(batch, conn, number);
        self.actions.push(Action::Send { conn, number, batch });
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
