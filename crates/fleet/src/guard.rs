//! The guard: which describes are believed at once, which only after they repeat themselves, and
//! which never.
//!
//! A removal is *proven* if a verified event says the instance is dying, if the describe itself lists
//! it in another state, or if EC2 says it is gone. A falling `DesiredCapacity` explains as many
//! removals as it fell. What is left unproven must be a small part of the fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::limits::{EMPTY_READS, HOLD_MIN_NODES, HOLD_READS, HOLD_TIME};
use crate::name::InstanceId;
use crate::overlay::Overlay;
use crate::snapshot::{Describe, Lifecycle};
use crate::time::Timestamp;

/// `[guard]` of the configuration, and whether newcomers have to prove themselves (`[probe]`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuardPolicy {
    /// The share of a fleet, 0 to 1, that may go without proof.
    pub max_shrink: f64,
    /// Report what would be held up, but let it through.
    pub observe_only: bool,
    /// A collector that was seen launching is not listed before its port answers.
    pub probe: bool,
    /// Neither is one that is in service out of nowhere. Only where others of its fleet answer us: if
    /// nobody does, a silent port says nothing about the collector.
    pub probe_unannounced: bool,
}

impl Default for GuardPolicy {
    fn default() -> Self {
        Self { max_shrink: 0.5, observe_only: false, probe: false, probe_unannounced: false }
    }
}

/// What EC2 says about instances that a describe no longer lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    /// `shutting-down` or `terminated`: proof at once.
    pub gone: BTreeSet<InstanceId>,
    /// Not known to EC2: proof if a second read says so too (EC2 is eventually consistent).
    pub not_found: BTreeSet<InstanceId>,
}

/// Why a describe is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// No instance at all, although the source wants some.
    EmptyDespiteDesired {
        /// How many it wants.
        desired: u32,
    },
    /// Instances are in service, but not one has an address.
    NoAddress {
        /// How many are in service.
        in_service: usize,
    },
    /// Nothing in service any more, and no proof that those who were are gone.
    NoneLeft {
        /// How many members went without proof.
        unproven: usize,
    },
    /// An empty fleet, as intended (`DesiredCapacity` 0): believed on the second read.
    EmptyOnPurpose,
    /// Too many members went at once without proof.
    Shrink {
        /// Members before.
        from: usize,
        /// Members after.
        to: usize,
        /// Of those that went, how many without proof.
        unproven: usize,
    },
}

impl Doubt {
    /// Whether repetition ends this doubt: after how many reads, over how long.
    fn exit(&self) -> Option<(u32, Duration)> {
        match self {
            Self::EmptyDespiteDesired { .. } | Self::NoAddress { .. } | Self::NoneLeft { .. } => None,
            Self::EmptyOnPurpose => Some((EMPTY_READS, Duration::ZERO)),
            Self::Shrink { .. } => Some((HOLD_READS, HOLD_TIME)),
        }
    }

    fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyDespiteDesired { desired } => {
                write!(f, "the source lists no instance but wants {desired}")
            }
            Self::NoAddress { in_service } => {
                write!(f, "{in_service} instances are in service but none has an address")
            }
            Self::NoneLeft { unproven } => {
                write!(f, "no instance is in service any more, {unproven} of them gone without proof")
            }
            Self::EmptyOnPurpose => write!(f, "the fleet was emptied on purpose; waiting for a second read"),
            Self::Shrink { from, to, unproven } => {
                write!(f, "the fleet would shrink from {from} to {to}, {unproven} gone without proof")
            }
        }
    }
}

/// A doubt that has lasted for some reads. While it lasts, the last good roster is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Why.
    pub doubt: Doubt,
    /// Since when.
    pub since: Timestamp,
    /// How many reads in a row have told the same story.
    pub reads: u32,
    /// Instances that EC2 did not know at the last read.
    pub not_found: BTreeSet<InstanceId>,
}

impl Hold {
    /// One more read with this doubt. A clock that stepped back starts the wait anew.
    pub(crate) fn extend(previous: Option<Self>, doubt: Doubt, proof: &Proof, now: Timestamp) -> Self {
        let (since, reads) = match previous {
            Some(hold) if hold.doubt.same_kind(&doubt) && hold.since <= now => (hold.since, hold.reads),
            _ => (now, 0),
        };
        Self { doubt, since, reads: reads.saturating_add(1), not_found: proof.not_found.clone() }
    }

    /// Whether the story has been told often and long enough to be believed.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.doubt.exit().is_some_and(|(reads, span)| self.reads >= reads && now.since(self.since) >= span)
    }
}

/// The instances whose absence from `next` nothing explains yet.
pub(crate) fn unproven(
    previous: &Describe,
    next: &Describe,
    overlay: &Overlay,
    proof: &Proof,
    hold: Option<&Hold>,
) -> Vec<InstanceId> {
    let not_found_twice =
        |id: &InstanceId| proof.not_found.contains(id) && hold.is_some_and(|h| h.not_found.contains(id));
    let listed: BTreeMap<&InstanceId, Lifecycle> =
        next.instances.iter().map(|i| (&i.id, i.lifecycle)).collect();
    previous
        .routable()
        .map(|i| &i.id)
        .filter(|id| listed.get(id).is_none_or(|lifecycle| *lifecycle == Lifecycle::Unknown))
        .filter(|id| !overlay.is_dying(id) && !proof.gone.contains(*id) && !not_found_twice(id))
        .cloned()
        .collect()
}

/// Doubts a describe, or does not.
pub(crate) fn judge(
    previous: Option<&Describe>,
    next: &Describe,
    unproven: usize,
    policy: &GuardPolicy,
) -> Option<Doubt> {
    let in_service = next.instances.iter().filter(|i| i.lifecycle == Lifecycle::InService).count();
    let to = next.routable().count();
    match next.desired {
        Some(desired) if desired > 0 && next.instances.is_empty() => {
            return Some(Doubt::EmptyDespiteDesired { desired });
        }
        _ if in_service > 0 && to == 0 => return Some(Doubt::NoAddress { in_service }),
        _ => {}
    }
    let from = previous.map_or(0, |p| p.routable().count());
    if from == 0 {
        return None;
    }
    if to == 0 && unproven > 0 {
        return Some(match next.desired {
            Some(0) => Doubt::EmptyOnPurpose,
            Some(_) => Doubt::NoneLeft { unproven },
            None => Doubt::Shrink { from, to, unproven },
        });
    }
    if next.desired.is_some_and(|desired| to >= desired as usize && to > 0) {
        return None; // the source has all it wants: nothing is missing from its answer
    }
    let fell_by = previous.and_then(|p| p.desired).zip(next.desired).map_or(0, |(a, b)| a.saturating_sub(b));
    let unexplained = unproven.saturating_sub(fell_by as usize).min(from.saturating_sub(to));
    let allowed = policy.max_shrink * from as f64;
    (unexplained >= HOLD_MIN_NODES && unexplained as f64 > allowed).then_some(Doubt::Shrink {
        from,
        to,
        unproven,
    })
}
