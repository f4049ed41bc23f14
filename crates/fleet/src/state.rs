//! The state of one fleet and the one function that moves it: `apply(input, now)`.
//!
//! Invariant: a failure is not an input. What a source could not say changes nothing here, so a
//! roster can only change because somebody said something that was believed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::guard::{self, Doubt, GuardPolicy, Hold, Proof};
use crate::hook::Hook;
use crate::life::{HookEnd, Lives};
use crate::limits::{MAX_CHANGES, MAX_MEMBERS};
use crate::name::{FleetName, HookName, InstanceId};
use crate::overlay::{Fact, FactKind, Overlay};
use crate::roster::{Member, MemberState, Revision, Roster};
use crate::snapshot::Describe;
use crate::time::Timestamp;

/// All that is remembered of a fleet. A store keeps it whole; replicas share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetState {
    /// Whose state this is.
    pub fleet: FleetName,
    /// The last describe that was believed.
    pub snapshot: Option<Describe>,
    /// What events say on top of it.
    pub overlay: Overlay,
    /// What happened to the instances that are on their way in or out.
    pub lives: Lives,
    /// Why the latest describe is not believed yet.
    pub hold: Option<Hold>,
    /// The source's definite word that it has no such fleet.
    pub missing: bool,
    /// The published roster. `None`: nothing is known yet, which is not the same as empty.
    pub roster: Option<Arc<Roster>>,
    /// When the source last confirmed the roster.
    pub confirmed_at: Option<Timestamp>,
    /// The last changes, oldest first.
    pub changes: VecDeque<Change>,
}

/// What can happen to a fleet.
#[derive(Debug, Clone)]
pub enum Input {
    /// The source gave a whole answer; `proof` is what EC2 said about [`FleetState::suspects`].
    Described {
        /// The answer.
        describe: Describe,
        /// More evidence.
        proof: Proof,
    },
    /// The source is sure that it has no such fleet.
    DoesNotExist,
    /// A verified event.
    Learned(Fact),
    /// A verified event with a lifecycle action that waits, and when it is completed at the latest.
    HookWaits {
        /// The event.
        fact: Fact,
        /// The action.
        hook: Hook,
        /// The deadline.
        until: Timestamp,
    },
    /// The hook's own time is shorter than we thought: its actions end earlier.
    HookEndsBy {
        /// The instance that waits.
        instance: InstanceId,
        /// The hook.
        hook: HookName,
        /// The new deadline; a later one than before changes nothing.
        until: Timestamp,
    },
    /// A lifecycle action has ended.
    HookDone {
        /// The instance that waited.
        instance: InstanceId,
        /// The action.
        hook: Hook,
        /// How.
        end: HookEnd,
    },
    /// A newcomer's port answered, or not in the time there is, or nobody asks any more.
    Probed {
        /// The newcomer.
        instance: InstanceId,
        /// What came of it.
        result: Probed,
    },
    /// Every agent has moved off a dying collector.
    MovedOff(InstanceId),
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// The port answered.
    Answered,
    /// It did not, in the time there is.
    GaveUp,
    /// It did not, but no other collector answers us either: that says something about us.
    Waived,
}

/// What became of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was believed.
    Accepted,
    /// It was made before what is already known, and ignored.
    Stale,
    /// It is not believed (yet); the last good roster stays.
    Held(Doubt),
    /// It would have been held, but the guard only observes.
    Observed(Doubt),
}

/// What an input did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it was believed.
    pub verdict: Verdict,
    /// The change of the roster, if there was one.
    pub change: Option<Change>,
}

/// One change of a roster, for the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// The revision it led to.
    pub revision: Revision,
    /// What brought it about.
    pub cause: Cause,
    /// The members it touched.
    pub members: Vec<MemberChange>,
}

/// What brought a change about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A describe.
    Source,
    /// A describe that was held up first, and then believed because it repeated itself.
    SourceAfterHold,
    /// An event.
    Event(FactKind),
    /// A newcomer's port answered, or is not waited for any longer.
    Probe,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::SourceAfterHold => "source, after the guard's wait",
            Self::Event(kind) => kind.as_str(),
            Self::Probe => "readiness probe",
        })
    }
}

/// How one member changed. `None` means: not in the roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberChange {
    /// Who.
    pub instance_id: InstanceId,
    /// Its address after the change, or the last one it had.
    pub address: SocketAddr,
    /// Its state before.
    pub from: Option<MemberState>,
    /// Its state after.
    pub to: Option<MemberState>,
}

impl FleetState {
    /// A fleet of which nothing is known yet.
    pub fn unknown(fleet: FleetName) -> Self {
        Self {
            fleet,
            snapshot: None,
            overlay: Overlay::default(),
            lives: Lives::default(),
            hold: None,
            missing: false,
            roster: None,
            confirmed_at: None,
            changes: VecDeque::new(),
        }
    }

