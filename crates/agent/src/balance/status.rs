//! What people see of the balancer: plain values, as `/status` shows them.
//!
//! Not the decisions: those are the planner's.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How a collector is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CollectorState {
    /// Connected, and may get something new.
    Live,
    /// A connection is being made.
    Connecting,
    /// It failed; the next attempt waits.
    Backoff,
    /// It gets nothing new; its acks are waited for.
    Draining,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CollectorStatus {
    /// The instance's id.
    pub(crate) instance_id: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its availability zone, if known.
    pub(crate) zone: Option<String>,
    /// How it is doing.
    pub(crate) state: CollectorState,
    /// Connections that were made.
    pub(crate) connects: u64,
    /// Connections that ended or could not be made, by reason.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Failures since the last acked window.
    pub(crate) failures_in_a_row: u32,
    /// The last failure, in words; `None` once a window was acked.
    pub(crate) last_error: Option<String>,
    /// Windows in flight.
    pub(crate) windows_in_flight: u64,
    /// How many of those there may be.
    pub(crate) windows_limit: u64,
    /// Bytes in flight.
    pub(crate) bytes_in_flight: u64,
    /// Ack latency, smoothed, in milliseconds.
    pub(crate) ack_latency_ms: Option<f64>,
    /// Windows that were sent.
    pub(crate) windows_sent: u64,
    /// Windows that were acked.
    pub(crate) windows_acked: u64,
    /// Events that were sent, again or not.
    pub(crate) events_sent: u64,
    /// Events that were acked.
    pub(crate) events_acked: u64,
    /// Bytes of blocks that were sent.
    pub(crate) bytes_sent: u64,
    /// Bytes of blocks that were acked.
    pub(crate) bytes_acked: u64,
    /// Events that had been sent before, here or elsewhere.
    pub(crate) events_resent: u64,
    /// Events that were given up because this collector, among others, closed on them.
    pub(crate) events_dead_lettered: u64,
}

/// The balancer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BalanceStatus {
    /// `sending`, `no_roster`, `no_collector`: everything stays in the spool; `stopping`.
    pub(crate) state: String,
    /// The newest roster.
    pub(crate) revision: Option<u64>,
    /// The revision that is really used.
    pub(crate) applied: Option<u64>,
    /// Blocks that were delivered.
    pub(crate) blocks_done: u64,
    /// Events that were sent, again or not.
    pub(crate) events_sent: u64,
    /// Bytes of blocks that were sent.
    pub(crate) bytes_sent: u64,
    /// Events that were acked.
    pub(crate) events_acked: u64,
    /// Bytes of blocks that were acked.
    pub(crate) bytes_acked: u64,
    /// Events that had been sent before.
    pub(crate) events_resent: u64,
    /// Events that were given up, each of them kept as a dead letter.
    pub(crate) events_dead_lettered: u64,
    /// Attempts to keep a dead letter that failed.
    pub(crate) dead_letters_failed: u64,
    /// Events that were gone from the spool before they could be sent.
    pub(crate) events_gone: u64,
    /// Batches that wait to be sent alone.
    pub(crate) suspects: u64,
    /// Bytes of blocks in flight.
    pub(crate) bytes_in_flight: u64,
    /// The collectors, by instance id.
    pub(crate) collectors: Vec<CollectorStatus>,
}
