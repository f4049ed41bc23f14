//! A server of Lumberjack on tokio: connections, their limits, TLS, a stop that loses nothing.
//!
//! Not storage: what becomes of events, and when they are safe, a [`Handler`] knows.
//!
//! Invariant: too much of anything is waited out. A peer is read more slowly, not refused, when memory is short,
//! and what it sent is never dropped after it was acked.

mod budget;
#[cfg(feature = "collect")]
pub mod collect;
mod connection;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::client::set_options;
use crate::limits::Limits;
use crate::receiver::Sink;
use crate::refused::Refused;
use crate::tls::{self, Renewed};
pub use crate::tls::{ServerTls as TlsConfig, TlsError};
use budget::Budget;
pub use budget::Room;
use connection::Run;

/// What the server's owner does with events.
pub trait Handler: Send + Sync + 'static {
    /// Takes the events of one connection.
    type Connection: Connection;

    /// A client connected, and TLS was agreed on, if asked for.
    fn connection(&self, peer: SocketAddr) -> Self::Connection;

    /// A connection ended, for counters. What mattered was logged. Its `Connection` was dropped before.
    fn ended(&self, _peer: SocketAddr, _end: &End) {}
}

/// Takes the events of one connection. Dropping it discards a window that is not whole; windows that are, it may
/// still store: their client sends them again.
pub trait Connection: Sink + Send + 'static {
    /// What to tell the client next, as soon as there is something; asked for all the time while the connection
    /// is read. It must be cancel safe: dropped before it is ready, it must have lost nothing. `recv` of a channel is.
    fn verdict(&mut self) -> impl Future<Output = Verdict> + Send;

    /// The memory of the unit that is handed over next. It is given back when the unit was called safe, or the
    /// connection ended; whoever keeps the unit longer keeps this with it.
    fn room(&mut self, _room: Room) {}

    /// The first so many units are acked: the acks of their windows were written.
    fn acked(&mut self, _units: u64) {}
}

/// What becomes of a connection's windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The unit of this number is safe. Any order will do; the acks are in order.
    Safe(u64),
    /// Nothing can be made safe any longer: the connection is closed, and the client tries elsewhere.
    Close,
    /// These bytes are written as they are, for a server that misbehaves on purpose.
    #[cfg(feature = "collect")]
    Raw(bytes::Bytes),
}

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    /// The client closed it. What it had sent in whole was acked, if it waited.
    Closed,
    /// Nothing went either way for `Options::inactivity`.
    Idle,
    /// The server stops, and all complete windows were acked.
    Stopped,
    /// The handler wanted it.
    Abandoned,
    /// The client broke the protocol or a limit.
    Refused(Refused),
    /// TLS was not agreed on: no certificate, a wrong one, no TLS at all, or too slow.
    Handshake(io::Error),
    /// The network, or a client that reads no acks.
    Io(io::Error),
}

impl End {
    /// A stable word for the label of a counter; that of the reason, if it was refused.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
            Self::Abandoned => "abandoned",
            Self::Refused(refused) => refused.word(),
            Self::Handshake(_) => "handshake",
            Self::Io(_) => "io",
        }
    }
}

/// What the server allows.
#[derive(Debug, Clone)]
pub struct Options {
    /// What one peer may ask of the protocol.
    pub limits: Limits,
    /// Connections at a time; above it they wait in the backlog of the kernel.
    pub max_connections: usize,
    /// For TLS to be agreed on.
    pub handshake_timeout: Duration,
    /// Silence both ways, while no window is held, after which a connection is closed.
    pub inactivity: Duration,
    /// For an ack to be written: a client that reads none is left.
    pub write_timeout: Duration,
    /// Units that a connection may have handed over and not acked before no more of it is taken. Beats send three
    /// windows before they wait for the first ack.
    pub in_flight: usize,
    /// Bytes of events in those units.
    pub connection_bytes: u64,
    /// Bytes that all connections may have in units, complete or not, before no more of them is taken. A unit has
    /// its bytes until its [`Room`] is given back, whatever became of its connection.
    pub total_bytes: u64,
    /// For the connections to end by themselves when the server stops.
    pub grace: Duration,
    /// TLS, if asked for.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_connections: 1_000,
            handshake_timeout: Duration::from_secs(10),
            inactivity: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            in_flight: 4,
            connection_bytes: 32 << 20,
            total_bytes: 256 << 20,
            grace: Duration::from_secs(10),
            tls: None,
        }
    }
}

/// The server's TLS, read from its files, and again when they change.
#[derive(Clone)]
pub struct Tls(Arc<Renewed<ServerConfig>>);

