//! A fake SQS: one standard queue behind the JSON protocol, over real HTTP on a loopback port.
//!
//! Not a second moto: it knows the four actions the poller calls, and leaves the checksums of bodies
//! out, which the SDK for Rust does not look at. What it adds is faults, and times by tokio's clock.
//!
//! Invariant: without faults its answers are those of the real thing, as the conformance suite of the
//! poller shows on this fake and on moto.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::wire::{self, Dropped};

mod queue;

use queue::Queue;

const QUEUE_URL: &str = "https://sqs.ap-south-1.amazonaws.com/123456789012/pikepole";

/// What the fake can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqsAction {
    /// `ReceiveMessage`.
    Receive,
    /// `DeleteMessageBatch`.
    Delete,
    /// `ChangeMessageVisibilityBatch`.
    Visibility,
    /// `GetQueueAttributes`.
    Attributes,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqsFault {
    /// The connection is closed without an answer.
    Drop,
    /// The connection stays open, and nothing comes.
    Silence,
    /// HTTP 500 `InternalFailure`.
    Internal500,
    /// HTTP 400 `RequestThrottled`.
    Throttled,
    /// HTTP 403 `AccessDeniedException`.
    Denied,
    /// HTTP 200 and a page of HTML, as a captive proxy gives.
    Html200,
    /// HTTP 200 and the first half of the truth, in a complete HTTP message.
    Truncated,
    /// `ReceiveMessage` answers at once and without a message, as a broken proxy may.
    EmptyAtOnce,
    /// `ReceiveMessage` hides nothing: each message is delivered again at once.
    Duplicates,
    /// So many entries of a batch fail with `InternalError`, which is no fault of the caller's.
    FailEntries(usize),
}

/// What was called, when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqsCall {
    /// What.
    pub action: SqsAction,
    /// When, by tokio's clock.
    pub at: Instant,
}

/// The handle of a running fake. The server ends with it.
#[derive(Debug)]
pub struct FakeSqs {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A long poll looks again: something was sent, or came back.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    exists: bool,
    faults: Vec<(SqsAction, SqsFault, u32)>,
    calls: Vec<SqsCall>,
}

