//! `POST /v1/events` and `POST /v1/events/sns`: bodies that are read, within limits, and what they hold is handed to
//! the engine.
//!
//! Not a decoder and not a judge of signatures: those are in `events`. The status is the protocol here, since a sender
//! that hears 5xx sends again, and one that hears 4xx never does. So 4xx is for what must not come again.
//!
//! Invariant: an answer of success means that every effect is in the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use pikepole_api::v1::{ErrorCode, EventsTaken};
use pikepole_fleet::{Hook, Transition};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::App;
use super::limits::{MAX_EVENTS_BODY, MAX_SNS_BODY, MOST_EVENTS_BODIES, MOST_SNS_BODIES};
use super::reply::{ApiError, Reply, json};
use crate::engine::{Engine, Taken};
use crate::events::sns::{Admitted, NotAdmitted, Sns};
use crate::events::{Counters, Event, EventKind, Outcome, WarmPool, Way};

/// Seconds after which a sender may try again.
const COME_AGAIN: u32 = 5;
/// Between two lines of the log about bodies that were not taken.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Letters of a reason in the log.
const MAX_COMPLAINT: usize = 200;

/// The state of both routes.
pub(super) struct Intake {
    counters: Arc<Counters>,
    sns: Option<Sns>,
    bodies: Semaphore,
    sns_bodies: Semaphore,
    complaints: Complaints,
}

impl Intake {
    pub(super) fn new(counters: Arc<Counters>, sns: Option<Sns>) -> Self {
        Self {
            counters,
            sns,
            bodies: Semaphore::new(MOST_EVENTS_BODIES),
            sns_bodies: Semaphore::new(MOST_SNS_BODIES),
            complaints: Complaints::default(),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) const fn sns(&self) -> Option<&Sns> {
        self.sns.as_ref()
    }
}

/// `POST /v1/events`: any body, from somebody with a token.
pub(super) async fn post(app: Arc<App>, body: Incoming) -> Reply {
    let intake = &app.intake;
    let (body, _turn) = match read(&app, body, &intake.bodies, MAX_EVENTS_BODY).await {
        Ok(read) => read,
        Err(unread) => {
            intake.counters.add(Way::Http, unread.outcome(), 1);
            return unread.into_reply();
        }
    };
    match take(&app, Way::Http, &body).await {
        Ok(taken) => {
            let mut reply = json(&taken);
            *reply.status_mut() = StatusCode::ACCEPTED;
            reply
        }
        Err(error) => error.into_reply(),
    }
}

/// `POST /v1/events/sns`: a message of SNS, from anyone.
pub(super) async fn post_sns(app: Arc<App>, headers: HeaderMap, body: Incoming) -> Reply {
    let time = app.limits.sns_answer;
    let answer = tokio::time::timeout(time, take_sns(&app, &headers, body)).await;
    let answer =
        answer.unwrap_or_else(|_| Err(refused(&app, Outcome::Unavailable, later("this took too long"))));
    answer.map_or_else(ApiError::into_reply, |taken| json(&taken))
}

async fn take_sns(app: &Arc<App>, headers: &HeaderMap, body: Incoming) -> Result<EventsTaken, ApiError> {
    let Some(sns) = app.intake.sns() else {
        let message = "no topic of SNS is taken here: list the ARN of yours in [events] sns_topics";
        return Err(refused(app, Outcome::Refused, ApiError::new(ErrorCode::Forbidden, message)));
    };
    let (body, _turn) = read(app, body, &app.intake.sns_bodies, MAX_SNS_BODY).await.map_err(|unread| {
        // A slow body is no reason to lose a message: SNS takes every 4xx but 429 for final.
        let error =
            if unread == Unread::Slow { later("the body came too slowly") } else { unread.into_error() };
        refused(app, unread.outcome(), error)
    })?;
    let nothing = EventsTaken::default();
    let outcome = match sns.admit(headers, &body).await {
        Ok(Admitted::Notification { id, message }) => {
            drop(body);
            let taken = take(app, Way::Sns, message.as_bytes()).await?;
            sns.remember(&id);
            return Ok(taken);
        }
        Ok(Admitted::Replay) => Outcome::Replayed,
        Ok(Admitted::Confirmed) => Outcome::Confirmed,
        Ok(Admitted::Unsubscribed) => Outcome::Unsubscribed,
        Err(NotAdmitted::NotNow(why)) => {
            return Err(refused(app, Outcome::Unavailable, later(why.to_string())));
        }
        Err(NotAdmitted::Refused(why)) => {
            let code = if why.is_mistake() { ErrorCode::BadRequest } else { ErrorCode::Forbidden };
            return Err(refused(app, Outcome::Refused, ApiError::new(code, why.to_string())));
        }
    };
    app.intake.counters.add(Way::Sns, outcome, 1);
    Ok(nothing)
}

/// Counts and mentions a message of SNS that is not taken.
fn refused(app: &App, outcome: Outcome, error: ApiError) -> ApiError {
    app.intake.counters.add(Way::Sns, outcome, 1);
    app.intake.complaints.about(Way::Sns, &error.message);
    error
}

fn later(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, message).retry_after(COME_AGAIN)
}

