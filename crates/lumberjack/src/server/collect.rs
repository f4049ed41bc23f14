//! A collector that counts events and acks them, or misbehaves: for demos, benchmarks and tests of clients.
//!
//! Not a store: nothing is kept but numbers.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Connection, End, Handler, Verdict};
use crate::frame::{Event, Version, ack};
use crate::receiver::{Sink, WindowEnd};

/// How windows are acked. It can be changed while the collector runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// As soon as they are complete.
    AtOnce,
    /// So long after they are complete.
    After(Duration),
    /// Half of the events at once, the whole so long after.
    Partly(Duration),
    /// One event more than there was: what no client accepts.
    Wrong,
    /// Not at all: keep-alives only.
    Never,
    /// Not at all: the connection is closed instead.
    Close,
}

type Each = dyn Fn(SocketAddr, &Event<'_>) + Send + Sync;

/// The handler to give to [`serve`](super::serve).
pub struct Collector {
    acks: watch::Sender<Acks>,
    each: Option<Box<Each>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    events: AtomicU64,
    bytes: AtomicU64,
    windows: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
}

/// What a collector has seen. Windows that were sent again count again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events of complete windows.
    pub events: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Complete windows.
    pub windows: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that broke the protocol.
    pub refused: u64,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("totals", &self.totals()).finish_non_exhaustive()
    }
}

impl Collector {
    /// A collector that counts.
    pub fn new(acks: Acks) -> Arc<Self> {
        Arc::new(Self { acks: watch::Sender::new(acks), each: None, counts: Arc::default() })
    }

    /// A collector that counts, and shows every event, also those of windows that do not become complete.
    pub fn watching(acks: Acks, each: impl Fn(SocketAddr, &Event<'_>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { acks: watch::Sender::new(acks), each: Some(Box::new(each)), counts: Arc::default() })
    }

    /// From now on windows are acked in another way, those that wait too.
    pub fn set_acks(&self, acks: Acks) {
        self.acks.send_replace(acks);
    }

    /// What it has seen.
    pub fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counts { events, bytes, windows, connections, refused } = &*self.counts;
        Totals {
            events: get(events),
            bytes: get(bytes),
            windows: get(windows),
            connections: get(connections),
            refused: get(refused),
        }
    }
}

/// What a collector knows of one connection.
pub struct Collected {
    collector: Arc<Collector>,
    peer: SocketAddr,
    acks: watch::Receiver<Acks>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    number: u64,
    since: Instant,
    last_seq: u32,
    half_is_acked: bool,
}

/// The handler of collectors: they are shared with whoever looks at them.
impl Handler for Arc<Collector> {
    type Connection = Collected;

    fn connection(&self, peer: SocketAddr) -> Collected {
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let acks = self.acks.subscribe();
        Collected { collector: Arc::clone(self), peer, acks, waiting: VecDeque::new() }
    }

    fn ended(&self, _: SocketAddr, end: &End) {
        if matches!(end, End::Refused(_)) {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sink for Collected {
    fn event(&mut self, event: Event<'_>) {
        if let Some(each) = &self.collector.each {
            each(self.peer, &event);
        }
    }

    fn window(&mut self, end: WindowEnd) {
        let counts = &self.collector.counts;
        counts.events.fetch_add(u64::from(end.events), Ordering::Relaxed);
        counts.bytes.fetch_add(end.event_bytes, Ordering::Relaxed);
        counts.windows.fetch_add(u64::from(end.last), Ordering::Relaxed);
        let (number, last_seq) = (end.number, end.last_seq);
        self.waiting.push_back(Waiting { number, since: Instant::now(), last_seq, half_is_acked: false });
    }
}

impl Connection for Collected {
    async fn verdict(&mut self) -> Verdict {
        loop {
            let acks = *self.acks.borrow_and_update();
            let Some(oldest) = self.waiting.front_mut() else { return pending().await };
            let due = match acks {
                Acks::AtOnce => oldest.since,
                Acks::After(time) => oldest.since + time,
                Acks::Partly(time) if oldest.half_is_acked => oldest.since + time,
                Acks::Partly(_) => {
                    oldest.half_is_acked = true;
                    return raw(oldest.last_seq / 2);
                }
                Acks::Wrong => {
                    let wrong = oldest.last_seq.wrapping_add(1);
                    self.waiting.pop_front();
                    return raw(wrong);
                }
                Acks::Close => return Verdict::Close,
                Acks::Never => {
                    if self.acks.changed().await.is_err() {
                        return pending().await;
                    }
                    continue;
                }
            };
            let number = oldest.number;
            tokio::select! {
                () = sleep_until(due) => {
                    self.waiting.pop_front();
                    return Verdict::Safe(number);
                }
                Ok(()) = self.acks.changed() => {}
            }
        }
    }
}

fn raw(seq: u32) -> Verdict {
    Verdict::Raw(ack(Version::V2, seq).to_vec().into())
}
