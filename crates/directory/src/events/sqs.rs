//! Events from an SQS queue, by long poll.
//!
//! Not a decoder: what a message means is its handler's business, and so is poison, which the handler
//! says is [`Kept::Yes`].
//!
//! Invariant: a message is deleted only after its handler said that its effect is kept. Whatever fails
//! in between, it comes again.

mod batch;
mod health;
mod metrics;
mod place;
mod queue;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pikepole_fleet::{Region, Timestamp};
use tokio::time::{Instant, sleep, timeout};

pub use self::health::{QueueHealth, QueueStatus};
pub use self::metrics::encode_metrics;
pub use self::place::QueueUrlError;
pub use self::queue::QueueError;
use self::queue::{Queue, Received};
use crate::clock::Clock;
use crate::shutdown::Shutdown;
use crate::source::aws::AwsSettings;

/// A queue of AWS hides a received message for so long unless it was told otherwise (AWS).
const USUAL_VISIBILITY: Duration = Duration::from_secs(30);

/// A message, as its handler gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The body, as it was sent.
    pub body: String,
    /// When it was sent to the queue, by AWS's clock.
    pub sent_at: Option<Timestamp>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Its effect is in the store, or it has none: it is deleted.
    Yes,
    /// It must come again.
    No,
}

/// What an [`SqsPoller`] needs to know.
#[derive(Debug, Clone)]
pub struct SqsSettings {
    /// The queue's URL, as AWS gives it.
    pub url: String,
    /// Credentials, clock and endpoint. Its region is for queues whose URL names none.
    pub aws: AwsSettings,
    /// Waits and limits.
    pub times: SqsTimes,
}

/// Waits and limits of a poller. Tests make them short.
#[derive(Debug, Clone)]
pub struct SqsTimes {
    /// How long one receive waits for a message; whole seconds, 20 at the most (AWS).
    pub wait: Duration,
    /// How long a receive may take beyond that, and any other call at all.
    pub call: Duration,
    /// The first pause after a failure, doubled with each further one; the true pause is anything up to it.
    pub first_backoff: Duration,
    /// The longest pause after a failure.
    pub last_backoff: Duration,
    /// The longest pause after a batch of which nothing was kept.
    pub last_stuck: Duration,
    /// Empty receives start at least this far apart: a broken proxy may answer at once.
    pub least: Duration,
    /// A message that was not kept comes again after one to three times this long, twice and four times
    /// as long once it has come before; whole seconds.
    pub again: Duration,
    /// How long the handling of one message may take.
    pub handling: Duration,
    /// How long messages in hand may take once it is time to stop.
    pub grace: Duration,
}

impl Default for SqsTimes {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(20),
            call: Duration::from_secs(5),
            first_backoff: Duration::from_secs(1),
            last_backoff: Duration::from_secs(30),
            last_stuck: Duration::from_secs(5),
            least: Duration::from_secs(1),
            again: Duration::from_secs(5),
            handling: Duration::from_secs(60),
            grace: Duration::from_secs(5),
        }
    }
}

impl SqsSettings {
    /// The queue of this URL with the default chain of credentials and the usual times.
    pub fn new(url: impl Into<String>, fallback: Region, clock: Clock) -> Self {
        Self { url: url.into(), aws: AwsSettings::new(fallback, clock), times: SqsTimes::default() }
    }
}

/// Polls one queue.
#[derive(Debug)]
pub struct SqsPoller {
    queue: Queue,
    health: Arc<QueueHealth>,
    times: SqsTimes,
    clock: Clock,
}

impl SqsPoller {
    /// Reads the SDK's environment and profiles. Calls nothing yet, and needs no credentials yet.
    pub async fn new(settings: SqsSettings) -> Result<Self, QueueUrlError> {
        let place = place::find(&settings.url, &settings.aws.region)?;
        let clock = settings.aws.clock.clone();
        let queue = Queue::new(&settings, place).await;
        let health = Arc::new(QueueHealth::new(settings.url));
        Ok(Self { queue, health, times: settings.times, clock })
    }

