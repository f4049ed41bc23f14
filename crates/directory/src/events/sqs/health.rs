//! How one queue is doing: for alerts, metrics and the log.
//!
//! Invariant: counts only grow, and nothing in here came from a message.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pikepole_fleet::Timestamp;

use super::queue::QueueError;

/// The health of one queue, shared with whoever shows it.
#[derive(Debug)]
pub struct QueueHealth {
    url: String,
    status: Mutex<QueueStatus>,
}

/// What is known of a queue at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueStatus {
    /// When a receive last had an answer, messages or none.
    pub last_receive: Option<Timestamp>,
    /// When a receive last failed, and why.
    pub last_error: Option<(Timestamp, QueueError)>,
    /// Receives that failed since the last answer.
    pub failures: u32,
    /// Receives that were answered.
    pub receives: u64,
    /// Receives that failed.
    pub failed: u64,
    /// Messages received; one that comes twice counts twice.
    pub received: u64,
    /// Messages deleted.
    pub deleted: u64,
    /// Messages whose effect is kept but which could not be deleted: they come again, for nothing.
    pub not_deleted: u64,
    /// Messages whose effect could not be kept: they come again.
    pub not_kept: u64,
    /// How long the oldest message of the last receive that had some was on its way.
    pub lag: Option<Duration>,
}

impl QueueHealth {
    pub(super) fn new(url: String) -> Self {
        Self { url, status: Mutex::default() }
    }

    /// The queue's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What is known now.
    pub fn status(&self) -> QueueStatus {
        self.lock().clone()
    }

    pub(super) fn received(&self, now: Timestamp, messages: usize, lag: Option<Duration>) {
        let mut status = self.lock();
        status.last_receive = Some(now);
        status.receives += 1;
        status.received += count(messages);
        status.lag = lag.or(status.lag);
        let failures = std::mem::take(&mut status.failures);
        drop(status);
        if failures > 0 {
            tracing::info!(queue = self.url, failures, "the queue answers again");
        }
    }

    pub(super) fn failed(&self, now: Timestamp, error: &QueueError) {
        let mut status = self.lock();
        status.failures = status.failures.saturating_add(1);
        status.failed += 1;
        status.last_error = Some((now, error.clone()));
        let first = status.failures == 1;
        drop(status);
        if first {
            tracing::warn!(queue = self.url, %error, "the queue cannot be received from; trying on");
        } else {
            tracing::debug!(queue = self.url, %error, "the queue still cannot be received from");
        }
    }

    pub(super) fn deleted(&self, deleted: usize, not_deleted: usize) {
        let mut status = self.lock();
        status.deleted += count(deleted);
        status.not_deleted += count(not_deleted);
    }

    pub(super) fn not_kept(&self, messages: usize) {
        self.lock().not_kept += count(messages);
    }

    fn lock(&self) -> MutexGuard<'_, QueueStatus> {
        // Every change is a few additions: nothing half done can be left behind.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(messages: usize) -> u64 {
    u64::try_from(messages).unwrap_or(u64::MAX)
}