/// Hands what a body holds to the engine, and counts it.
async fn take(app: &Arc<App>, way: Way, body: &[u8]) -> Result<EventsTaken, ApiError> {
    let Held { events, tests, rejected } = take_body(body);
    let count = events.len();
    let counters = &app.intake.counters;
    counters.add(way, Outcome::Test, tests);
    counters.add(way, Outcome::Rejected, rejected.len());
    if let Some(reason) = rejected.first() {
        app.intake.complaints.about(way, reason);
    }
    let Taken { ours, foreign, not_kept } = take_events(&app.engine, events).await?;
    counters.add(way, Outcome::Ours, ours);
    counters.add(way, Outcome::Foreign, foreign);
    counters.add(way, Outcome::NotKept, not_kept);
    let wide = |count: usize| count as u64;
    let (tests, rejected) = (wide(tests), wide(rejected.len()));
    settle(
        EventsTaken { events: wide(count), ours: wide(ours), foreign: wide(foreign), tests, rejected },
        not_kept,
    )
}

/// Only what is kept whole is acknowledged.
fn settle(taken: EventsTaken, not_kept: usize) -> Result<EventsTaken, ApiError> {
    if not_kept > 0 {
        let count = taken.events;
        return Err(later(format!("{not_kept} of {count} events could not be stored; send them again")));
    }
    Ok(taken)
}

/// In a task of its own: a caller who goes away must not break off what is half-way to the store.
async fn take_events(engine: &Arc<Engine>, events: Vec<Event>) -> Result<Taken, ApiError> {
    if events.is_empty() {
        return Ok(Taken::default());
    }
    let engine = Arc::clone(engine);
    let task = tokio::spawn(async move { engine.take_events(&events).await });
    task.await
        .map_err(|_| ApiError::new(ErrorCode::Internal, "the events could not be taken; send them again"))
}

/// What a body holds.
struct Held {
    events: Vec<Event>,
    tests: usize,
    /// Why parts of it are not understood.
    rejected: Vec<String>,
}

/// Reads the message of a lifecycle hook as Auto Scaling writes it.
fn take_body(body: &[u8]) -> Held {
    let mut held = Held { events: Vec::new(), tests: 0, rejected: Vec::new() };
    match serde_json::from_slice::<HookMessage>(body) {
        Ok(HookMessage { event: Some(event), .. }) if event == "autoscaling:TEST_NOTIFICATION" => {
            held.tests = 1
        }
        Ok(message) => match message.into_event() {
            Some(event) => held.events.push(event),
            None => held.rejected.push("not the message of a lifecycle hook".into()),
        },
        // The error's own text may quote the body.
        Err(error) => held.rejected.push(format!("not JSON that is known (line {})", error.line())),
    }
    held
}

