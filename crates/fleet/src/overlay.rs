//! The overlay: what verified events say about single instances, on top of the snapshot.
//!
//! An entry only ever remembers the latest time of each kind of event, so that duplicates and any
//! order of delivery end in the same entry.

use std::collections::{BTreeMap, BTreeSet};

use crate::life::Lives;
use crate::limits::{DYING_DOUBT, MAX_OVERLAY, REBALANCE_TTL};
use crate::name::InstanceId;
use crate::roster::{Member, MemberState};
use crate::snapshot::{Describe, Lifecycle};
use crate::time::Timestamp;

/// What an event says about one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactKind {
    /// A launch hook or `Launch Successful` named it: it is alive, whatever was said before.
    Launching,
    /// A terminate hook or `Terminate Successful`: it is going away.
    Terminating,
    /// An EC2 spot interruption warning: it is going away within two minutes.
    SpotInterruption,
    /// An EC2 rebalance recommendation: it may go away.
    Rebalance,
}

impl FactKind {
    /// The word used in causes and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "launch event",
            Self::Terminating => "terminate event",
            Self::SpotInterruption => "spot interruption warning",
            Self::Rebalance => "rebalance recommendation",
        }
    }
}

/// One verified statement about one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// About whom.
    pub instance: InstanceId,
    /// What.
    pub kind: FactKind,
    /// When the event happened, by the sender's clock; never later than its receipt.
    pub at: Timestamp,
}

/// The latest event of each kind about one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// The latest terminate or spot event.
    pub dying: Option<Timestamp>,
    /// The latest launch event.
    pub launched: Option<Timestamp>,
    /// The latest rebalance recommendation.
    pub advised: Option<Timestamp>,
}

impl Entry {
    fn is_dying(&self) -> bool {
        self.dying.is_some() && self.dying >= self.launched
    }

    fn is_advised(&self) -> bool {
        self.advised.is_some() && self.advised >= self.launched
    }

    fn latest(&self) -> Option<Timestamp> {
        self.dying.max(self.launched).max(self.advised)
    }

    /// What a describe made at `made_at` that still lists the instance leaves of this entry.
    fn after(self, made_at: Timestamp, lifecycle: Lifecycle) -> Option<Self> {
        let in_service = lifecycle == Lifecycle::InService;
        let doubted = |t: &Timestamp| in_service && made_at.since(*t) >= DYING_DOUBT;
        let kept = Self {
            dying: self.dying.filter(|t| !doubted(t)),
            launched: self.launched.filter(|t| !doubted(t)),
            advised: self.advised.filter(|t| made_at.since(*t) < REBALANCE_TTL),
        };
        kept.latest().map(|_| kept)
    }
}

/// Entries by instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlay {
    /// What is known of each instance.
    pub entries: BTreeMap<InstanceId, Entry>,
}

impl Overlay {
    /// Whether verified events say that this instance is going away.
    pub fn is_dying(&self, id: &InstanceId) -> bool {
        self.entries.get(id).is_some_and(Entry::is_dying)
    }

    /// Takes in a fact, however old: a verified word of a death counts at once. The next describe settles
    /// what is long disproved, so an old event that comes again is wrong for one reconcile at the most.
    pub(crate) fn learn(&mut self, fact: &Fact) {
        let entry = self.entries.entry(fact.instance.clone()).or_default();
        let slot = match fact.kind {
            FactKind::Launching => &mut entry.launched,
            FactKind::Terminating | FactKind::SpotInterruption => &mut entry.dying,
            FactKind::Rebalance => &mut entry.advised,
        };
        *slot = (*slot).max(Some(fact.at));
        self.bound();
    }

    /// Forgets what an accepted describe has settled.
    pub(crate) fn settle(&mut self, describe: &Describe) {
        let listed: BTreeMap<_, _> = describe.instances.iter().map(|i| (&i.id, i.lifecycle)).collect();
        self.entries = std::mem::take(&mut self.entries)
            .into_iter()
            .filter_map(|(id, entry)| {
                let left = match listed.get(&id) {
                    Some(&lifecycle) => entry.after(describe.made_at, lifecycle),
                    None => Some(entry).filter(|e| e.latest() >= Some(describe.made_at)),
                };
                left.map(|entry| (id, entry))
            })
            .collect();
    }

    /// Adds what another overlay knows.
    pub(crate) fn join(&mut self, other: Self) {
        for (id, entry) in other.entries {
            let joined = self.entries.entry(id).or_default();
            joined.dying = joined.dying.max(entry.dying);
            joined.launched = joined.launched.max(entry.launched);
            joined.advised = joined.advised.max(entry.advised);
        }
        self.bound();
    }

    /// The members that a snapshot and this overlay make together, without those that are awaited.
    pub(crate) fn members(&self, snapshot: &Describe, lives: &Lives) -> Vec<Member> {
        self.list(snapshot, lives, None)
    }

    /// The same with the awaited ones in the last row: better than nobody at all.
    pub(crate) fn members_with_awaited(&self, snapshot: &Describe, lives: &Lives) -> Vec<Member> {
        self.list(snapshot, lives, Some(MemberState::LastResort))
    }

    fn list(&self, snapshot: &Describe, lives: &Lives, awaited: Option<MemberState>) -> Vec<Member> {
        let last_row = self.last_row(snapshot, lives);
        let state_of = |id: &InstanceId, lifecycle| match lifecycle {
            Lifecycle::InService if self.is_dying(id) => Some(MemberState::Draining),
            Lifecycle::InService if lives.is_awaited(id) => awaited,
            Lifecycle::InService if last_row.contains(id) => Some(MemberState::LastResort),
            Lifecycle::InService => Some(MemberState::Active),
            Lifecycle::Leaving => Some(MemberState::Draining),
            Lifecycle::Launching | Lifecycle::Away | Lifecycle::Unknown => None,
        };
        snapshot
            .instances
            .iter()
            .filter_map(|i| {
                Some(Member {
                    instance_id: i.id.clone(),
                    address: i.address?,
                    zone: i.zone.clone(),
                    state: state_of(&i.id, i.lifecycle)?,
                })
            })
            .collect()
    }

    /// The advised members, oldest advice first, at most half of those that could serve: rebalance
    /// recommendations hit whole pools, and the survivors would drown.
    fn last_row<'a>(&self, snapshot: &'a Describe, lives: &Lives) -> BTreeSet<&'a InstanceId> {
        let serves = |id: &&InstanceId| !self.is_dying(id) && !lives.is_awaited(id);
        let serving: Vec<&InstanceId> = snapshot.routable().map(|i| &i.id).filter(serves).collect();
        let mut advised: Vec<(Option<Timestamp>, &InstanceId)> = serving
            .iter()
            .filter_map(|id| self.entries.get(*id).filter(|e| e.is_advised()).map(|e| (e.advised, *id)))
            .collect();
        advised.sort();
        advised.into_iter().take(serving.len() / 2).map(|(_, id)| id).collect()
    }

    /// Keeps the overlay bounded: advice goes before news of death, old before new.
    fn bound(&mut self) {
        let excess = self.entries.len().saturating_sub(MAX_OVERLAY);
        if excess == 0 {
            return;
        }
        let mut all: Vec<_> =
            self.entries.iter().map(|(id, e)| (e.is_dying(), e.latest(), id.clone())).collect();
        all.select_nth_unstable(excess - 1);
        for (.., id) in &all[..excess] {
            self.entries.remove(id);
        }
    }
}
