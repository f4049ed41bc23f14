//! The disk's part of the stores: what is written there, when, and what is done about a disk that is
//! full, gone, spoiled or silent.
//!
//! Invariant: the disk never holds a roster up, and a change waits for it a few seconds at the most.

use std::future::Future;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pikepole_fleet::{FleetName, FleetState};
use tokio::time::Instant;

use super::super::Counters;
use super::super::fleet::Held;
use super::{Stores, set};
use crate::store::{KnownAgent, SaveError, Store, StoreError, Version};

/// A roster that was only confirmed again is written to disk this often. After a restart its age may be
/// overstated by as much; never understated.
const CONFIRM_ON_DISK: Duration = Duration::from_secs(60);
/// A disk that takes longer for one record hangs.
const DISK_LIMIT: Duration = Duration::from_secs(5);
/// A disk that hung is left alone for so long: it must not hold up every change.
const DISK_REST: Duration = Duration::from_secs(30);
/// How often a record on disk that was changed under us is written again.
const DISK_TRIES: u32 = 3;

impl Stores {
    /// Loads what the disk remembers.
    pub(super) async fn load_from_disk(&self, held: &mut Held) {
        if let Some(disk) = &self.disk {
            match in_time(disk.load(&held.state.fleet)).await {
                Ok(Some(stored)) => {
                    held.local = Some(stored.version);
                    held.on_disk = Some(stored.state.clone());
                    held.state = stored.state;
                }
                Ok(None) => {}
                Err(error) => {
                    self.note_damage(&error, true);
                    if let StoreError::Unavailable(why) = &error {
                        set(&self.disk_error, Some(why.clone()));
                    }
                    tracing::error!(fleet = %held.state.fleet, %error, "stored roster not used");
                }
            }
        }
    }

    /// Writes the state to disk if it is worth it. A failure is an alert, nothing more.
    pub(in crate::engine) async fn keep_on_disk(&self, held: &mut Held, counters: &Counters) {
        let Some(disk) = &self.disk else { return };
        if held.on_disk.as_ref().is_some_and(|on_disk| !is_worth_writing(on_disk, &held.state)) {
            return;
        }
        if self.disk_rests() {
            return;
        }
        let saved = tokio::time::timeout(DISK_LIMIT, self.save_on_disk(disk.as_ref(), held)).await;
        let saved = saved.unwrap_or_else(|_| {
            self.rest_disk();
            Err(silent_disk().into())
        });
        match saved {
            Ok(version) => {
                held.local = Some(version);
                held.on_disk = Some(held.state.clone());
                set(&self.disk_error, None);
            }
            Err(error) => {
                counters.store_failures.fetch_add(1, Ordering::Relaxed);
                if set(&self.disk_error, Some(error.to_string())) {
                    tracing::error!(fleet = %held.state.fleet, %error, "roster not written to disk");
                }
            }
        }
    }

    /// Only we write here. A conflict or damage means that the file was put aside, deleted or spoiled under
    /// us, or that a write was not waited for: the record of what is held now takes its place.
    async fn save_on_disk(&self, disk: &dyn Store, held: &mut Held) -> Result<Version, SaveError> {
        let mut saved = disk.save(&held.state, held.local).await;
        for _ in 0..DISK_TRIES {
            match &saved {
                Err(SaveError::Conflict) => {}
                Err(SaveError::Store(error @ StoreError::Damaged { .. })) => self.note_damage(error, true),
                Ok(_) | Err(SaveError::Store(_)) => break,
            }
            held.local = match disk.load(&held.state.fleet).await {
                Ok(stored) => stored.map(|stored| stored.version),
                Err(error) => {
                    self.note_damage(&error, true);
                    None
                }
            };
            saved = disk.save(&held.state, held.local).await;
        }
        saved
    }

    /// Whether what is held is on the disk. A directory that was given none has nothing to lose.
    pub(super) fn is_on_disk(&self, held: &Held) -> bool {
        let is_meant = self.disk_error.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if self.disk.is_none() {
            return is_meant;
        }
        held.on_disk.as_ref().is_some_and(|disk| !is_worth_writing(disk, &held.state))
    }

    /// Replaces the agents of a fleet on the disk. Whether that worked; if there is no disk there is
    /// nothing to try again.
    pub(in crate::engine) async fn keep_agents(&self, fleet: FleetName, agents: &[KnownAgent]) -> bool {
        let Some(disk) = &self.disk else { return true };
        if self.disk_rests() {
            return false;
        }
        match tokio::time::timeout(DISK_LIMIT, disk.save_agents(&fleet, agents)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%fleet, %error, "agents not written to disk");
                self.rest_disk();
                false
            }
            Err(_) => {
                self.rest_disk();
                false
            }
        }
    }

    /// The agents that were there when the process ended.
    pub(in crate::engine) async fn load_agents(&self, fleet: &FleetName) -> Vec<KnownAgent> {
        let Some(disk) = &self.disk else { return Vec::new() };
        in_time(disk.load_agents(fleet)).await.unwrap_or_else(|error| {
            self.note_damage(&error, true);
            tracing::error!(%fleet, %error, "stored agents not used");
            Vec::new()
        })
    }

    fn disk_rests(&self) -> bool {
        let until = *self.disk_rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn rest_disk(&self) {
        let until = Some(Instant::now() + DISK_REST);
        *self.disk_rests_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

async fn in_time<T>(reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(DISK_LIMIT, reading).await.unwrap_or_else(|_| Err(silent_disk()))
}

fn silent_disk() -> StoreError {
    StoreError::Unavailable(format!("the disk did not answer within {} s", DISK_LIMIT.as_secs()))
}

/// Content is written at once; a mere confirmation now and then.
fn is_worth_writing(on_disk: &FleetState, state: &FleetState) -> bool {
    let aged = match (on_disk.confirmed_at, state.confirmed_at) {
        (Some(old), Some(new)) => new.since(old) >= CONFIRM_ON_DISK || new < old,
        (old, new) => old != new,
    };
    let content = |s: &FleetState| {
        let instances = s.snapshot.as_ref().map(|d| (d.desired, d.instances.clone()));
        (
            s.roster.clone(),
            s.overlay.clone(),
            s.lives.clone(),
            s.missing,
            s.hold.as_ref().map(|h| h.doubt),
            instances,
        )
    };
    aged || content(on_disk) != content(state)
}