    /// Whether the source has ever answered: with data, or with a definite "does not exist".
    pub fn is_answered(&self) -> bool {
        self.roster.is_some() || self.missing
    }

    /// The instances whose absence would make the guard hold `describe`: worth asking EC2 about, and
    /// the answer goes into [`Input::Described`].
    pub fn suspects(&self, describe: &Describe, policy: &GuardPolicy) -> Vec<InstanceId> {
        let Some(previous) = &self.snapshot else { return Vec::new() };
        let unproven =
            guard::unproven(previous, describe, &self.overlay, &Proof::default(), self.hold.as_ref());
        match guard::judge(Some(previous), describe, unproven.len(), policy) {
            Some(Doubt::Shrink { .. } | Doubt::NoneLeft { .. } | Doubt::EmptyOnPurpose) => unproven,
            Some(Doubt::EmptyDespiteDesired { .. } | Doubt::NoAddress { .. }) | None => Vec::new(),
        }
    }

    /// Takes in one input. The only way a fleet's state ever changes.
    pub fn apply(&mut self, input: Input, policy: &GuardPolicy, now: Timestamp) -> Outcome {
        match input {
            Input::Described { describe, proof } => self.described(describe, &proof, policy, now),
            Input::DoesNotExist => {
                self.missing = true;
                Outcome { verdict: Verdict::Accepted, change: None }
            }
            Input::Learned(fact) => self.learned(&fact, None, policy, now),
            Input::HookWaits { fact, hook, until } => self.learned(&fact, Some((&hook, until)), policy, now),
            Input::HookEndsBy { instance, hook, until } => {
                let waiting = self.lives.get_mut(&instance).into_iter().flat_map(|life| &mut life.waiting);
                waiting.filter(|w| w.hook.name == hook).for_each(|w| w.until = w.until.min(until));
                Outcome { verdict: Verdict::Accepted, change: None }
            }
            Input::HookDone { instance, hook, end } => {
                let waiting = self.lives.get_mut(&instance).into_iter().flat_map(|life| &mut life.waiting);
                waiting
                    .filter(|w| w.hook == hook && w.done.is_none())
                    .for_each(|w| w.done = Some((now, end)));
                Outcome { verdict: Verdict::Accepted, change: None }
            }
            Input::Probed { instance, result } => self.probed(&instance, result, now),
            Input::MovedOff(instance) => {
                if let Some(life) = self.lives.get_mut(&instance) {
                    life.moved_off.get_or_insert(now);
                }
                Outcome { verdict: Verdict::Accepted, change: None }
            }
        }
    }

    fn learned(
        &mut self,
        fact: &Fact,
        hook: Option<(&Hook, Timestamp)>,
        policy: &GuardPolicy,
        now: Timestamp,
    ) -> Outcome {
        self.overlay.learn(fact);
        self.lives.learn(fact, hook, self.snapshot.as_ref(), policy.probe, now);
        let change = self.publish(Cause::Event(fact.kind), now);
        Outcome { verdict: Verdict::Accepted, change }
    }

    fn probed(&mut self, instance: &InstanceId, result: Probed, now: Timestamp) -> Outcome {
        let Some(life) = self.lives.get_mut(instance) else {
            return Outcome { verdict: Verdict::Stale, change: None };
        };
        life.awaited = false;
        match result {
            Probed::Answered => life.answered = life.answered.or(Some(now)),
            Probed::GaveUp => life.given_up = life.given_up.or(Some(now)),
            Probed::Waived => {}
        }
        Outcome { verdict: Verdict::Accepted, change: self.publish(Cause::Probe, now) }
    }

    fn described(
        &mut self,
        mut describe: Describe,
        proof: &Proof,
        policy: &GuardPolicy,
        now: Timestamp,
    ) -> Outcome {
        let is_stale = |s: &Describe| describe.made_at < s.made_at && s.made_at <= now;
        if self.snapshot.as_ref().is_some_and(is_stale) {
            return Outcome { verdict: Verdict::Stale, change: None };
        }
        self.missing = false;
        describe.instances.truncate(MAX_MEMBERS);
        if let Some(previous) = &self.snapshot {
            describe.fill_from(previous);
        }
        let unproven = self.snapshot.as_ref().map_or(0, |previous| {
            guard::unproven(previous, &describe, &self.overlay, proof, self.hold.as_ref()).len()
        });
        let mut verdict = Verdict::Accepted;
        let mut cause = Cause::Source;
        if let Some(doubt) = guard::judge(self.snapshot.as_ref(), &describe, unproven, policy) {
            let hold = Hold::extend(self.hold.take(), doubt, proof, now);
            let only_observed = policy.observe_only && matches!(doubt, Doubt::Shrink { to, .. } if to > 0);
            if hold.is_over(now) {
                cause = Cause::SourceAfterHold;
            } else if only_observed {
                verdict = Verdict::Observed(doubt);
            } else {
                self.hold = Some(hold);
                return Outcome { verdict: Verdict::Held(doubt), change: None };
            }
        }
        self.hold = None;
        self.overlay.settle(&describe);
        self.lives.follow(&describe, self.snapshot.as_ref(), policy);
        self.confirmed_at = Some(describe.made_at);
        self.snapshot = Some(describe);
        let change = self.publish(cause, now);
        Outcome { verdict, change }
    }

