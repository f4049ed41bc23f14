//! The wall clock as a value that is handed around, so that tests can step it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use pikepole_fleet::Timestamp;

/// Tells the wall-clock time. Durations inside the process are measured with tokio's clock instead.
#[derive(Clone)]
pub struct Clock {
    machine: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Milliseconds that this machine is ahead of the clock that counts; shared by all clones.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn system() -> Self {
        Self::from_fn(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
        })
    }

    /// A clock that a test or a simulation drives.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { machine: Arc::new(now), ahead: Arc::default() }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        let ahead = self.ahead.load(Ordering::Relaxed);
        Timestamp::from_millis(self.machine_now().as_millis().saturating_add_signed(ahead.saturating_neg()))
    }

    /// The time by this machine's own clock.
    pub fn machine_now(&self) -> Timestamp {
        (self.machine)()
    }

    /// How many milliseconds this machine counts as ahead.
    pub fn ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// From now on this machine counts as so many milliseconds ahead, negative: behind. Replicas that
    /// share a store share its clock, or a deadline would come early on one whose own is wrong.
    pub fn set_ahead(&self, millis: i64) {
        self.ahead.store(millis, Ordering::Relaxed);
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
