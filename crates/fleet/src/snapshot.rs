//! What a source said: one describe of one fleet.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::name::{InstanceId, Zone};
use crate::time::Timestamp;

/// Where an instance is in its life, as far as routing cares. AWS has more states than this and may
/// invent others at any time; only exact `InService` is routable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lifecycle {
    /// On its way in: `Pending`, `Pending:Wait`, `Pending:Proceed`.
    Launching,
    /// In service: exactly `InService`.
    InService,
    /// On its way out but still there: `Terminating…`, `Detaching`, `EnteringStandby`.
    Leaving,
    /// Neither, and AWS says so: `Standby`, the warm pool, `Terminated`, `Terminating:Retained`.
    Away,
    /// A word we do not know. Not routable, but no proof that a member is gone either.
    Unknown,
}

impl Lifecycle {
    /// Reads AWS's `LifecycleState`. Never fails.
    pub fn from_aws(word: &str) -> Self {
        match word {
            "InService" => Self::InService,
            "Pending" | "Pending:Wait" | "Pending:Proceed" => Self::Launching,
            "Terminating" | "Terminating:Wait" | "Terminating:Proceed" | "Detaching" | "EnteringStandby" => {
                Self::Leaving
            }
            "Standby" | "Terminated" | "Terminating:Retained" | "Detached" | "Quarantined" => Self::Away,
            word if word.starts_with("Warmed:") => Self::Away,
            _ => Self::Unknown,
        }
    }

    /// The word a store keeps.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Launching => "launching",
            Self::InService => "in_service",
            Self::Leaving => "leaving",
            Self::Away => "away",
            Self::Unknown => "unknown",
        }
    }
}

/// One instance in a describe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Who it is.
    pub id: InstanceId,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// Where it listens; `None` while the source cannot say yet (EC2 is eventually consistent).
    pub address: Option<SocketAddr>,
    /// Its availability zone.
    pub zone: Option<Zone>,
}

impl Instance {
    /// In service, with an address to send to.
    pub fn is_routable(&self) -> bool {
        self.lifecycle == Lifecycle::InService && self.address.is_some()
    }
}

/// A whole answer of a source about one fleet. A source never builds one from a partial answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Describe {
    /// When the source was asked (not when it answered): what changed after this is not in here.
    pub made_at: Timestamp,
    /// How many instances the source wants to have: `DesiredCapacity`. `None` if it has no such idea.
    pub desired: Option<u32>,
    /// The instances, in any order.
    pub instances: Vec<Instance>,
}

impl Describe {
    /// The instance with this id.
    pub fn get(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.iter().find(|i| i.id == *id)
    }

    /// The instances that may be sent to, before anything events say.
    pub fn routable(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|i| i.is_routable())
    }

    /// Takes addresses and zones that this describe lacks from an earlier one: they never change
    /// while an instance lives.
    pub(crate) fn fill_from(&mut self, earlier: &Self) {
        let known: BTreeMap<&InstanceId, &Instance> = earlier.instances.iter().map(|i| (&i.id, i)).collect();
        for instance in self.instances.iter_mut().filter(|i| i.address.is_none() || i.zone.is_none()) {
            if let Some(known) = known.get(&instance.id) {
                instance.address = instance.address.or(known.address);
                instance.zone = instance.zone.take().or_else(|| known.zone.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_in_service_is_routable_and_unknown_words_never_fail() {
        assert_eq!(Lifecycle::from_aws("InService"), Lifecycle::InService);
        for word in ["Warmed:Running", "Warmed:Pending:Wait", "Standby", "Terminating:Retained"] {
            assert_eq!(Lifecycle::from_aws(word), Lifecycle::Away, "{word:?}");
        }
        for word in ["inservice", "InService ", "", "Quux"] {
            assert_eq!(Lifecycle::from_aws(word), Lifecycle::Unknown, "{word:?}");
        }
        assert_eq!(Lifecycle::from_aws("Pending:Wait"), Lifecycle::Launching);
        assert_eq!(Lifecycle::from_aws("Terminating:Wait"), Lifecycle::Leaving);
    }
}