impl FakeSqs {
    /// Starts an empty queue on a free loopback port, whose messages are hidden for so long once received.
    pub async fn start(visibility: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state =
            State { queue: Queue::new(visibility), exists: true, faults: Vec::new(), calls: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
        let served = Arc::clone(&shared);
        let server = wire::serve(listener, move |request| answer(request, Arc::clone(&served)));
        Self { shared, address, server: tokio::spawn(server) }
    }

    /// Its address as an AWS endpoint: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of its queue, which is one of AWS.
    pub fn queue_url(&self) -> String {
        QUEUE_URL.to_owned()
    }

    /// Puts a message into the queue.
    pub fn send(&self, body: &str) {
        self.state().queue.send(body);
        self.shared.changed.notify_waiters();
    }

    /// Messages that were not deleted yet, hidden ones too.
    pub fn left(&self) -> usize {
        self.state().queue.len()
    }

    /// The bodies that a dead-letter queue would hold.
    pub fn dead(&self) -> Vec<String> {
        self.state().queue.dead.clone()
    }

    /// Moves a message to the dead-letter queue instead of delivering it once more than so often.
    pub fn max_receive_count(&self, count: u32) {
        self.state().queue.max_receive_count = count;
    }

    /// Deletes the queue, or makes it anew as it was.
    pub fn exists(&self, exists: bool) {
        self.state().exists = exists;
        self.shared.changed.notify_waiters();
    }

    /// Makes the next so many calls fail; `u32::MAX` is for ever.
    pub fn fault(&self, action: SqsAction, fault: SqsFault, calls: u32) {
        self.state().faults.push((action, fault, calls));
        // A long poll that waits already is not spared.
        self.shared.changed.notify_waiters();
    }

    /// Ends every fault.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Every call so far, in order.
    pub fn all_calls(&self) -> Vec<SqsCall> {
        self.state().calls.clone()
    }

    /// How often an action was called, whatever came of it.
    pub fn calls(&self, action: SqsAction) -> usize {
        self.state().calls.iter().filter(|c| c.action == action).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }
}

impl Drop for FakeSqs {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A test that panicked with the lock in its hands is not this test's trouble.
fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SqsAction {
    fn from_target(target: &str) -> Option<Self> {
        match target {
            "AmazonSQS.ReceiveMessage" => Some(Self::Receive),
            "AmazonSQS.DeleteMessageBatch" => Some(Self::Delete),
            "AmazonSQS.ChangeMessageVisibilityBatch" => Some(Self::Visibility),
            "AmazonSQS.GetQueueAttributes" => Some(Self::Attributes),
            _ => None,
        }
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Dropped> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Dropped)?.to_bytes();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let Some(action) = SqsAction::from_target(header("x-amz-target")) else {
        return Ok(error(400, "InvalidAction", "the fake does not know this action", None));
    };
    let fault = {
        let mut state = lock(&shared);
        state.calls.push(SqsCall { action, at: Instant::now() });
        state.fault(action)
    };
    let signature = header("authorization");
    if !(signature.starts_with("AWS4-HMAC-SHA256 ") && signature.contains("/sqs/aws4_request")) {
        return Ok(error(403, "MissingAuthenticationToken", "the call is not signed", None));
    }
    let Ok(params) = serde_json::from_slice::<Value>(&body) else {
        return Ok(error(400, "SerializationException", "the body is no JSON", None));
    };
    let html = b"<!DOCTYPE html><html><body><h1>Hello<br></h1></body></html>";
    match fault {
        Some(SqsFault::Drop) => Err(Dropped),
        Some(SqsFault::Silence) => match std::future::pending::<Infallible>().await {},
        Some(SqsFault::Internal500) => {
            Ok(error(500, "InternalFailure", "An internal error has occurred", None))
        }
        Some(SqsFault::Throttled) => Ok(error(400, "RequestThrottled", "Rate exceeded", None)),
        Some(SqsFault::Denied) => Ok(error(403, "AccessDeniedException", "User is not authorized", None)),
        Some(SqsFault::Html200) => Ok(response(200, Bytes::from_static(html))),
        Some(SqsFault::EmptyAtOnce) => Ok(response(200, Bytes::from_static(b"{}"))),
        Some(SqsFault::Truncated) => {
            let whole = truth(&shared, action, &params, None).await.unwrap_or_else(|_| "{}".into());
            Ok(response(200, whole[..whole.len() / 2].to_owned().into()))
        }
        Some(SqsFault::Duplicates | SqsFault::FailEntries(_)) | None => {
            match truth(&shared, action, &params, fault).await {
                Ok(body) => Ok(response(200, body.into())),
                Err(refusal) => Ok(refusal),
            }
        }
    }
}

/// The body of the true answer, or the refusal.
async fn truth(
    shared: &Shared,
    action: SqsAction,
    params: &Value,
    fault: Option<SqsFault>,
) -> Result<String, Response<Full<Bytes>>> {
    let known = params["QueueUrl"] == QUEUE_URL;
    let began = Instant::now();
    loop {
        // Made before looking, so that nothing sent in between is missed.
        let changed = shared.changed.notified();
        let next = {
            let mut state = lock(shared);
            if !(known && state.exists) {
                let query = "AWS.SimpleQueueService.NonExistentQueue;Sender";
                let words = "The specified queue does not exist.";
                return Err(error(400, "QueueDoesNotExist", words, Some(query)));
            }
            let queue = &mut state.queue;
            let told = match action {
                SqsAction::Receive => {
                    let bad = |words: &str| error(400, "InvalidParameterValue", words, None);
                    let (most, wait) = queue::receive_params(params).map_err(|words| bad(&words))?;
                    let messages = queue.receive(most, fault == Some(SqsFault::Duplicates));
                    let end = began + wait;
                    if messages.is_empty() && Instant::now() < end {
                        Err(queue.next_visible().map_or(end, |at| at.min(end)))
                    } else if messages.is_empty() {
                        Ok(json!({}))
                    } else {
                        Ok(json!({ "Messages": messages }))
                    }
                }
                SqsAction::Delete => Ok(queue.delete(params, failing(fault))),
                SqsAction::Visibility => Ok(queue.change_visibility(params, failing(fault))),
                SqsAction::Attributes => Ok(queue.attributes()),
            };
            match told {
                Ok(told) => return Ok(told.to_string()),
                Err(next) => next,
            }
        };
        tokio::select! {
            () = changed => {
                if lock(shared).would_fail(action) {
                    // The poll that was open when a fault came ends empty.
                    return Ok("{}".to_owned());
                }
            }
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

fn failing(fault: Option<SqsFault>) -> usize {
    match fault {
        Some(SqsFault::FailEntries(count)) => count,
        _ => 0,
    }
}

impl State {
    fn would_fail(&self, action: SqsAction) -> bool {
        self.faults
            .iter()
            .any(|(of, fault, left)| *of == action && *left > 0 && *fault != SqsFault::Duplicates)
    }

    fn fault(&mut self, action: SqsAction) -> Option<SqsFault> {
        let (_, fault, left) = self.faults.iter_mut().find(|(of, _, left)| *of == action && *left > 0)?;
        *left = left.saturating_sub(u32::from(*left != u32::MAX));
        Some(*fault)
    }
}

fn error(status: u16, code: &str, words: &str, query: Option<&str>) -> Response<Full<Bytes>> {
    let body = json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": words });
    let mut response = response(status, body.to_string().into());
    if let Some(query) = query {
        let query = query.parse().expect("the words of an error are a header's value");
        response.headers_mut().insert("x-amzn-query-error", query);
    }
    response
}

fn response(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, "application/x-amz-json-1.0")
        .body(Full::new(body))
        .expect("the parts of this answer are valid HTTP")
}
