//! What is shown of the planner: its status and what is wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Planner;
use super::batch::{Batch, Work};
use super::endpoint::{Endpoint, Key, Link};
use super::pace::INITIAL;
use crate::balance::status::{BalanceState, BalanceStatus, CollectorState, CollectorStatus};
use crate::trouble::Kind;

/// Without any collector for so long is trouble, not a restart.
const ALONE: Duration = Duration::from_secs(3);
/// So many failures in a row of one collector are trouble.
const FAILING: u32 = 3;
/// Something waits, and nobody acks anything for so long: that is trouble, however many accept connections. Longer
/// than `silence` and a second try usually take.
const NOTHING_TAKEN: Duration = Duration::from_secs(30);

/// What was counted since the start, of collectors that left too.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    pub(super) blocks_done: u64,
    pub(super) events_sent: u64,
    pub(super) bytes_sent: u64,
    pub(super) events_acked: u64,
    pub(super) bytes_acked: u64,
    pub(super) events_resent: u64,
    pub(super) bytes_resent: u64,
    pub(super) events_dead_lettered: u64,
    pub(super) dead_letters_failed: u64,
    pub(super) events_gone: u64,
}

impl Planner {
    /// An event is given up for good.
    pub(super) fn count_dead(&mut self, batch: Batch) {
        let Some(work) = self.pool.get(batch) else { return };
        let (events, bytes) = (u64::from(batch.events()), work.bytes);
        let strikes = work.suspicion.iter().flat_map(|suspicion| &suspicion.strikes);
        let by: BTreeSet<Arc<Key>> = strikes.map(|strike| strike.by.clone()).collect();
        self.totals.events_dead_lettered += events;
        for key in by {
            if let Some(endpoint) = self.endpoints.get_mut(&key) {
                endpoint.counts.events_dead_lettered += events;
                endpoint.counts.bytes_dead_lettered += bytes;
            }
        }
    }

    /// All there is to see.
    pub(crate) fn status(&self) -> BalanceStatus {
        let totals = self.totals.clone();
        BalanceStatus {
            state: self.state(),
            revision: self.rosters.back().map(|known| known.revision),
            applied: self.applied(),
            blocks_done: totals.blocks_done,
            events_sent: totals.events_sent,
            bytes_sent: totals.bytes_sent,
            events_acked: totals.events_acked,
            bytes_acked: totals.bytes_acked,
            events_resent: totals.events_resent,
            bytes_resent: totals.bytes_resent,
            events_dead_lettered: totals.events_dead_lettered,
            dead_letters_failed: totals.dead_letters_failed,
            events_gone: totals.events_gone,
            suspects: self.pool.count_suspects() as u64,
            bytes_in_flight: self.in_flight(),
            collectors: self.endpoints.iter().map(|(key, endpoint)| collector(key, endpoint)).collect(),
        }
    }

    /// What is wrong: the kind, with whom, a sentence.
    pub(crate) fn troubles(&self, now: Instant) -> Vec<(Kind, String, String)> {
        let mut troubles = Vec::new();
        if let Some(newest) = self.rosters.back() {
            let count = newest.sendable.len();
            let is_alone = self.alone_since.is_some_and(|since| since + ALONE <= now);
            let what = match () {
                () if is_alone => Some("is connected"),
                () if self.is_nothing_taken(now) => Some("takes anything"),
                () => None,
            };
            let detail = |what| format!("none of {count} collectors {what}; all logs stay in the spool");
            troubles.extend(what.map(|what| (Kind::NoCollector, "collectors".into(), detail(what))));
        }
        for (key, endpoint) in self.endpoints.iter().filter(|(_, e)| e.failures >= FAILING) {
            let error = endpoint.last_error.clone().unwrap_or_default();
            let detail = format!("{} failures in a row; the last: {error}", endpoint.failures);
            troubles.push((Kind::CollectorFailing, format!("{} {}", key.instance, key.address), detail));
        }
        troubles
    }

    /// Collectors are connected, but none takes anything. Events that wait for proof against them prove nothing.
    fn is_nothing_taken(&self, now: Instant) -> bool {
        let waits = |work: &Work| match &work.suspicion {
            Some(suspicion) => !suspicion.strikes.iter().any(|strike| strike.proven),
            None => true,
        };
        let patience = NOTHING_TAKEN.max(self.policy.silence * 2);
        self.took + patience <= now && self.pool.iter().any(|(_, work)| waits(work))
    }

    fn state(&self) -> BalanceState {
        match () {
            () if self.is_stopping => BalanceState::Stopping,
            () if self.rosters.is_empty() => BalanceState::NoRoster,
            () if self.ups().next().is_none() || self.is_nothing_taken(self.polled) => {
                BalanceState::NoCollector
            }
            () => BalanceState::Sending,
        }
    }
}

fn collector(key: &Key, endpoint: &Endpoint) -> CollectorStatus {
    let up = endpoint.up();
    let counts = endpoint.counts.clone();
    let state = match &endpoint.link {
        _ if !endpoint.wanted => CollectorState::Draining,
        Link::Down => CollectorState::Backoff,
        Link::Connecting { .. } => CollectorState::Connecting,
        Link::Up(_) => CollectorState::Live,
    };
    CollectorStatus {
        instance_id: key.instance.clone(),
        address: key.address,
        zone: endpoint.zone.clone(),
        state,
        connects: counts.connects,
        failures: counts.failures.iter().map(|(word, count)| ((*word).into(), *count)).collect(),
        failures_in_a_row: endpoint.failures,
        last_error: endpoint.last_error.clone(),
        windows_in_flight: up.map_or(0, |up| up.flight.len()) as u64,
        windows_limit: up.map_or(INITIAL, |up| up.limit.get()) as u64,
        bytes_in_flight: up.map_or(0, |up| up.bytes),
        ack_latency_ms: endpoint.latency.millis(),
        windows_sent: counts.windows_sent,
        windows_acked: counts.windows_acked,
        events_sent: counts.events_sent,
        events_acked: counts.events_acked,
        bytes_sent: counts.bytes_sent,
        bytes_acked: counts.bytes_acked,
        events_resent: counts.events_resent,
        bytes_resent: counts.bytes_resent,
        events_dead_lettered: counts.events_dead_lettered,
        bytes_dead_lettered: counts.bytes_dead_lettered,
    }
}
