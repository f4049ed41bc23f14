//! Lumberjack in, on a fixed local address: what a shipper sends is in the spool when it is acked.
//!
//! Not the protocol: that is `pikepole-lumberjack`. Not delivery: that is `balance.rs`.
//!
//! Invariants: a unit is called safe when all its events are durable, in the spool or among the dead letters.
//! An event that is no JSON object never blocks those around it. Whole windows go on as they came, still
//! compressed, unless an event of them cannot. What is not in the queue when its client goes is forgotten: it
//! comes again. What is kept longer takes its memory along.

mod check;
mod unit;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pikepole_lumberjack::server::{
    Connection, End, Handler, Options, Room, Tls, TlsConfig, TlsError, Verdict,
};
use pikepole_lumberjack::{Event, Limits, Sink, WindowEnd};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config::RelayConfig;
use crate::dead::DeadLetters;
use crate::queue::{Hurry, Queue, Receipt};
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
    /// Events that went into the spool and whose window was acked.
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
    /// Connections that are open now.
    open: AtomicU64,
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
        RelayStatus {
            listen: listen.to_string(),
            connections: get(&counts.open),
            events: get(&counts.events),
            bytes: get(&counts.bytes),
            windows: get(&counts.windows),
            acked_events: get(&counts.acked),
            dead_lettered: get(&counts.dead),
            ended: ended.into_iter().map(|(word, count)| (word.into(), count)).collect(),
        }
    }

    /// Stores the units of one connection until it ends or the agent stops.
    async fn store(
        self: Arc<Self>,
        units: mpsc::UnboundedReceiver<Handed>,
        verdicts: mpsc::UnboundedSender<Verdict>,
    ) {
        tokio::select! {
            // Wherever it was: the client sends again what is not in the queue. Stored later, it would be there twice.
            () = verdicts.closed() => {}
            () = self.store_in_order(units, &verdicts) => {}
        }
    }

    async fn store_in_order(
        &self,
        mut units: mpsc::UnboundedReceiver<Handed>,
        verdicts: &mpsc::UnboundedSender<Verdict>,
    ) {
        while let Some(Handed { number, unit, room }) = units.recv().await {
            let sent = self.send(unit, room.clone()).await;
            let verdicts = verdicts.clone();
            // Others may be sent while this one becomes durable.
            tokio::spawn(async move {
                let is_safe = match sent {
                    Ok(Some(receipt)) => receipt.durable().await.is_ok(),
                    Ok(None) => true,
                    Err(Stopped) => false,
                };
                drop(room);
                let verdict = if is_safe { Verdict::Safe(number) } else { Verdict::Close };
                // Nobody waits for it any longer if the connection ended: its client sends again.
                verdicts.send(verdict).ok();
            });
        }
    }

    /// Buries what cannot go on and hands the rest to the queue; `None`: there is no rest.
    async fn send(&self, unit: Unit, room: Option<Room>) -> Result<Option<Receipt>, Stopped> {
        if unit.letters() > 0 {
            self.bury(&unit).await?;
        }
        let (level, at) = (self.level, self.clock.now().as_millis());
        let block = match unit.needs_encoding() {
            false => unit.into_block(level, at),
            true => {
                // It is encoded to its end, whoever waits for it.
                let encoding = move || (unit.into_block(level, at), room).0;
                tokio::task::spawn_blocking(encoding).await.map_err(|_| Stopped)?
            }
        };
        match block {
            Some(block) => self.queue.send(block, Hurry::Soon).await.map(Some).map_err(|_| Stopped),
            None => Ok(None),
        }
    }

    /// Keeps what is no JSON object.
    async fn bury(&self, unit: &Unit) -> Result<(), Stopped> {
        let letters = unit.dead_letters();
        let count = letters.len() as u64;
        if !self.dead.keep_at_last(letters, &self.clock).await {
            return Err(Stopped);
        }
        self.counts.dead.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }
}

/// The agent stops: nothing more becomes durable.
struct Stopped;

/// The server's handler. A type of its own, because a connection outlives a borrow.
#[derive(Debug, Clone)]
pub(crate) struct Shippers(pub(crate) Arc<Relay>);

impl Handler for Shippers {
    type Connection = Shipper;

    fn connection(&self, peer: SocketAddr) -> Shipper {
        self.0.counts.open.fetch_add(1, Ordering::Relaxed);
        // Both have as many as there are units under way, which the server bounds.
        let (units, stored) = mpsc::unbounded_channel();
        let (verdicts, safe) = mpsc::unbounded_channel();
        tokio::spawn(Arc::clone(&self.0).store(stored, verdicts));
        let (relay, unit, room) = (Arc::clone(&self.0), Unit::new(peer), None);
        Shipper {
            relay,
            unit,
            room,
            parts: Parts::default(),
            not_acked: VecDeque::new(),
            acked: 0,
            units,
            safe,
        }
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
    /// The memory of the one that is next.
    room: Option<Room>,
    /// What came of the window in units before this one.
    parts: Parts,
    /// Of each unit whose window is not acked, how many events go on.
    not_acked: VecDeque<u64>,
    /// Units before those.
    acked: u64,
    units: mpsc::UnboundedSender<Handed>,
    safe: mpsc::UnboundedReceiver<Verdict>,
}

/// A unit on its way.
struct Handed {
    number: u64,
    unit: Unit,
    room: Option<Room>,
}

#[derive(Default)]
struct Parts {
    events: u64,
    bytes: u64,
}

impl Drop for Shipper {
    fn drop(&mut self) {
        self.relay.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sink for Shipper {
    fn event(&mut self, event: Event<'_>) {
        self.unit.push(event.payload);
    }

    fn window(&mut self, end: WindowEnd) {
        let number = end.number;
        self.parts.events += u64::from(end.events);
        self.parts.bytes += end.event_bytes;
        if end.last {
            let (counts, whole) = (&self.relay.counts, std::mem::take(&mut self.parts));
            counts.events.fetch_add(whole.events, Ordering::Relaxed);
            counts.bytes.fetch_add(whole.bytes, Ordering::Relaxed);
            counts.windows.fetch_add(1, Ordering::Relaxed);
        }
        let (unit, room) = (self.unit.finish(end), self.room.take());
        self.not_acked.push_back(unit.events() - unit.letters());
        // Taken for as long as the connection lives.
        self.units.send(Handed { number, unit, room }).ok();
    }
}

impl Connection for Shipper {
    async fn verdict(&mut self) -> Verdict {
        self.safe.recv().await.unwrap_or(Verdict::Close)
    }

    fn room(&mut self, room: Room) {
        self.room = Some(room);
    }

    fn acked(&mut self, units: u64) {
        while self.acked < units {
            let events = self.not_acked.pop_front().unwrap_or_default();
            self.relay.counts.acked.fetch_add(events, Ordering::Relaxed);
            self.acked += 1;
        }
    }
}

#[cfg(test)]
mod tests;
