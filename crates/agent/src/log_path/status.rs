//! What the log path says about itself: plain values, as `/status` shows them.
//!
//! Not what is wrong with it: that is in `observer.rs`.

use serde::{Deserialize, Serialize};

use crate::balance::status::BalanceStatus;
use crate::relay::RelayStatus;
use crate::tail::TailStatus;

/// The log path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogPathStatus {
    /// What shippers send to; `null`: there is no `[relay]`.
    pub relay: Option<RelayStatus>,
    /// What is read; `null`: there is no `[[tail]]`.
    pub tail: Option<TailStatus>,
    /// What waits.
    pub spool: SpoolStatus,
    /// Who takes it.
    pub collectors: BalanceStatus,
    /// What nobody takes.
    pub dead_letters: DeadLetterStatus,
}

/// Blocks and their events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Units of delivery.
    pub blocks: u64,
    /// Events.
    pub events: u64,
    /// Their bytes, as their source counts them.
    pub event_bytes: u64,
}

impl From<pikepole_spool::Counts> for Amount {
    fn from(counts: pikepole_spool::Counts) -> Self {
        Self { blocks: counts.blocks, events: counts.events, event_bytes: counts.event_bytes }
    }
}

/// How the spool is doing; the worst of what holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpoolState {
    /// It takes what comes.
    #[default]
    Ok,
    /// There is no room for more.
    Full,
    /// It cannot write, sync or read.
    Failing,
}

impl SpoolState {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Full => "full",
            Self::Failing => "failing",
        }
    }
}

/// The spool.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SpoolStatus {
    /// How it is doing.
    pub state: SpoolState,
    /// Whether there is no room for more, failing or not.
    pub is_full: bool,
    /// What is durable and not delivered.
    pub waiting: Amount,
    /// Milliseconds that the oldest of it has waited; `null`: nothing waits.
    pub oldest_ms: Option<u64>,
    /// Bytes on the disk.
    pub disk_bytes: u64,
    /// Bytes it may have there.
    pub max_bytes: u64,
    /// Bytes that are left to it.
    pub room: u64,
    /// Seconds until that is none, as the last minutes went; `null`: not within a month, or not known.
    pub full_in_seconds: Option<u64>,
    /// What came in since the spool is new.
    pub appended: Amount,
    /// What was delivered, or became dead letters.
    pub done: Amount,
    /// What was given up to make room.
    pub dropped: Amount,
    /// What damage took.
    pub damaged: Amount,
    /// Bytes that damage took.
    pub damaged_bytes: u64,
    /// What was being written when the agent stopped last, and was cut off at the start. Nobody had been told that it is
    /// there.
    pub torn: Amount,
    /// Bytes of it in the spool's files.
    pub torn_bytes: u64,
    /// Writes, syncs and reads that failed since the start.
    pub failures: u64,
    /// What is wrong.
    pub trouble: Option<String>,
}

/// Dead letters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadLetterStatus {
    /// Where they are.
    pub file: String,
    /// Kept since the start.
    pub kept: u64,
    /// Of older ones, those that had to make room since the start.
    pub given_up: u64,
    /// Why the last ones cannot be written; they and what they came with wait.
    pub failing: Option<String>,
}
