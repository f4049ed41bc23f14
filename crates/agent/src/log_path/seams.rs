//! The queue as the tail and the balancer see it, and the dead letters of the balancer.
//!
//! Not a decision in it. Invariant: blocks of the tail enter the queue in their order. Marks wait for none of them: the
//! tail gives only marks of files of which nothing is under way, and a full spool still takes them.

use std::sync::Arc;

use pikepole_spool::{Block, Mark, NewBlock, Seq};
use tokio::sync::mpsc;

use crate::balance::{self, Letter};
use crate::clock::Clock;
use crate::config::Order;
use crate::dead::{self, DeadLetters};
use crate::queue::{Hurry, Queue, QueueError, Take};
use crate::tail;

impl balance::Source for Queue {
    async fn next(&self, order: Order) -> Arc<Block> {
        let take = match order {
            Order::Oldest => Take::Oldest,
            Order::Newest { .. } => Take::NewestFirst,
        };
        match self.take(take).await {
            Some(block) => block,
            None => std::future::pending().await, // closed: the agent stops
        }
    }

    async fn read(&self, seq: Seq) -> Option<Arc<Block>> {
        Queue::read(self, seq).await
    }

    fn done(&self, seq: Seq) {
        Queue::done(self, seq);
    }

    fn give_back(&self, seq: Seq) {
        Queue::give_back(self, seq);
    }
}

/// The balancer's dead letters.
#[derive(Debug)]
pub(super) struct Undeliverable {
    pub(super) dead: DeadLetters,
    pub(super) clock: Clock,
}

impl balance::DeadLetters for Undeliverable {
    async fn keep(&self, letter: Letter) -> Result<(), String> {
        let source = match letter.event {
            Some(event) => format!("spool, block {} event {event}", letter.seq.0),
            None => format!("spool, block {} as a whole", letter.seq.0),
        };
        let letter = dead::Letter { source, reason: letter.why, event: letter.payload.into() };
        let (dead, at) = (self.dead.clone(), self.clock.now());
        let kept = tokio::task::spawn_blocking(move || dead.keep(&[letter], at)).await;
        let kept = kept.map_err(|e| e.to_string())?;
        self.dead.tried(&kept);
        kept.map_err(|e| e.to_string())
    }
}

/// The tail's side of the queue. No more waits in it than the tail's own limits allow.
pub(super) struct TailSink {
    queue: Queue,
    blocks: mpsc::UnboundedSender<(NewBlock, Hurry, tail::Receipt)>,
}

impl TailSink {
    /// Must be made inside of a runtime.
    pub(super) fn new(queue: Queue) -> Self {
        let (blocks, mut tailed) = mpsc::unbounded_channel::<(NewBlock, Hurry, tail::Receipt)>();
        let (under_way, mut answers) = mpsc::unbounded_channel::<(crate::queue::Receipt, tail::Receipt)>();
        let sender = queue.clone();
        tokio::spawn(async move {
            while let Some((block, hurry, receipt)) = tailed.recv().await {
                match sender.send(block, hurry).await {
                    Ok(sent) => drop(under_way.send((sent, receipt))), // its receiver is the task below
                    Err(QueueError::Closed) => {}                      // the agent stops
                    Err(error) => tracing::warn!(%error, "a block of lines was refused"),
                }
            }
        });
        tokio::spawn(async move {
            while let Some((sent, receipt)) = answers.recv().await {
                match sent.durable().await {
                    Ok(_) => receipt.durable(),
                    Err(QueueError::Closed) => {} // the agent stops
                    Err(error) => tracing::warn!(%error, "a block of lines was refused"),
                }
            }
        });
        Self { queue, blocks }
    }
}

impl tail::Sink for TailSink {
    fn append(&mut self, block: NewBlock, is_full: bool, receipt: tail::Receipt) {
        // A tail that is behind waits for nothing but us; one that is not has time to share an fsync.
        let hurry = if is_full { Hurry::Soon } else { Hurry::Group };
        // Refused if nobody takes it any longer: the receipt is dropped with it.
        drop(self.blocks.send((block, hurry, receipt)));
    }

    fn mark(&mut self, marks: Vec<Mark>) {
        // The queue tells it as its trouble.
        if let Err(error) = self.queue.mark(marks) {
            tracing::debug!(%error, "marks of tailed files were refused");
        }
    }
}
