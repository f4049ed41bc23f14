//! The two tasks of a connection, and the encoders that all connections share.
//!
//! Invariant: a task ends with its connection, and says why exactly once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pikepole_spool::{Block, Seq};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::balance::planner::{Batch, Unsendable};
use crate::balance::{Ack, Connection, Encode, LinkError, Part, Read, Source, Write};

/// What connections tell the deciding task.
pub(super) enum Event<W, R> {
    Connected(u64, Connection<W, R>),
    Closed(u64, LinkError),
    Begun(u64, u64),
    Written(u64, u64),
    Unsendable(u64, u64, Seq, Unsendable),
    Ack(u64, Ack),
}

/// A window to be written.
pub(super) struct Job {
    pub(super) number: u64,
    /// `None`: the block is read from the queue once more.
    pub(super) parts: Vec<(Batch, Option<Arc<Block>>)>,
}

/// The windows that wait for the writer of a connection. They are few: the planner limits what is in flight.
#[derive(Default)]
pub(super) struct Jobs {
    waiting: Mutex<VecDeque<Job>>,
    news: Notify,
}

impl Jobs {
    pub(super) fn push(&self, job: Job) {
        self.lock().push_back(job);
        self.news.notify_one();
    }

    /// Takes everything back; the numbers of what the writer will not write.
    pub(super) fn recall(&self) -> Vec<u64> {
        self.lock().drain(..).map(|job| job.number).collect()
    }

    async fn next(&self) -> Job {
        loop {
            let job = self.lock().pop_front();
            match job {
                Some(job) => return job,
                None => self.news.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a writer works with.
pub(super) struct Tools<S, E, W, R> {
    pub(super) source: Arc<S>,
    pub(super) encoders: Arc<Encoders<E>>,
    pub(super) news: mpsc::Sender<Event<W, R>>,
}

/// Encoders, a few for all connections: each holds buffers and uses a core.
pub(super) struct Encoders<E> {
    make: Box<dyn Fn() -> E + Send + Sync>,
    idle: Mutex<Vec<E>>,
    permits: Semaphore,
}

impl<E: Encode> Encoders<E> {
    pub(super) fn new(make: Box<dyn Fn() -> E + Send + Sync>, count: usize) -> Self {
        Self { make, idle: Mutex::new(Vec::new()), permits: Semaphore::new(count.max(1)) }
    }

    pub(super) async fn encode(&self, parts: Vec<Part>) -> Result<E::Window, (Seq, String)> {
        let first = parts.first().map_or(Seq(0), |part| part.block.seq);
        self.with(move |encoder| encoder.encode(&parts)).await.unwrap_or_else(|why| Err((first, why)))
    }

    pub(super) async fn event(&self, block: Arc<Block>, index: u32) -> Result<Bytes, String> {
        self.with(move |encoder| encoder.event(&block, index)).await.flatten()
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut E) -> T + Send + 'static,
    ) -> Result<T, String> {
        let _permit = self.permits.acquire().await.map_err(|_| "the agent stops".to_string())?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut encoder = idle.unwrap_or_else(|| (self.make)());
        let work = tokio::task::spawn_blocking(move || {
            let result = work(&mut encoder);
            (encoder, result)
        });
        // One that panicked is not used again; what it choked on is no block of events.
        let (encoder, result) = work.await.map_err(|error| format!("the encoder failed: {error}"))?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(encoder);
        Ok(result)
    }
}

/// Encodes and writes windows until the connection fails or is dropped.
pub(super) async fn write<S, E, W, R>(conn: u64, mut writer: W, jobs: Arc<Jobs>, tools: Tools<S, E, W, R>)
where
    S: Source,
    E: Encode,
    W: Write<E::Window>,
    R: Read,
{
    loop {
        let Job { number, parts } = jobs.next().await;
        let events = parts.iter().map(|(batch, _)| batch.events()).sum();
        let window = match window(parts, &tools).await {
            Ok(window) => window,
            Err((seq, why)) => {
                tell(&tools.news, Event::Unsendable(conn, number, seq, why)).await;
                continue;
            }
        };
        tell(&tools.news, Event::Begun(conn, number)).await;
        if let Err(error) = writer.write(number, events, window).await {
            tell(&tools.news, Event::Closed(conn, error)).await;
            return;
        }
        tell(&tools.news, Event::Written(conn, number)).await;
    }
}

/// Reads what is not in memory, and encodes.
async fn window<S: Source, E: Encode, W, R>(
    batches: Vec<(Batch, Option<Arc<Block>>)>,
    tools: &Tools<S, E, W, R>,
) -> Result<E::Window, (Seq, Unsendable)> {
    let mut parts = Vec::with_capacity(batches.len());
    for (batch, block) in batches {
        let block = match block {
            Some(block) => block,
            None => tools.source.read(batch.seq).await.ok_or((batch.seq, Unsendable::Gone))?,
        };
        parts.push(Part { block, events: batch.from..batch.to });
    }
    tools.encoders.encode(parts).await.map_err(|(seq, why)| (seq, Unsendable::Malformed(why)))
}

/// Reads acks until the connection ends.
pub(super) async fn read<W, R: Read>(conn: u64, mut reader: R, news: mpsc::Sender<Event<W, R>>) {
    loop {
        match reader.read().await {
            Ok(ack) => tell(&news, Event::Ack(conn, ack)).await,
            Err(error) => {
                tell(&news, Event::Closed(conn, error)).await;
                return;
            }
        }
    }
}

/// The deciding task may be gone: then nobody needs to know.
pub(super) async fn tell<W, R>(news: &mpsc::Sender<Event<W, R>>, event: Event<W, R>) {
    drop(news.send(event).await);
}
