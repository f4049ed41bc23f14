//! Connections: whom to connect to and when, when one is left, and what becomes of what was in flight.
//!
//! Invariant: what was in flight on a connection that ended is ready again in the same moment.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pikepole_api::v1;
use tokio::time::Instant;

use super::batch::Place;
use super::endpoint::{Endpoint, Key, Link, Why};
use super::suspicion::{Strike, Suspicion};
use super::up::{Flight, Stage, Up};
use super::{Action, Known, Planner, ROSTERS, pace};

/// While no collector is connected, none is left alone for longer than this.
const LONGEST_ALONE: Duration = Duration::from_secs(3);
/// The first attempt after a collector closed on something: between once and twice this.
const EARLY: Duration = Duration::from_millis(75);
/// A connection that the collector ends after this time, with nothing in flight, is no failure.
const CALM: Duration = Duration::from_secs(10);
/// A collector that acked something within this time works: if it closes on a suspect, that is no failure of it.
const WORKS: Duration = Duration::from_secs(600);
/// Collectors of one fleet. More are not connected to; the roster's order decides.
const MOST_COLLECTORS: usize = 1024;

impl Planner {
    /// Another roster is to be used.
    pub(crate) fn roster(&mut self, roster: &v1::Roster, now: Instant) {
        let best = roster.members.iter().map(|m| pikepole_fleet::MemberState::from(m.state)).min();
        let mut sendable = BTreeSet::new();
        let mut present = BTreeSet::new();
        for member in &roster.members {
            let key = Arc::new(Key { instance: member.instance_id.clone(), address: member.address });
            let is_best = Some(pikepole_fleet::MemberState::from(member.state)) == best;
            if is_best && sendable.len() < MOST_COLLECTORS {
                let endpoint = self.endpoints.entry(key.clone());
                endpoint.or_insert_with(|| Endpoint::new(None, now)).zone.clone_from(&member.zone);
                sendable.insert(key.clone());
            }
            present.insert(key);
        }
        for (key, endpoint) in &mut self.endpoints {
            let was_wanted = std::mem::replace(&mut endpoint.wanted, sendable.contains(key));
            if was_wanted && !endpoint.wanted {
                // What is not on the wire yet goes elsewhere.
                let up = endpoint.up().filter(|up| up.flight.iter().any(|f| f.stage == Stage::Planned));
                self.actions.extend(up.map(|up| Action::Recall { conn: up.conn }));
            }
            endpoint.gone = if present.contains(key) { None } else { endpoint.gone.or(Some(now)) };
        }
        if self.rosters.len() == ROSTERS {
            self.rosters.pop_front();
        }
        self.rosters.push_back(Known { revision: roster.revision, sendable });
    }

    /// A connection stands.
    pub(crate) fn connected(&mut self, conn: u64, now: Instant) {
        let Some(key) = self.conns.get(&conn) else { return };
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        if matches!(endpoint.link, Link::Connecting { .. }) {
            endpoint.connected(conn, now);
        }
    }

    /// A connection ended, or could not be made.
    pub(crate) fn closed(&mut self, conn: u64, why: Why, detail: &str, now: Instant) {
        if let Some(key) = self.conns.get(&conn).cloned() {
            self.drop_link(&key, why, detail, now);
        }
    }

