//! Where the state of fleets outlives a process. Both stores keep one record a fleet, replaced as a
//! whole, and only if it is still the version that the writer has seen.
//!
//! Invariant: a store that fails changes no roster. What it cannot read it puts aside and reports.

mod agent;
pub mod file;
mod record;
#[cfg(feature = "redis")]
pub mod redis;

#[cfg(test)]
mod conformance;

use async_trait::async_trait;
use pikepole_fleet::{FleetName, FleetState};

pub use agent::{AgentKey, KnownAgent};

/// Which write of a fleet's record this is. Each write's is greater than the one before. A store that can
/// lose its records does not begin again at 1, so that nobody mistakes a new record for one of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// A record as it stands in a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Which write this is.
    pub version: Version,
    /// The state that was written.
    pub state: FleetState,
}

/// Why a store could not do its work. The text is for people and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, read or written.
    #[error("{0}")]
    Unavailable(String),
    /// Another process works on it; two would overwrite each other.
    #[error("{0}")]
    InUse(String),
    /// What was stored is torn or foreign. It has been moved to `kept_at`; reading again finds nothing.
    #[error("{what}: {why}; it was moved to {kept_at}")]
    Damaged {
        /// The file or key.
        what: String,
        /// What is wrong with it.
        why: String,
        /// Where it is now.
        kept_at: String,
    },
}

/// Why a record was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Somebody else wrote since: load, apply again, save again.
    #[error("another writer was faster")]
    Conflict,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One record a fleet, with compare-and-set.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a fleet's record; `None` if there is none.
    async fn load(&self, fleet: &FleetName) -> Result<Option<Stored>, StoreError>;

    /// Replaces a fleet's record if its version still is `expected` (`None`: there is no record).
    /// When this returns, the record outlives the process.
    async fn save(&self, state: &FleetState, expected: Option<Version>) -> Result<Version, SaveError>;

    /// Reads the agents that followed a fleet. A store that keeps none says so with an empty list.
    async fn load_agents(&self, _fleet: &FleetName) -> Result<Vec<KnownAgent>, StoreError> {
        Ok(Vec::new())
    }

    /// Replaces the agents of a fleet. When this returns, they outlive the process.
    async fn save_agents(&self, _fleet: &FleetName, _agents: &[KnownAgent]) -> Result<(), StoreError> {
        Ok(())
    }
}
