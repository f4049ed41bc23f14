//! The host of SNS over TLS, and the authority's over plain HTTP: one handler, told what to answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{HOST as HOST_HEADER, LOCATION};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Authority, HOST};

/// What is answered.
#[derive(Debug, Clone)]
pub enum Serve {
    /// These bytes.
    Body(Vec<u8>),
    /// An error.
    Status(u16),
    /// "Look there instead."
    Redirect(String),
    /// Nothing, ever.
    Silence,
}

/// What is answered, and what was asked.
pub(super) struct State {
    pub(super) certificate: Serve,
    pub(super) issuer: Serve,
    pub(super) confirmation: Serve,
    pub(super) requests: Vec<String>,
    pub(super) looked_up: Vec<String>,
}

impl State {
    pub(super) fn new(certificate: Serve, issuer: Serve) -> Self {
        let confirmed =
            "<ConfirmSubscriptionResponse><ConfirmSubscriptionResult/></ConfirmSubscriptionResponse>";
        let confirmation = Serve::Body(confirmed.into());
        Self { certificate, issuer, confirmation, requests: Vec::new(), looked_up: Vec::new() }
    }
}

pub(super) async fn serve_tls(
    authority: &Authority,
    state: Arc<Mutex<State>>,
    tasks: &mut JoinSet<()>,
) -> SocketAddr {
    let (certificate, key) = authority.server(&[HOST, "evil.example"]);
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions of TLS")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], PrivatePkcs8KeyDer::from(key).into())
        .expect("a certificate and its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, address) = listen().await;
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, state).await;
                }
            });
        }
    });
    address
}

pub(super) async fn serve_plain(state: Arc<Mutex<State>>, tasks: &mut JoinSet<()>) -> SocketAddr {
    let (listener, address) = listen().await;
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, Arc::clone(&state)));
        }
    });
    address
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    (listener, address)
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request| {
        let serve = choose(&state, &request);
        async move { Ok::<_, Infallible>(answer(serve).await) }
    });
    // A client that goes away in the middle is one of the things that are tested.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

fn choose(state: &Mutex<State>, request: &Request<Incoming>) -> Serve {
    let host = request.headers().get(HOST_HEADER).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let uri = request.uri();
    let mut state = state.lock().expect("no test panics in here");
    state.requests.push(format!("{host} {uri}"));
    let serve = match uri.path() {
        "/" => &state.confirmation,
        path if path.starts_with("/SimpleNotificationService-") => &state.certificate,
        "/r2m01.cer" => &state.issuer,
        _ => &Serve::Status(404),
    };
    serve.clone()
}

async fn answer(serve: Serve) -> Response<Full<Bytes>> {
    let (status, location, body) = match serve {
        Serve::Body(body) => (200, None, body),
        Serve::Status(status) => (status, None, Vec::new()),
        Serve::Redirect(to) => (302, Some(to), Vec::new()),
        Serve::Silence => std::future::pending().await,
    };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    if let Some(to) = location {
        answer.headers_mut().insert(LOCATION, to.parse().expect("an address"));
    }
    answer
}
