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

use super::limits::{MAX_CONNECTIONS, MAX_HEAD, MOST_UNSENT, SPARE_FILES};
use super::{App, Desk, tls};
use crate::config::TlsConfig;
use crate::shutdown::Shutdown;

/// Serves until the shutdown, then lets what is in flight finish.
pub async fn run(
    listener: TcpListener,
    app: Arc<App>,
    tls: Option<TlsConfig>,
    shutdown: Shutdown,
) -> Result<(), String> {
    let certificates = match tls {
        None => None,
        Some(config) => {
            let seen = tls::stamp(&config);
            let (sender, receiver) = watch::channel(tls::server_config(&config)?);
            tokio::spawn(tls::follow(config, seen, sender, app.limits.look_every, shutdown.clone()));
            Some(receiver)
        }
    };
    let (last_call, grace) = (app.limits.last_call, app.limits.grace);
    let places = Arc::new(Semaphore::new(most_connections()));
    // Every connection holds a sender: the receiver hears when the last one is gone.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut closed = std::pin::pin!(async {
        shutdown.clone().wait().await;
        app.engine.send_watchers_away();
        tokio::time::sleep(last_call).await;
    });
    loop {
        let accepted = tokio::select! {
            () = &mut closed => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (permit, stream, peer) = accepted;
        let place = Place::take(&app, permit, alive.clone());
        let desk = Desk { app: Arc::clone(&app), shutdown: shutdown.clone(), peer: peer.ip() };
        match &certificates {
            None => drop(tokio::spawn(serve(stream, desk, place))),
            Some(current) => {
                let time = app.limits.handshake_time;
                let acceptor = TlsAcceptor::from(Arc::clone(&current.borrow()));
                tokio::spawn(async move {
                    let handshake = tokio::time::timeout(time, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = handshake {
                        serve(stream, desk, place).await;
                    }
                });
            }
        }
    }
    drop(listener);
    drop(alive);
    if tokio::time::timeout(grace, all_gone.recv()).await.is_err() {
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

/// A dead peer must not keep its place: TCP finds it out by itself. And what a slow reader has not been sent
/// yet stays here, where a newer roster replaces it, instead of in the kernel's buffer of megabytes.
fn set_options(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let set = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        socket.set_tcp_user_timeout(Some(Duration::from_secs(30))),
        socket.set_tcp_notsent_lowat(MOST_UNSENT),
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

/// Waits for the shutdown, and for what was on its way by then.
async fn over(mut shutdown: Shutdown, last_call: Duration) {
    shutdown.wait().await;
    tokio::time::sleep(last_call).await;
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
    let (head_time, last_call) = (desk.app.limits.head_time, desk.app.limits.last_call);
    let shutdown = desk.shutdown.clone();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_time).max_buf_size(MAX_HEAD).half_close(false);
    let mut connection = http.serve_connection(stream, desk);
    async move {
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = over(shutdown, last_call) => {
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

/// A stream whose reader may not stall: after `write_time` without taking a byte it is cut off.
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
        let write_time = self.app.limits.write_time;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(write_time)));
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
