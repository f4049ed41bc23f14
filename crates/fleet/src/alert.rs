//! Alerts as decisions: one alert per problem, repeated while it lasts, resolved when it is over.
//! Who is told, and how, is not known here.

use std::collections::BTreeMap;
use std::fmt;

use crate::limits::ALERT_REPEAT;
use crate::time::Timestamp;

/// What can be wrong. The word of each is part of the outside contract: people route on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertKind {
    /// The source cannot be asked.
    SourceFailing,
    /// AWS throttles us.
    Throttled,
    /// The guard does not believe the source.
    GuardHolding,
    /// The store cannot be written or read.
    StoreFailing,
    /// The fleet has no members.
    FleetEmpty,
    /// The source has not confirmed the roster for too long.
    FleetStale,
    /// The source says there is no such fleet.
    FleetMissing,
    /// A file in the store could not be read and was put aside.
    StoreQuarantined,
    /// A new collector was listed although its port never answered.
    ProbeGaveUp,
    /// A dying collector was let go at the deadline, while agents still held.
    DrainDeadline,
    /// A lifecycle hook cannot be completed.
    HookFailing,
    /// A queue of events cannot be read.
    QueueFailing,
    /// A topic no longer sends us its messages.
    TopicUnsubscribed,
    /// More agents follow a fleet than there are places.
    TooManyAgents,
}

impl AlertKind {
    /// The word people route on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SourceFailing => "source_failing",
            Self::Throttled => "throttled",
            Self::GuardHolding => "guard_holding",
            Self::StoreFailing => "store_failing",
            Self::FleetEmpty => "fleet_empty",
            Self::FleetStale => "fleet_stale",
            Self::FleetMissing => "fleet_missing",
            Self::StoreQuarantined => "store_quarantined",
            Self::ProbeGaveUp => "probe_gave_up",
            Self::DrainDeadline => "drain_deadline",
            Self::HookFailing => "hook_failing",
            Self::QueueFailing => "queue_failing",
            Self::TopicUnsubscribed => "topic_unsubscribed",
            Self::TooManyAgents => "too_many_agents",
        }
    }
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One problem: a kind, and what it is about (a fleet, a store).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// What is wrong.
    pub kind: AlertKind,
    /// With what.
    pub subject: String,
}

/// What to tell people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It began.
    Raised,
    /// It still lasts.
    Repeated,
    /// It is over.
    Resolved,
}

/// A notice to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// About what.
    pub problem: Problem,
    /// Began, lasts or over.
    pub notice: Notice,
    /// A sentence for people: what happened and what to do.
    pub detail: String,
    /// When the problem began.
    pub since: Timestamp,
}

#[derive(Debug, Clone)]
struct Open {
    since: Timestamp,
    told_at: Timestamp,
}

/// The problems that are open now.
#[derive(Debug, Default)]
pub struct AlertBook {
    open: BTreeMap<Problem, Open>,
}

impl AlertBook {
    /// Says whether a problem exists at `now`; `detail` is only made when it is told.
    /// Returns what to tell people, which is mostly nothing.
    pub fn observe(
        &mut self,
        problem: Problem,
        exists: bool,
        now: Timestamp,
        detail: impl FnOnce() -> String,
    ) -> Option<Alert> {
        let (notice, since) = match (self.open.get_mut(&problem), exists) {
            (None, false) => return None,
            (None, true) => {
                self.open.insert(problem.clone(), Open { since: now, told_at: now });
                (Notice::Raised, now)
            }
            (Some(open), true) => {
                open.told_at = open.told_at.min(now); // a clock that stepped back must not silence it
                if now.since(open.told_at) < ALERT_REPEAT {
                    return None;
                }
                open.told_at = now;
                (Notice::Repeated, open.since)
            }
            (Some(open), false) => {
                let since = open.since;
                self.open.remove(&problem);
                (Notice::Resolved, since)
            }
        };
        Some(Alert { problem, notice, detail: detail(), since })
    }

    /// The open problems and since when each lasts.
    pub fn open(&self) -> impl Iterator<Item = (&Problem, Timestamp)> {
        self.open.iter().map(|(problem, open)| (problem, open.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alert_per_problem_repeated_hourly_resolved_once() {
        let mut book = AlertBook::default();
        let problem = Problem { kind: AlertKind::SourceFailing, subject: "f".into() };
        let at = |minutes: u64| Timestamp::from_millis(minutes * 60_000);
        let mut notice = |exists, minutes| {
            book.observe(problem.clone(), exists, at(minutes), String::new).map(|a| (a.notice, a.since))
        };
        assert_eq!(notice(false, 0), None);
        assert_eq!(notice(true, 1), Some((Notice::Raised, at(1))));
        assert_eq!(notice(true, 2), None);
        assert_eq!(notice(true, 60), None);
        assert_eq!(notice(true, 61), Some((Notice::Repeated, at(1))));
        assert_eq!(notice(true, 62), None);
        assert_eq!(notice(false, 63), Some((Notice::Resolved, at(1))));
        assert_eq!(notice(false, 64), None);
    }

    #[test]
    fn a_clock_that_steps_back_silences_nothing() {
        let mut book = AlertBook::default();
        let problem = Problem { kind: AlertKind::Throttled, subject: "f".into() };
        let at = |minutes: u64| Timestamp::from_millis(minutes * 60_000);
        book.observe(problem.clone(), true, at(10_000), String::new);
        book.observe(problem.clone(), true, at(100), String::new);
        let again = book.observe(problem, true, at(161), String::new);
        assert_eq!(again.map(|a| a.notice), Some(Notice::Repeated));
    }
}
