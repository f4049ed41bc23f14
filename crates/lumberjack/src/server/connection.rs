//! One connection: reads while it may, tells the handler, writes acks.
//!
//! Not the protocol, which is the [`Receiver`]'s.
//!
//! Invariant: acks are written before more is read, and nothing is read that there is no room for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::budget::Share;
use super::{Connection, End, Handler, Options, Shared, Verdict};
use crate::receiver::Receiver;

/// Read at once; every connection has it.
const READ_BUFFER: usize = 32 * 1024;

/// After our FIN the client may still be writing. What it writes is read and thrown away for so long: closed at
/// once, the kernel would send a reset, and the client might lose acks that are on their way.
const LINGER: Duration = Duration::from_secs(1);

pub(super) struct Run<S, C> {
    stream: S,
    handler: C,
    receiver: Receiver,
    options: Options,
    share: Share,
    stopping: watch::Receiver<bool>,
    /// Windows that were complete when the server was told to stop.
    at_the_stop: Option<u64>,
    /// The receiver's time is since then.
    start: Instant,
    /// When a byte last went either way.
    active: Instant,
    client_is_done: bool,
    /// Whether the client was being read when something happened last.
    reads: bool,
    buffer: Box<[u8]>,
}

/// What happened next.
enum Next {
    Verdict(Verdict),
    Read(io::Result<usize>),
    /// There is room again.
    Room,
    /// Time passed, or the server stops: look again.
    Look,
}

impl<S, C> Run<S, C>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
    C: Connection,
{
    pub(super) fn new<H: Handler<Connection = C>>(
        stream: S,
        peer: SocketAddr,
        shared: &Arc<Shared<H>>,
    ) -> Self {
        let options = shared.options.clone();
        let now = Instant::now();
        Self {
            stream,
            handler: shared.handler.connection(peer),
            receiver: Receiver::new(options.limits.clone(), Duration::ZERO),
            options,
            share: Share::new(Arc::clone(&shared.budget)),
            stopping: shared.stopping.clone(),
            at_the_stop: None,
            start: now,
            active: now,
            client_is_done: false,
            reads: false,
            buffer: vec![0; READ_BUFFER].into(),
        }
    }

    pub(super) async fn until_it_ends(mut self) -> End {
        let end = self.run().await;
        if matches!(end, End::Stopped | End::Idle | End::Closed) {
            self.part().await;
        }
        end
    }

    async fn run(&mut self) -> End {
        loop {
            if let Some(acks) = self.receiver.output()
                && let Err(error) = self.write(&acks).await
            {
                return End::Io(error);
            }
            self.share.set(self.receiver.held_bytes() + self.receiver.open_bytes());
            let stopping = *self.stopping.borrow();
            let no_more = self.client_is_done || stopping && self.is_at_last_boundary();
            if no_more && self.receiver.held() == 0 {
                return if self.client_is_done { End::Closed } else { End::Stopped };
            }
            let next = self.next(!no_more, stopping).await;
            let now = self.start.elapsed();
            match next {
                Next::Verdict(Verdict::Safe(number)) => self.receiver.accept(number, now),
                Next::Verdict(Verdict::Close) => return End::Abandoned,
                Next::Verdict(Verdict::Raw(bytes)) => {
                    if let Err(error) = self.write(&bytes).await {
                        return End::Io(error);
                    }
                }
                Next::Read(Err(error)) => return End::Io(error),
                Next::Read(Ok(0)) => self.client_is_done = true,
                Next::Read(Ok(count)) => {
                    self.active = Instant::now();
                    let bytes = &self.buffer[..count];
                    if let Err(refused) = self.receiver.input(bytes, now, &mut self.handler) {
                        return End::Refused(refused);
                    }
                    if self.receiver.is_at_boundary() {
                        self.share.leave_lane();
                    }
                }
                Next::Room => self.active = Instant::now(),
                Next::Look => {}
            }
            if !self.client_is_done
                && let Err(refused) = self.receiver.timeout(self.start.elapsed())
            {
                return End::Refused(refused);
            }
            if self.idle_at().is_some_and(|at| Instant::now() >= at) {
                return End::Idle;
            }
        }
    }

    /// Whether a window ended since the server stops, or none was begun. A busy client begins one with the bytes
    /// that end another: that one is discarded.
    fn is_at_last_boundary(&mut self) -> bool {
        let windows = self.receiver.windows();
        let at_the_stop = *self.at_the_stop.get_or_insert(windows);
        self.receiver.is_at_boundary() || windows > at_the_stop
    }

    /// Waits for the next thing to happen.
    async fn next(&mut self, wanted: bool, stopping: bool) -> Next {
        let full = self.receiver.held() >= self.options.in_flight.max(1)
            || self.receiver.held() > 0 && self.receiver.held_bytes() >= self.options.connection_bytes;
        if full {
            self.share.leave_lane();
        }
        let reads = wanted && !full && self.share.may_take();
        let waits_for_room = wanted && !full && !reads;
        self.reads = reads;
        if reads {
            self.receiver.resume(self.start.elapsed());
        } else {
            self.receiver.pause();
        }
        let wake = self.receiver.next_timeout().map(|at| self.start + at);
        let wake = [wake, self.idle_at()].into_iter().flatten().min();
        let begun = !self.receiver.is_at_boundary();
        tokio::select! {
            verdict = self.handler.verdict() => Next::Verdict(verdict),
            read = self.stream.read(&mut self.buffer), if reads => Next::Read(read),
            () = self.share.wait(begun), if waits_for_room => Next::Room,
            () = sleep_until(wake.unwrap_or(self.start)), if wake.is_some() => Next::Look,
            _ = self.stopping.changed(), if !stopping => Next::Look,
        }
    }

    /// When the connection is idle for too long: never while we owe an ack, or do not read.
    fn idle_at(&self) -> Option<Instant> {
        let idles = self.reads && self.receiver.held() == 0 && self.receiver.is_at_boundary();
        idles.then(|| self.active + self.options.inactivity)
    }

    async fn write(&mut self, bytes: &Bytes) -> io::Result<()> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(self.options.write_timeout, writing).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.active = Instant::now();
        Ok(())
    }

    /// FIN, and then what the client still writes.
    async fn part(&mut self) {
        let until = Instant::now() + LINGER;
        let parting = async {
            self.stream.shutdown().await?;
            while !self.client_is_done && self.stream.read(&mut self.buffer).await? > 0 {}
            io::Result::Ok(())
        };
        // Whether it went well makes no difference: the connection is closed now.
        drop(timeout_at(until, parting).await);
    }
}

#[cfg(test)]
mod tests;
