//! A shipper as Filebeat is one: two windows in flight, and what was not acked is sent again, over a new
//! connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use pikepole_lumberjack::client::{Connector, Options, TlsConfig};
use pikepole_lumberjack::encode::{EncodedWindow, WindowEncoder};
use pikepole_lumberjack::{Acked, Sender};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::ledger::Ledger;
use crate::harness::within;

/// Windows in flight.
const PIPELINING: usize = 2;
/// Without any ack frame for so long the connection is left.
const SILENCE: Duration = Duration::from_secs(30);
const RECONNECT: Duration = Duration::from_millis(10);

/// What it sends.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) window: u64,
    /// Each window has one event more than the one before.
    pub(super) grows: bool,
    /// zlib's level.
    pub(super) level: u32,
    /// Before the next window is begun.
    pub(super) pause: Duration,
    /// Bytes that each event has besides its id.
    pub(super) bytes: usize,
}

impl Default for Load {
    fn default() -> Self {
        Self { window: 50, grows: false, level: 3, pause: Duration::from_millis(5), bytes: 100 }
    }
}

/// What it did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Did {
    pub(super) windows: u64,
    pub(super) connections: u64,
    /// Events that were sent again.
    pub(super) resent: u64,
}

/// A running shipper.
pub(super) struct Shipper {
    stop: watch::Sender<bool>,
    task: JoinHandle<Did>,
}

/// Text that does not compress to nothing.
fn noise(bytes: usize) -> &'static str {
    static POOL: LazyLock<String> = LazyLock::new(|| {
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-";
        let mut random = vec![0; 2 << 20];
        fastrand::Rng::new().fill(&mut random);
        random.iter().map(|byte| char::from(letters[usize::from(byte & 63)])).collect()
    });
    let from = fastrand::usize(..POOL.len() - bytes);
    &POOL[from..from + bytes]
}

/// One window of new events.
pub(super) fn window(ids: Range<u64>, level: u32, bytes: usize) -> EncodedWindow {
    let mut encoder = WindowEncoder::new();
    encoder.begin(level);
    for id in ids {
        let noise = noise(bytes);
        assert!(encoder.push(format!("{{\"id\":{id},\"message\":\"{noise}\"}}").as_bytes()));
    }
    encoder.finish()
}

/// Sends these events as one window and waits for its ack.
pub(super) async fn deliver(to: SocketAddr, events: &[Vec<u8>], level: u32) {
    let mut encoder = WindowEncoder::new();
    encoder.begin(level);
    for event in events {
        assert!(encoder.push(event));
    }
    let window = encoder.finish();
    let connector = Connector::new(Options::default(), None).unwrap();
    let (mut writer, mut reader) = connector.connect(to).await.unwrap();
    let mut sender = Sender::new(Duration::ZERO);
    sender.sent(0, window.events, Duration::ZERO);
    writer.write(&window).await.unwrap();
    while sender.in_flight() > 0 {
        let bytes = within("an ack", reader.read()).await.unwrap();
        assert!(!bytes.is_empty(), "the relay closed the connection");
        sender.input(bytes, Duration::ZERO, &mut |_| ()).unwrap();
    }
}

struct Work {
    ledger: Ledger,
    load: Load,
    waiting: VecDeque<(Range<u64>, EncodedWindow)>,
    did: Did,
}

impl Shipper {
    pub(super) fn start(to: SocketAddr, ledger: &Ledger, load: Load) -> Self {
        Self::with(to, ledger, load, None)
    }

    pub(super) fn with(to: SocketAddr, ledger: &Ledger, load: Load, tls: Option<&TlsConfig>) -> Self {
        let connector = Connector::new(Options::default(), tls).unwrap();
        let (stop, mut stopping) = watch::channel(false);
        let mut work = Work { ledger: ledger.clone(), load, waiting: VecDeque::new(), did: Did::default() };
        let task = tokio::spawn(async move {
            loop {
                if *stopping.borrow() && work.waiting.is_empty() {
                    return work.did;
                }
                // However the connection ends: what was not acked is sent again.
                work.connection(&connector, to, &mut stopping).await;
                sleep(RECONNECT).await;
            }
        });
        Self { stop, task }
    }

    /// Begins no new window, and waits for the acks of those it began.
    pub(super) async fn finish(self) -> Did {
        self.stop.send_replace(true);
        within("acks of what a shipper has sent", self.task).await.unwrap()
    }
}

impl Work {
    async fn connection(
        &mut self,
        connector: &Connector,
        to: SocketAddr,
        stopping: &mut watch::Receiver<bool>,
    ) -> Option<()> {
        let (mut writer, mut reader) = connector.connect(to).await.ok()?;
        self.did.connections += 1;
        let mut sender = Sender::new(Duration::ZERO);
        let mut number = 0;
        for (ids, window) in &self.waiting {
            self.did.resent += ids.end - ids.start;
            sender.sent(number, window.events, Duration::ZERO);
            number += 1;
            timeout(SILENCE, writer.write(window)).await.ok()?.ok()?;
        }
        loop {
            let stops = *stopping.borrow();
            if stops && self.waiting.is_empty() {
                return Some(());
            }
            let may_send = !stops && self.waiting.len() < PIPELINING;
            tokio::select! {
                read = timeout(SILENCE, reader.read()) => {
                    let bytes = read.ok()?.ok()?;
                    if bytes.is_empty() {
                        return None;
                    }
                    let mut acked = 0;
                    let mut count = |ack| acked += usize::from(matches!(ack, Acked::Window { .. }));
                    sender.input(bytes, Duration::ZERO, &mut count).expect("the relay acks as it should");
                    for (ids, _) in self.waiting.drain(..acked) {
                        self.ledger.promised(ids);
                        self.did.windows += 1;
                    }
                }
                () = sleep(self.load.pause), if may_send => {
                    let ids = self.ledger.issue(self.load.window);
                    self.load.window += u64::from(self.load.grows);
                    let window = window(ids.clone(), self.load.level, self.load.bytes);
                    self.waiting.push_back((ids, window.clone()));
                    sender.sent(number, window.events, Duration::ZERO);
                    number += 1;
                    timeout(SILENCE, writer.write(&window)).await.ok()?.ok()?;
                }
                _ = stopping.changed(), if !stops => {}
            }
        }
    }
}
