//! A typed client of the directory, and a watch that recovers.
//!
//! Every call is bounded in time and size. Errors say what happened and to what; they hold no token.

mod tls;
mod watch;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use pikepole_fleet::Timestamp;
use serde::de::DeserializeOwned;

use crate::v1::{self, ErrorCode};
use crate::{headers, time};
pub use tls::TlsFiles;
pub use watch::{Event, Target, Watch};

/// Longest answer that is read: a roster of 10,000 members is below 2 MiB.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Longest roster that is read, in bytes: what is longer is not a roster.
const MAX_ROSTER: usize = 8 * 1024 * 1024;
/// For a body to come in, once its head is there: nothing is waited for then but the network.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Beyond the time a caller is willing to wait for news: for the network and the server.
const SLACK: Duration = Duration::from_secs(10);
/// For a TCP connection to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// A connection on which nothing moves is probed after this time, and so kept in mind by whatever counts idle
/// ones on the way.
const PROBE_AFTER: Duration = Duration::from_secs(3);
/// Between two probes that nobody answers.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// So many of them, and the host is gone: it vanished without a word. A long poll would wait for it to its end.
const PROBES: u32 = 3;
/// The same for bytes that nobody acknowledges.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The address of the directory is not usable.
    #[error("{0}")]
    BadUrl(String),
    /// No answer.
    #[error("{url} does not answer: {why}")]
    Unreachable {
        /// The directory.
        url: String,
        /// What happened.
        why: String,
    },
    /// No whole answer in the time there is.
    #[error("{url} does not answer within {} s", limit.as_secs())]
    TimedOut {
        /// The directory.
        url: String,
        /// The time there is.
        limit: Duration,
    },
    /// An error of the directory.
    #[error("{url} says: {message}")]
    Refused {
        /// The directory.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The stable code, if the answer was the directory's own.
        code: Option<ErrorCode>,
        /// Its sentence.
        message: String,
        /// When to come again, if it says so.
        retry_after: Option<Duration>,
    },
    /// An answer that is not a directory's.
    #[error("{url} answers something that is not a directory's: {why}")]
    Garbage {
        /// The directory.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

/// How fresh a roster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freshness {
    /// When the source last confirmed it.
    pub confirmed_at: Option<Timestamp>,
    /// Whether that is too long ago, says the directory.
    pub stale: bool,
}

/// What a poll asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Poll<'a> {
    /// The revision the caller has; `None`: answer at once.
    pub after: Option<u64>,
    /// How long to wait for another one.
    pub wait: Duration,
    /// Who asks, if it is an agent whose progress counts.
    pub agent: Option<AgentPoll<'a>>,
}

/// An agent that polls.
#[derive(Debug, Clone, Copy)]
pub struct AgentPoll<'a> {
    /// Its stable id.
    pub id: &'a str,
    /// The UUID of its start, so that cloned hosts are told apart.
    pub start: &'a str,
    /// The revision it really uses.
    pub applied: Option<u64>,
}

/// The answer to a poll.
#[derive(Debug, Clone)]
pub enum Polled {
    /// Another roster than the caller's.
    Roster(v1::Roster, Freshness),
    /// Still the same.
    Unchanged(Freshness),
}

/// A directory.
#[derive(Clone)]
pub struct Client {
    base: String,
    authorization: Option<http::HeaderValue>,
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the directory at `url`, such as `http://127.0.0.1:8044`.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, ClientError> {
        Self::with_tls(url, token, &TlsFiles::default())
    }

    /// The same, with TLS by these files.
    pub fn with_tls(url: &str, token: Option<&str>, files: &TlsFiles) -> Result<Self, ClientError> {
        let config = tls::config(files, url.starts_with("http://")).map_err(ClientError::BadUrl)?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(config);
        Self::build(url, token, |tcp| builder.https_or_http().enable_http1().wrap_connector(tcp))
    }

