//! Agents as stores keep them: enough to know after a restart who was there.
//!
//! Beside the records of fleets, not in them: an agent moves with every roster, and its place is written
//! behind, not compare-and-set.

use std::net::IpAddr;
use std::sync::Arc;

use pikepole_fleet::{Revision, Timestamp};
use serde::{Deserialize, Serialize};

/// Who an agent is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey {
    /// Its stable id, as it says.
    pub id: Arc<str>,
    /// The UUID of its start; empty if it sends none.
    pub start: Arc<str>,
}

/// What is known of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAgent {
    /// Who.
    pub key: AgentKey,
    /// The revision it uses.
    pub applied: Option<Revision>,
    /// Where it polls from.
    pub address: IpAddr,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// Whether its poll is open, or ended a moment ago.
    pub live: bool,
}

/// `{"id","start","applied","address","last_seen":MS,"live"}`; what is absent, empty or false is left out.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentForm {
    id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    applied: Option<u64>,
    address: IpAddr,
    last_seen: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    live: bool,
}

impl From<&KnownAgent> for AgentForm {
    fn from(agent: &KnownAgent) -> Self {
        Self {
            id: agent.key.id.to_string(),
            start: agent.key.start.to_string(),
            applied: agent.applied.map(Revision::get),
            address: agent.address,
            last_seen: agent.last_seen.as_millis(),
            live: agent.live,
        }
    }
}

impl From<AgentForm> for KnownAgent {
    fn from(form: AgentForm) -> Self {
        Self {
            key: AgentKey { id: form.id.into(), start: form.start.into() },
            applied: form.applied.map(Revision::new),
            address: form.address,
            last_seen: Timestamp::from_millis(form.last_seen),
            live: form.live,
        }
    }
}
