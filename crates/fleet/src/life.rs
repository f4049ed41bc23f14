//! The lives of collectors: what happened to each instance that is on its way in or out, which
//! lifecycle actions wait for it, and in which revisions nobody sends to it any more.
//!
//! Not the truth about who is in service: that is the snapshot's. A life only ever holds a newcomer
//! back until its port answers, and says when a dying collector may be let go.
//!
//! Invariant: an event that comes twice, or late, changes nothing that it had changed before.

use std::collections::{BTreeMap, BTreeSet};

use crate::guard::GuardPolicy;
use crate::hook::{Hook, Transition};
use crate::limits::{MAX_CLEAR, MAX_GONE, MAX_HOOKS, MAX_LIVES, MAX_UNLISTED};
use crate::name::InstanceId;
use crate::overlay::{Fact, FactKind};
use crate::roster::{MemberState, Revision, Roster};
use crate::snapshot::{Describe, Lifecycle};
use crate::time::Timestamp;

/// How a lifecycle action ended, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookEnd {
    /// Every agent had moved off.
    Converged,
    /// The deadline came first.
    Deadline,
    /// The new collector's port answered, or nobody asks for that.
    Ready,
    /// The port never answered in the time there is.
    GaveUp,
    /// AWS knows no such action any more: somebody else completed it, or its time was up.
    NoSuchAction,
    /// The instance is gone.
    Gone,
}

/// A lifecycle action, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The action.
    pub hook: Hook,
    /// When we learned of it.
    pub since: Timestamp,
    /// When it is completed at the latest.
    pub until: Timestamp,
    /// When and how it ended.
    pub done: Option<(Timestamp, HookEnd)>,
}

/// What happened to one instance, and when, by our clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Life {
    /// A launch event named it, or a describe first listed it as launching.
    pub launched: Option<Timestamp>,
    /// Its port answered.
    pub answered: Option<Timestamp>,
    /// Its port did not answer in the time there is; it is listed all the same.
    pub given_up: Option<Timestamp>,
    /// A describe first listed it as `InService`.
    pub in_service: Option<Timestamp>,
    /// A spot interruption warning named it.
    pub warned: Option<Timestamp>,
    /// It was made unsendable.
    pub draining: Option<Timestamp>,
    /// Every agent had moved off.
    pub moved_off: Option<Timestamp>,
    /// A describe no longer lists it.
    pub gone: Option<Timestamp>,
    /// It is not listed before its port answers.
    pub awaited: bool,
    /// Its lifecycle actions.
    pub waiting: Vec<Waiting>,
    /// While it drains: the revisions in which it is not sendable.
    pub clear: BTreeSet<Revision>,
}