/// A lifecycle hook's message.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HookMessage {
    event: Option<String>,
    lifecycle_transition: Option<String>,
    lifecycle_hook_name: Option<String>,
    lifecycle_action_token: Option<String>,
    auto_scaling_group_name: Option<String>,
    #[serde(rename = "EC2InstanceId")]
    instance: Option<String>,
    time: Option<String>,
    origin: Option<String>,
    destination: Option<String>,
}

impl HookMessage {
    fn into_event(self) -> Option<Event> {
        let (kind, transition) = match self.lifecycle_transition?.as_str() {
            "autoscaling:EC2_INSTANCE_LAUNCHING" => (EventKind::LaunchHook, Transition::Launching),
            "autoscaling:EC2_INSTANCE_TERMINATING" => (EventKind::TerminateHook, Transition::Terminating),
            _ => return None,
        };
        let token = self.lifecycle_action_token.map(|token| token.parse()).transpose().ok()?;
        Some(Event {
            kind,
            instance: self.instance?.parse().ok()?,
            group: Some(self.auto_scaling_group_name?.parse().ok()?),
            region: None,
            at: self.time.as_deref().and_then(pikepole_api::time::parse),
            hook: Some(Hook { name: self.lifecycle_hook_name?.parse().ok()?, token, transition }),
            warm_pool: match (self.origin.as_deref(), self.destination.as_deref()) {
                (_, Some("WarmPool")) => WarmPool::To,
                (Some("WarmPool"), _) => WarmPool::From,
                _ => WarmPool::No,
            },
        })
    }
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// Too many others are being read.
    Full,
    /// It is longer than the limit.
    TooLarge,
    /// It did not come in time.
    Slow,
    /// It broke off, or is no proper HTTP.
    Broken,
}

impl Unread {
    const fn outcome(self) -> Outcome {
        match self {
            Self::Full | Self::Slow => Outcome::Unavailable,
            Self::TooLarge | Self::Broken => Outcome::Refused,
        }
    }

    fn into_error(self) -> ApiError {
        match self {
            Self::Full => later("too many events are being taken in; come again"),
            Self::TooLarge => {
                ApiError::new(ErrorCode::TooLarge, "the body is larger than the limit of this route")
            }
            Self::Slow => ApiError::bad_request("the body did not arrive in time".into()),
            Self::Broken => ApiError::bad_request("the body broke off".into()),
        }
    }

    fn into_reply(self) -> Reply {
        let mut reply = self.into_error().into_reply();
        if self == Self::Slow {
            *reply.status_mut() = StatusCode::REQUEST_TIMEOUT;
        }
        reply
    }
}

/// A whole body, and the turn that was taken to read it: it is held until the body is done with.
async fn read<'a>(
    app: &App,
    body: Incoming,
    turns: &'a Semaphore,
    most: usize,
) -> Result<(Vec<u8>, SemaphorePermit<'a>), Unread> {
    // A declared length that is too long is not even begun.
    if body.size_hint().lower() > most as u64 {
        return Err(Unread::TooLarge);
    }
    let turn = match tokio::time::timeout(app.limits.body_turn, turns.acquire()).await {
        Ok(turn) => turn.expect("the semaphore is never closed"),
        Err(_) => return Err(Unread::Full),
    };
    let body = tokio::time::timeout(app.limits.body_time, read_all(body, most)).await;
    Ok((body.unwrap_or(Err(Unread::Slow))?, turn))
}

/// Copied into one buffer as it comes: kept as it came, a body in chunks of one byte would cost thirty times its size.
async fn read_all(mut body: Incoming, most: usize) -> Result<Vec<u8>, Unread> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if whole.len() + data.len() > most {
            return Err(Unread::TooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
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
        tracing::warn!(way = way.as_str(), ?reason, unsaid, "events that were posted here are not taken");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_not_kept_makes_its_sender_come_again() {
        let taken = EventsTaken { events: 2, ours: 2, ..EventsTaken::default() };
        assert_eq!(settle(taken, 0).unwrap(), taken);
        let error = settle(taken, 1).unwrap_err();
        assert_eq!((error.code, error.retry_after), (ErrorCode::Unavailable, Some(COME_AGAIN)));
    }

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
