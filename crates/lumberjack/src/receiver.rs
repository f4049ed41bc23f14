//! The receiving side of one connection: bytes in, events and the ends of their windows out, acks back.
//!
//! Not a buffer of events: each is handed to the sink where it lies. What is stored, and when it is safe, the
//! sink's owner knows, and says so with [`Receiver::accept`].
//!
//! Invariant: a window is acked once, in order, after all of it was accepted.

mod acks;
mod inflate;
mod window;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::frame::{Event, Frame, Parsed, Place, Scan, Version, parse};
use crate::limits::{KEEP_BUFFER, Limits};
use crate::refused::Refused;
use acks::Acks;
pub(crate) use inflate::Inflater;
use window::Window;

/// Where events go: those of a unit, then its end.
pub trait Sink {
    /// An event. Until [`window`](Self::window) it is worth nothing: the connection may end before.
    fn event(&mut self, event: Event<'_>);
    /// All events since the last call are one unit, to be accepted when it is safe.
    fn window(&mut self, end: WindowEnd);
}

/// The end of a unit: a whole window, or a part of one that is above `Limits::window` or `Limits::unit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowEnd {
    /// 0, 1, 2, … of this connection: what [`Receiver::accept`] wants.
    pub number: u64,
    /// How many events it has.
    pub events: u32,
    /// The sequence number of the last one.
    pub last_seq: u32,
    /// Bytes of the payloads.
    pub event_bytes: u64,
    /// Whether the client's window ends here; it is acked when this unit and all before are accepted.
    pub last: bool,
    /// The zlib stream as it came, if the window was one compressed frame of version 2 that holds exactly
    /// JSON frames numbered `1..=events`: it can be kept and sent on as it is.
    pub verbatim: Option<Bytes>,
}

/// The receiver of one connection.
pub struct Receiver {
    limits: Limits,
    /// The beginning of a frame of which more must come.
    torn: Vec<u8>,
    scan: Scan,
    window: Option<Window>,
    /// Bytes that the compressed frame still has.
    compressed_left: Option<u32>,
    inflater: Inflater,
    acks: Acks,
    progress: Progress,
    refused: Option<Refused>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the buffers: what is in them is the client's.
        f.debug_struct("Receiver").field("held", &self.held()).finish_non_exhaustive()
    }
}

/// How much came since when, inside of a window.
#[derive(Debug, Default)]
struct Progress {
    since: Duration,
    bytes: usize,
    /// We do not take what came.
    paused: bool,
    /// The time was up, and so long what came meanwhile may still be taken.
    last_look: Option<Duration>,
}

impl Progress {
    fn begin(&mut self, now: Duration) {
        (self.since, self.bytes, self.last_look) = (now, 0, None);
    }
}

/// We may have been stopped ourselves, with the client's bytes in the kernel: nobody is judged by the first look.
const LAST_LOOK: Duration = Duration::from_millis(500);

impl Receiver {
    /// A receiver for a connection that begins now.
    pub fn new(limits: Limits, now: Duration) -> Self {
        Self {
            acks: Acks::new(limits.keep_alive),
            limits,
            torn: Vec::new(),
            scan: Scan::default(),
            window: None,
            compressed_left: None,
            inflater: Inflater::default(),
            progress: Progress { since: now, ..Progress::default() },
            refused: None,
        }
    }

