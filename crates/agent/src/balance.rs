//! Carries the queue's blocks to whichever collectors live.
//!
//! Not the queue, which is durable and above all collectors; not the protocol. Both are behind the seams
//! below: [`Source`], [`Dial`], [`Encode`], [`DeadLetters`]. What is decided is in `planner.rs`, without I/O;
//! `driver.rs` does it.
//!
//! Invariant: a block is done only when each of its events was acked or is a durable dead letter.

mod driver;
mod path;
mod planner;
pub(crate) mod status;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pikepole_spool::{Block, Seq};

use crate::config::{CollectorsConfig, Order};

pub(crate) use driver::{Balancer, Watches};
pub(crate) use path::{PathProbe, path_probe};
pub(crate) use planner::{Key, Policy, Why};

/// The queue.
pub(crate) trait Source: Send + Sync + 'static {
    /// The next block that is not done and not taken; waits for one. A block that was not returned, because
    /// the future was dropped, was not taken.
    fn next(&self, order: Order) -> impl Future<Output = Arc<Block>> + Send;
    /// A taken block, once more; `None`: the queue has it no more.
    fn read(&self, seq: Seq) -> impl Future<Output = Option<Arc<Block>>> + Send;
    /// It is delivered. Never waits.
    fn done(&self, seq: Seq);
    /// It was taken and is not delivered. Never waits.
    fn give_back(&self, seq: Seq);
}

/// Some of a block's events.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The block.
    pub(crate) block: Arc<Block>,
    /// Which of its events.
    pub(crate) events: Range<u32>,
}

/// Makes windows of blocks; used on a thread that may compute.
pub(crate) trait Encode: Send + 'static {
    /// What is written.
    type Window: Send + 'static;
    /// The window of these parts, one after the other; an error says which block is not made of events, and why.
    fn encode(&mut self, parts: &[Part]) -> Result<Self::Window, (Seq, String)>;
    /// One event, as a collector would get it.
    fn event(&mut self, block: &Block, index: u32) -> Result<Bytes, String>;
}

/// What went wrong on a connection. The detail never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkError {
    /// For decisions.
    pub(crate) why: Why,
    /// For people.
    pub(crate) detail: String,
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> Self {
        Self { why: Why::of(&error), detail: error.to_string() }
    }
}

/// Connects.
pub(crate) trait Dial: Send + Sync + 'static {
    /// What is written.
    type Window: Send + 'static;
    /// Writes windows.
    type Writer: Write<Self::Window>;
    /// Reads acks.
    type Reader: Read;
    /// A connection that is ready for windows, TLS and all. It has a time limit from outside.
    fn connect(
        &self,
        to: &Key,
    ) -> impl Future<Output = Result<Connection<Self::Writer, Self::Reader>, LinkError>> + Send;
}

/// A connection; dropping both halves closes it.
pub(crate) struct Connection<W, R> {
    /// One half.
    pub(crate) writer: W,
    /// The other.
    pub(crate) reader: R,
    /// Asks the kernel about it; see [`path_probe`]. `None`: only its errors tell.
    pub(crate) probe: Option<PathProbe>,
}

/// One half of a connection.
pub(crate) trait Write<Window>: Send + 'static {
    /// Writes a window whole. `number` is what its ack will be called; `events` is what it must ack.
    fn write(
        &mut self,
        number: u64,
        events: u32,
        window: Window,
    ) -> impl Future<Output = Result<(), LinkError>> + Send;
}

/// An ack frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// The window of this number is acked whole.
    Window(u64),
    /// Some of the oldest window is acked.
    Partial,
    /// It lives.
    KeepAlive,
}

/// The other half of a connection.
pub(crate) trait Read: Send + 'static {
    /// The next ack frame. The end of the connection is an error, [`Why::Closed`].
    fn read(&mut self) -> impl Future<Output = Result<Ack, LinkError>> + Send;
}

/// What is given up, and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// The block it was in.
    pub(crate) seq: Seq,
    /// Which of its events; `None`: `payload` is the body of the whole block, which is not made of events.
    pub(crate) event: Option<u32>,
    /// When the block was made, in milliseconds since 1970.
    pub(crate) at: u64,
    /// The event.
    pub(crate) payload: Bytes,
    /// Why, for people.
    pub(crate) why: String,
}

/// Keeps dead letters.
pub(crate) trait DeadLetters: Send + Sync + 'static {
    /// Keeps one; it is durable when this returns `Ok`. One that is kept already may come again.
    fn keep(&self, letter: Letter) -> impl Future<Output = Result<(), String>> + Send;
}

/// The parts a balancer is made of.
pub(crate) struct Parts<S, D, E, L> {
    /// The queue.
    pub(crate) source: Arc<S>,
    /// Connects.
    pub(crate) dial: Arc<D>,
    /// Makes an encoder; a few are made and used again.
    pub(crate) encoder: Box<dyn Fn() -> E + Send + Sync>,
    /// The dead letters.
    pub(crate) letters: Arc<L>,
}

/// How the balancer behaves.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// What the planner is bound by.
    pub(crate) policy: Policy,
    /// Passed to the queue.
    pub(crate) order: Order,
    /// How long a stop waits for acks.
    pub(crate) stop_wait: Duration,
    /// Encoders that work at once.
    pub(crate) encoders: usize,
    /// Of the dice.
    pub(crate) seed: u64,
}

/// What connects ends its attempts itself, and says why. Only if it does not is it ended after this time more.
const BACKSTOP: Duration = Duration::from_secs(1);

impl Options {
    /// As configured, with the rest as it should be.
    pub(crate) fn new(config: &CollectorsConfig) -> Self {
        let handshake = pikepole_lumberjack::client::Options::default().handshake_timeout;
        let policy = Policy {
            attempt_timeout: config.connect_timeout + handshake + BACKSTOP,
            user_timeout: config.user_timeout,
            silence: config.silence,
            progress: config.progress,
            zone: config.zone.clone().filter(|_| config.prefer_zone),
            max_in_flight: config.max_in_flight,
            window: config.window,
        };
        let encoders = std::thread::available_parallelism().map_or(2, usize::from).min(4);
        Self {
            policy,
            order: config.order,
            stop_wait: Duration::from_secs(5),
            encoders,
            seed: fastrand::u64(..),
        }
    }
}
