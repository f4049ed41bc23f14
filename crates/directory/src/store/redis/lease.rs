//! The lease that decides which replica acts: who describes, who completes hooks.
//!
//! Not a lock in the strict sense: a Redis that loses its data, or fails over to a copy that has not
//! seen the lease yet, may give it to a second replica while the first still counts on it.
//!
//! Invariant: as long as Redis keeps its data, two replicas never both hold `Mine` with an `until` in the
//! future. `until` counts from before Redis was asked, so it is over here before it is over there.

use std::collections::hash_map::Entry;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::{RedisStore, StoreError, script};

/// Who holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// This replica.
    Mine {
        /// Until then, unless it is renewed before.
        until: Instant,
    },
    /// Another one.
    Theirs,
}

impl RedisStore {
    /// Takes the lease if it is free, renews it if it is ours. After an error an earlier `until` still
    /// holds, and no later one.
    pub async fn try_lease(&self, name: &str, ttl: Duration) -> Result<LeaseState, StoreError> {
        let token = self.token(name);
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, MAX_TTL_MS);
        let until = Instant::now() + Duration::from_millis(millis);
        let mut lease = script::LEASE.key(self.lease_key(name));
        lease.arg(token).arg(millis);
        let mine: bool = self.link.script(&lease).await?;
        Ok(if mine { LeaseState::Mine { until } } else { LeaseState::Theirs })
    }

    /// Gives the lease back, if it is ours, so that the next replica need not wait for its end.
    pub async fn release(&self, name: &str) -> Result<(), StoreError> {
        let token = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(token) = token else { return Ok(()) };
        let mut release = script::RELEASE.key(self.lease_key(name));
        release.arg(token);
        self.link.script::<bool>(&release).await.map(drop)
    }

    /// What stands for us in a lease: new after each release, and never that of a namesake. A release
    /// that reaches a frozen Redis late must not end a lease that was taken since.
    fn token(&self, name: &str) -> String {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match tokens.entry(name.to_owned()) {
            Entry::Occupied(token) => token.get().clone(),
            Entry::Vacant(place) => {
                let token = format!("{}/{:016x}", self.replica, fastrand::u64(..));
                place.insert(token).clone()
            }
        }
    }

    fn lease_key(&self, name: &str) -> String {
        format!("{}:1:lease:{name}", self.prefix)
    }
}

/// A day: longer than any lease that is meant, and far from the end of the clock's range.
const MAX_TTL_MS: u64 = 86_400_000;
