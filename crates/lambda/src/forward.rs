//! Delivers one event to the first directory that takes it.
//!
//! Directories are tried in turn, beginning with the one that took the last event. Each gets an equal
//! share of the time that is left, so that one that hangs leaves time for the next. An event may arrive
//! twice: to a directory it is a hint.
//!
//! Invariant: `Ok` means that a directory answered 2xx. No error quotes what a directory wrote: a server
//! that echoes its request would put the token there.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::{Config, Directory};
use crate::token::{Token, TokenError};

/// An answer of a directory is a few numbers; a longer one is not read to its end.
const MAX_ANSWER: usize = 64 * 1024;
/// A connection that idled longer is not used again: whatever is between may have forgotten it.
const IDLE: Duration = Duration::from_secs(60);
/// Before Lambda's own deadline: to report what went wrong.
const MARGIN_MS: u64 = 150;

/// A client of plain HTTP, for what runs beside the function.
pub(crate) type HttpClient<C = HttpConnector> = Client<C, Full<Bytes>>;

pub(crate) fn plain_client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build(HttpConnector::new())
}

/// An event was taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Delivered {
    /// By this directory.
    pub(crate) directory: String,
    /// With this status.
    pub(crate) status: u16,
    /// And these counts.
    pub(crate) answer: Counts,
}

/// What a directory says it did with an event. Nothing else of its answer goes on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    events: Option<u64>,
    ours: Option<u64>,
    foreign: Option<u64>,
    tests: Option<u64>,
    rejected: Option<u64>,
}

/// No directory took the event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDelivered {
    #[error("no directory was asked: {0}")]
    NoToken(#[from] TokenError),
    #[error("no directory took the event: {}", said(.0))]
    Refused(Vec<Refusal>),
}

/// What one directory did instead of taking it.
#[derive(Debug)]
pub(crate) struct Refusal {
    directory: String,
    why: String,
    set_up: bool,
    /// No other directory would do otherwise.
    last: bool,
}

fn said(refusals: &[Refusal]) -> String {
    let each: Vec<String> = refusals.iter().map(|r| format!("{}: {}", r.directory, r.why)).collect();
    each.join("; ")
}

impl NotDelivered {
    /// What Lambda calls the error's type: whether trying again may help or somebody must change the set-up.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Refused(refusals) if refusals.iter().any(|r| !r.set_up) => "Pikepole.Unavailable",
            Self::NoToken(TokenError::Unreachable) => "Pikepole.Unavailable",
            _ => "Pikepole.SetUp",
        }
    }
}

/// The directories and the connections to them, kept between invocations.
#[derive(Debug)]
pub(crate) struct Forwarder {
    directories: Vec<Directory>,
    /// Where the next event goes first.
    first: AtomicUsize,
    timeout: Duration,
    token: Token,
    client: HttpClient<HttpsConnector<HttpConnector>>,
}

impl Forwarder {
    pub(crate) fn new(config: Config) -> Self {
        let first = AtomicUsize::new(fastrand::usize(..config.directories.len()));
        Self {
            first,
            timeout: config.timeout,
            token: Token::new(config.token),
            client: client(config.roots),
            directories: config.directories,
        }
    }

    /// The time for an invocation that Lambda ends at `deadline`, both in milliseconds since 1970. A deadline
    /// that has passed tells nothing: `cargo lambda` gives the same small number for every invocation.
    pub(crate) fn budget(&self, deadline: u64, now: u64) -> Duration {
        match deadline.checked_sub(now) {
            None => self.timeout,
            Some(left) => self.timeout.min(Duration::from_millis(left.saturating_sub(MARGIN_MS))),
        }
    }

