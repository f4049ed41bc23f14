//! The queue as the tail and the balancer see it, and the dead letters of the balancer.
//!
//! Not a decision in it. Invariant: blocks of the tail enter the queue in their order, with the marks between
//! them in their place.

use std::sync::Arc;

use pikepole_spool::{Block, Mark, NewBlock, Seq};
use tokio::sync::mpsc;

use crate::balance::{self, Letter};
use crate::clock::Clock;
use crate::config::Order;
use crate::dead::{self, DeadLetters};
use crate::queue::{Hurry, Queue, Take};
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

/// What the tail hands over. No more of it waits than the tail's own limits allow.
enum Tailed {
    Block(NewBlock, tail::Receipt),
    Marks(Vec<Mark>),
}

/// Bytes of a block that was cut because it was full: there is more where it came from.
const FULL: usize = 256 << 10;

/// A tail that is behind waits for nothing but us; one that is not has time to share an fsync.
fn hurry(block: &NewBlock) -> Hurry {
    if block.body.len() >= FULL { Hurry::Soon } else { Hurry::Group }
}

/// The tail's side of the queue.
pub(super) struct TailSink(mpsc::UnboundedSender<Tailed>);

impl TailSink {
    /// Must be made inside of a runtime.
    pub(super) fn new(queue: Queue) -> Self {
        let (sink, mut tailed) = mpsc::unbounded_channel();
        let (under_way, mut answers) = mpsc::unbounded_channel::<(crate::queue::Receipt, tail::Receipt)>();
        tokio::spawn(async move {
            while let Some(next) = tailed.recv().await {
                match next {
                    Tailed::Block(block, receipt) => {
                        let hurry = hurry(&block);
                        match queue.send(block, hurry).await {
                            Ok(sent) => drop(under_way.send((sent, receipt))), // its receiver is the task below
                            Err(error) => tracing::debug!(%error, "a block of lines was refused"),
                        }
                    }
                    Tailed::Marks(marks) => {
                        if let Err(error) = queue.mark(marks) {
                            tracing::debug!(%error, "marks of tailed files were refused");
                        }
                    }
                }
            }
        });
        tokio::spawn(async move {
            while let Some((sent, receipt)) = answers.recv().await {
                if sent.durable().await.is_ok() {
                    receipt.durable();
                }
            }
        });
        Self(sink)
    }
}

impl tail::Sink for TailSink {
    fn append(&mut self, block: NewBlock, receipt: tail::Receipt) {
        // Refused if nobody takes it any longer: the receipt is dropped with it.
        drop(self.0.send(Tailed::Block(block, receipt)));
    }

    fn mark(&mut self, marks: Vec<Mark>) {
        drop(self.0.send(Tailed::Marks(marks)));
    }
}
