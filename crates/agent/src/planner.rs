//! What to render and when to reload: decided from rosters, time and results, without I/O.
//!
//! The files that share one reload command are a unit: they are replaced together and reloaded once.
//! A removal is acted on at once; additions wait for more (`quiet`), so that a scale-out is one reload.
//! Between two reloads of a unit lies `spacing`; when it is over, what waits goes as one, and nothing that
//! would remove a collector waits any longer than that.
//!
//! Call [`Planner::poll`] after each input and at [`Planner::next_wake`]. It never asks for the same
//! thing twice: each [`Action`] must be answered with [`Planner::finished`] or [`Planner::checked`].
//!
//! Invariants: one job a unit at a time. `applied` names a revision only when every unit uses it, or one
//! that came later. An empty roster is never rendered unless that is allowed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pikepole_api::v1;
use tokio::time::Instant;

use crate::trouble::Kind;

/// Additions that keep coming wait at most so many times `quiet`.
const QUIET_AT_MOST: u32 = 4;
/// The first wait before something that may pass is tried again; doubled each time.
const RETRY: Duration = Duration::from_secs(1);
/// No such wait is longer.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// The same for what only a new roster or a person can put right.
const SLOW_RETRY: Duration = Duration::from_secs(60);
/// No such wait is longer.
const LONGEST_SLOW_RETRY: Duration = Duration::from_secs(600);
/// How often it is asked whether a shipper is alive.
pub const ALIVE_EVERY: Duration = Duration::from_secs(30);

/// How one unit wants to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Additions wait this long for more.
    pub quiet: Duration,
    /// Between two reloads.
    pub spacing: Duration,
    /// Whether an empty roster may be rendered.
    pub allow_empty: bool,
    /// Whether there is a command that tells if the shipper is alive.
    pub alive: bool,
    /// A job that lasts longer is stuck.
    pub longest: Duration,
}

/// A roster to be used.
#[derive(Debug, Clone)]
pub struct Target {
    /// Counts the rosters that were taken; a later one has a greater number, whatever its revision.
    pub seq: u64,
    /// The roster.
    pub roster: Arc<v1::Roster>,
    /// Its sendable addresses.
    pub hosts: Arc<BTreeSet<SocketAddr>>,
}

/// What to do now.
#[derive(Debug, Clone)]
pub enum Action {
    /// Render this roster into a unit's files and reload, as far as needed.
    Apply {
        /// Which unit.
        unit: usize,
        /// With which roster.
        target: Target,
    },
    /// Ask whether a unit's shipper is alive.
    CheckAlive {
        /// Which unit.
        unit: usize,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Whether a file took another's place.
    pub written: bool,
    /// Whether the reload command ran, well or not.
    pub reloaded: bool,
    /// What went wrong, in words for people.
    pub failure: Option<(Kind, String)>,
}

#[derive(Debug)]
struct Waiting {
    first: Instant,
    last: Instant,
}

#[derive(Debug)]
struct Failure {
    kind: Kind,
    detail: String,
    count: u32,
    retry_at: Instant,
}

/// What is under way.
#[derive(Debug)]
struct Job {
    target: Target,
    began: Instant,
}

#[derive(Debug)]
struct Unit {
    policy: Policy,
    in_use: Option<Target>,
    job: Option<Job>,
    waiting: Option<Waiting>,
    failure: Option<Failure>,
    last_reload: Option<Instant>,
    checking: bool,
    check_at: Option<Instant>,
    down: Option<String>,
}

/// Plans all units.
#[derive(Debug)]
pub struct Planner {
    units: Vec<Unit>,
    target: Option<Target>,
    /// The last roster that nobody refuses.
    accepted: Option<Target>,
    taken: u64,
}

impl Planner {
    /// Nothing is known yet.
    pub fn new(policies: impl IntoIterator<Item = Policy>) -> Self {
        let units = policies.into_iter().map(|policy| Unit {
            policy,
            in_use: None,
            job: None,
            waiting: None,
            failure: None,
            last_reload: None,
            checking: false,
            check_at: None,
            down: None,
        });
        Self { units: units.collect(), target: None, accepted: None, taken: 0 }
    }