    fn build(
        url: &str,
        token: Option<&str>,
        connector: impl FnOnce(HttpConnector) -> HttpsConnector<HttpConnector>,
    ) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::BadUrl(format!("{url:?} is not a directory's URL: {why}"));
        // First of all, or the next message would show it.
        if url.contains('@') {
            return Err(ClientError::BadUrl("the URL holds a password; pass the token with --token".into()));
        }
        let uri: Uri = url.parse().map_err(|_| bad("write it like http://127.0.0.1:8044"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(bad("write it like http://127.0.0.1:8044"));
        }
        let authorization = token
            .map(|token| format!("Bearer {token}").parse::<http::HeaderValue>())
            .transpose()
            .map_err(|_| ClientError::BadUrl("the token has characters that no token has".into()))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIME));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(PROBE_AFTER));
        tcp.set_keepalive_interval(Some(PROBE_EVERY));
        tcp.set_keepalive_retries(Some(PROBES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let http = HttpClient::builder(TokioExecutor::new()).build(connector(tcp));
        Ok(Self { base: url.trim_end_matches('/').to_string(), authorization, http })
    }

    /// The state of all fleets.
    pub async fn fleets(&self) -> Result<v1::Fleets, ClientError> {
        self.json(Method::GET, "/v1/fleets", Duration::ZERO).await
    }

    /// The state of one fleet.
    pub async fn fleet(&self, name: &str) -> Result<v1::Fleet, ClientError> {
        self.json(Method::GET, &format!("/v1/fleets/{}", segment(name)), Duration::ZERO).await
    }

    /// The agents of a fleet, and its dying collectors.
    pub async fn agents(&self, fleet: &str) -> Result<v1::Agents, ClientError> {
        self.json(Method::GET, &format!("/v1/agents?fleet={}", segment(fleet)), Duration::ZERO).await
    }

    /// The roster of a fleet as it is now.
    pub async fn roster(&self, name: &str) -> Result<Polled, ClientError> {
        self.poll(name, Poll::default()).await
    }

    /// The roster of a fleet, as soon as it is another one than the caller's.
    pub async fn poll(&self, name: &str, poll: Poll<'_>) -> Result<Polled, ClientError> {
        let (path, wait) = roster_path(name, poll);
        let (status, head, body) = self.call(Method::GET, &path, wait, MAX_ROSTER).await?;
        let flag = |name: &str| head.get(name).and_then(|v| v.to_str().ok());
        let mut freshness = Freshness {
            confirmed_at: flag(headers::CONFIRMED_AT).and_then(time::parse),
            stale: flag(headers::STALE) == Some("true"),
        };
        // A proxy on the way may take our heads out. What is left must not contradict itself.
        let said = flag(headers::REVISION).and_then(|text| text.parse::<u64>().ok());
        if status == StatusCode::NOT_MODIFIED {
            let Some(held) = poll.after else { return Err(self.garbage("\"not modified\", unasked")) };
            if said.is_some_and(|revision| revision != held) {
                return Err(self.garbage("\"not modified\" about another revision than was asked about"));
            }
            // Without the revision it is a sign of life, and no more.
            return Ok(Polled::Unchanged(if said.is_some() { freshness } else { Freshness::default() }));
        }
        let roster: v1::Roster = self.read(&body)?;
        if said.is_some_and(|revision| revision != roster.revision) {
            return Err(self.garbage("a roster of another revision than its head says"));
        }
        // It was confirmed when it was published, or later.
        freshness.confirmed_at = freshness.confirmed_at.or(Some(roster.published_at.0));
        roster.to_domain().map_err(|e| self.garbage(&format!("a name in the roster {e}")))?;
        Ok(Polled::Roster(roster, freshness))
    }

    /// Has the source of a fleet asked again, and waits for what comes of it.
    pub async fn refresh(&self, name: &str, wait: Duration) -> Result<v1::Refresh, ClientError> {
        let path = format!("/v1/fleets/{}/refresh?wait={}ms", segment(name), wait.as_millis());
        self.json(Method::POST, &path, wait).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        wait: Duration,
    ) -> Result<T, ClientError> {
        let (_, _, body) = self.call(method, path, wait, MAX_ANSWER).await?;
        self.read(&body)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|e| self.garbage(&e.to_string()))
    }

    fn garbage(&self, why: &str) -> ClientError {
        ClientError::Garbage { url: self.base.clone(), why: why.into() }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        wait: Duration,
        most: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
        let unreachable = |why: String| ClientError::Unreachable { url: self.base.clone(), why };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .header(ACCEPT, "application/json")
            .body(Full::default())
            .map_err(|e| ClientError::BadUrl(e.to_string()))?;
        let late = |limit: Duration| ClientError::TimedOut { url: self.base.clone(), limit };
        let response = tokio::time::timeout(wait + SLACK, self.http.request(request))
            .await
            .map_err(|_| late(wait + SLACK))?
            .map_err(|e| unreachable(root_cause(&e)))?;
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status, head.headers);
        // A byte a second is no answer.
        let body = tokio::time::timeout(BODY_TIME, Limited::new(body, most).collect())
            .await
            .map_err(|_| late(BODY_TIME))?
            .map_err(|e| match e.downcast_ref::<LengthLimitError>() {
                Some(_) => self.garbage(&format!("more than {most} bytes")),
                None => unreachable(root_cause(&*e)),
            })?
            .to_bytes();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok((status, headers, body));
        }
        let error = serde_json::from_slice::<v1::ErrorBody>(&body).ok().map(|body| body.error);
        Err(ClientError::Refused {
            url: self.base.clone(),
            status: status.as_u16(),
            code: error.as_ref().map(|e| e.code),
            message: error.map_or_else(|| status.to_string(), |e| e.message),
            retry_after: headers
                .get(RETRY_AFTER)
                .and_then(|v| v.to_str().ok()?.parse().ok())
                .map(Duration::from_secs),
        })
    }
}

/// Reads the JSON at an address of any part of Pikepole, without a token.
pub async fn fetch<T: DeserializeOwned>(url: &str, limit: Duration) -> Result<T, ClientError> {
    let (base, path) = match url.find("://").and_then(|at| Some(at + 3 + url.get(at + 3..)?.find('/')?)) {
        Some(at) => url.split_at(at),
        None => (url, "/"),
    };
    let client = Client::new(base, None)?;
    let answer = client.json(Method::GET, path, Duration::ZERO);
    let late = |_| ClientError::TimedOut { url: base.into(), limit };
    tokio::time::timeout(limit, answer).await.map_err(late)?
}

/// Where to poll, and how long the answer may take to begin.
fn roster_path(name: &str, poll: Poll<'_>) -> (String, Duration) {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let mut wait = Duration::ZERO;
    if let Some(after) = poll.after {
        wait = poll.wait;
        query.append_pair("after", &after.to_string());
        query.append_pair("wait", &format!("{}ms", wait.as_millis()));
    }
    if let Some(agent) = poll.agent {
        query.append_pair("agent", agent.id).append_pair("start", agent.start);
        if let Some(applied) = agent.applied {
            query.append_pair("applied", &applied.to_string());
        }
    }
    let query = query.finish();
    let mark = if query.is_empty() { "" } else { "?" };
    (format!("/v1/fleets/{}/roster{mark}{query}", segment(name)), wait)
}

/// The last error of a chain says it best: "connection refused" rather than "client error (Connect)".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A path segment, percent-encoded.
fn segment(name: &str) -> String {
    form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}