impl Life {
    /// The lifecycle actions of this kind that still wait.
    pub fn open(&self, transition: Transition) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().filter(move |w| w.done.is_none() && w.hook.transition == transition)
    }

    /// Whether any lifecycle action waits.
    pub fn has_open(&self) -> bool {
        self.waiting.iter().any(|w| w.done.is_none())
    }

    /// Whether a lifecycle action waits, or agents have still to leave it.
    pub fn is_under_way(&self) -> bool {
        self.has_open() || (self.is_leaving() && self.moved_off.is_none())
    }

    /// Whether somebody waits for its port.
    pub fn wants_probe(&self) -> bool {
        self.answered.is_none()
            && self.given_up.is_none()
            && self.gone.is_none()
            && self.draining.is_none()
            && (self.awaited || self.open(Transition::Launching).next().is_some())
    }

    /// Whether its port answered, or is not waited for any longer.
    fn has_proved(&self) -> bool {
        self.answered.is_some() || self.given_up.is_some()
    }

    /// Whether it is on its way out.
    pub fn is_leaving(&self) -> bool {
        self.draining.is_some() && self.gone.is_none()
    }

    /// Whether the launch event is about another life of this instance than the one told here: it came
    /// back from a warm pool.
    fn ended_before(&self, fact: &Fact, hook: Option<&Hook>) -> bool {
        let ended = self.draining.max(self.gone).is_some_and(|ended| ended < fact.at);
        let mut launches = self.waiting.iter().filter(|w| w.hook.transition == Transition::Launching);
        let is_other = |hook: &Hook| {
            launches.clone().all(|w| w.done.is_some() && w.hook.token != hook.token)
                && launches.next().is_some()
        };
        ended || (self.launched < Some(fact.at) && hook.is_some_and(is_other))
    }

    fn learn(&mut self, fact: &Fact, now: Timestamp) {
        let earliest =
            |slot: &mut Option<Timestamp>| *slot = Some(slot.map_or(fact.at, |at| at.min(fact.at)));
        match fact.kind {
            FactKind::Launching => earliest(&mut self.launched),
            FactKind::SpotInterruption => earliest(&mut self.warned),
            FactKind::Terminating | FactKind::Rebalance => {}
        }
        if matches!(fact.kind, FactKind::Terminating | FactKind::SpotInterruption) {
            self.leave(now);
        }
    }

    /// It is on its way out, and nobody waits for its port any more: should it stay after all, it is listed.
    fn leave(&mut self, now: Timestamp) {
        self.draining.get_or_insert(now);
        self.awaited = false;
    }

    /// Whether this tale ended before the source was asked at this time, and it was away then: what is told
    /// of it now is another one.
    fn is_of_before(&self, away_at: Timestamp) -> bool {
        !self.has_open() && self.launched.is_none_or(|launched| launched < away_at)
    }

    /// Whether a describe made at this time that does not list it shows that it is gone. `was_listed`: the
    /// one before did.
    fn ends_unlisted(&self, at: Timestamp, was_listed: bool) -> bool {
        let is_older = self.launched.or(self.draining).is_none_or(|since| since < at);
        let never_came = self.launched.is_some_and(|launched| at.since(launched) >= MAX_UNLISTED);
        self.gone.is_none() && (was_listed || is_older && self.is_leaving() || never_came)
    }

    fn wait(&mut self, hook: Hook, now: Timestamp, until: Timestamp) {
        let same = |w: &&mut Waiting| w.hook.name == hook.name && w.hook.token == hook.token;
        if self.waiting.iter_mut().find(same).is_some() {
            return;
        }
        self.waiting.push(Waiting { hook, since: now, until, done: None });
        if self.waiting.len() > MAX_HOOKS {
            let oldest_done = self.waiting.iter().position(|w| w.done.is_some()).unwrap_or(0);
            self.waiting.remove(oldest_done);
        }
    }

    /// Joins two accounts of one instance.
    fn join(&mut self, other: Self) {
        let begins_after = |a: &Self, b: &Self| b.draining.is_some() && a.launched > b.draining.max(b.gone);
        if begins_after(self, &other) {
            return;
        }
        if begins_after(&other, self) {
            *self = other;
            return;
        }
        let earliest = |mine: &mut Option<Timestamp>, theirs: Option<Timestamp>| {
            *mine = mine.iter().copied().chain(theirs).min();
        };
        earliest(&mut self.launched, other.launched);
        earliest(&mut self.answered, other.answered);
        earliest(&mut self.given_up, other.given_up);
        earliest(&mut self.in_service, other.in_service);
        earliest(&mut self.warned, other.warned);
        earliest(&mut self.draining, other.draining);
        earliest(&mut self.moved_off, other.moved_off);
        earliest(&mut self.gone, other.gone);
        self.awaited &= other.awaited && self.draining.is_none();
        self.clear.extend(other.clear);
        for theirs in other.waiting {
            let same =
                |w: &&mut Waiting| w.hook.name == theirs.hook.name && w.hook.token == theirs.hook.token;
            if let Some(mine) = self.waiting.iter_mut().find(same) {
                mine.done = mine.done.or(theirs.done);
                mine.until = mine.until.min(theirs.until);
            } else if self.waiting.len() < MAX_HOOKS {
                self.waiting.push(theirs);
            }
        }
    }
}

/// Lives by instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lives(pub BTreeMap<InstanceId, Life>);

impl Lives {
    /// What is known of an instance.
    pub fn get(&self, id: &InstanceId) -> Option<&Life> {
        self.0.get(id)
    }

    /// Every life that is told of.
    pub fn iter(&self) -> impl Iterator<Item = (&InstanceId, &Life)> {
        self.0.iter()
    }

    /// Whether an instance is held back until its port answers.
    pub fn is_awaited(&self, id: &InstanceId) -> bool {
        self.0.get(id).is_some_and(|life| life.awaited)
    }

    pub(crate) fn get_mut(&mut self, id: &InstanceId) -> Option<&mut Life> {
        self.0.get_mut(id)
    }

    /// Takes in an event, with the lifecycle action that waits for it, if any.
    pub(crate) fn learn(
        &mut self,
        fact: &Fact,
        hook: Option<(&Hook, Timestamp)>,
        snapshot: Option<&Describe>,
        probe: bool,
        now: Timestamp,
    ) {
        let is_launch = fact.kind == FactKind::Launching;
        if fact.kind == FactKind::Rebalance && hook.is_none() {
            return; // advice changes no life
        }
        if self
            .0
            .get(&fact.instance)
            .is_some_and(|life| is_launch && life.ended_before(fact, hook.map(|h| h.0)))
        {
            self.0.remove(&fact.instance);
        }
        let serves = snapshot
            .and_then(|s| s.get(&fact.instance))
            .is_some_and(|i| matches!(i.lifecycle, Lifecycle::InService | Lifecycle::Leaving));
        let is_new = !self.0.contains_key(&fact.instance);
        let life = self.0.entry(fact.instance.clone()).or_default();
        // A launch that is told of after the instance was listed holds nothing back any more.
        let is_news = is_new || (life.in_service.is_none() && !life.has_proved() && life.draining.is_none());
        life.awaited |= is_launch && is_news && probe && !serves;
        // A late word of a launch does not end the drain that a later event began.
        life.learn(fact, now);
        if let Some((hook, until)) = hook {
            life.wait(hook.clone(), now, until);
        }
        self.bound();
    }