    /// Another roster is to be used.
    pub fn roster(&mut self, roster: Arc<v1::Roster>, now: Instant) {
        self.taken += 1;
        let target = Target { seq: self.taken, hosts: Arc::new(sendable(&roster)), roster };
        for unit in self.units.iter_mut().filter(|unit| !unit.refuses(&target)) {
            let first = unit.waiting.as_ref().map_or(now, |w| w.first);
            unit.waiting = Some(Waiting { first, last: now });
            if let Some(failure) = &mut unit.failure {
                failure.retry_at = now; // what failed may go well with another roster
            }
        }
        if !target.hosts.is_empty() {
            self.accepted = Some(target.clone());
        }
        self.target = Some(target);
    }

    /// What to do now; each only once.
    pub fn poll(&mut self, now: Instant) -> Vec<Action> {
        let news = (self.target.as_ref(), self.accepted.as_ref());
        let mut actions = Vec::new();
        for (index, unit) in self.units.iter_mut().enumerate() {
            if let Some(target) = unit.wants(news)
                && unit.due(target).is_some_and(|due| due <= now)
            {
                unit.job = Some(Job { target: target.clone(), began: now });
                unit.waiting = None;
                actions.push(Action::Apply { unit: index, target: target.clone() });
            } else if unit.check_due().is_some_and(|due| due <= now) {
                unit.checking = true;
                actions.push(Action::CheckAlive { unit: index });
            }
        }
        actions
    }

    /// When to poll again, if nothing happens before.
    pub fn next_wake(&self) -> Option<Instant> {
        let news = (self.target.as_ref(), self.accepted.as_ref());
        let due = |unit: &Unit| unit.wants(news).and_then(|target| unit.due(target));
        self.units.iter().flat_map(|unit| [due(unit), unit.check_due()]).flatten().min()
    }

    /// A job of a unit ended.
    pub fn finished(&mut self, unit: usize, result: Finished, now: Instant) {
        let Some(unit) = self.units.get_mut(unit) else { return };
        let Some(Job { target, .. }) = unit.job.take() else { return };
        let newest = unit.wants((self.target.as_ref(), self.accepted.as_ref())).map(|target| target.seq);
        if result.reloaded {
            unit.last_reload = Some(now);
            unit.down = None;
        }
        match result.failure {
            None => {
                unit.in_use = Some(target);
                unit.failure = None;
                unit.check_at = unit.policy.alive.then(|| now + ALIVE_EVERY);
            }
            Some((kind, detail)) => {
                let count = unit.failure.as_ref().filter(|f| f.kind == kind).map_or(0, |f| f.count) + 1;
                // What came meanwhile is another roster, with which it may go well.
                let is_newer = newest.is_some_and(|seq| seq != target.seq);
                let retry_at = if is_newer { now } else { now + retry_after(kind, count) };
                unit.failure = Some(Failure { kind, detail, count, retry_at });
            }
        }
    }

    /// It was asked whether a unit's shipper is alive; `Err` says how it is not.
    pub fn checked(&mut self, unit: usize, result: Result<(), String>, now: Instant) {
        let Some(unit) = self.units.get_mut(unit) else { return };
        unit.checking = false;
        unit.check_at = Some(now + ALIVE_EVERY);
        unit.down = result.err();
    }

    /// The revision that every unit uses: of the units, the one that is furthest behind says it.
    pub fn applied(&self) -> Option<u64> {
        let mut last: Option<&Target> = None;
        for unit in &self.units {
            let in_use = unit.in_use.as_ref()?;
            if last.is_none_or(|l| in_use.seq < l.seq) {
                last = Some(in_use);
            }
        }
        last.map(|target| target.roster.revision)
    }

    /// The revision a unit uses.
    pub fn in_use(&self, unit: usize) -> Option<u64> {
        self.units.get(unit)?.in_use.as_ref().map(|t| t.roster.revision)
    }

