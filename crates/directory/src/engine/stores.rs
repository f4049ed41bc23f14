//! The stores of one engine: always the disk, and with Redis a record that replicas share.
//!
//! With a shared store a change is compare-and-set there first and published after, so that replicas
//! agree. While the shared store is lost the replica goes its own way; afterwards the two are joined by
//! [`FleetState::merge`]. The disk copy follows behind, and never holds a roster up.

mod disk;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pikepole_fleet::{AlertKind, FleetState, Outcome, Verdict};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Counters;
use super::fleet::Held;
use crate::clock::Clock;
use crate::store::{SaveError, Store, StoreError, Stored};

/// How often a change tries again when another replica was faster.
const TRIES: u32 = 20;
/// Records put aside that are remembered at once.
const MAX_QUARANTINED: usize = 100;

/// The stores, and what is wrong with them.
#[derive(Default)]
pub struct Stores {
    disk: Option<Arc<dyn Store>>,
    shared: Option<Arc<dyn Store>>,
    #[cfg(feature = "redis")]
    replicas: Option<super::replicas::Replicas>,
    disk_error: Mutex<Option<String>>,
    shared_error: Mutex<Option<String>>,
    shared_is_down: AtomicBool,
    shared_lost: Notify,
    disk_rests_until: Mutex<Option<Instant>>,
    quarantined: Mutex<Vec<Quarantined>>,
}

#[derive(Debug, Clone)]
struct Quarantined {
    kept_at: String,
    /// A file is a problem until somebody has looked at it and taken it away.
    is_file: bool,
    detail: String,
}

impl Stores {
    /// The disk alone. `None`: it could not be opened, for this reason; the directory serves all the same.
    pub fn on_disk(disk: Result<Arc<dyn Store>, String>) -> Self {
        let mut stores = Self::default();
        match disk {
            Ok(disk) => stores.disk = Some(disk),
            Err(why) => stores.disk_error = Mutex::new(Some(why)),
        }
        stores
    }

    /// Adds Redis.
    #[cfg(feature = "redis")]
    pub fn with_redis(
        mut self,
        redis: Arc<crate::store::redis::RedisStore>,
        mirror: bool,
        times: super::ReplicaTimes,
    ) -> Self {
        self.shared = Some(Arc::clone(&redis) as Arc<dyn Store>);
        self.replicas = Some(super::replicas::Replicas::new(redis, mirror, times));
        self
    }

    #[cfg(feature = "redis")]
    pub(super) fn replicas(&self) -> Option<&super::replicas::Replicas> {
        self.replicas.as_ref()
    }

    /// What is wrong now: the kind, what it is about, a sentence.
    pub(crate) fn problems(&self) -> Vec<(AlertKind, String, String)> {
        let text = |m: &Mutex<Option<String>>| m.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut problems = Vec::new();
        if let Some(why) = text(&self.disk_error) {
            let detail = format!("{why}; rosters are served from memory and would not survive a restart");
            problems.push((AlertKind::StoreFailing, "disk".into(), detail));
        }
        if let Some(why) = text(&self.shared_error) {
            let detail = format!("{why}; this replica asks the sources itself until Redis is back");
            problems.push((AlertKind::StoreFailing, "redis".into(), detail));
        }
        let mut quarantined = self.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
        quarantined.retain(|q| !q.is_file || Path::new(&q.kept_at).exists());
        for q in quarantined.iter() {
            let detail = format!("{}; look at it, then delete it", q.detail);
            problems.push((AlertKind::StoreQuarantined, q.kept_at.clone(), detail));
        }
        problems
    }

    /// Applies a change to a fleet's state and keeps it in the shared store, if there is one.
    pub(super) async fn change(
        &self,
        held: &mut Held,
        change: &mut (dyn FnMut(&mut FleetState) -> Outcome + Send),
        clock: &Clock,
        counters: &Counters,
    ) -> Outcome {
        let mut outcome = Outcome { verdict: Verdict::Stale, change: None };
        for _ in 0..TRIES {
            let mut next = held.state.clone();
            outcome = change(&mut next);
            if next == held.state && !held.diverged {
                return outcome;
            }
            match self.share(held, next, counters).await {
                Shared::Done => return outcome,
                Shared::Conflict => self.catch_up(held, clock).await,
            }
        }
        // Others write faster than we read: keep it here, the next sync joins the two.
        change(&mut held.state);
        held.diverged = true;
        outcome
    }

    /// Whether what is held outlives this process: in the shared store, if there is one, or on the disk.
    pub(super) fn has_kept(&self, held: &Held) -> bool {
        if self.shared.is_some() { !held.diverged } else { self.is_on_disk(held) }
    }

