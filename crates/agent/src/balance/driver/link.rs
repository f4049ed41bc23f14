//! The two tasks of a connection, and the encoders that all connections share.
//!
//! Invariant: a task ends with its connection, and says why exactly once.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pikepole_spool::Block;
use tokio::sync::{Semaphore, mpsc};

use crate::balance::planner::{Batch, Unsendable};
use crate::balance::{Ack, Connection, Encode, LinkError, Read, Source, Write};

/// What connections tell the deciding task.
pub(super) enum Event<W, R> {
    Connected(u64, Connection<W, R>),
    Closed(u64, LinkError),
    Written(u64),
    Unsendable(u64, u64, Unsendable),
    Ack(u64, Ack),
}

/// A window to be written.
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) batch: Batch,
    /// `None`: it is read from the queue once more.
    pub(super) block: Option<Arc<Block>>,
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

    pub(super) async fn encode(&self, block: Arc<Block>, events: Range<u32>) -> Result<E::Window, String> {
        self.with(move |encoder| encoder.encode(&block, events)).await
    }

    pub(super) async fn event(&self, block: Arc<Block>, index: u32) -> Result<Bytes, String> {
        self.with(move |encoder| encoder.event(&block, index)).await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut E) -> Result<T, String> + Send + 'static,
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
        result
    }
}

/// Encodes and writes windows until the connection fails or is dropped.
pub(super) async fn write<S, E, W, R>(
    conn: u64,
    mut writer: W,
    mut jobs: mpsc::Receiver<Job>,
    tools: Tools<S, E, W, R>,
) where
    S: Source,
    E: Encode,
    W: Write<E::Window>,
    R: Read,
{
    while let Some(Job { number, batch, block }) = jobs.recv().await {
        let block = match block {
            Some(block) => Some(block),
            None => tools.source.read(batch.seq).await,
        };
        let window = match block {
            None => Err(Unsendable::Gone),
            Some(block) => {
                tools.encoders.encode(block, batch.from..batch.to).await.map_err(Unsendable::Malformed)
            }
        };
        let event = match window {
            Err(why) => Event::Unsendable(conn, number, why),
            Ok(window) => match writer.write(number, batch.events(), window).await {
                Ok(()) => Event::Written(conn),
                Err(error) => {
                    tell(&tools.news, Event::Closed(conn, error)).await;
                    return;
                }
            },
        };
        tell(&tools.news, event).await;
    }
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
