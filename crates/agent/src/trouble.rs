//! What is wrong now: told once when it begins, hourly while it lasts, once when it is over.
//!
//! Not delivery: the log, the metrics and `/status` show what is here.

use std::collections::BTreeMap;
use std::time::Duration;

use pikepole_fleet::Timestamp;
use tokio::time::Instant;

/// A problem that lasts is told again after this time.
const REPEAT: Duration = Duration::from_secs(3600);

/// What can be wrong. The word of each is part of the outside contract: people route on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No directory answers with a roster.
    DirectoryUnreachable,
    /// Every roster that directories offer is older than the one that is held.
    RosterOlder,
    /// The source has not confirmed the roster for too long, says the directory.
    RosterStale,
    /// The roster is empty, and that is not to be rendered.
    RosterEmpty,
    /// A template cannot be read, compiled or rendered.
    TemplateFailed,
    /// The check refuses the new file.
    CheckFailed,
    /// A file cannot be written.
    WriteFailed,
    /// The reload command failed.
    ReloadFailed,
    /// The shipper is not alive.
    ShipperDown,
    /// A job lasts longer than its programs may take.
    JobStuck,
    /// The state folder cannot be written.
    StateFailed,
    /// A disk will soon be full.
    DiskFilling,
    /// Less than `min_free` is free on a disk.
    DiskLow,
    /// The disk guard gave up logs.
    LogsGivenUp,
    /// The disk guard cannot do its work.
    DiskGuardFailed,
    /// No collector is connected.
    NoCollector,
    /// One collector fails again and again.
    CollectorFailing,
    /// Events that nobody can take are among the dead letters.
    EventsDeadLettered,
    /// Dead letters gave way to newer ones.
    DeadLettersLost,
    /// Dead letters cannot be written; what they came with waits.
    DeadLettersFailing,
    /// A log file or folder cannot be read as it should.
    TailFailing,
    /// Lines of log files are gone that were not read.
    TailLost,
    /// The spool has no room: sources wait.
    SpoolFull,
    /// The spool cannot write or sync.
    SpoolFailing,
    /// Part of the spool could not be read.
    SpoolDamaged,
    /// Events were given up to make room.
    EventsDropped,
}

impl Kind {
    /// The word people route on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DirectoryUnreachable => "directory_unreachable",
            Self::RosterOlder => "roster_older",
            Self::RosterStale => "roster_stale",
            Self::RosterEmpty => "roster_empty",
            Self::TemplateFailed => "template_failed",
            Self::CheckFailed => "check_failed",
            Self::WriteFailed => "write_failed",
            Self::ReloadFailed => "reload_failed",
            Self::ShipperDown => "shipper_down",
            Self::JobStuck => "job_stuck",
            Self::StateFailed => "state_failed",
            Self::DiskFilling => "disk_filling",
            Self::DiskLow => "disk_low",
            Self::LogsGivenUp => "logs_given_up",
            Self::DiskGuardFailed => "disk_guard_failed",
            Self::NoCollector => "no_collector",
            Self::CollectorFailing => "collector_failing",
            Self::EventsDeadLettered => "events_dead_lettered",
            Self::DeadLettersLost => "dead_letters_lost",
            Self::DeadLettersFailing => "dead_letters_failing",
            Self::TailFailing => "tail_failing",
            Self::TailLost => "tail_lost",
            Self::SpoolFull => "spool_full",
            Self::SpoolFailing => "spool_failing",
            Self::SpoolDamaged => "spool_damaged",
            Self::EventsDropped => "events_dropped",
        }
    }
}

/// One problem that lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub kind: Kind,
    /// With what: an output, a directory.
    pub subject: String,
    /// A sentence for people.
    pub detail: String,
    /// Since when.
    pub since: Timestamp,
}

#[derive(Debug)]
struct Open {
    detail: String,
    since: Timestamp,
    told: Instant,
}

/// The problems that are open.
#[derive(Debug, Default)]
pub struct Book {
    open: BTreeMap<(Kind, String), Open>,
}

impl Book {
    /// Takes in all that is wrong now and logs what is news.
    pub fn observe(&mut self, current: Vec<(Kind, String, String)>, wall: Timestamp, now: Instant) {
        let mut before = std::mem::take(&mut self.open);
        for (kind, subject, detail) in current {
            let key = (kind, subject);
            let open = match before.remove(&key) {
                Some(open) if now.saturating_duration_since(open.told) < REPEAT => Open { detail, ..open },
                known => {
                    let since = known.map_or(wall, |open| open.since);
                    tracing::error!(alert = kind.as_str(), subject = %key.1, %detail, "trouble");
                    Open { detail, since, told: now }
                }
            };
            self.open.insert(key, open);
        }
        for (kind, subject) in before.into_keys() {
            tracing::info!(alert = kind.as_str(), %subject, "trouble is over");
        }
    }

    /// What is wrong now.
    pub fn list(&self) -> Vec<Trouble> {
        let trouble = |((kind, subject), open): (&(Kind, String), &Open)| Trouble {
            kind: *kind,
            subject: subject.clone(),
            detail: open.detail.clone(),
            since: open.since,
        };
        self.open.iter().map(trouble).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_problem_keeps_its_beginning_until_it_is_over() {
        let mut book = Book::default();
        let now = Instant::now();
        let one = |detail: &str| vec![(Kind::CheckFailed, "f".to_string(), detail.to_string())];
        book.observe(one("a"), Timestamp::from_millis(5), now);
        book.observe(one("b"), Timestamp::from_millis(9), now + REPEAT * 2);
        let open = book.list();
        assert_eq!((open.len(), open[0].detail.as_str(), open[0].since.as_millis()), (1, "b", 5));
        book.observe(Vec::new(), Timestamp::from_millis(10), now + REPEAT * 2);
        assert_eq!(book.list(), []);
    }

    /// The words in the code above, and those in the table for operators.
    #[test]
    fn every_word_is_in_the_table_for_operators_and_no_other() {
        let code = include_str!("trouble.rs").lines().filter(|line| line.trim().starts_with("Self::"));
        let words: BTreeSet<_> = code.filter_map(|line| line.split('"').nth(1)).collect();
        let page = include_str!("../../../docs/agent-operations.md");
        let table = page.split("## Alerts").nth(1).unwrap().split("## ").next().unwrap();
        let rows: BTreeSet<_> =
            table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert!(words.len() > 20, "{words:?}");
        assert_eq!(words, rows);
    }
}
