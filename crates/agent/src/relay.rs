//! Lumberjack in, on a fixed local address: what a shipper sends is in the spool when it is acked.
//!
//! Not the protocol: that is `pikepole-lumberjack`. Not delivery: that is `balance.rs`.
//!
//! Invariants: a unit is called safe when all its events are durable, in the spool or among the dead letters.
//! An event that is no JSON object never blocks those around it. Whole windows go on as they came, still
//! compressed, unless an event of them cannot.

mod check;
mod unit;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pikepole_lumberjack::server::{Connection, End, Handler, Options, Tls, TlsConfig, TlsError, Verdict};
use pikepole_lumberjack::{Event, Limits, Sink, WindowEnd};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config::RelayConfig;
use crate::dead::DeadLetters;
use crate::queue::{Hurry, Queue};
use unit::Unit;

/// Bytes of events in one unit: with as many connections as usual the agent stays small.
const UNIT: usize = 4 << 20;
/// Bytes of events that one connection, and all of them, may have under way.
const CONNECTION_BYTES: u64 = 8 << 20;
const TOTAL_BYTES: u64 = 24 << 20;

/// What the relay says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Where it listens.
    pub listen: String,
    /// Connections that are open.
    pub connections: u64,
    /// Events that came in whole windows.
    pub events: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Windows that came whole.
    pub windows: u64,
    /// Events that were durable when their window was acked.
    pub acked_events: u64,
    /// Events among the dead letters.
    pub dead_lettered: u64,
    /// Connections that ended, by the reason.
    pub ended: BTreeMap<String, u64>,
}

/// What shippers send to.
#[derive(Debug)]
pub(crate) struct Relay {
    queue: Queue,
    dead: DeadLetters,
    clock: Clock,
    level: u32,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
    windows: AtomicU64,
    acked: AtomicU64,
    dead: AtomicU64,
    ended: Mutex<BTreeMap<&'static str, u64>>,
}

/// How its server is set up. Windows of more than `window` events become several units.
pub(crate) fn options(config: &RelayConfig, window: u32) -> Result<Options, TlsError> {
    let tls = config.tls.as_ref().map(|tls| {
        Tls::load(&TlsConfig {
            cert: tls.cert.clone(),
            key: tls.key.clone(),
            client_ca: tls.client_ca.clone(),
        })
    });
    Ok(Options {
        limits: Limits { window, unit: UNIT, ..Limits::default() },
        max_connections: config.max_connections,
        connection_bytes: CONNECTION_BYTES,
        total_bytes: TOTAL_BYTES,
        tls: tls.transpose()?,
        ..Options::default()
    })
}

impl Relay {
    /// A relay into this spool. Windows that have to be made anew are compressed at `level`, 1 to 9.
    pub(crate) fn new(queue: Queue, dead: DeadLetters, clock: Clock, level: u32) -> Arc<Self> {
        Arc::new(Self { queue, dead, clock, level, counts: Counts::default() })
    }

    /// How it is.
    pub(crate) fn status(&self, listen: SocketAddr) -> RelayStatus {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        let ended = counts.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let over: u64 = ended.values().sum();
        RelayStatus {
            listen: listen.to_string(),
            connections: get(&counts.opened).saturating_sub(over),
            events: get(&counts.events),
            bytes: get(&counts.bytes),
            windows: get(&counts.windows),
            acked_events: get(&counts.acked),
            dead_lettered: get(&counts.dead),
            ended: ended.into_iter().map(|(word, count)| (word.into(), count)).collect(),
        }
    }

    /// Makes a unit durable; `false`: the agent stops.
    async fn store(&self, unit: Unit) -> bool {
        let (events, letters) = (unit.events(), unit.letters());
        if letters > 0 && !self.bury(&unit).await {
            return false;
        }
        let at = self.clock.now().as_millis();
        let level = self.level;
        let block = match unit.needs_encoding() {
            false => unit.into_block(level, at),
            true => match tokio::task::spawn_blocking(move || unit.into_block(level, at)).await {
                Ok(block) => block,
                Err(_) => return false, // the runtime stops
            },
        };
        if let Some(block) = block
            && self.queue.append(block, Hurry::Soon).await.is_err()
        {
            return false;
        }
        self.counts.acked.fetch_add(events - letters, Ordering::Relaxed);
        true
    }

    /// Keeps what is no JSON object.
    async fn bury(&self, unit: &Unit) -> bool {
        let letters = unit.dead_letters();
        let count = letters.len() as u64;
        let is_kept = self.dead.keep_at_last(letters, &self.clock).await;
        self.counts.dead.fetch_add(if is_kept { count } else { 0 }, Ordering::Relaxed);
        is_kept
    }
}

/// The server's handler. A type of its own, because a connection outlives a borrow.
#[derive(Debug, Clone)]
pub(crate) struct Shippers(pub(crate) Arc<Relay>);

impl Handler for Shippers {
    type Connection = Shipper;

    fn connection(&self, peer: SocketAddr) -> Shipper {
        self.0.counts.opened.fetch_add(1, Ordering::Relaxed);
        let (verdicts, safe) = mpsc::unbounded_channel(); // as many as there are units, which the server bounds
        Shipper { relay: Arc::clone(&self.0), unit: Unit::new(peer), verdicts, safe }
    }

    fn ended(&self, _: SocketAddr, end: &End) {
        let mut ended = self.0.counts.ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended.entry(end.word()).or_default() += 1;
    }
}

/// One connection.
pub(crate) struct Shipper {
    relay: Arc<Relay>,
    /// What came of the unit that is not complete.
    unit: Unit,
    verdicts: mpsc::UnboundedSender<Verdict>,
    safe: mpsc::UnboundedReceiver<Verdict>,
}

impl Sink for Shipper {
    fn event(&mut self, event: Event<'_>) {
        self.unit.push(event.payload);
    }

    fn window(&mut self, end: WindowEnd) {
        let number = end.number;
        let counts = &self.relay.counts;
        counts.events.fetch_add(u64::from(end.events), Ordering::Relaxed);
        counts.bytes.fetch_add(end.event_bytes, Ordering::Relaxed);
        counts.windows.fetch_add(u64::from(end.last), Ordering::Relaxed);
        let unit = self.unit.finish(end);
        let (relay, verdicts) = (Arc::clone(&self.relay), self.verdicts.clone());
        tokio::spawn(async move {
            let verdict = if relay.store(unit).await { Verdict::Safe(number) } else { Verdict::Close };
            // Nobody waits for it any longer if the connection ended: its client sends again.
            verdicts.send(verdict).ok();
        });
    }
}

impl Connection for Shipper {
    async fn verdict(&mut self) -> Verdict {
        self.safe.recv().await.unwrap_or(Verdict::Close)
    }
}
