//! `POST /v1/events` and `POST /v1/events/sns`: bodies that are read, within limits, and what they hold is handed to
//! the engine.
//!
//! Not a decoder and not a judge of signatures: those are in `events`. The status is the protocol here, since a sender
//! that hears 5xx sends again, and one that hears 4xx never does. So 4xx is for what must not come again.
//!
//! Invariant: an answer of success means that every effect is in the store.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use pikepole_api::v1::{ErrorCode, EventsTaken};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::App;
use super::limits::{MAX_EVENTS_BODY, MAX_SNS_BODY, MOST_EVENTS_BODIES, MOST_SNS_BODIES};
use super::reply::{ApiError, Reply, json};
use crate::events::sns::{Admitted, NotAdmitted};
use crate::events::{Outcome, Way};

/// Seconds after which a sender may try again.
const COME_AGAIN: u32 = 5;

/// Turns to read a body, so that only so many are in memory at once.
pub(super) struct Turns {
    bodies: Semaphore,
    sns_bodies: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { bodies: Semaphore::new(MOST_EVENTS_BODIES), sns_bodies: Semaphore::new(MOST_SNS_BODIES) }
    }
}

/// `POST /v1/events`: any body, from somebody with a token.
pub(super) async fn post(app: Arc<App>, body: Incoming) -> Reply {
    let (body, _turn) = match read(&app, body, &app.turns.bodies, MAX_EVENTS_BODY).await {
        Ok(read) => read,
        Err(unread) => {
            app.feed.counters().add(Way::Http, unread.outcome(), 1);
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
    let Some(sns) = app.feed.sns() else {
        let message = "no topic of SNS is taken here: list the ARN of yours in [events] sns_topics";
        return Err(refused(app, Outcome::Refused, ApiError::new(ErrorCode::Forbidden, message)));
    };
    let (body, _turn) = read(app, body, &app.turns.sns_bodies, MAX_SNS_BODY).await.map_err(|unread| {
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
    app.feed.counters().add(Way::Sns, outcome, 1);
    Ok(nothing)
}

/// Counts and mentions a message of SNS that is not taken.
fn refused(app: &App, outcome: Outcome, error: ApiError) -> ApiError {
    app.feed.counters().add(Way::Sns, outcome, 1);
    app.feed.complain(Way::Sns, &error.message);
    error
}

fn later(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, message).retry_after(COME_AGAIN)
}

/// Hands what a body holds to the engine.
async fn take(app: &Arc<App>, way: Way, body: &[u8]) -> Result<EventsTaken, ApiError> {
    let fed = app.feed.take(&app.engine, way, body).await;
    let fed = fed.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    let wide = |count: usize| count as u64;
    let taken = EventsTaken {
        events: wide(fed.events),
        ours: wide(fed.taken.ours),
        foreign: wide(fed.taken.foreign),
        tests: wide(fed.tests),
        rejected: wide(fed.rejected),
    };
    settle(taken, fed.taken.not_kept)
}

/// Only what is kept whole is acknowledged.
fn settle(taken: EventsTaken, not_kept: usize) -> Result<EventsTaken, ApiError> {
    if not_kept > 0 {
        let count = taken.events;
        return Err(later(format!("{not_kept} of {count} events could not be stored; send them again")));
    }
    Ok(taken)
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
}
