//! What people see of the balancer: plain values, as `/status` shows them.
//!
//! Not the decisions: those are the planner's.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How a collector is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectorState {
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
pub struct CollectorStatus {
    /// The instance's id.
    pub instance_id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its availability zone, if known.
    pub zone: Option<String>,
    /// How it is doing.
    pub state: CollectorState,
    /// Connections that were made.
    pub connects: u64,
    /// Connections that ended or could not be made, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Failures since the last acked window.
    pub failures_in_a_row: u32,
    /// The last failure, in words; `None` once a window was acked.
    pub last_error: Option<String>,
    /// Windows in flight.
    pub windows_in_flight: u64,
    /// How many of those there may be.
    pub windows_limit: u64,
    /// Bytes in flight.
    pub bytes_in_flight: u64,
    /// Ack latency, smoothed, in milliseconds.
    pub ack_latency_ms: Option<f64>,
    /// Windows that were sent.
    pub windows_sent: u64,
    /// Windows that were acked.
    pub windows_acked: u64,
    /// Events that were sent, again or not.
    pub events_sent: u64,
    /// Events that were acked.
    pub events_acked: u64,
    /// Bytes of blocks that were sent.
    pub bytes_sent: u64,
    /// Bytes of blocks that were acked.
    pub bytes_acked: u64,
    /// Events that had been sent before, here or elsewhere.
    pub events_resent: u64,
    /// Bytes of blocks that had been sent before.
    #[serde(default)]
    pub bytes_resent: u64,
    /// Events that were given up because this collector, among others, closed on them.
    pub events_dead_lettered: u64,
    /// Bytes of blocks that were.
    #[serde(default)]
    pub bytes_dead_lettered: u64,
}

/// What the balancer is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceState {
    /// No roster is known.
    #[default]
    NoRoster,
    /// No collector is connected: everything stays in the spool.
    NoCollector,
    /// It sends.
    Sending,
    /// The agent stops.
    Stopping,
}

impl BalanceState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NoRoster, Self::NoCollector, Self::Sending, Self::Stopping];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRoster => "no_roster",
            Self::NoCollector => "no_collector",
            Self::Sending => "sending",
            Self::Stopping => "stopping",
        }
    }
}

/// The balancer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BalanceStatus {
    /// What it is at.
    pub state: BalanceState,
    /// The newest roster.
    pub revision: Option<u64>,
    /// The revision that is really used.
    pub applied: Option<u64>,
    /// Blocks that were delivered.
    pub blocks_done: u64,
    /// Events that were sent, again or not.
    pub events_sent: u64,
    /// Bytes of blocks that were sent.
    pub bytes_sent: u64,
    /// Events that were acked.
    pub events_acked: u64,
    /// Bytes of blocks that were acked.
    pub bytes_acked: u64,
    /// Events that had been sent before.
    pub events_resent: u64,
    /// Bytes of blocks that had been sent before.
    #[serde(default)]
    pub bytes_resent: u64,
    /// Events that were given up, each of them kept as a dead letter.
    pub events_dead_lettered: u64,
    /// Attempts to keep a dead letter that failed.
    pub dead_letters_failed: u64,
    /// Events that were gone from the spool before they could be sent.
    pub events_gone: u64,
    /// Batches that wait to be sent alone.
    pub suspects: u64,
    /// Bytes of blocks in flight.
    pub bytes_in_flight: u64,
    /// The collectors, by instance id.
    pub collectors: Vec<CollectorStatus>,
}
