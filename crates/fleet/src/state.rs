//! The state of one fleet and the one function that moves it: `apply(input, now)`.
//!
//! Invariant: a failure is not an input. What a source could not say changes nothing here, so a
//! roster can only change because somebody said something that was believed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::guard::{self, Doubt, GuardPolicy, Hold, Proof};
use crate::limits::{MAX_CHANGES, MAX_MEMBERS};
use crate::name::{FleetName, InstanceId};
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
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::SourceAfterHold => "source, after the guard's wait",
            Self::Event(kind) => kind.as_str(),
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
            Input::Learned(fact) => {
                self.overlay.learn(&fact, self.snapshot.as_ref());
                let change = self.publish(Cause::Event(fact.kind), now);
                Outcome { verdict: Verdict::Accepted, change }
            }
        }
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
        let snapshot = self.snapshot.as_ref()?;
        let revision = Revision::next(self.roster.as_ref().map(|r| r.revision()).max(floor), now);
        let next = Roster::new(self.fleet.clone(), revision, now, self.overlay.members(snapshot));
        let before = self.roster.as_ref().map_or(&[][..], |r| r.members());
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