    /// Follows an accepted describe. `previous`: the one before, if there was one; what the first
    /// describe of all lists was in service before we came.
    pub(crate) fn follow(&mut self, describe: &Describe, previous: Option<&Describe>, policy: &GuardPolicy) {
        let before: BTreeMap<_, _> =
            previous.iter().flat_map(|p| &p.instances).map(|i| (&i.id, i.lifecycle)).collect();
        let listed: BTreeMap<_, _> = describe.instances.iter().map(|i| (&i.id, i.lifecycle)).collect();
        let at = describe.made_at;
        let newcomer = |awaited| move || Life { awaited, ..Life::default() };
        let (probe, unannounced) = (policy.probe, policy.probe && policy.probe_unannounced);
        for (&id, &lifecycle) in &listed {
            let was_serving = matches!(before.get(id), Some(Lifecycle::InService | Lifecycle::Leaving));
            let is_back = matches!(before.get(id), Some(Lifecycle::Away))
                && matches!(lifecycle, Lifecycle::Launching | Lifecycle::InService);
            let is_of_before = |life: &Life| previous.is_some_and(|p| life.is_of_before(p.made_at));
            if is_back && self.0.get(id).is_some_and(is_of_before) {
                self.0.remove(id); // it has to answer again
            }
            match lifecycle {
                Lifecycle::Launching => {
                    let life = self.0.entry(id.clone()).or_insert_with(newcomer(unannounced));
                    life.launched.get_or_insert(at);
                }
                Lifecycle::InService if previous.is_some() && !was_serving => {
                    let life = self.0.entry(id.clone()).or_insert_with(newcomer(unannounced));
                    life.in_service.get_or_insert(at);
                }
                Lifecycle::InService => {
                    if let Some(life) = self.0.get_mut(id) {
                        life.in_service.get_or_insert(at);
                    }
                }
                Lifecycle::Away => {
                    // Nobody waits for a port that is closed on purpose.
                    if let Some(life) = self.0.get_mut(id).filter(|l| !l.has_open()) {
                        (life.answered, life.given_up, life.in_service) = (None, None, None);
                        life.awaited = false;
                    }
                }
                Lifecycle::Leaving | Lifecycle::Unknown => {}
            }
            if !probe && let Some(life) = self.0.get_mut(id) {
                life.awaited = false;
            }
        }
        for (id, life) in &mut self.0 {
            let is_listed = listed.contains_key(id);
            if !is_listed && life.ends_unlisted(at, before.contains_key(id)) {
                life.gone = Some(at);
                for waiting in life.waiting.iter_mut().filter(|w| w.done.is_none()) {
                    waiting.done = Some((at, HookEnd::Gone));
                }
            } else if is_listed {
                life.gone = None;
            }
        }
        self.bound();
    }

    /// Notes which members of a new or confirmed roster are left, and in which revisions.
    pub(crate) fn mark(&mut self, roster: &Roster, now: Timestamp) {
        for member in roster.members().iter().filter(|m| m.state == MemberState::Draining) {
            self.0.entry(member.instance_id.clone()).or_default().leave(now);
        }
        let sendable: BTreeSet<&InstanceId> = roster.sendable().map(|m| &m.instance_id).collect();
        let states: BTreeMap<_, _> = roster.members().iter().map(|m| (&m.instance_id, m.state)).collect();
        for (id, life) in self.0.iter_mut().filter(|(_, life)| life.is_leaving()) {
            if states.get(id).is_some_and(|state| *state != MemberState::Draining) {
                // The event was wrong, or long ago: it serves again.
                (life.draining, life.moved_off) = (None, None);
                life.clear.clear();
            } else if sendable.contains(id) {
                life.clear.clear();
            } else {
                life.clear.insert(roster.revision());
                while life.clear.len() > MAX_CLEAR {
                    life.clear.pop_first();
                }
            }
        }
    }

    /// Joins what another store knows.
    pub(crate) fn join(&mut self, other: Self) {
        for (id, theirs) in other.0 {
            match self.0.get_mut(&id) {
                Some(mine) => mine.join(theirs),
                None => drop(self.0.insert(id, theirs)),
            }
        }
        self.bound();
    }

    /// Keeps the tale bounded: of those that are gone the latest, of all others the ones that matter.
    fn bound(&mut self) {
        let mut gone: Vec<(Timestamp, InstanceId)> =
            self.0.iter().filter_map(|(id, life)| Some((life.gone?, id.clone()))).collect();
        if gone.len() > MAX_GONE {
            gone.sort();
            for (_, id) in &gone[..gone.len() - MAX_GONE] {
                self.0.remove(id);
            }
        }
        let excess = self.0.len().saturating_sub(MAX_LIVES);
        if excess > 0 {
            let matters = |life: &Life| (life.has_open(), life.is_leaving() || life.awaited);
            let mut all: Vec<_> = self.0.iter().map(|(id, life)| (matters(life), id.clone())).collect();
            all.select_nth_unstable(excess - 1);
            for (_, id) in &all[..excess] {
                self.0.remove(id);
            }
        }
    }
}