    /// Writes `next` to the shared store and makes it the state. Without one, it just becomes the state.
    async fn share(&self, held: &mut Held, next: FleetState, counters: &Counters) -> Shared {
        let Some(shared) = &self.shared else {
            held.state = next;
            return Shared::Done;
        };
        if self.shared_is_down.load(Ordering::Acquire) {
            held.state = next;
            held.diverged = true;
            return Shared::Done;
        }
        match shared.save(&next, held.shared).await {
            Ok(version) => {
                held.shared = Some(version);
                held.diverged = false;
                // Before anything is waited for: a caller that gives up must not leave an older state
                // under this version, or the next change would undo this one.
                held.state = next;
                #[cfg(feature = "redis")]
                if let Some(replicas) = &self.replicas {
                    replicas.changed(&held.state, version, &held.group).await;
                }
                return Shared::Done;
            }
            Err(SaveError::Conflict) => return Shared::Conflict,
            Err(SaveError::Store(error @ StoreError::Damaged { .. })) => {
                self.note_damage(&error, false);
                return Shared::Conflict;
            }
            Err(SaveError::Store(error)) => {
                counters.store_failures.fetch_add(1, Ordering::Relaxed);
                self.shared_failed(&error);
                held.diverged = true;
            }
        }
        held.state = next;
        Shared::Done
    }

    /// Reads the shared record and joins it into what is held.
    async fn catch_up(&self, held: &mut Held, clock: &Clock) {
        let Some(shared) = &self.shared else { return };
        match shared.load(&held.state.fleet).await {
            Ok(stored) => Self::adopt(held, stored, clock),
            Err(error) => {
                if matches!(error, StoreError::Damaged { .. }) {
                    self.note_damage(&error, false);
                    held.shared = None;
                } else {
                    self.shared_failed(&error);
                }
                held.diverged = true;
            }
        }
    }

    fn adopt(held: &mut Held, stored: Option<Stored>, clock: &Clock) {
        match stored {
            Some(stored) => {
                held.shared = Some(stored.version);
                if held.diverged {
                    held.state.merge(&stored.state, clock.now());
                } else {
                    held.state.adopt(&stored.state, clock.now());
                }
                held.diverged = held.state != stored.state;
            }
            // Redis was restarted empty: what is held here is the best there is.
            None => {
                held.shared = None;
                held.diverged = knows_something(&held.state);
            }
        }
    }

    /// Brings a fleet in line with its shared record: takes what is newer there, gives what is newer here.
    #[cfg(feature = "redis")]
    pub(super) async fn sync(&self, held: &mut Held, clock: &Clock, counters: &Counters) {
        self.catch_up(held, clock).await;
        for _ in 0..TRIES {
            if !held.diverged || self.shared_is_down.load(Ordering::Acquire) {
                return;
            }
            match self.share(held, held.state.clone(), counters).await {
                Shared::Done => return,
                Shared::Conflict => self.catch_up(held, clock).await,
            }
        }
    }

    /// Loads what the disk and the shared store remember.
    pub(super) async fn load(&self, held: &mut Held, clock: &Clock) {
        self.load_from_disk(held).await;
        if self.shared.is_some() {
            held.diverged = knows_something(&held.state);
            if !self.shared_is_down.load(Ordering::Acquire) {
                self.catch_up(held, clock).await;
            }
        }
    }

    fn note_damage(&self, error: &StoreError, is_file: bool) {
        if let StoreError::Damaged { kept_at, .. } = error {
            tracing::error!(%error, "a stored record was put aside");
            let entry = Quarantined { kept_at: kept_at.clone(), is_file, detail: error.to_string() };
            let mut all = self.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|q| q.kept_at != entry.kept_at);
            all.push(entry);
            let too_many = all.len().saturating_sub(MAX_QUARANTINED);
            all.drain(..too_many);
        }
    }

    /// An operation on the shared store failed: nobody tries another one before the lease was tried.
    pub(super) fn shared_failed(&self, error: &StoreError) {
        self.shared_down(error);
        self.shared_lost.notify_one();
    }

    fn shared_down(&self, error: &StoreError) {
        self.shared_is_down.store(true, Ordering::Release);
        if set(&self.shared_error, Some(error.to_string())) {
            tracing::error!(%error, "redis lost; this replica goes on by itself");
        }
    }

    /// Whether the shared store is lost, as far as is known.
    #[cfg(feature = "redis")]
    pub(super) fn shared_is_down(&self) -> bool {
        self.shared_is_down.load(Ordering::Acquire)
    }

    /// The shared store answered again, or did not.
    #[cfg(feature = "redis")]
    pub(super) fn shared_is(&self, state: Result<(), &StoreError>) {
        match state {
            Ok(()) => {
                self.shared_is_down.store(false, Ordering::Release);
                if set(&self.shared_error, None) {
                    tracing::info!("redis is back");
                }
            }
            Err(error) => self.shared_down(error),
        }
    }

    /// Waits until an operation on the shared store failed. Cancel-safe.
    #[cfg(feature = "redis")]
    pub(super) async fn lost(&self) {
        self.shared_lost.notified().await;
    }
}

enum Shared {
    Done,
    Conflict,
}

/// Whether there is anything that a shared store could lack.
fn knows_something(state: &FleetState) -> bool {
    *state != FleetState::unknown(state.fleet.clone())
}

/// Sets a trouble's text; whether that began or ended it.
fn set(trouble: &Mutex<Option<String>>, text: Option<String>) -> bool {
    let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
    let is_news = trouble.is_some() != text.is_some();
    *trouble = text;
    is_news
}
