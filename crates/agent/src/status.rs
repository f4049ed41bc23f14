//! What the agent says about itself: `/status` (JSON), `/metrics` and `/healthz`.
//!
//! Not a control: nothing can be changed over it, and it holds no token and no content of any file.
//!
//! Invariant: a reader waits for nobody; it gets what the agent last published.

pub mod server;

mod metrics;

use pikepole_api::time::Rfc3339;
use pikepole_fleet::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::balance::status::{BalanceState, BalanceStatus, CollectorState, CollectorStatus};
pub use crate::guard::{DiskGuardStatus, DiskStatus, Given, Totals};
pub use crate::log_path::status::{Amount, DeadLetterStatus, LogPathStatus, SpoolState, SpoolStatus};
pub use crate::relay::RelayStatus;
pub use crate::tail::{SectionStatus, TailStatus};

/// All that the agent says about itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its stable id.
    pub id: String,
    /// The UUID of this start.
    pub start: String,
    /// The directories, in the order they are tried.
    pub directories: Vec<String>,
    /// The roster in use; `null`: none is known yet.
    pub roster: Option<RosterStatus>,
    /// The revision that every shipper was reloaded with.
    pub applied: Option<u64>,
    /// The files, in the order of the configuration.
    pub renders: Vec<RenderStatus>,
    /// The last jobs, newest first.
    pub history: Vec<JobStatus>,
    /// What is wrong now.
    pub trouble: Vec<TroubleStatus>,
    /// The disk guard; `null`: there is none.
    #[serde(default)]
    pub disk_guard: Option<DiskGuardStatus>,
    /// The log path; `null`: this agent carries no logs itself.
    #[serde(default)]
    pub log_path: Option<LogPathStatus>,
    /// What was counted since the start.
    pub counts: Counts,
}

/// The roster in use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RosterStatus {
    /// The fleet.
    pub fleet: String,
    /// Its revision.
    pub revision: u64,
    /// All members.
    pub members: usize,
    /// Those that are sent to.
    pub sendable: usize,
    /// When its content came to be.
    pub published_at: Rfc3339,
    /// When its source last confirmed it, as far as is known here.
    pub confirmed_at: Option<Rfc3339>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
    /// Whether that is too long ago, says the directory.
    pub stale: bool,
    /// `directory`, or `disk` as long as no directory has answered since the start.
    pub from: String,
}

/// One file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenderStatus {
    /// Where it is.
    pub output: String,
    /// Its template.
    pub template: String,
    /// The revision its shipper uses.
    pub revision: Option<u64>,
    /// When it was last written by this process.
    pub written_at: Option<Rfc3339>,
    /// When its shipper was last reloaded by this process.
    pub reloaded_at: Option<Rfc3339>,
}

/// One job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobStatus {
    /// When it ended.
    pub at: Rfc3339,
    /// The files it was about.
    pub outputs: Vec<String>,
    /// With which revision.
    pub revision: u64,
    /// Whether a file was written.
    pub written: bool,
    /// Whether the reload command ran.
    pub reloaded: bool,
    /// How long it took.
    pub took_ms: u64,
    /// What went wrong.
    pub error: Option<String>,
}

/// One problem that lasts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TroubleStatus {
    /// A stable word: `check_failed`, `directory_unreachable`, …
    pub alert: String,
    /// With what.
    pub subject: String,
    /// What happened.
    pub detail: String,
    /// Since when.
    pub since: Rfc3339,
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Rosters taken.
    pub rosters: u64,
    /// Polls that failed.
    pub poll_failures: u64,
    /// Rosters refused because they were older.
    pub older: u64,
    /// Jobs that wrote a file.
    pub writes: u64,
    /// Reload commands that ran.
    pub reloads: u64,
    /// Jobs that failed.
    pub failures: u64,
}

impl Status {
    /// With the ages of this moment.
    fn at(&self, now: Timestamp) -> Self {
        let mut status = self.clone();
        if let Some(roster) = &mut status.roster {
            roster.age_seconds = roster.confirmed_at.map(|at| now.since(at.0).as_secs());
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_makes_no_absurd_age() {
        let at = |millis| Rfc3339(Timestamp::from_millis(millis));
        let roster = RosterStatus {
            fleet: "f".into(),
            revision: 1,
            members: 1,
            sendable: 1,
            published_at: at(5),
            confirmed_at: Some(at(10_000)),
            age_seconds: None,
            stale: false,
            from: "directory".into(),
        };
        let status = Status { roster: Some(roster), ..Status::default() };
        let age = |millis| status.at(Timestamp::from_millis(millis)).roster.unwrap().age_seconds;
        assert_eq!(
            (age(13_999), age(10), age(u64::MAX)),
            (Some(3), Some(0), Some((u64::MAX - 10_000) / 1000))
        );
    }
}