    /// Delivers `body` within `budget`.
    pub(crate) async fn deliver(&self, body: Bytes, budget: Duration) -> Result<Delivered, NotDelivered> {
        let end = Instant::now() + budget;
        let token = timeout_at(end, self.token.header()).await.map_err(|_| TokenError::Unreachable)??;
        let count = self.directories.len();
        let first = self.first.load(Ordering::Relaxed);
        let mut refusals = Vec::new();
        for n in 0..count {
            let at = (first + n) % count;
            let share = end.saturating_duration_since(Instant::now()) / u32::try_from(count - n).unwrap_or(1);
            let directory = &self.directories[at];
            match timeout(share, self.ask(directory, &body, token.as_ref())).await {
                Ok(Ok(delivered)) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(delivered);
                }
                Ok(Err(refusal)) => {
                    let last = refusal.last;
                    refusals.push(refusal);
                    if last {
                        break;
                    }
                }
                Err(_) => {
                    let why = format!("no answer within {} ms", share.as_millis());
                    refusals.push(Refusal {
                        directory: directory.url.clone(),
                        why,
                        set_up: false,
                        last: false,
                    });
                }
            }
        }
        Err(NotDelivered::Refused(refusals))
    }

    /// One directory, with one more try if the secret turns out to hold another token by now.
    async fn ask(
        &self,
        directory: &Directory,
        body: &Bytes,
        token: Option<&HeaderValue>,
    ) -> Result<Delivered, Refusal> {
        let (status, answer) = self.post(directory, body, token).await?;
        let (status, answer) = match token {
            Some(refused) if status == StatusCode::UNAUTHORIZED => match self.token.renewed(refused).await {
                Some(renewed) => self.post(directory, body, Some(&renewed)).await?,
                None => (status, answer),
            },
            _ => (status, answer),
        };
        judge(directory, status, answer)
    }

    async fn post(
        &self,
        directory: &Directory,
        body: &Bytes,
        token: Option<&HeaderValue>,
    ) -> Result<(StatusCode, Counts), Refusal> {
        let refusal = |error: &ClientError| Refusal {
            directory: directory.url.clone(),
            why: chain(error),
            set_up: false,
            last: false,
        };
        let response = match self.client.request(request(directory, body, token)).await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Err(refusal(&error)),
            // The connection was kept from an earlier invocation and had ended meanwhile.
            Err(_) => {
                let again = self.client.request(request(directory, body, token)).await;
                again.map_err(|e| refusal(&e))?
            }
        };
        let status = response.status();
        // Read to its end, so that the connection can be used again. The status alone decides.
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let answer = answer.ok().and_then(|a| serde_json::from_slice(&a.to_bytes()).ok());
        Ok((status, answer.unwrap_or_default()))
    }
}

fn client(roots: Option<RootCertStore>) -> HttpClient<HttpsConnector<HttpConnector>> {
    let tls = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        // Without an https URL there are none, and none are asked for.
        .with_root_certificates(roots.unwrap_or_else(RootCertStore::empty))
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector)
}

fn request(directory: &Directory, body: &Bytes, token: Option<&HeaderValue>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = directory.events.clone();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token.clone());
    }
    request
}

fn judge(directory: &Directory, status: StatusCode, answer: Counts) -> Result<Delivered, Refusal> {
    if status.is_success() {
        return Ok(Delivered { directory: directory.url.clone(), status: status.as_u16(), answer });
    }
    let hint = match status.as_u16() {
        300..=399 => "redirects are not followed: give the URL it leads to",
        400 => "it does not accept the request: is it a directory, and of this version?",
        401 => "the token is not one of its tokens",
        403 => "the token may not write: give the directory's write token",
        404 | 405 => "it has no /v1/events: is the URL that of a directory, and of this version?",
        408 | 429 => "it has no time",
        413 => "the event is larger than it takes",
        500.. => "it cannot keep the event now",
        _ => "it does not accept the request",
    };
    let status = status.as_u16();
    let set_up = status < 500 && !matches!(status, 408 | 429);
    let why = format!("answered {status}: {hint}");
    Err(Refusal { directory: directory.url.clone(), why, set_up, last: matches!(status, 400 | 413) })
}

fn chain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
