//! One connection: reads while it may, tells the handler, writes acks.
//!
//! Not the protocol, which is the [`Receiver`]'s.
//!
//! Invariants: acks are written before more is taken, and nothing is taken that there is no room for. One buffer is
//! read ahead all the same: so it is known who waits for us, and who went away.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::budget::{Room, Share};
use super::{Connection, End, Handler, Options, Shared, Verdict};
use crate::frame::Event;
use crate::receiver::{Receiver, Sink, WindowEnd};
use crate::refused::Refused;

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
    /// Of the units that are held, oldest first.
    rooms: VecDeque<Room>,
    stopping: watch::Receiver<bool>,
    /// Windows that were complete when the server was told to stop.
    at_the_stop: Option<u64>,
    /// The receiver's time is since then.
    start: Instant,
    /// When a byte last went either way.
    active: Instant,
    client_is_done: bool,
    buffer: Box<[u8]>,
    /// Where in the buffer is what was read and not taken.
    untaken: Range<usize>,
    /// Units that the handler knows to be acked.
    acked: u64,
}

/// What happened next.
enum Next {
    Verdict(Verdict),
    Read(io::Result<usize>),
    /// There is room again, time passed, or the server stops: look again.
    Look,
}

/// The handler, who is told what memory a unit has before it is handed over.
struct Metered<'a, C> {
    handler: &'a mut C,
    share: &'a Share,
    rooms: &'a mut VecDeque<Room>,
}

impl<C: Connection> Sink for Metered<'_, C> {
    fn event(&mut self, event: Event<'_>) {
        self.handler.event(event);
    }

    fn window(&mut self, end: WindowEnd) {
        let room = self.share.room(end.event_bytes);
        self.rooms.push_back(room.clone());
        self.handler.room(room);
        self.handler.window(end);
    }
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
            rooms: VecDeque::new(),
            stopping: shared.stopping.clone(),
            at_the_stop: None,
            start: now,
            active: now,
            client_is_done: false,
            buffer: vec![0; READ_BUFFER].into(),
            untaken: 0..0,
            acked: 0,
        }
    }

    pub(super) async fn until_it_ends(mut self) -> End {
        let end = match self.run().await {
            Ok(end) | Err(end) => end,
        };
        if matches!(end, End::Stopped | End::Idle | End::Closed) {
            self.part().await;
        }
        end
    }

    async fn run(&mut self) -> Result<End, End> {
        loop {
            if let Some(acks) = self.receiver.output() {
                self.write(&acks).await.map_err(End::Io)?;
            }
            if self.receiver.acked() > self.acked {
                self.acked = self.receiver.acked();
                self.handler.acked(self.acked);
            }
            self.share.set(self.receiver.open_bytes());
            let stopping = *self.stopping.borrow();
            let no_more = self.client_is_done || stopping && self.is_at_last_boundary();
            if no_more && self.receiver.held() == 0 {
                return Ok(if self.client_is_done { End::Closed } else { End::Stopped });
            }
            let full = self.is_full();
            if full {
                self.share.leave_lane();
            }
            let takes = !no_more && !full && self.share.may_take();
            let now = self.start.elapsed();
            if takes && !self.untaken.is_empty() {
                self.take(now).map_err(End::Refused)?;
                continue;
            }
            if self.untaken.is_empty() {
                self.receiver.resume(now);
            } else {
                self.receiver.pause(&self.buffer[self.untaken.clone()], now);
            }
            match self.next(!no_more, full, stopping).await {
                Next::Verdict(Verdict::Safe(number)) => {
                    self.receiver.accept(number, self.start.elapsed());
                    let given_back = self.rooms.len() - self.receiver.held();
                    self.rooms.drain(..given_back);
                }
                Next::Verdict(Verdict::Close) => return Err(End::Abandoned),
                #[cfg(feature = "collect")]
                Next::Verdict(Verdict::Raw(bytes)) => self.write(&bytes).await.map_err(End::Io)?,
                Next::Read(read) => {
                    self.untaken = 0..read.map_err(End::Io)?;
                    self.active = Instant::now();
                    if self.untaken.is_empty() {
                        self.client_is_done = true;
                        self.receiver.end();
                    }
                    continue; // nobody is judged before what came of him is taken
                }
                Next::Look => {}
            }
            self.receiver.timeout(self.start.elapsed()).map_err(End::Refused)?;
            if self.idle_at().is_some_and(|at| Instant::now() >= at) {
                return Ok(End::Idle);
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

    /// Whether the connection has as much under way as it may.
    fn is_full(&self) -> bool {
        let held = self.receiver.held();
        held >= self.options.in_flight.max(1)
            || held > 0 && self.receiver.held_bytes() >= self.options.connection_bytes
    }

    /// Takes what was read.
    fn take(&mut self, now: Duration) -> Result<(), Refused> {
        let bytes = &self.buffer[std::mem::take(&mut self.untaken)];
        self.receiver.resume(now);
        let (handler, share, rooms) = (&mut self.handler, &self.share, &mut self.rooms);
        self.receiver.input(bytes, now, &mut Metered { handler, share, rooms })?;
        self.active = Instant::now();
        if self.receiver.is_at_boundary() {
            self.share.leave_lane();
        }
        Ok(())
    }

    /// Waits for the next thing to happen.
    async fn next(&mut self, wanted: bool, full: bool, stopping: bool) -> Next {
        let wake = self.receiver.next_timeout().map(|at| self.start + at);
        let wake = [wake, self.idle_at()].into_iter().flatten().min();
        let begun = !self.receiver.is_at_boundary();
        let has_untaken = !self.untaken.is_empty();
        tokio::select! {
            verdict = self.handler.verdict() => Next::Verdict(verdict),
            read = self.stream.read(&mut self.buffer), if wanted && !has_untaken => Next::Read(read),
            () = self.share.wait(begun), if wanted && !full && has_untaken => Next::Look,
            () = sleep_until(wake.unwrap_or(self.start)), if wake.is_some() => Next::Look,
            _ = self.stopping.changed(), if !stopping => Next::Look,
        }
    }

    /// When the connection is idle for too long: never while we owe an ack, or have not taken all that came.
    fn idle_at(&self) -> Option<Instant> {
        let idles = self.receiver.held() == 0 && self.receiver.is_at_boundary() && self.untaken.is_empty();
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
