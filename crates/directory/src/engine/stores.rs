//! The stores of one engine: always the disk, and with Redis a record that replicas share.
//!
//! With a shared store a change is compare-and-set there first and published after, so that replicas
//! agree. While the shared store is lost the replica goes its own way; afterwards the two are joined by
//! [`FleetState::merge`]. The disk copy follows behind, and never holds a roster up.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pikepole_fleet::{AlertKind, FleetState, Outcome, Verdict};
use tokio::sync::Notify;

use super::Counters;
use super::fleet::Held;
use crate::clock::Clock;
use crate::store::{SaveError, Store, StoreError, Stored};

/// How often a change tries again when another replica was faster.
const TRIES: u32 = 20;
/// A roster that was only confirmed again is written to disk this often. After a restart its age may be
/// overstated by as much; never understated.
const CONFIRM_ON_DISK: Duration = Duration::from_secs(60);

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
    quarantined: Mutex<Vec<Quarantined>>,
}

#[derive(Debug, Clone)]
struct Quarantined {
    kept_at: String,
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
    pub fn with_redis(mut self, redis: Arc<crate::store::redis::RedisStore>, mirror: bool) -> Self {
        self.shared = Some(Arc::clone(&redis) as Arc<dyn Store>);
        self.replicas = Some(super::replicas::Replicas::new(redis, mirror));
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
        // A file is a problem until somebody has looked at it and taken it away.
        quarantined.retain(|q| Path::new(&q.kept_at).exists() || !q.kept_at.starts_with('/'));
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
                #[cfg(feature = "redis")]
                if let Some(replicas) = &self.replicas {
                    replicas.changed(&next, &held.group).await;
                }
            }
            Err(SaveError::Conflict) => return Shared::Conflict,
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
                    self.note_damage(&error);
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
                    held.diverged = held.state != stored.state;
                } else {
                    held.state = stored.state;
                }
            }
            // Redis was restarted empty: what is held here is the best there is.
            None => {
                held.shared = None;
                held.diverged = held.state.snapshot.is_some();
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
        if let Some(disk) = &self.disk {
            match disk.load(&held.state.fleet).await {
                Ok(Some(stored)) => {
                    held.local = Some(stored.version);
                    held.on_disk = Some(stored.state.clone());
                    held.state = stored.state;
                }
                Ok(None) => {}
                Err(error) => {
                    self.note_damage(&error);
                    if let StoreError::Unavailable(why) = &error {
                        set(&self.disk_error, Some(why.clone()));
                    }
                    tracing::error!(fleet = %held.state.fleet, %error, "stored roster not used");
                }
            }
        }
        if self.shared.is_some() {
            held.diverged = held.state.snapshot.is_some();
            if !self.shared_is_down.load(Ordering::Acquire) {
                self.catch_up(held, clock).await;
            }
        }
    }

    /// Writes the state to disk if it is worth it. A failure is an alert, nothing more.
    pub(super) async fn keep_on_disk(&self, held: &mut Held, counters: &Counters) {
        let Some(disk) = &self.disk else { return };
        if held.on_disk.as_ref().is_some_and(|on_disk| !is_worth_writing(on_disk, &held.state)) {
            return;
        }
        let mut saved = disk.save(&held.state, held.local).await;
        if matches!(saved, Err(SaveError::Conflict)) {
            // Only we write here, so the file was put aside or deleted under us: begin anew.
            held.local = disk.load(&held.state.fleet).await.ok().flatten().map(|stored| stored.version);
            saved = disk.save(&held.state, held.local).await;
        }
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

    fn note_damage(&self, error: &StoreError) {
        if let StoreError::Damaged { kept_at, .. } = error {
            let entry = Quarantined { kept_at: kept_at.clone(), detail: error.to_string() };
            self.quarantined.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        }
    }

    fn shared_failed(&self, error: &StoreError) {
        self.shared_down(error);
        self.shared_lost.notify_one();
    }

    fn shared_down(&self, error: &StoreError) {
        self.shared_is_down.store(true, Ordering::Release);
        if set(&self.shared_error, Some(error.to_string())) {
            tracing::error!(%error, "redis lost; this replica goes on by itself");
        }
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

/// Sets a trouble's text; whether that began or ended it.
fn set(trouble: &Mutex<Option<String>>, text: Option<String>) -> bool {
    let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
    let is_news = trouble.is_some() != text.is_some();
    *trouble = text;
    is_news
}

/// Content is written at once; a mere confirmation now and then.
fn is_worth_writing(on_disk: &FleetState, state: &FleetState) -> bool {
    let aged = match (on_disk.confirmed_at, state.confirmed_at) {
        (Some(old), Some(new)) => new.since(old) >= CONFIRM_ON_DISK || new < old,
        (old, new) => old != new,
    };
    let content = |s: &FleetState| {
        let instances = s.snapshot.as_ref().map(|d| (d.desired, d.instances.clone()));
        (s.roster.clone(), s.overlay.clone(), s.missing, s.hold.as_ref().map(|h| h.doubt), instances)
    };
    aged || content(on_disk) != content(state)
}
