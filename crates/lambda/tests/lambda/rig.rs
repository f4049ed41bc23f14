//! A server of Lambda's runtime API, servers that play directories, and the real binary between them.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex as Lock, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

/// No wait in a test is longer: what has not happened by then never will.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// How a server of the test answers.
#[derive(Debug, Clone)]
pub(crate) enum Play {
    Answer(u16, String),
    /// Closes the connection after this answer.
    AnswerAndClose(u16, String),
    /// Never.
    Hang,
    /// Writes back all that it was sent, as JSON.
    Echo(u16),
}

/// A request as a server of the test saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
    /// Of which connection, counted from 0.
    pub(crate) connection: u64,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

/// A server that plays a part: each answer of the script once, then the last one for ever.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<VecDeque<Play>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Part {
    pub(crate) async fn start(script: &[Play]) -> Self {
        Self::start_tls(script, None).await
    }

    pub(crate) async fn start_tls(script: &[Play], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let part = Self {
            address: listener.local_addr().unwrap(),
            script: Arc::new(Mutex::new(script.iter().cloned().collect())),
            seen: Arc::default(),
        };
        let own = part.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (part, tls) = (own.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => part.serve(stream, connection).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                part.serve(stream, connection).await;
                            }
                        }
                    }
                });
            }
        });
        part
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin, connection: u64) {
        let service = service_fn(move |request: Request<Incoming>| {
            let part = self.clone();
            async move { Ok::<_, Infallible>(part.answer(request, connection).await) }
        });
        // The client may leave in the middle; the test says what it expects to have been seen.
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }

    async fn answer(&self, request: Request<Incoming>, connection: u64) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let line = format!("{} {}", head.method, head.uri);
        let seen = Seen { line, headers: head.headers, body, connection };
        let echo = serde_json::json!({ "events": 1, "echo": format!("{seen:?}") }).to_string();
        self.seen.lock().unwrap().push(seen);
        let play = {
            let mut script = self.script.lock().unwrap();
            if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
        };
        let (status, text, close) = match play.expect("a script has a line") {
            Play::Answer(status, text) => (status, text, false),
            Play::AnswerAndClose(status, text) => (status, text, true),
            Play::Echo(status) => (status, echo, false),
            Play::Hang => std::future::pending().await,
        };
        let mut response = Response::builder().status(status);
        if close {
            response = response.header("connection", "close");
        }
        response.body(Full::from(text)).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// A directory that takes every event.
pub(crate) fn takes() -> Play {
    Play::Answer(202, r#"{"events":1,"ours":1,"foreign":0,"tests":0,"rejected":0}"#.into())
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// How an invocation ended: what the function returned, or the error it reported.
pub(crate) type Ended = Result<Value, Value>;

/// An invocation on its way: payload and deadline.
type Order = (String, u64);

/// Lambda as its runtime API shows it, with one function in it.
pub(crate) struct Lambda {
    orders: mpsc::UnboundedSender<(u64, Order)>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Ended>>>>,
    pub(crate) init_errors: mpsc::UnboundedReceiver<Value>,
    next: AtomicU64,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: tokio::task::JoinHandle<()>,
}

/// The binary, with nothing in its environment but this.
pub(crate) fn function(api: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pikepole-lambda"));
    command.env_clear().envs([
        ("AWS_LAMBDA_RUNTIME_API", api),
        ("AWS_LAMBDA_FUNCTION_NAME", "pikepole"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_SESSION_TOKEN", "s3ssion-of-lambda"),
    ]);
    command.envs(variables.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

type Orders = Arc<Lock<mpsc::UnboundedReceiver<(u64, Order)>>>;

impl Lambda {
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap().to_string();
        let (orders, taken) = mpsc::unbounded_channel();
        let (init_error, init_errors) = mpsc::unbounded_channel();
        let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Ended>>>> = Arc::default();
        let (taken, ends): (Orders, _) = (Arc::new(Lock::new(taken)), Arc::clone(&waiting));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (taken, ends, init_error) = (Arc::clone(&taken), Arc::clone(&ends), init_error.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (taken, ends, init_error) =
                        (Arc::clone(&taken), Arc::clone(&ends), init_error.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let path = head.uri.path().strip_prefix("/2018-06-01/runtime/").unwrap().to_string();
                        let body = body.collect().await.unwrap().to_bytes();
                        if head.method == http::Method::GET && path == "invocation/next" {
                            return Ok::<_, Infallible>(next(&taken).await);
                        }
                        assert_eq!(head.method, http::Method::POST, "{path}");
                        let body: Value = serde_json::from_slice(&body).unwrap();
                        match path.split('/').collect::<Vec<_>>()[..] {
                            ["init", "error"] => init_error.send(body).unwrap(),
                            ["invocation", id, how] => {
                                let end = ends.lock().unwrap().remove(&id.parse().unwrap()).unwrap();
                                end.send(if how == "response" { Ok(body) } else { Err(body) }).unwrap();
                            }
                            _ => panic!("the runtime API has no {path}"),
                        }
                        Ok(Response::builder().status(202).body(Full::default()).unwrap())
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        let mut child = function(&api, variables).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = Arc::clone(&log);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { orders, waiting, init_errors, next: AtomicU64::new(0), child, log, reader }
    }

    /// Invokes the function with Lambda's default patience.
    pub(crate) async fn invoke(&self, payload: &str) -> Ended {
        self.invoke_until(payload, unix_ms() + 3_000).await
    }

    pub(crate) async fn invoke_until(&self, payload: &str, deadline: u64) -> Ended {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (end, ended) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, end);
        self.orders.send((id, (payload.into(), deadline))).unwrap();
        within("the end of an invocation", ended).await.unwrap()
    }

    /// Waits for a function that ends by itself: its exit code, and all that it wrote.
    pub(crate) async fn ended(mut self) -> (Option<i32>, String) {
        let code = within("the end of the function", self.child.wait()).await.unwrap().code();
        within("the end of its log", self.reader).await.unwrap();
        let log = self.log.lock().unwrap().clone();
        (code, log)
    }

    /// Ends the function, and returns all that it wrote.
    pub(crate) async fn into_log(mut self) -> String {
        self.child.start_kill().unwrap();
        self.ended().await.1
    }
}

async fn next(taken: &Orders) -> Response<Full<Bytes>> {
    let Some((id, (payload, deadline))) = taken.lock().await.recv().await else {
        return std::future::pending().await;
    };
    Response::builder()
        .header("lambda-runtime-aws-request-id", id.to_string())
        .header("lambda-runtime-deadline-ms", deadline.to_string())
        .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:ap-south-1:123456789012:function:f")
        .header("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700")
        .body(Full::from(payload))
        .unwrap()
}

#[expect(clippy::disallowed_methods, reason = "Lambda's deadline is a time of day")]
pub(crate) fn unix_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since_epoch.as_millis()).unwrap()
}
