//! A relay in front of a directory that may be away: it takes every connection, notes when it came, and
//! hands its bytes on.
//!
//! Invariant: nobody waits for it. A connection is taken and noted whether the directory is there or not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// One connection that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// When.
    pub(super) at: Instant,
    /// Whether the directory took it.
    pub(super) is_taken: bool,
}

type Book = Arc<Mutex<Vec<Attempt>>>;

/// The relay; it ends when it is dropped.
pub(super) struct Relay {
    address: SocketAddr,
    book: Book,
    task: AbortHandle,
}

impl Relay {
    /// Listens on a free port of loopback.
    pub(super) async fn open(directory: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let book = Book::default();
        let task = tokio::spawn(serve(listener, directory, Arc::clone(&book))).abort_handle();
        Ok(Self { address, book, task })
    }

    /// Where agents reach it.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that came, in order.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        lock(&self.book).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, directory: SocketAddr, book: Book) {
    let mut connections = JoinSet::new();
    while let Ok((agent, _)) = listener.accept().await {
        let number = {
            let mut book = lock(&book);
            book.push(Attempt { at: Instant::now(), is_taken: false });
            book.len() - 1
        };
        let book = Arc::clone(&book);
        connections.spawn(hand_on(agent, directory, book, number));
        while connections.try_join_next().is_some() {}
    }
}

/// Until either side ends; then both do.
async fn hand_on(mut agent: TcpStream, directory: SocketAddr, book: Book, number: usize) {
    let Ok(mut upstream) = TcpStream::connect(directory).await else { return };
    if let Some(attempt) = lock(&book).get_mut(number) {
        attempt.is_taken = true;
    }
    // An end with an error is an end, and the agent sees it.
    drop(copy_bidirectional(&mut agent, &mut upstream).await);
}

fn lock(book: &Book) -> MutexGuard<'_, Vec<Attempt>> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