    /// How the queue is doing, shared: keep it for alerts and metrics.
    pub fn health(&self) -> Arc<QueueHealth> {
        Arc::clone(&self.health)
    }

    /// Receives, hands over and deletes until it is time to stop; no failure ends it before. Messages of
    /// one receive are handled at the same time.
    pub async fn run<H, F>(self, handle: H, mut shutdown: Shutdown)
    where
        H: Fn(Message) -> F + Send + Sync + 'static,
        F: Future<Output = Kept> + Send + 'static,
    {
        let handle = Arc::new(handle);
        let mut failed = Backoff::new(self.times.first_backoff, self.times.last_backoff);
        let mut stuck = Backoff::new(self.times.first_backoff, self.times.last_stuck);
        let mut visibility = None;
        while !shutdown.is_stopping() {
            let began = Instant::now();
            let received = tokio::select! {
                biased;
                () = shutdown.wait() => return,
                received = self.receive(&mut visibility) => received,
            };
            let pause = match received {
                Err(error) => {
                    self.health.failed(self.clock.now(), &error);
                    failed.next()
                }
                Ok(messages) => {
                    self.note(&messages);
                    failed.reset();
                    if messages.is_empty() {
                        self.times.least.saturating_sub(began.elapsed())
                    } else {
                        let hidden = visibility.unwrap_or(USUAL_VISIBILITY);
                        match self.work(messages, &handle, hidden, &mut shutdown).await {
                            0 => stuck.next(),
                            _ => stuck.reset(),
                        }
                    }
                }
            };
            tokio::select! {
                () = shutdown.wait() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// One long poll. Before the first one the queue is asked how long it hides messages; where that is
    /// not allowed, the usual time is assumed.
    async fn receive(&self, visibility: &mut Option<Duration>) -> Result<Vec<Received>, QueueError> {
        if visibility.is_none() {
            *visibility = match self.queue.visibility().await {
                Ok(told) => Some(told),
                Err(error) if error.is_denied() => {
                    tracing::info!(queue = self.health.url(), %error, "assuming that messages are hidden for 30 s");
                    Some(USUAL_VISIBILITY)
                }
                // The receive says better what is wrong.
                Err(_) => None,
            };
        }
        self.queue.receive().await
    }

    fn note(&self, messages: &[Received]) {
        let now = self.clock.now();
        let oldest = messages.iter().filter_map(|m| m.message.sent_at).min();
        self.health.received(now, messages.len(), oldest.map(|sent| now.since(sent)));
    }

    /// Handles one receive's messages and says how many were kept. When it is time to stop they may be
    /// finished within the grace, or are left to come again.
    async fn work<H, F>(
        &self,
        messages: Vec<Received>,
        handle: &Arc<H>,
        visibility: Duration,
        shutdown: &mut Shutdown,
    ) -> usize
    where
        H: Fn(Message) -> F + Send + Sync + 'static,
        F: Future<Output = Kept> + Send + 'static,
    {
        let batch = batch::Batch {
            queue: &self.queue,
            health: &self.health,
            times: &self.times,
            visibility: visibility.max(Duration::from_secs(1)),
        };
        let mut work = std::pin::pin!(batch.run(messages, handle));
        tokio::select! {
            kept = &mut work => kept,
            () = shutdown.wait() => {
                let kept = timeout(self.times.grace, work).await;
                kept.inspect_err(|_| tracing::warn!(queue = self.health.url(), "messages in hand are left to come again")).unwrap_or(0)
            }
        }
    }
}

/// Growing pauses with full jitter: pollers that failed together do not come back together.
#[derive(Debug)]
struct Backoff {
    first: Duration,
    last: Duration,
    failures: u32,
}

impl Backoff {
    fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, failures: 0 }
    }

    /// The pause before the next try, never shorter than a tenth of the first.
    fn next(&mut self) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.failures.min(16)).min(self.last);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(fastrand::f64()).max(self.first / 10)
    }

    /// No pause, and the next one is a first one.
    fn reset(&mut self) -> Duration {
        self.failures = 0;
        Duration::ZERO
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
