//! One collector: who it is, how its connections end, its counters.
//!
//! Not the choice among collectors, and not a connection that stands: that is `planner/up.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::{Latency, MOST};
use super::up::Up;

/// A collector whose acks could not be told apart gets one window at a time for so long: every try of more costs
/// the time of `silence`.
const CAREFUL: Duration = Duration::from_secs(600);
/// Who a collector is. A restart keeps it; a recycled address with another instance does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The instance's id.
    pub(crate) instance: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

/// Why there is no connection, or none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// Nobody listens.
    Refused,
    /// No connection within `connect_timeout`.
    ConnectTimeout,
    /// No way there.
    Unreachable,
    /// Certificates or the handshake.
    Tls,
    /// The collector ended the connection in order.
    Closed,
    /// The collector broke the connection off.
    Reset,
    /// Its host does not acknowledge TCP: `user_timeout`, or the kernel says so.
    NoTcpAck,
    /// It sends no ack frame at all: `silence`.
    Silence,
    /// It keeps alive and completes nothing: `progress`.
    Progress,
    /// It is gone from the roster, and its acks did not come within `progress`.
    Gone,
    /// An ack that makes no sense.
    BadAck,
    /// Anything else.
    Io,
}

impl Why {
    /// The word people route on.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::NoTcpAck => "no_tcp_ack",
            Self::Silence => "silence",
            Self::Progress => "progress",
            Self::Gone => "gone",
            Self::BadAck => "bad_ack",
            Self::Io => "io",
        }
    }

    /// The collector itself closed: perhaps on what it was sent.
    pub(super) const fn casts_suspicion(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }

    /// What an error of a socket means.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::ConnectionRefused => Self::Refused,
            K::HostUnreachable | K::NetworkUnreachable | K::AddrNotAvailable => Self::Unreachable,
            K::TimedOut => Self::NoTcpAck,
            K::UnexpectedEof => Self::Closed,
            K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::NotConnected => Self::Reset,
            _ => Self::Io,
        }
    }
}

/// The link to a collector.
#[derive(Debug)]
pub(super) enum Link {
    Down,
    Connecting { conn: u64, since: Instant },
    Up(Box<Up>),
}

/// What was counted at one collector.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) connects: u64,
    pub(super) failures: BTreeMap<&'static str, u64>,
    pub(super) windows_sent: u64,
    pub(super) windows_acked: u64,
    pub(super) events_sent: u64,
    pub(super) events_acked: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_acked: u64,
    pub(super) events_resent: u64,
    pub(super) bytes_resent: u64,
    pub(super) events_dead_lettered: u64,
    pub(super) bytes_dead_lettered: u64,
}

/// One collector.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) zone: Option<String>,
    /// Something new may be sent to it.
    pub(super) wanted: bool,
    /// When it vanished from the roster.
    pub(super) gone: Option<Instant>,
    pub(super) link: Link,
    pub(super) failures: u32,
    pub(super) failed: Option<Instant>,
    pub(super) retry: Instant,
    pub(super) last_up: Option<Instant>,
    pub(super) last_ack: Option<Instant>,
    /// Until then it gets one window at a time.
    pub(super) careful: Option<Instant>,
    pub(super) latency: Latency,
    pub(super) counts: Counts,
    pub(super) last_error: Option<String>,
}

impl Endpoint {
    pub(super) fn new(zone: Option<String>, now: Instant) -> Self {
        Self {
            zone,
            wanted: true,
            gone: None,
            link: Link::Down,
            failures: 0,
            failed: None,
            retry: now,
            last_up: None,
            last_ack: None,
            careful: None,
            latency: Latency::default(),
            counts: Counts::default(),
            last_error: None,
        }
    }

    pub(super) const fn up(&self) -> Option<&Up> {
        match &self.link {
            Link::Up(up) => Some(up),
            _ => None,
        }
    }

    pub(super) const fn up_mut(&mut self) -> Option<&mut Up> {
        match &mut self.link {
            Link::Up(up) => Some(up),
            _ => None,
        }
    }

    /// A connection stands.
    pub(super) fn connected(&mut self, conn: u64, now: Instant) {
        let most = if self.careful.is_some_and(|until| until > now) { 1 } else { MOST };
        self.link = Link::Up(Box::new(Up::new(conn, most, now)));
        self.last_up = Some(now);
        self.counts.connects += 1;
    }

    /// A connection ended. If the collector answers several windows with one ack, as some versions of Vector do,
    /// that ack is too high, or one of them is never acked: only with one window at a time it is understood.
    pub(super) fn learn(&mut self, up: &Up, why: Why, now: Instant) {
        if matches!(why, Why::BadAck | Why::Silence) && up.flight.len() > 1 {
            self.careful = Some(now + CAREFUL);
        }
    }

    pub(super) const fn conn(&self) -> Option<u64> {
        match &self.link {
            Link::Down => None,
            Link::Connecting { conn, .. } => Some(*conn),
            Link::Up(up) => Some(up.conn),
        }
    }

    /// So much time did not count.
    pub(super) fn forgive(&mut self, late: Duration, now: Instant) {
        match &mut self.link {
            Link::Down => {}
            Link::Connecting { since, .. } => *since = (*since + late).min(now),
            Link::Up(up) => up.forgive(late, now),
        }
        self.gone = self.gone.map(|gone| (gone + late).min(now));
    }

    /// Whether something unacked is there.
    pub(super) fn is_busy(&self) -> bool {
        self.up().is_some_and(|up| !up.flight.is_empty())
    }
}