    fn publish(&mut self, cause: Cause, now: Timestamp) -> Option<Change> {
        self.publish_above(None, cause, now)
    }

    /// Makes a new roster if the content changed, with a revision above its predecessor's and `floor`.
    fn publish_above(&mut self, floor: Option<Revision>, cause: Cause, now: Timestamp) -> Option<Change> {
        let change = self.renew_roster(floor, cause, now);
        if let Some(roster) = &self.roster {
            self.lives.mark(roster, now);
        }
        change
    }

    fn renew_roster(&mut self, floor: Option<Revision>, cause: Cause, now: Timestamp) -> Option<Change> {
        let snapshot = self.snapshot.as_ref()?;
        let revision = Revision::next(self.roster.as_ref().map(|r| r.revision()).max(floor), now);
        let before = self.roster.as_ref().map_or(&[][..], |r| r.members());
        let mut members = self.overlay.members(snapshot, &self.lives);
        if members.is_empty() && !before.is_empty() {
            // A list is not emptied because we wait for a port.
            members = self.overlay.members_with_awaited(snapshot, &self.lives);
        }
        let next = Roster::new(self.fleet.clone(), revision, now, members);
        if self.roster.is_some() && before == next.members() {
            return None;
        }
        let change = Change { at: now, revision, cause, members: diff(before, next.members()) };
        self.roster = Some(Arc::new(next));
        self.changes.push_back(change.clone());
        while self.changes.len() > MAX_CHANGES {
            self.changes.pop_front();
        }
        Some(change)
    }

    /// Joins what another store knows of this fleet into this state, after a time in which the two
    /// went separate ways: the describe made later wins, and no news of a death is forgotten.
    /// The revision grows above both unless the content is already `other`'s.
    pub fn merge(&mut self, other: &Self, now: Timestamp) -> Option<Change> {
        self.join(other, other.confirmed_at >= self.confirmed_at, now)
    }

    /// Takes over what the shared store says where the two did not knowingly part: its describe counts,
    /// whenever it was made. A store that lost its data may have been filled anew by someone who knew
    /// less, so here too no news of a death is forgotten.
    pub fn adopt(&mut self, other: &Self, now: Timestamp) -> Option<Change> {
        self.join(other, true, now)
    }

    fn join(&mut self, other: &Self, take_snapshot: bool, now: Timestamp) -> Option<Change> {
        let floor = self.roster.as_ref().map(|r| r.revision());
        let mut mine = std::mem::replace(self, other.clone());
        let take_snapshot = take_snapshot && (self.snapshot.is_some() || mine.snapshot.is_none());
        let same_snapshot = mine.snapshot == self.snapshot;
        if self.roster.is_none() {
            // There is nothing to differ from: what is known here stays what it is.
            self.roster = mine.roster;
            self.changes = mine.changes;
        }
        if take_snapshot {
            let settled = self.snapshot.as_ref().filter(|_| !same_snapshot);
            settled.into_iter().for_each(|snapshot| mine.overlay.settle(snapshot));
        } else {
            self.snapshot = mine.snapshot;
            self.hold = mine.hold;
            self.confirmed_at = mine.confirmed_at;
            self.missing = mine.missing;
            let settled = self.snapshot.as_ref().filter(|_| !same_snapshot);
            settled.into_iter().for_each(|snapshot| self.overlay.settle(snapshot));
        }
        self.overlay.join(mine.overlay);
        self.lives.join(mine.lives);
        self.publish_above(floor, Cause::Source, now)
    }
}

/// The members that differ between two lists.
fn diff(before: &[Member], after: &[Member]) -> Vec<MemberChange> {
    let old: BTreeMap<&InstanceId, &Member> = before.iter().map(|m| (&m.instance_id, m)).collect();
    let new: BTreeMap<&InstanceId, &Member> = after.iter().map(|m| (&m.instance_id, m)).collect();
    let change = |now: &Member, from: Option<&&Member>, to: Option<&Member>| MemberChange {
        instance_id: now.instance_id.clone(),
        address: now.address,
        from: from.map(|m| m.state),
        to: to.map(|m| m.state),
    };
    let gone = before.iter().filter(|m| !new.contains_key(&m.instance_id)).map(|m| change(m, Some(&m), None));
    let same =
        |m: &Member| old.get(&m.instance_id).is_some_and(|o| (o.state, o.address) == (m.state, m.address));
    let here = after.iter().filter(|m| !same(m)).map(|m| change(m, old.get(&m.instance_id), Some(m)));
    let mut changes: Vec<MemberChange> = gone.chain(here).collect();
    changes.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    changes
}

#[cfg(test)]
mod tests;
