//! Serves the status over HTTP/1.1: three routes, `GET` only.
//!
//! Invariant: bounded connections, each with a limit on how long its request may take to come.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pikepole_api::exposition::negotiated;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::{Status, metrics};
use crate::clock::Clock;

/// Connections at a time; the next ones wait.
const MAX_CONNECTIONS: usize = 64;
/// For a request's head to come, and for a connection to be idle.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// For a connection as a whole.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// After a failed `accept`, which mostly means that there are no file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, status: watch::Receiver<Arc<Status>>, clock: Clock) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this future, and with it all connections.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (status, clock) = (status.clone(), clock.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let reply = answer(&request, &status, &clock);
                async move { Ok::<_, Infallible>(reply) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(stream), service);
            // How a reader's connection ends is the reader's affair.
            drop(tokio::time::timeout(CONNECTION_TIME, connection).await);
            drop(place);
        });
    }
}

fn answer<B>(
    request: &Request<B>,
    status: &watch::Receiver<Arc<Status>>,
    clock: &Clock,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    let status = Arc::clone(&status.borrow()).at(clock.now());
    match request.uri().path() {
        "/status" => match serde_json::to_vec(&status) {
            Ok(body) => reply(StatusCode::OK, "application/json", body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "cannot write the status\n"),
        },
        "/metrics" => match metrics::text(&status) {
            Ok(body) => {
                let accept = request.headers().get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
                let (kind, body) = negotiated(body, accept);
                reply(StatusCode::OK, kind, body.into_bytes())
            }
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "cannot write the metrics\n"),
        },
        "/healthz" => text(StatusCode::OK, "ok\n"),
        _ => text(StatusCode::NOT_FOUND, "there are /status, /metrics and /healthz\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body.into())
}

fn reply(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

#[cfg(test)]
mod tests {
    use pikepole_fleet::Timestamp;

    use super::*;

    #[test]
    fn metrics_are_in_the_format_that_is_asked_for() {
        let status = watch::Sender::new(Arc::new(Status::default())).subscribe();
        let clock = Clock::from_fn(|| Timestamp::from_millis(0));
        let kind = |accept: Option<&str>| {
            let mut request = Request::builder().uri("/metrics");
            request = accept.into_iter().fold(request, |request, accept| request.header(ACCEPT, accept));
            let reply = answer(&request.body(()).unwrap(), &status, &clock);
            reply.headers()[CONTENT_TYPE].to_str().unwrap().to_string()
        };
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert!(kind(Some(prometheus)).starts_with("application/openmetrics-text; version=1.0.0"));
        for plain in [None, Some("*/*"), Some("text/plain")] {
            assert_eq!(kind(plain), "text/plain; version=0.0.4; charset=utf-8", "{plain:?}");
        }
    }
}
