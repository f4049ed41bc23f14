//! Connections to collectors: the balancer's seams, made of Lumberjack.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pikepole_lumberjack::client::{self, ConnectError, Connector, TlsConfig, TlsError};
use pikepole_lumberjack::encode::EncodedWindow;
use pikepole_lumberjack::{Acked, Refused, Sender};
use tokio::time::Instant;

use crate::balance::{Ack, Connection, Dial, Key, LinkError, Read, Why, Write, path_probe};
use crate::config::CollectorsConfig;

/// Between two probes of an idle connection, by the kernel.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Connects to collectors.
#[derive(Debug)]
pub(super) struct Collectors {
    connector: Connector,
    /// With a probe, and without one.
    user_timeouts: [Duration; 2],
    was_told: AtomicBool,
}

impl Collectors {
    /// Reads the files of TLS; they are read again when they change.
    pub(super) fn new(config: &CollectorsConfig) -> Result<Self, TlsError> {
        let tls = config.tls.as_ref().map(|tls| {
            let (cert, key) = tls.identity.clone().unzip();
            TlsConfig { ca: tls.ca.clone(), cert, key, server_name: tls.server_name.clone() }
        });
        let options = client::Options {
            connect_timeout: config.connect_timeout,
            // Unanswered probes are what tells of a host that vanished while nothing was in flight.
            keep_alive: PROBE_EVERY,
            ..client::Options::default()
        };
        let user_timeouts = [config.progress, config.user_timeout];
        let connector = Connector::new(options, tls.as_ref())?;
        Ok(Self { connector, user_timeouts, was_told: AtomicBool::new(false) })
    }

    /// Where the kernel can be asked, the balancer knows better than `TCP_USER_TIMEOUT` which host is gone: the
    /// option also ends connections to collectors that are alive and have closed their window.
    fn user_timeout(&self, has_probe: bool) -> Duration {
        let [with, without] = self.user_timeouts;
        if !has_probe && !self.was_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the kernel does not tell of connections over netlink; TCP_USER_TIMEOUT is used, which also ends \
                 those to collectors that are busy: allow AF_NETLINK"
            );
        }
        if has_probe { with } else { without }
    }
}

/// The acks' side of a connection, which both halves know.
#[derive(Debug, Clone)]
struct Acks {
    began: Instant,
    sender: Arc<Mutex<Sender>>,
}

impl Acks {
    fn lock(&self) -> (MutexGuard<'_, Sender>, Duration) {
        (self.sender.lock().unwrap_or_else(PoisonError::into_inner), self.began.elapsed())
    }

    fn sent(&self, number: u64, events: u32) {
        let (mut sender, now) = self.lock();
        sender.sent(number, events, now);
    }
}

/// Writes windows.
pub(super) struct Writer {
    writer: client::Writer,
    acks: Acks,
}

/// Reads acks.
pub(super) struct Reader {
    reader: client::Reader,
    acks: Acks,
    /// Those that came with the last bytes, and what was wrong behind them.
    read: VecDeque<Ack>,
    refused: Option<Refused>,
}

impl Dial for Collectors {
    type Window = EncodedWindow;
    type Writer = Writer;
    type Reader = Reader;

    async fn connect(&self, to: &Key) -> Result<Connection<Writer, Reader>, LinkError> {
        let mut probe = None;
        let user_timeout = |local| {
            probe = path_probe(local, to.address);
            self.user_timeout(probe.is_some())
        };
        let connected = self.connector.connect_with(to.address, user_timeout).await;
        let (writer, reader) = connected.map_err(|error| failed(&error))?;
        let sender = Arc::new(Mutex::new(Sender::new(Duration::ZERO)));
        let acks = Acks { began: Instant::now(), sender };
        let reader = Reader { reader, acks: acks.clone(), read: VecDeque::new(), refused: None };
        Ok(Connection { writer: Writer { writer, acks }, reader, probe })
    }
}

fn failed(error: &ConnectError) -> LinkError {
    let why = match error {
        ConnectError::Timeout(_) => Why::ConnectTimeout,
        ConnectError::Io(error) => Why::of(error),
        ConnectError::HandshakeTimeout(_) | ConnectError::Handshake(_) => Why::Tls,
    };
    LinkError { why, detail: error.to_string() }
}

impl Write<EncodedWindow> for Writer {
    async fn write(&mut self, number: u64, events: u32, window: EncodedWindow) -> Result<(), LinkError> {
        self.acks.sent(number, events); // before it is: its ack may be here as soon as its last byte is there
        Ok(self.writer.write(&window).await?)
    }
}

impl Read for Reader {
    async fn read(&mut self) -> Result<Ack, LinkError> {
        loop {
            if let Some(ack) = self.read.pop_front() {
                return Ok(ack);
            }
            if let Some(refused) = self.refused {
                return Err(LinkError { why: Why::BadAck, detail: refused.to_string() });
            }
            let bytes = self.reader.read().await?;
            if bytes.is_empty() {
                return Err(LinkError { why: Why::Closed, detail: "it closed the connection".into() });
            }
            let (mut sender, now) = self.acks.lock();
            let mut read = |acked| {
                self.read.push_back(match acked {
                    Acked::Window { number } => Ack::Window(number),
                    Acked::Partial { .. } => Ack::Partial,
                    Acked::KeepAlive => Ack::KeepAlive,
                });
            };
            // What it acked before that is acked.
            self.refused = sender.input(bytes, now, &mut read).err();
        }
    }
}
