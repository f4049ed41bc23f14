//! One connection of the shipper, and the next one when it ends.
//!
//! Invariant: at most `in_flight` windows are sent and not acked; those are sent again first on a new connection.
#![expect(clippy::disallowed_methods, reason = "a thread of its own that paces itself; there is no runtime")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{scope, sleep};
use std::time::Duration;

use pikepole_lumberjack::encode::{EncodedWindow, WindowEncoder, frames};
use pikepole_lumberjack::{Acked as Ack, Sender};

use super::{Shared, event, micros};

/// Between two connections.
const AGAIN: Duration = Duration::from_millis(100);
/// A server that says nothing for so long is left, as Filebeat does by default.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the last acks are waited for.
const LAST: Duration = Duration::from_secs(5);

/// A window that was acked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    /// When it was first written.
    pub(super) sent: u64,
    /// When its ack was read.
    pub(super) at: u64,
    /// The number of its first event.
    pub(super) first: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    first: u64,
    at: u64,
}

struct State {
    flying: VecDeque<Sent>,
    acks: Sender,
    is_broken: bool,
    acked: Vec<Acked>,
}

pub(super) struct Lane<'a> {
    shared: &'a Shared,
    encoder: WindowEncoder,
    scratch: Vec<u8>,
    /// Made once, if all windows are the same.
    window: Option<EncodedWindow>,
    state: Mutex<State>,
    news: Condvar,
}

fn now() -> Duration {
    Duration::from_micros(micros())
}

impl<'a> Lane<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let (flying, acks) = (VecDeque::new(), Sender::new(now()));
        Self {
            shared,
            encoder: WindowEncoder::new(),
            scratch: Vec::new(),
            window: None,
            state: Mutex::new(State { flying, acks, is_broken: false, acked: Vec::new() }),
            news: Condvar::new(),
        }
    }

    /// Until it is over and what was sent is acked, or nobody acks it.
    pub(super) fn run(mut self) -> Vec<Acked> {
        let mut waiting: VecDeque<Sent> = VecDeque::new();
        let mut is_done = false;
        let mut last = None;
        while !is_done {
            let is_over = self.shared.is_over();
            let until = *last.get_or_insert_with(|| now() + LAST);
            if !is_over {
                last = None;
            } else if now() > until || waiting.is_empty() {
                break;
            }
            let connected = TcpStream::connect_timeout(&self.shared.args.to, Duration::from_secs(1));
            match connected {
                Ok(stream) => is_done = self.talk(&stream, &mut waiting),
                Err(_) => sleep(AGAIN),
            }
            let mut state = self.lock();
            let flying = std::mem::take(&mut state.flying);
            drop(state);
            for sent in flying.into_iter().rev() {
                waiting.push_front(sent);
            }
            if !is_done {
                sleep(AGAIN);
            }
        }
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.acked
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends until the connection breaks; true: all is sent and acked.
    fn talk(&mut self, stream: &TcpStream, waiting: &mut VecDeque<Sent>) -> bool {
        // A socket that cannot be set up breaks when it is used.
        let _set =
            stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(1))));
        {
            let mut state = self.lock();
            (state.acks, state.is_broken) = (Sender::new(now()), false);
        }
        let mut encoder = std::mem::take(&mut self.encoder);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut made = self.window.take();
        let this = &*self;
        let is_done = scope(|scope| {
            scope.spawn(|| this.read(stream));
            let is_done = loop {
                let next =
                    waiting.pop_front().or_else(|| this.shared.take().map(|first| Sent { first, at: 0 }));
                let Some(sent) = next else { break this.settle() };
                let window = match &made {
                    Some(window) => window.clone(),
                    None => {
                        let window = this.encode(&mut encoder, &mut scratch, sent.first);
                        if this.shared.args.random.is_some() {
                            made = Some(window.clone());
                        }
                        window
                    }
                };
                if !this.write(stream, sent, &window) {
                    break false;
                }
            };
            // The reader ends with it.
            let _closed = stream.shutdown(Shutdown::Both);
            is_done
        });
        (self.encoder, self.scratch, self.window) = (encoder, scratch, made);
        is_done
    }

    fn encode(&self, encoder: &mut WindowEncoder, scratch: &mut Vec<u8>, first: u64) -> EncodedWindow {
        encoder.begin(self.shared.args.level);
        let pool = &self.shared.pool;
        for number in first..first + u64::from(self.shared.args.window) {
            let at = usize::try_from(number).unwrap_or(0) % pool.len();
            scratch.clear();
            scratch.extend_from_slice(&pool[at]);
            event::number(scratch, number);
            encoder.push(scratch);
        }
        encoder.finish()
    }

    /// Waits for its turn, and writes; false: the connection broke.
    fn write(&self, mut stream: &TcpStream, sent: Sent, window: &EncodedWindow) -> bool {
        let mut state = self.lock();
        while !state.is_broken && state.flying.len() >= self.shared.args.in_flight {
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let at = if sent.at == 0 { micros() } else { sent.at };
        // Noted before it is known to be written: it is sent again if it was not.
        state.flying.push_back(Sent { at, ..sent });
        state.acks.sent(sent.first, window.events, now());
        let is_broken = state.is_broken;
        drop(state);
        let (header, body) = frames(window);
        !is_broken && stream.write_all(header.as_ref()).and_then(|()| stream.write_all(&body)).is_ok()
    }

    /// Waits for the last acks; true: they are all there.
    fn settle(&self) -> bool {
        let until = now() + LAST;
        let mut state = self.lock();
        while !state.is_broken && !state.flying.is_empty() && now() < until {
            let waited = self.news.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.flying.is_empty() || now() >= until
    }

    fn read(&self, mut stream: &TcpStream) {
        let mut buffer = [0; 2048];
        loop {
            let read = stream.read(&mut buffer);
            let mut state = self.lock();
            let is_alive = match read {
                Ok(0) => false,
                Ok(count) => self.take(&mut state, &buffer[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {
                    state.flying.is_empty() || now() < state.acks.last_heard() + SILENCE
                }
                Err(_) => false,
            };
            state.is_broken |= !is_alive;
            drop(state);
            self.news.notify_all();
            if !is_alive {
                // Whoever writes must not wait for a server that does not read.
                let _closed = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    fn take(&self, state: &mut State, bytes: &[u8]) -> bool {
        let State { flying, acks, acked, .. } = state;
        let at = micros();
        let mut sink = |ack| {
            if let Ack::Window { number } = ack
                && let Some(sent) = flying.pop_front()
            {
                debug_assert_eq!(sent.first, number, "the oldest is acked first");
                acked.push(Acked { sent: sent.at, at, first: number });
                self.shared.acked.fetch_add(1, Ordering::Relaxed);
            }
        };
        acks.input(bytes, now(), &mut sink).is_ok()
    }
}
