//! What the spool's thread is asked to do: one lock, one bell.
//!
//! Invariant: it holds no more than its users were admitted for: bytes and requests by [`Admission`], marks by their keys,
//! and seqs once each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pikepole_spool::{Block, Committed, Indexed, Mark, NewBlock, Seq};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Hurry, QueueError, Take};

/// Requests of each kind that may wait at once.
const REQUESTS: usize = 1024;

/// A block that waits to be written, or to be durable.
pub(super) struct Append {
    pub(super) new: NewBlock,
    pub(super) hurry: Hurry,
    pub(super) answer: oneshot::Sender<Result<Seq, QueueError>>,
    /// Held until it is durable.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Somebody who waits for a block.
pub(super) struct Taker {
    pub(super) take: Take,
    pub(super) answer: oneshot::Sender<Arc<Block>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Somebody who wants one block.
pub(super) struct Reader {
    pub(super) seq: Seq,
    pub(super) answer: oneshot::Sender<Option<Arc<Block>>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// What has come in.
#[derive(Default)]
pub(super) struct Work {
    pub(super) appends: VecDeque<Append>,
    pub(super) marks: BTreeMap<Bytes, Mark>,
    pub(super) done: BTreeSet<Seq>,
    pub(super) given_back: BTreeSet<Seq>,
    pub(super) takers: VecDeque<Taker>,
    pub(super) readers: VecDeque<Reader>,
    pub(super) committed: Option<Committed>,
    pub(super) indexed: Option<Indexed>,
    /// Marks were refused before they came in.
    pub(super) has_refused_marks: bool,
    pub(super) is_closing: bool,
    has_rung: bool,
    /// Nobody reads it any more.
    is_closed: bool,
}

/// The inbox.
#[derive(Default)]
pub(super) struct Inbox {
    work: Mutex<Work>,
    bell: Condvar,
}

impl Inbox {
    /// Puts something in and wakes the thread.
    pub(super) fn put<T>(&self, put: impl FnOnce(&mut Work) -> T) -> T {
        let mut work = self.lock();
        let result = put(&mut work);
        work.has_rung = true;
        if work.is_closed {
            // Who waits for an answer sees that there will be none.
            *work = Work { is_closed: true, ..Work::default() };
        }
        drop(work);
        self.bell.notify_one();
        result
    }

    /// Takes all that is in it; waits for something, but no longer than this.
    pub(super) fn take(&self, patience: Duration) -> Work {
        let work = self.lock();
        let (mut work, _) = self
            .bell
            .wait_timeout_while(work, patience, |work| !work.has_rung)
            .unwrap_or_else(PoisonError::into_inner);
        let is_closing = work.is_closing;
        let taken = std::mem::take(&mut *work);
        work.is_closing = is_closing;
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the thread ends, nobody waits for it any more.
pub(super) struct CloseOnDrop(pub(super) Arc<Inbox>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.put(|work| work.is_closed = true);
    }
}

/// How much may be under way.
#[derive(Clone)]
pub(super) struct Admission {
    bytes: Arc<Semaphore>,
    most: u32,
    requests: Arc<Semaphore>,
}

/// What an append costs besides its body.
const EACH: usize = 256;

impl Admission {
    pub(super) fn new(bytes: usize) -> Self {
        let most = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        let requests = Arc::new(Semaphore::new(REQUESTS));
        Self { bytes: Arc::new(Semaphore::new(most as usize)), most, requests }
    }

    /// Admits a block; one that is larger than all there may be comes in alone.
    pub(super) async fn block(&self, new: &NewBlock) -> Result<OwnedSemaphorePermit, QueueError> {
        let permits = self.permits(new);
        self.bytes.clone().acquire_many_owned(permits).await.map_err(|_| QueueError::Closed)
    }

    pub(super) async fn request(&self) -> Option<OwnedSemaphorePermit> {
        self.requests.clone().acquire_owned().await.ok()
    }

    /// Nobody is admitted any more.
    pub(super) fn close(&self) {
        self.bytes.close();
        self.requests.close();
    }

    fn permits(&self, new: &NewBlock) -> u32 {
        u32::try_from(new.body.len() + EACH).unwrap_or(u32::MAX).min(self.most)
    }
}
