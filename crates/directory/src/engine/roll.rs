//! Keeps the roll of agents where it outlives this process: on the disk, or in the shared store, where it
//! also tells of the agents of other replicas.
//!
//! Written behind, a fraction of a second at the most, and before an event that begins a drain counts as
//! taken in.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Fleet};
use crate::shutdown::Shutdown;

/// Between two looks for agents that moved.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Writes until the shutdown.
pub(super) async fn run(engine: Arc<Engine>, mut shutdown: Shutdown) {
    loop {
        for fleet in engine.fleets() {
            engine.keep_agents(fleet).await;
        }
        #[cfg(feature = "redis")]
        engine.hear_of_agents().await;
        tokio::select! {
            () = shutdown.wait() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    for fleet in engine.fleets() {
        engine.keep_agents(fleet).await;
    }
}

impl Engine {
    /// Writes down which agents are new, have moved or are gone.
    pub(super) async fn keep_agents(&self, fleet: &Fleet) {
        let Some(unwritten) = fleet.agents().unwritten() else { return };
        self.hooks.look();
        #[cfg(feature = "redis")]
        if let Some(replicas) = self.stores.replicas() {
            if !replicas.tell_agents(fleet, &unwritten).await {
                fleet.agents().not_written(unwritten);
            }
            return;
        }
        if !self.stores.keep_agents(fleet.config().name.clone(), &fleet.agents().list()).await {
            fleet.agents().not_written(unwritten);
        }
    }

    /// After a start: those who were there have a time to come back.
    pub(super) async fn remember_agents(&self, fleet: &Fleet) {
        #[cfg(feature = "redis")]
        if self.stores.replicas().is_some() {
            return self.hear_of_agents_of(fleet).await;
        }
        fleet.agents().remember(self.stores.load_agents(&fleet.config().name).await);
    }
}
