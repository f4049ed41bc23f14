//! The messages of one receive, from their handler to their deletion.
//!
//! Invariant: a message whose handler did not say [`Kept::Yes`], for whatever reason, is not deleted.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::queue::{BATCH, Queue, Received};
use super::{Kept, Message, QueueHealth, SqsTimes};

/// Tries of one deletion. What remains comes again, and is deleted then.
const TRIES: u32 = 3;

/// The first pause between them, doubled with each.
const PAUSE: Duration = Duration::from_millis(100);

/// A message that has come more often waits no longer for the next time.
const MOST_DOUBLINGS: u32 = 2;

/// What handling needs to know.
pub(super) struct Batch<'a> {
    pub(super) queue: &'a Queue,
    pub(super) health: &'a QueueHealth,
    pub(super) times: &'a SqsTimes,
    /// How long a message is hidden once it is received.
    pub(super) visibility: Duration,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    InHand,
    ToDelete,
    ToComeAgain,
    Settled,
}

impl Batch<'_> {
    /// Handles all at the same time and says how many were kept.
    pub(super) async fn run<H, F>(&self, messages: Vec<Received>, handle: &Arc<H>) -> usize
    where
        H: Fn(Message) -> F + Send + Sync + 'static,
        F: Future<Output = Kept> + Send + 'static,
    {
        let mut handling = JoinSet::new();
        let mut held = Vec::with_capacity(messages.len());
        for (number, received) in messages.into_iter().enumerate() {
            let (handle, limit) = (Arc::clone(handle), self.times.handling);
            let message = received.message;
            handling
                .spawn(async move { (number, timeout(limit, handle(message)).await.unwrap_or(Kept::No)) });
            held.push((received.receipt, received.times, Is::InHand));
        }
        let third = self.visibility / 3;
        let mut due = interval_at(Instant::now() + third, third);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept = 0;
        loop {
            tokio::select! {
                done = handling.join_next() => match done {
                    None => break,
                    Some(Ok((number, Kept::Yes))) => {
                        kept += 1;
                        held[number].2 = Is::ToDelete;
                    }
                    Some(Ok((number, Kept::No))) => held[number].2 = Is::ToComeAgain,
                    // A handler that panicked: its message stays in hand, and comes again at the end.
                    Some(Err(_)) => tracing::error!(queue = self.health.url(), "the handler of a message panicked"),
                },
                _ = due.tick() => {
                    self.extend(&held).await;
                    self.settle(&mut held).await;
                }
            }
        }
        held.iter_mut().filter(|(_, _, is)| *is == Is::InHand).for_each(|(_, _, is)| *is = Is::ToComeAgain);
        self.settle(&mut held).await;
        kept
    }

    /// Hides what is still in hand for as long again.
    async fn extend(&self, held: &[(String, u32, Is)]) {
        let in_hand = held.iter().filter(|(_, _, is)| *is == Is::InHand);
        self.hide(in_hand.map(|(receipt, _, _)| (receipt.clone(), self.visibility)).collect()).await;
    }

    /// Deletes what is kept, and lets come again soon what is not.
    async fn settle(&self, held: &mut [(String, u32, Is)]) {
        let (mut delete, mut again) = (Vec::new(), Vec::new());
        for (receipt, times, is) in held.iter_mut() {
            match is {
                Is::ToDelete => delete.push(receipt.clone()),
                Is::ToComeAgain => again.push((receipt.clone(), self.again_in(*times))),
                Is::InHand | Is::Settled => continue,
            }
            *is = Is::Settled;
        }
        self.health.not_kept(again.len());
        self.hide(again).await;
        self.delete(delete).await;
    }

    async fn hide(&self, messages: Vec<(String, Duration)>) {
        if messages.is_empty() {
            return;
        }
        match self.queue.hide(&messages).await {
            Ok(0) => {}
            Ok(failed) => tracing::debug!(queue = self.health.url(), failed, "some messages were not hidden"),
            Err(error) => {
                tracing::warn!(queue = self.health.url(), %error, "messages come again when the queue says so");
            }
        }
    }

    async fn delete(&self, mut receipts: Vec<String>) {
        let all = receipts.len();
        let mut refused = 0;
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            if receipts.is_empty() {
                break;
            }
            debug_assert!(receipts.len() <= BATCH, "a receive has no more messages than a batch");
            match self.queue.delete(&receipts).await {
                Ok(undeleted) => {
                    receipts = undeleted.again;
                    refused += undeleted.refused;
                }
                Err(error) => {
                    tracing::warn!(queue = self.health.url(), %error, attempt, "messages could not be deleted");
                }
            }
            if !receipts.is_empty() && attempt < TRIES {
                sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause *= 2;
            }
        }
        let left = receipts.len() + refused;
        if left > 0 {
            tracing::warn!(queue = self.health.url(), left, "messages that are kept will come again");
        }
        self.health.deleted(all - left, left);
    }

    /// Soon, but not all at once, and later each time: what keeps the effect may be away for a while,
    /// and a queue gives a message up after a few times.
    fn again_in(&self, times: u32) -> Duration {
        let base = self.times.again * (1 << times.saturating_sub(1).min(MOST_DOUBLINGS));
        base.mul_f64(1.0 + 2.0 * fastrand::f64())
    }
}
