//! `GET /v1/fleets/{fleet}/roster`: the roster at once, if it changed, or as soon as it changes.

use std::sync::Arc;

use http::header::{AGE, CACHE_CONTROL, CONNECTION, ETAG, IF_NONE_MATCH, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pikepole_api::headers;
use pikepole_api::v1::ErrorCode;

use super::App;
use super::agents::Presence;
use super::body::Body;
use super::query::Poll;
use super::reply::{ApiError, JSON, ROOM, Reply, whole};
use crate::engine::{Fleet, Published, Shown};

const REVISION: HeaderName = HeaderName::from_static(headers::REVISION);
const CONFIRMED_AT: HeaderName = HeaderName::from_static(headers::CONFIRMED_AT);
const STALE: HeaderName = HeaderName::from_static(headers::STALE);
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// Adds what every roster answer carries beside the roster.
pub(super) fn add_freshness(app: &App, fleet: &Fleet, published: &Published, headers: &mut HeaderMap) {
    headers.insert(REVISION, published.revision.clone());
    headers.insert(CACHE_CONTROL, NO_CACHE);
    let stale = match fleet.freshness() {
        Some(freshness) => {
            let age = freshness.age(app.engine.clock().now());
            headers.insert(CONFIRMED_AT, freshness.header);
            headers.insert(AGE, HeaderValue::from(age.as_secs()));
            app.engine.is_too_old(age)
        }
        None => true,
    };
    headers.insert(STALE, HeaderValue::from_static(if stale { "true" } else { "false" }));
}

/// The roster as it is.
fn full(app: &App, fleet: &Fleet, published: &Published) -> Reply {
    let mut reply = whole(StatusCode::OK, JSON, published.json.clone());
    reply.headers_mut().insert(ETAG, published.etag.clone());
    add_freshness(app, fleet, published, reply.headers_mut());
    reply
}

/// "You have it already."
fn unchanged(app: &App, fleet: &Fleet, published: &Published) -> Reply {
    let mut reply = Reply::new(Body::Whole(bytes::Bytes::new()));
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    reply.headers_mut().reserve(ROOM);
    reply.headers_mut().insert(ETAG, published.etag.clone());
    add_freshness(app, fleet, published, reply.headers_mut());
    reply
}

/// Nothing is known of this fleet yet, or its source is sure that it does not exist.
pub(super) fn not_ready(fleet: &Fleet) -> ApiError {
    if fleet.state().missing {
        let group = fleet.config().group();
        return ApiError::new(
            ErrorCode::SourceFailed,
            format!("the source says there is no group called {group}; check this fleet's source and region"),
        );
    }
    ApiError::new(ErrorCode::NotReady, "nothing is known of this fleet yet; come again").retry_after(1)
}

/// What can be answered without waiting. `None`: the caller wants to wait for another revision.
pub(super) fn now(app: &App, fleet: &Fleet, poll: Poll, headers: &HeaderMap) -> Option<Reply> {
    let Some(published) = fleet.published() else {
        return (poll.wait.is_zero() || fleet.state().missing).then(|| not_ready(fleet).into_reply());
    };
    let has_it = match poll.after {
        Some(after) => after == published.revision().get(),
        None => headers.get_all(IF_NONE_MATCH).iter().any(|tags| lists(tags, &published.etag)),
    };
    if !has_it {
        return Some(full(app, fleet, &published));
    }
    let may_wait = poll.after.is_some() && !poll.wait.is_zero();
    (!may_wait).then(|| unchanged(app, fleet, &published))
}

/// `If-None-Match` compares weakly (RFC 9110, 13.1.2).
fn lists(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(etag)) = (tags.to_str(), etag.to_str()) else { return false };
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Waits until the roster is another one than the caller's.
pub(super) async fn later(
    app: Arc<App>,
    fleet: Arc<Fleet>,
    poll: Poll,
    _presence: Option<Presence>,
) -> Reply {
    let mut roster = fleet.watch();
    let has_it = |p: &Arc<Published>| Some(p.revision().get()) == poll.after;
    let is_news = |shown: &Shown| shown.stopping || shown.published.as_ref().is_some_and(|p| !has_it(p));
    // Whatever ended the wait, what is shown now is the answer.
    drop(tokio::time::timeout(poll.wait, roster.wait_for(is_news)).await);
    let shown = roster.borrow().clone();
    match shown.published {
        Some(published) if !has_it(&published) => full(&app, &fleet, &published),
        _ if shown.stopping => stopping(),
        Some(published) => unchanged(&app, &fleet, &published),
        None => not_ready(&fleet).into_reply(),
    }
}

/// "Go to another replica, at once."
pub(super) fn stopping() -> Reply {
    let mut reply =
        ApiError::new(ErrorCode::Unavailable, "this directory is stopping; ask another one").into_reply();
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("0"));
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}
