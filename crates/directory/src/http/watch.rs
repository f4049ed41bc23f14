//! `GET /v1/watch`: rosters as server-sent events. A slow reader skips to the newest roster; nothing
//! queues up for it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use tokio::sync::{mpsc, watch};

use super::App;
use super::body::Body;
use super::query::repeated;
use super::reply::{ApiError, Reply};
use crate::engine::Shown;

const COMMENT: Bytes = Bytes::from_static(b": alive\n\n");
const GOAWAY: Bytes = Bytes::from_static(b"event: goaway\ndata: {}\n\n");

type Roster = watch::Receiver<Shown>;

/// Starts a stream over the named fleets, or over all.
pub(super) fn open(app: &App, query: Option<&str>) -> Result<Reply, ApiError> {
    let names = repeated(query, "fleet")?;
    let rosters: Vec<Roster> = if names.is_empty() {
        app.engine.fleets().iter().map(|fleet| fleet.watch()).collect()
    } else {
        let find = |name: &std::borrow::Cow<'_, str>| {
            app.engine.fleet(name).map(|f| f.watch()).ok_or_else(|| ApiError::unknown_fleet(name))
        };
        names.iter().map(find).collect::<Result<_, _>>()?
    };
    // One event in the channel, one on the wire: what is newer replaces what waits.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(feed(rosters, sender, app.limits.comment_every));
    let mut reply = Reply::new(Body::Events(receiver));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply)
}

/// Sends the current rosters, then each new one, until the reader or the server goes away.
async fn feed(mut rosters: Vec<Roster>, sender: mpsc::Sender<Bytes>, comment_every: Duration) {
    for roster in &mut rosters {
        roster.mark_changed();
    }
    // The headers go out with the first byte, even if no roster is known yet.
    let mut next = Some(COMMENT);
    loop {
        if let Some(event) = next.take()
            && sender.send(event).await.is_err()
        {
            return;
        }
        let change = select_all(rosters.iter_mut().map(|roster| Box::pin(roster.changed())));
        let index = tokio::select! {
            (Ok(()), index, _) = change => index,
            () = tokio::time::sleep(comment_every) => { next = Some(COMMENT); continue; }
            () = sender.closed() => return,
            else => return,
        };
        let shown = rosters[index].borrow_and_update().clone();
        if shown.stopping {
            // Losing this is fine: the end of the stream says the same.
            drop(tokio::time::timeout(Duration::from_secs(1), sender.send(GOAWAY)).await);
            return;
        }
        next = shown.published.map(|published| published.event.clone());
        // Who was heard goes to the end of the line: a fleet that never rests must not silence the others.
        rosters[index..].rotate_left(1);
    }
}