    /// Leaves those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut over = Vec::new();
        for (key, endpoint) in &mut self.endpoints {
            if let Some(up) = endpoint.up_mut() {
                up.tick(now);
            }
            let is_asked = endpoint.up_mut().is_some_and(|up| up.probe(now));
            if is_asked {
                self.actions.extend(endpoint.conn().map(|conn| Action::Probe { conn }));
            }
            // What the kernel said last is old by now: its next answer, which follows at once, is judged.
            if let Some((at, why)) = time_limit(endpoint, &self.policy)
                && at <= now
                && !(is_asked && why == Why::NoTcpAck)
            {
                over.push((key.clone(), why, endpoint.conn()));
            }
        }
        for (key, why, conn) in over {
            self.actions.extend(conn.map(|conn| Action::Close { conn }));
            self.drop_link(&key, why, "left by a time limit", now);
        }
    }

    /// Ends connections to those that are not sendable any more, as soon as nothing is left there.
    pub(super) fn leave(&mut self) {
        for endpoint in self.endpoints.values_mut().filter(|e| !e.wanted && !e.is_busy()) {
            if let Some(conn) = endpoint.conn() {
                self.conns.remove(&conn);
                self.actions.push(Action::Close { conn });
                endpoint.link = Link::Down;
            }
        }
        self.endpoints.retain(|_, endpoint| endpoint.wanted || endpoint.conn().is_some());
    }

    pub(super) fn connect(&mut self, now: Instant) {
        if self.is_stopping {
            return;
        }
        let is_alone = self.ups().next().is_none();
        for (key, endpoint) in &mut self.endpoints {
            if endpoint.wanted && matches!(endpoint.link, Link::Down) && retry(endpoint, is_alone) <= now {
                self.next_conn += 1;
                let conn = self.next_conn;
                endpoint.link = Link::Connecting { conn, since: now };
                self.conns.insert(conn, key.clone());
                self.actions.push(Action::Connect { conn, to: key.clone() });
            }
        }
    }

    pub(super) fn link_wake(&self, endpoint: &Endpoint) -> Option<Instant> {
        let limit = time_limit(endpoint, &self.policy).map(|(at, _)| at);
        let next = match &endpoint.link {
            Link::Down if endpoint.wanted && !self.is_stopping => {
                Some(retry(endpoint, self.ups().next().is_none()))
            }
            Link::Up(up) => up.next_wake(&self.policy),
            _ => None,
        };
        limit.into_iter().chain(next).min()
    }

    fn drop_link(&mut self, key: &Arc<Key>, why: Why, detail: &str, now: Instant) {
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let (conn, up) = match std::mem::replace(&mut endpoint.link, Link::Down) {
            Link::Down => return,
            Link::Connecting { conn, .. } => (conn, None),
            Link::Up(up) => (up.conn, Some(up)),
        };
        self.conns.remove(&conn);
        let end = End::of(up.as_deref(), why, endpoint, now);
        let is_proven = up.as_ref().is_some_and(|up| up.windows > 0);
        if let Some(up) = &up {
            endpoint.last_up = Some(now);
            endpoint.learn(up, why, now);
        }
        match end {
            End::Calm => endpoint.failures = 0,
            End::Refusal => {}
            End::Suspicious | End::Failure => endpoint.failures = endpoint.failures.saturating_add(1),
        }
        if end != End::Calm {
            *endpoint.counts.failures.entry(why.as_str()).or_default() += 1;
            endpoint.last_error = Some(clean(why, detail));
        }
        endpoint.failed = Some(now);
        let wait = match (end, endpoint.failures) {
            // Whether it went away or only refuses something is worth knowing.
            (End::Suspicious, ..=1) => EARLY + EARLY.mul_f64(self.dice.f64()),
            (End::Refusal, ..=1) if is_proven => EARLY + EARLY.mul_f64(self.dice.f64()),
            (_, failures) => pace::backoff(failures, self.dice.f64()),
        };
        // When all come back together, none is waited for long.
        let is_alone = !self.endpoints.values().any(|endpoint| endpoint.wanted && endpoint.up().is_some());
        if let Some(endpoint) = self.endpoints.get_mut(key) {
            endpoint.retry = now + if is_alone { wait.min(LONGEST_ALONE) } else { wait };
        }
        let Some(up) = up else { return self.absolve(key) };
        let proven = matches!(end, End::Suspicious | End::Refusal).then_some(is_proven);
        for flight in up.flight {
            self.bring_back(&flight, conn, proven, key, now);
            let is_too_much = flight.stage == Stage::Begun && matches!(why, Why::Silence | Why::Progress);
            if is_too_much {
                self.pool.lighten(&flight.batches);
            }
        }
    }

    /// `suspicious`: the collector closed by itself; whether it had acked anything else.
    fn bring_back(
        &mut self,
        flight: &Flight,
        conn: u64,
        suspicious: Option<bool>,
        by: &Arc<Key>,
        now: Instant,
    ) {
        let group = self.pool.new_group();
        for batch in &flight.batches {
            // It may have been acked at another place, or be in flight there by now.
            if self.pool.get(*batch).is_none_or(|work| work.place != Place::Flying(conn)) {
                continue;
            }
            self.pool.change(*batch, |work| {
                work.place = Place::Ready;
                work.again |= flight.stage > Stage::Planned;
                // Of what was not written it knows nothing.
                let Some(proven) = suspicious.filter(|_| flight.stage > Stage::Planned) else { return };
                let suspicion = work.suspicion.get_or_insert_with(|| Suspicion::new(group, now));
                suspicion.avoid.insert(by.clone());
                if flight.alone {
                    suspicion.strike(Strike { by: by.clone(), at: now, proven, confirmed: false });
                }
            });
        }
    }
}

/// What the end of a connection, or of an attempt, means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The collector closed it in peace: nothing was in flight. Logstash does it after a minute.
    Calm,
    /// It works, and closed on a suspect that was alone there: that is about the suspect.
    Refusal,
    /// It closed by itself while something was in flight.
    Suspicious,
    /// Anything else.
    Failure,
}

impl End {
    fn of(up: Option<&Up>, why: Why, endpoint: &Endpoint, now: Instant) -> Self {
        let Some(up) = up.filter(|_| why.casts_suspicion()) else { return Self::Failure };
        let was_useful = up.windows > 0 || now.saturating_duration_since(up.since) >= CALM;
        let works = endpoint.last_ack.is_some_and(|at| at + WORKS > now);
        match up.flight.front().filter(|flight| flight.stage > Stage::Planned) {
            None if was_useful => Self::Calm,
            _ if !endpoint.wanted => Self::Failure,
            Some(flight) if flight.alone && works => Self::Refusal,
            Some(_) => Self::Suspicious,
            None => Self::Failure,
        }
    }
}

/// When a link is left if nothing happens, and why.
fn time_limit(endpoint: &Endpoint, policy: &super::Policy) -> Option<(Instant, Why)> {
    let own = match &endpoint.link {
        Link::Down => None,
        Link::Connecting { since, .. } => Some((*since + policy.attempt_timeout, Why::ConnectTimeout)),
        Link::Up(up) => up.deadline(policy),
    };
    let gone =
        endpoint.gone.filter(|_| endpoint.conn().is_some()).map(|at| (at + policy.progress, Why::Gone));
    own.into_iter().chain(gone).min_by_key(|(at, _)| *at)
}

/// When to connect again. While nobody is connected, nobody is left alone for long.
fn retry(endpoint: &Endpoint, is_alone: bool) -> Instant {
    match endpoint.failed {
        Some(failed) if is_alone => endpoint.retry.min(failed + LONGEST_ALONE),
        _ => endpoint.retry,
    }
}

/// What is shown of an error: short, and one line.
fn clean(why: Why, detail: &str) -> String {
    let detail: String = detail.chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{}: {detail}", why.as_str())
}
