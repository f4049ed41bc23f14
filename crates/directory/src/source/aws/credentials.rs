//! The credentials of one source, fetched once for both APIs.
//!
//! Not a provider of its own: it keeps what the SDK's chain or an assumed role gives.
//!
//! Invariant: credentials that still work are never thrown away because new ones cannot be had.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use pikepole_fleet::Timestamp;
use tokio::sync::Mutex;

use crate::clock::Clock;

/// Credentials without an end are looked up again this often: someone may have edited the file.
const RECHECK: Duration = Duration::from_secs(300);

/// Renewed this long before their end.
const MARGIN: Duration = Duration::from_secs(300);

/// Even short-lived ones are not fetched more often than this.
const LEAST: Duration = Duration::from_secs(10);

/// Keeps credentials until they are due; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    from: Option<SharedCredentialsProvider>,
    clock: Clock,
    current: Arc<Mutex<Option<Current>>>,
}

#[derive(Debug, Clone)]
struct Current {
    credentials: Credentials,
    renew_at: Timestamp,
    end: Option<Timestamp>,
}

impl Kept {
    /// `None`: there is nobody to ask.
    pub(super) fn new(from: Option<SharedCredentialsProvider>, clock: Clock) -> Self {
        Self { from, clock, current: Arc::default() }
    }

    async fn load(&self) -> Result<Credentials, CredentialsError> {
        // Held while fetching, on purpose: one fetch serves all who wait.
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref().filter(|c| self.clock.now() < c.renew_at) {
            return Ok(current.credentials.clone());
        }
        match self.fetch().await {
            Ok(credentials) => {
                *current = Some(self.date(credentials.clone()));
                Ok(credentials)
            }
            Err(error) => match current.as_ref().filter(|c| c.end.is_none_or(|end| self.clock.now() < end)) {
                Some(old) => {
                    tracing::warn!("aws credentials cannot be renewed, using the old ones while they last");
                    Ok(old.credentials.clone())
                }
                None => Err(error),
            },
        }
    }

    async fn fetch(&self) -> Result<Credentials, CredentialsError> {
        match &self.from {
            Some(provider) => provider.provide_credentials().await,
            None => Err(CredentialsError::not_loaded_no_source()),
        }
    }

    /// Forgets what AWS has refused.
    pub(crate) async fn forget(&self) {
        *self.current.lock().await = None;
    }

    fn date(&self, credentials: Credentials) -> Current {
        let now = self.clock.now();
        let end = credentials.expiry().map(|at| {
            let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
        });
        let left = end.map_or(RECHECK, |end| end.since(now).saturating_sub(MARGIN).max(LEAST));
        Current { credentials, renew_at: now + left, end }
    }
}

impl ProvideCredentials for Kept {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    /// Gives credentials that last an hour, numbered.
    #[derive(Debug, Clone, Default)]
    struct Hourly {
        now: Arc<AtomicU64>,
        given: Arc<AtomicU64>,
        broken: Arc<AtomicBool>,
    }

    impl ProvideCredentials for Hourly {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            if self.broken.load(Ordering::SeqCst) {
                return future::ProvideCredentials::ready(Err(CredentialsError::provider_error("broken")));
            }
            let number = self.given.fetch_add(1, Ordering::SeqCst);
            let end = UNIX_EPOCH
                + Duration::from_millis(self.now.load(Ordering::SeqCst))
                + Duration::from_secs(3600);
            let credentials = Credentials::new(number.to_string(), "secret", None, Some(end), "test");
            future::ProvideCredentials::ready(Ok(credentials))
        }
    }

    #[tokio::test]
    async fn credentials_are_kept_renewed_in_time_and_outlive_a_broken_provider() {
        let hourly = Hourly::default();
        let now = Arc::clone(&hourly.now);
        let minutes = |m: u64| hourly.now.store(m * 60_000, Ordering::SeqCst);
        let clock = Clock::from_fn(move || Timestamp::from_millis(now.load(Ordering::SeqCst)));
        let kept = Kept::new(Some(SharedCredentialsProvider::new(hourly.clone())), clock);
        let key = async || kept.load().await.map(|c| c.access_key_id().to_owned()).ok();

        assert_eq!(key().await.as_deref(), Some("0"));
        minutes(54);
        assert_eq!(key().await.as_deref(), Some("0"), "kept");
        minutes(56);
        assert_eq!(key().await.as_deref(), Some("1"), "renewed before its end");
        hourly.broken.store(true, Ordering::SeqCst);
        minutes(115);
        assert_eq!(key().await.as_deref(), Some("1"), "due, but the provider is broken");
        minutes(116);
        assert_eq!(key().await, None, "at its end");
        hourly.broken.store(false, Ordering::SeqCst);
        assert_eq!(key().await.as_deref(), Some("2"));
        kept.forget().await;
        assert_eq!(key().await.as_deref(), Some("3"));
    }
}