    /// Takes bytes of the client. After an error the connection must be closed; every later call says the same.
    pub fn input(&mut self, bytes: &[u8], now: Duration, sink: &mut impl Sink) -> Result<(), Refused> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let was_at_boundary = self.is_at_boundary();
        self.progress.bytes = self.progress.bytes.saturating_add(bytes.len());
        let windows = self.acks.windows();
        let result = self.take(bytes, now, sink);
        let began = was_at_boundary || windows != self.acks.windows();
        if began || self.progress.bytes >= self.limits.progress.0 {
            self.progress.begin(now);
        }
        self.refused = result.err();
        result
    }

    fn take(&mut self, mut bytes: &[u8], now: Duration, sink: &mut impl Sink) -> Result<(), Refused> {
        while !bytes.is_empty() || self.compressed_left == Some(0) {
            if let Some(left) = self.compressed_left {
                let (piece, rest) = bytes.split_at(bytes.len().min(left as usize));
                let left = left - u32::try_from(piece.len()).expect("no longer than what is left");
                bytes = rest;
                self.inflate(piece, now, sink)?;
                self.compressed_left = Some(left);
                if left == 0 {
                    self.compressed_left = None;
                    self.inflater.end()?;
                    self.close_if_complete(now, sink);
                }
                continue;
            }
            bytes = if self.torn.is_empty() {
                self.read_in_place(bytes, now, sink)?
            } else {
                self.read_torn(bytes, now, sink)?
            };
        }
        Ok(())
    }

    /// Reads the frame at the beginning, or keeps its beginning for later. Returns the rest.
    fn read_in_place<'a>(
        &mut self,
        bytes: &'a [u8],
        now: Duration,
        sink: &mut impl Sink,
    ) -> Result<&'a [u8], Refused> {
        match parse(bytes, place(self.window.as_ref()), &mut self.scan, &self.limits)? {
            Parsed::Frame(frame, size) => {
                self.frame(frame, now, sink)?;
                Ok(&bytes[size..])
            }
            Parsed::Need(_) => {
                self.torn.extend_from_slice(bytes);
                Ok(&[])
            }
        }
    }

    /// Completes the torn frame, by no more bytes than it needs. Returns the rest.
    fn read_torn<'a>(
        &mut self,
        mut bytes: &'a [u8],
        now: Duration,
        sink: &mut impl Sink,
    ) -> Result<&'a [u8], Refused> {
        let mut torn = std::mem::take(&mut self.torn);
        loop {
            match parse(&torn, place(self.window.as_ref()), &mut self.scan, &self.limits)? {
                Parsed::Frame(frame, _) => {
                    self.frame(frame, now, sink)?;
                    torn.clear();
                    if torn.capacity() <= KEEP_BUFFER {
                        self.torn = torn;
                    }
                    return Ok(bytes);
                }
                Parsed::Need(_) if bytes.is_empty() => {
                    self.torn = torn;
                    return Ok(bytes);
                }
                Parsed::Need(size) => {
                    let (piece, rest) = bytes.split_at(bytes.len().min(size - torn.len()));
                    torn.extend_from_slice(piece);
                    bytes = rest;
                }
            }
        }
    }

    /// A frame that is not inside of a compressed one.
    fn frame(&mut self, frame: Frame<'_>, now: Duration, sink: &mut impl Sink) -> Result<(), Refused> {
        match frame {
            Frame::Window(version, 0) => self.acks.empty_window(version),
            Frame::Window(version, events) => {
                self.acks.begin(now);
                self.window = Some(Window::new(version, events));
            }
            Frame::Compressed(size) => {
                let window = self.window.as_mut().expect("a compressed frame is refused outside of a window");
                window.begin_compressed(size, &self.limits);
                self.inflater.begin();
                self.compressed_left = Some(size);
            }
            Frame::Event(event) => {
                let window = self.window.as_mut().expect("an event is refused outside of a window");
                window.plain();
                window.event(&event, &self.limits);
                sink.event(event);
                window.close_part(&self.limits, &mut self.acks, now, sink);
                self.close_if_complete(now, sink);
            }
        }
        Ok(())
    }

    fn inflate(&mut self, mut bytes: &[u8], now: Duration, sink: &mut impl Sink) -> Result<(), Refused> {
        let window = self.window.as_mut().expect("a compressed frame is refused outside of a window");
        window.keep(bytes, &self.limits);
        loop {
            let step = self.inflater.step(bytes)?;
            bytes = &bytes[step.taken..];
            window.inflated(step.taken, step.made, &self.limits)?;
            loop {
                let place = Place::Compressed(window.version(), window.left());
                let (event, size) = match parse(self.inflater.bytes(), place, &mut self.scan, &self.limits)? {
                    Parsed::Frame(Frame::Event(event), size) => (event, size),
                    Parsed::Frame(..) => return Err(Refused::Nested),
                    Parsed::Need(_) => break,
                };
                window.event(&event, &self.limits);
                sink.event(event);
                self.inflater.consume(size);
                window.close_part(&self.limits, &mut self.acks, now, sink);
            }
            if step.dry {
                return Ok(());
            }
        }
    }

    fn close_if_complete(&mut self, now: Duration, sink: &mut impl Sink) {
        if let Some(window) = self.window.take_if(|window| window.left() == 0) {
            window.close(&mut self.acks, now, sink);
        }
    }

    /// Unit `number` is safe. Whatever may now be acked, in order, is in [`output`](Self::output).
    pub fn accept(&mut self, number: u64, now: Duration) {
        self.acks.accept(number, now);
    }

    /// Acks to be written, in order; each of 6 bytes. To be called after every other call.
    pub fn output(&mut self) -> Option<Bytes> {
        self.acks.output()
    }

    /// When [`timeout`](Self::timeout) must be called.
    pub fn next_timeout(&self) -> Option<Duration> {
        [self.acks.next_keep_alive(), self.deadline()].into_iter().flatten().min()
    }

    /// To be called at [`next_timeout`](Self::next_timeout), or at any other time.
    pub fn timeout(&mut self, now: Duration) -> Result<(), Refused> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let is_late = self.deadline().is_some_and(|deadline| now >= deadline);
        if is_late && self.progress.last_look.is_none() {
            self.progress.last_look = Some(now.saturating_add(LAST_LOOK));
        } else if is_late {
            let (bytes, time) = self.limits.progress;
            let stalled = Refused::Stalled { bytes, seconds: time.as_secs() };
            self.refused = Some(stalled);
            return Err(stalled);
        }
        self.acks.keep_alive(now);
        Ok(())
    }

    /// These bytes came next and are not taken for now. The client waits for us: it is told that we are alive, and
    /// what does not come is not its fault.
    pub fn pause(&mut self, untaken: &[u8], now: Duration) {
        let version = self.window.as_ref().map(Window::version).unwrap_or_else(|| {
            let first = self.torn.first().or_else(|| untaken.first());
            first.and_then(|byte| Version::read(*byte).ok()).unwrap_or(Version::V2)
        });
        self.acks.wait(version, self.window.is_some(), now);
        self.progress.paused = true;
    }

    /// What comes is taken.
    pub fn resume(&mut self, now: Duration) {
        self.acks.go_on();
        if std::mem::take(&mut self.progress.paused) {
            self.progress.begin(now);
        }
    }

    /// The client sends no more: what it had begun will never be whole.
    pub fn end(&mut self) {
        (self.window, self.compressed_left) = (None, None);
        (self.torn, self.inflater) = (Vec::new(), Inflater::default());
    }

    fn deadline(&self) -> Option<Duration> {
        let waits = !self.progress.paused && !self.is_at_boundary();
        let ends = || self.progress.since.saturating_add(self.limits.progress.1);
        waits.then(|| self.progress.last_look.unwrap_or_else(ends))
    }

    /// Units that were handed over and not acked; parts of an incomplete window count until accepted.
    pub fn held(&self) -> usize {
        self.acks.held()
    }

    /// Bytes of the events in those units.
    pub fn held_bytes(&self) -> u64 {
        self.acks.held_bytes()
    }

    /// Bytes that are kept for the unit that is not complete yet: of its events, of one that has come in part,
    /// and of the stream they come in.
    pub fn open_bytes(&self) -> u64 {
        let buffers = self.torn.len() + self.inflater.grown();
        self.window.as_ref().map_or(0, Window::bytes) + buffers as u64
    }

    /// Units from the first one on whose windows are acked, once what is in [`output`](Self::output) is written.
    pub fn acked(&self) -> u64 {
        self.acks.acked()
    }

    /// Windows of the client that were complete, ever; empty ones are none.
    pub fn windows(&self) -> u64 {
        self.acks.windows()
    }

    /// Whether nothing of a window was begun: where a graceful stop stops reading.
    pub fn is_at_boundary(&self) -> bool {
        self.window.is_none() && self.torn.is_empty()
    }
}

fn place(window: Option<&Window>) -> Place {
    window.map_or(Place::Boundary, |window| Place::Window(window.version(), window.left()))
}

/// The version of acks is that of their window.
type Ack = (Version, u32);

#[cfg(test)]
mod tests;
