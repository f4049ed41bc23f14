//! Where all ways in meet: a body is decoded, counted, and what it holds is handed to the engine.
//!
//! Invariant: what is not understood is counted, mentioned in the log now and then, and never sent again
//! for that reason. What is understood is acknowledged only if the store has it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pikepole_fleet::{AlertKind, Timestamp};
use tokio::time::Instant;

use super::decode::{Decoded, decode};
use super::sns::Sns;
#[cfg(feature = "aws")]
use super::sqs::QueueHealth;
use super::{Counters, Event, Outcome, Way};
use crate::engine::{Engine, Taken};

/// Between two lines of the log about bodies that were not taken.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Letters of a reason in the log.
const MAX_COMPLAINT: usize = 600;
/// Failures in a row of a queue before people are told: one is everyday life.
#[cfg(feature = "aws")]
const QUEUE_FAILURES: u32 = 3;
/// A topic's goodbye is told for so long.
const GOODBYE_TOLD: Duration = Duration::from_secs(3600);

/// What the ways in share.
#[derive(Default)]
pub struct Feed {
    counters: Counters,
    complaints: Complaints,
    sns: Option<Sns>,
    #[cfg(feature = "aws")]
    queues: Vec<Arc<QueueHealth>>,
}

/// What a body held, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fed {
    /// Events that were found.
    pub events: usize,
    /// What became of them.
    pub taken: Taken,
    /// Test notifications of AWS.
    pub tests: usize,
    /// Parts that could not be understood.
    pub rejected: usize,
}

/// Why the events of a body are not taken: the task that took them died.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the events could not be taken; send them again")]
pub struct NotFed;

impl Feed {
    /// Events come in over HTTP alone, unless topics or queues are added.
    pub fn new(sns: Option<Sns>) -> Self {
        Self { sns, ..Self::default() }
    }

    /// Adds queues that somebody polls.
    #[cfg(feature = "aws")]
    pub fn with_queues(mut self, queues: Vec<Arc<QueueHealth>>) -> Self {
        self.queues = queues;
        self
    }

    /// What came in so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The queues that are polled.
    #[cfg(feature = "aws")]
    pub fn queues(&self) -> &[Arc<QueueHealth>] {
        &self.queues
    }

    /// Who takes messages of SNS, if any topic is allowed.
    pub fn sns(&self) -> Option<&Sns> {
        self.sns.as_ref()
    }

    /// Mentions in the log, not too often, why something is not taken.
    pub fn complain(&self, way: Way, reason: &str) {
        self.complaints.about(way, reason);
    }

    /// Takes in a body.
    pub async fn take(&self, engine: &Arc<Engine>, way: Way, body: &[u8]) -> Result<Fed, NotFed> {
        let Decoded { events, tests, confirmations, irrelevant, rejected } = decode(body);
        self.counters.add(way, Outcome::Test, tests);
        self.counters.add(way, Outcome::Irrelevant, irrelevant + confirmations);
        self.counters.add(way, Outcome::Rejected, rejected.len());
        if let Some(first) = rejected.first() {
            let (reason, detail, sample) = (first.reason.as_str(), &first.detail, &first.sample);
            self.complaints.about(way, &format!("{reason}: {detail}; {sample}"));
        }
        let (count, rejected) = (events.len(), rejected.len());
        let taken = take_events(engine, events).await?;
        self.counters.add(way, Outcome::Ours, taken.ours);
        self.counters.add(way, Outcome::Foreign, taken.foreign);
        self.counters.add(way, Outcome::NotKept, taken.not_kept);
        Ok(Fed { events: count, taken, tests, rejected })
    }

    /// What is wrong with the ways in: the kind, what it is about, a sentence.
    pub fn problems(&self, now: Timestamp) -> Vec<(AlertKind, String, String)> {
        let mut problems = Vec::new();
        #[cfg(feature = "aws")]
        for queue in &self.queues {
            let status = queue.status();
            let Some((_, error)) = status.last_error.filter(|_| status.failures >= QUEUE_FAILURES) else {
                continue;
            };
            let detail = format!("{error}; events are late until it answers, describes go on");
            problems.push((AlertKind::QueueFailing, queue.url().to_owned(), detail));
        }
        for gone in self.sns.iter().flat_map(Sns::unsubscribed) {
            if now.since(gone.at) < GOODBYE_TOLD {
                let detail =
                    "it was unsubscribed from this directory; subscribe it again if that was not meant";
                problems.push((AlertKind::TopicUnsubscribed, gone.topic.to_string(), detail.into()));
            }
        }
        problems
    }
}

/// In a task of its own: a caller who goes away must not break off what is half-way to the store.
async fn take_events(engine: &Arc<Engine>, events: Vec<Event>) -> Result<Taken, NotFed> {
    if events.is_empty() {
        return Ok(Taken::default());
    }
    let engine = Arc::clone(engine);
    tokio::spawn(async move { engine.take_events(&events).await }).await.map_err(|_| NotFed)
}

/// Says what is wrong with what comes in, now and then: anyone can send a million wrong messages.
#[derive(Default)]
struct Complaints(Mutex<Silence>);

#[derive(Default)]
struct Silence {
    until: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn about(&self, way: Way, reason: &str) {
        let now = Instant::now();
        let mut silence = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if silence.until.is_some_and(|until| now < until) {
            silence.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut silence.unsaid);
        silence.until = Some(now + COMPLAIN_EVERY);
        drop(silence);
        let reason: String = reason.chars().take(MAX_COMPLAINT).collect();
        tracing::warn!(way = way.as_str(), ?reason, unsaid, "events that came in are not taken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_million_wrong_messages_are_a_few_lines_of_the_log() {
        let complaints = Complaints::default();
        for _ in 0..1_000 {
            complaints.about(Way::Sns, "x");
        }
        assert_eq!(complaints.0.lock().unwrap().unsaid, 999);
        tokio::time::advance(COMPLAIN_EVERY).await;
        complaints.about(Way::Sns, "x");
        assert_eq!(complaints.0.lock().unwrap().unsaid, 0);
    }
}
