//! Connections: accepting them, keeping each within its limits, letting them finish at the end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use super::{App, Desk, tls};
use crate::config::TlsConfig;
use crate::shutdown::Shutdown;

/// A whole request head must arrive within this; it also ends idle connections.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// A TLS handshake must be done within this.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A reader that takes nothing for this long is cut off.
const WRITE_TIME: Duration = Duration::from_secs(15);
/// Bytes of a request head; hyper answers 431 above.
const MAX_HEAD: usize = 16 * 1024;
/// Headers of a request; hyper answers 431 above.
const MAX_HEADERS: usize = 64;
/// How long requests in flight may take after the shutdown.
const GRACE: Duration = Duration::from_secs(5);
/// File descriptors that are kept for everything that is not a connection.
const SPARE_FILES: usize = 128;
/// Connections at once, if the file limit allows them.
const MAX_CONNECTIONS: usize = 200_000;

/// Serves until the shutdown, then lets what is in flight finish.
pub async fn run(
    listener: TcpListener,
    app: Arc<App>,
    tls: Option<TlsConfig>,
    mut shutdown: Shutdown,
) -> Result<(), String> {
    let certificates = match tls {
        None => None,
        Some(config) => {
            let (sender, receiver) = watch::channel(tls::server_config(&config)?);
            tokio::spawn(tls::follow(config, sender, shutdown.clone()));
            Some(receiver)
        }
    };
    let places = Arc::new(Semaphore::new(most_connections()));
    // Every connection holds a sender: the receiver hears when the last one is gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            () = shutdown.wait() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (permit, stream, _peer) = accepted;
        let place = Place::take(&app, permit, alive.clone());
        let desk = Desk { app: Arc::clone(&app), shutdown: shutdown.clone() };
        match &certificates {
            None => drop(tokio::spawn(serve(stream, desk, place))),
            Some(current) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&current.borrow()));
                tokio::spawn(async move {
                    let handshake = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = handshake {
                        serve(stream, desk, place).await;
                    }
                });
            }
        }
    }
    drop(listener);
    app.engine.send_watchers_away();
    drop(alive);
    if tokio::time::timeout(GRACE, all_gone.recv()).await.is_err() {
        tracing::warn!("some connections did not finish in time and were cut");
    }
    Ok(())
}

/// The next connection, once there is a place for it: above the limit they wait in the backlog.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                set_options(&stream);
                return (place, stream, peer);
            }
            Err(error) => {
                // Out of file descriptors, or a connection that was gone before it was taken.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A dead peer must not keep its place: TCP finds it out by itself.
fn set_options(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let set = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        socket.set_tcp_user_timeout(Some(Duration::from_secs(30))),
    ];
    for error in set.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "cannot set a socket option");
    }
}

fn most_connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    limit.saturating_sub(SPARE_FILES).clamp(16, MAX_CONNECTIONS)
}

/// A connection's place among those that are open; it ends with the connection.
struct Place {
    app: Arc<App>,
    _permit: OwnedSemaphorePermit,
    /// While one of these is left, the server waits for it at the end.
    _alive: mpsc::Sender<()>,
}

impl Place {
    fn take(app: &Arc<App>, permit: OwnedSemaphorePermit, alive: mpsc::Sender<()>) -> Self {
        app.counters.accepted.fetch_add(1, Ordering::Relaxed);
        app.counters.open.fetch_add(1, Ordering::Relaxed);
        Self { app: Arc::clone(app), _permit: permit, _alive: alive }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection. Not an `async fn`, so that the connection is in the future once and not twice:
/// that is a kilobyte for each of ten thousand watchers.
fn serve<S>(stream: S, desk: Desk, place: Place) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(Patient { stream, app: Arc::clone(&desk.app), stalled: None });
    let mut shutdown = desk.shutdown.clone();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .half_close(false);
    let mut connection = http.serve_connection(stream, desk);
    async move {
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = shutdown.wait() => {
                Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended early");
        }
        drop(place);
    }
}

/// A stream whose reader may not stall: after [`WRITE_TIME`] without taking a byte it is cut off.
struct Patient<S> {
    stream: S,
    app: Arc<App>,
    /// Only there while a write waits: most connections never pay for it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIME)));
        if stalled.as_mut().poll(cx).is_ready() {
            self.app.counters.slow_readers.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader took nothing")));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