impl Tls {
    /// Reads the files.
    pub fn load(files: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(tls::server(files)?)))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A vanished client must not keep its place: after so long TCP gives up on it.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Pause after the kernel gave no connection: usually there are no files left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Shared<H> {
    handler: Arc<H>,
    options: Options,
    budget: Arc<Budget>,
    stopping: watch::Receiver<bool>,
    log: RarelyLogged,
}

/// Serves until `shutdown`. Then nothing new is accepted, no new window is begun, those that are complete are
/// acked, and connections are closed, by force after `Options::grace`.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    options: Options,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopping) = watch::channel(false);
    let places = Arc::new(Semaphore::new(options.max_connections));
    let (grace, total) = (options.grace, options.total_bytes);
    let budget = Arc::new(Budget::new(total));
    let shared = Arc::new(Shared { handler, options, budget, stopping, log: RarelyLogged::default() });
    let mut connections = JoinSet::new();
    accept_until(listener, &places, &shared, &mut connections, shutdown).await;
    stop.send_replace(true);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    if timeout(grace, all).await.is_err() {
        tracing::warn!("some connections did not end in time and were cut; their clients send again");
        connections.shutdown().await;
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection ended unexpectedly; its client sends again");
    }
}

async fn accept_until<H: Handler>(
    listener: TcpListener,
    places: &Arc<Semaphore>,
    shared: &Arc<Shared<H>>,
    connections: &mut JoinSet<()>,
    shutdown: impl Future<Output = ()>,
) {
    let log = RarelyLogged::default();
    let mut shutdown = std::pin::pin!(shutdown);
    // It goes on while connections end: its pause is no shorter for that.
    let mut next = std::pin::pin!(accept(&listener, places, &log));
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            (place, stream, peer) = &mut next => {
                connections.spawn(connect(stream, peer, Arc::clone(shared), place));
                next.set(accept(&listener, places, &log));
            }
            Some(ended) = connections.join_next() => log_panic(ended),
        }
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    log: &RarelyLogged,
) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (place, stream, peer),
            Err(error) => {
                if let Some(not_logged) = log.turn() {
                    tracing::warn!(%error, not_logged, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connect<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared<H>>,
    _place: OwnedSemaphorePermit,
) {
    let end = match set_options(&stream, USER_TIMEOUT, KEEP_ALIVE) {
        Err(error) => End::Io(error),
        Ok(()) => match &shared.options.tls {
            None => Run::new(stream, peer, &shared).until_it_ends().await,
            Some(tls) => match handshake(stream, tls, &shared).await {
                Ok(stream) => Run::new(stream, peer, &shared).until_it_ends().await,
                Err(end) => end,
            },
        },
    };
    shared.log.end(peer, &end);
    shared.handler.ended(peer, &end);
}

async fn handshake<H>(
    stream: TcpStream,
    tls: &Tls,
    shared: &Shared<H>,
) -> Result<tokio_rustls::server::TlsStream<TcpStream>, End> {
    let mut stopping = shared.stopping.clone();
    let acceptor = TlsAcceptor::from(tls.0.current());
    tokio::select! {
        shaken = timeout(shared.options.handshake_timeout, acceptor.accept(stream)) => match shaken {
            Ok(shaken) => shaken.map_err(End::Handshake),
            Err(_) => Err(End::Handshake(io::ErrorKind::TimedOut.into())),
        },
        _ = stopping.wait_for(|stop| *stop) => Err(End::Stopped),
    }
}

/// One client in a loop, or a process without files, must not fill the log.
#[derive(Debug, Default)]
struct RarelyLogged(std::sync::Mutex<(Option<tokio::time::Instant>, u64)>);

/// Between two lines about the same thing.
const LOG_EVERY: Duration = Duration::from_secs(1);

impl RarelyLogged {
    fn end(&self, peer: SocketAddr, end: &End) {
        let reason = match end {
            End::Refused(refused) => refused.to_string(),
            End::Handshake(error) => format!("TLS handshake failed: {error}"),
            other => {
                tracing::debug!(%peer, end = other.word(), "connection ended");
                return;
            }
        };
        if let Some(not_logged) = self.turn() {
            tracing::warn!(%peer, reason, not_logged, "a client was refused, its connection is closed");
        }
    }

    /// Whether it is time for a line, and how many were left out since the last one.
    fn turn(&self) -> Option<u64> {
        let now = tokio::time::Instant::now();
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.0.is_some_and(|last| now.duration_since(last) < LOG_EVERY) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}
