//! Memory for events, shared by all connections.
//!
//! Not a refusal: who gets none waits, and TCP makes the client wait.
//!
//! Invariant: there is always one connection that may complete its unit. Else all memory could lie in units that
//! wait for their end, and none of them would ever come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(super) struct Budget {
    total: u64,
    used: AtomicU64,
    freed: Notify,
    /// Who has it goes on though there is no room.
    lane: Arc<Semaphore>,
}

impl Budget {
    pub(super) fn new(total: u64) -> Self {
        Self { total, used: AtomicU64::new(0), freed: Notify::new(), lane: Arc::new(Semaphore::new(1)) }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
            self.freed.notify_waiters();
        }
    }

    fn has_room(&self) -> bool {
        self.used.load(Ordering::Acquire) < self.total
    }

    async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }
}

/// The memory of one unit; given back with the last clone.
#[derive(Debug, Clone)]
pub struct Room {
    _taken: Arc<Taken>,
}

#[derive(Debug)]
struct Taken {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// What one connection has of it for the unit that is not complete; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
    lane: Option<OwnedSemaphorePermit>,
}

impl Share {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0, lane: None }
    }

    /// The connection has so many bytes now.
    pub(super) fn set(&mut self, bytes: u64) {
        self.budget.take(bytes.saturating_sub(self.bytes));
        self.budget.give_back(self.bytes.saturating_sub(bytes));
        self.bytes = bytes;
    }

    /// For a unit of so many bytes, whatever room there is: they are there already.
    pub(super) fn room(&self, bytes: u64) -> Room {
        self.budget.take(bytes);
        Room { _taken: Arc::new(Taken { budget: Arc::clone(&self.budget), bytes }) }
    }

    /// Whether the connection may take more.
    pub(super) fn may_take(&self) -> bool {
        self.lane.is_some() || self.budget.has_room()
    }

    /// Until the connection may take more. A unit that was begun may become the one that goes on without room.
    pub(super) async fn wait(&mut self, begun: bool) {
        let lane = Arc::clone(&self.budget.lane);
        tokio::select! {
            () = self.budget.room() => {}
            permit = lane.acquire_owned(), if begun => {
                self.lane = Some(permit.expect("the semaphore is never closed"));
            }
        }
    }

    /// The connection does not read for now, or has completed its unit: another may go on.
    pub(super) fn leave_lane(&mut self) {
        self.lane = None;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn waits(share: &mut Share, begun: bool) -> bool {
        timeout(Duration::from_secs(1), share.wait(begun)).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_gives_back_another_may_take() {
        let budget = Arc::new(Budget::new(10));
        let (mut a, mut b) = (Share::new(Arc::clone(&budget)), Share::new(Arc::clone(&budget)));
        a.set(9);
        assert!(b.may_take());
        a.set(12);
        assert!(!b.may_take() && waits(&mut b, false).await);
        let (freed, ()) = tokio::join!(waits(&mut b, false), async { a.set(3) });
        assert!(!freed, "it did not wake");
        drop(a);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_given_back_with_its_last_clone() {
        let budget = Arc::new(Budget::new(10));
        let (a, mut b) = (Share::new(Arc::clone(&budget)), Share::new(Arc::clone(&budget)));
        let room = a.room(12);
        let kept = room.clone();
        drop((a, room));
        assert!(waits(&mut b, false).await);
        let (waits, ()) = tokio::join!(waits(&mut b, false), async { drop(kept) });
        assert!(!waits, "it did not wake");
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_is_in_units_that_were_begun_one_goes_on() {
        let budget = Arc::new(Budget::new(10));
        let (mut a, mut b) = (Share::new(Arc::clone(&budget)), Share::new(Arc::clone(&budget)));
        a.set(5);
        b.set(5);
        assert!(!waits(&mut a, true).await && a.may_take());
        assert!(waits(&mut b, true).await, "one at a time");
        a.leave_lane();
        assert!(!waits(&mut b, true).await && b.may_take() && !a.may_take());
    }
}