    /// What is wrong: the unit, the kind, a sentence.
    pub fn troubles(&self, now: Instant) -> Vec<(usize, Kind, String)> {
        let mut troubles = Vec::new();
        for (index, unit) in self.units.iter().enumerate() {
            if let Some(failure) = &unit.failure {
                troubles.push((index, failure.kind, failure.detail.clone()));
            }
            if let Some(down) = &unit.down {
                troubles.push((index, Kind::ShipperDown, down.clone()));
            }
            let lasts = unit.job.as_ref().map(|job| now.saturating_duration_since(job.began));
            if let Some(lasts) = lasts.filter(|lasts| *lasts > unit.policy.longest) {
                let detail = format!(
                    "a job began {} s ago, longer than its programs may take; does the disk answer?",
                    lasts.as_secs()
                );
                troubles.push((index, Kind::JobStuck, detail));
            }
            if self.target.as_ref().is_some_and(|target| unit.refuses(target)) {
                let detail =
                    "the roster is empty; what was rendered last stays (allow_empty = true renders it)";
                troubles.push((index, Kind::RosterEmpty, detail.into()));
            }
        }
        troubles
    }

    /// Whether every unit uses the newest roster.
    pub fn is_settled(&self) -> bool {
        self.target.as_ref().is_some_and(|t| {
            self.units.iter().all(|u| u.in_use.as_ref().is_some_and(|used| used.seq == t.seq))
        })
    }
}

impl Unit {
    fn refuses(&self, target: &Target) -> bool {
        target.hosts.is_empty() && !self.policy.allow_empty
    }

    /// Of the newest roster and the last one that has somebody to send to, the one to use. One that is refused
    /// changes nothing: what was owed before it came still is.
    fn wants<'a>(&self, (newest, accepted): (Option<&'a Target>, Option<&'a Target>)) -> Option<&'a Target> {
        if self.refuses(newest?) { accepted } else { newest }
    }

    /// When a job for this roster may begin.
    fn due(&self, target: &Target) -> Option<Instant> {
        if self.job.is_some() || self.checking {
            return None;
        }
        if self.in_use.as_ref().is_some_and(|used| used.seq == target.seq) && self.failure.is_none() {
            return None;
        }
        let mut due = match (&self.failure, &self.waiting) {
            (Some(failure), _) => failure.retry_at,
            (None, Some(waiting)) if self.is_patient(target) => self.quiet_until(waiting),
            (None, Some(waiting)) => waiting.first,
            (None, None) => return None,
        };
        if let Some(last) = self.last_reload {
            due = due.max(last + self.policy.spacing);
        }
        Some(due)
    }

    /// Nothing that the shipper uses has to go.
    fn is_patient(&self, target: &Target) -> bool {
        self.in_use.as_ref().is_some_and(|used| used.hosts.is_subset(&target.hosts))
    }

    fn quiet_until(&self, waiting: &Waiting) -> Instant {
        (waiting.last + self.policy.quiet).min(waiting.first + self.policy.quiet * QUIET_AT_MOST)
    }

    fn check_due(&self) -> Option<Instant> {
        (self.job.is_none() && !self.checking).then_some(self.check_at)?
    }
}

fn retry_after(kind: Kind, count: u32) -> Duration {
    let (first, longest) = match kind {
        Kind::TemplateFailed | Kind::CheckFailed => (SLOW_RETRY, LONGEST_SLOW_RETRY),
        _ => (RETRY, LONGEST_RETRY),
    };
    first.saturating_mul(1 << count.saturating_sub(1).min(10)).min(longest)
}

/// The addresses a plain list contains: the active members'; if there are none those of last resort; if
/// none either the draining ones'.
pub fn sendable(roster: &v1::Roster) -> BTreeSet<SocketAddr> {
    let rank = |m: &v1::Member| pikepole_fleet::MemberState::from(m.state);
    let best = roster.members.iter().map(rank).min();
    roster.members.iter().filter(|m| Some(rank(m)) == best).map(|m| m.address).collect()
}

#[cfg(test)]
mod tests;
