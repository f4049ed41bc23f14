//! Keeps the roll of agents where it outlives this process: on the disk, or in the shared store, where it
//! also tells of the agents of other replicas.
//!
//! Written behind, a fraction of a second at the most, and before an event that begins a drain counts as
//! taken in.

use std::sync::Arc;
use std::time::Duration;

use super::agents::Unwritten;
use super::{Engine, Fleet};
use crate::shutdown::Shutdown;

/// Between two looks for agents that moved.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A drain waits so long for the roll to be written.
const SOON: Duration = Duration::from_secs(1);

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
    /// Writes down which agents are new, have moved or are gone. Whether all of that is in the store.
    pub(super) async fn keep_agents(&self, fleet: &Fleet) -> bool {
        let _turn = fleet.agents().telling.lock().await;
        let Some(unwritten) = fleet.agents().unwritten() else { return true };
        self.hooks.look();
        let kept = self.tell_store(fleet, &unwritten).await;
        if !kept {
            fleet.agents().not_written(unwritten);
        }
        kept
    }

    async fn tell_store(&self, fleet: &Fleet, unwritten: &Unwritten) -> bool {
        #[cfg(feature = "redis")]
        if let Some(replicas) = self.stores.replicas() {
            return replicas.tell_agents(fleet, unwritten).await;
        }
        #[cfg(not(feature = "redis"))]
        let _ = unwritten; // the disk is given the whole list
        self.stores.keep_agents(fleet.config().name.clone(), &fleet.agents().list()).await
    }

    /// The same before a drain begins: whoever is known now must be known after a crash, or the drain would
    /// not wait for them. A store that hangs is not waited for, because the collector has to be left.
    pub(super) async fn keep_agents_soon(self: &Arc<Self>, fleet: &Arc<Fleet>) -> bool {
        let (engine, fleet) = (Arc::clone(self), Arc::clone(fleet));
        // In a task of its own: half a write would be remembered as a whole one.
        let kept = tokio::spawn(async move { engine.keep_agents(&fleet).await });
        matches!(tokio::time::timeout(SOON, kept).await, Ok(Ok(true)))
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
