//! One collector: its connection, what is in flight there, its time limits, its counters.
//!
//! Not the choice among collectors.
//!
//! Invariant: each time limit runs only while the collector has something to answer: from the first bytes of a
//! window that are written.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Policy;
use super::batch::Batch;
use super::pace::{Latency, Limit, MOST};

/// Between two looks at what the kernel knows of a connection with something in flight.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A second ack of a window comes right behind the first, if at all.
const TRIAL: Duration = Duration::from_millis(50);
/// A collector whose acks could not be told apart gets one window at a time for so long: every try of more costs
/// the time of `silence`.
const CAREFUL: Duration = Duration::from_secs(600);
/// What a vanished host had is elsewhere when `user_timeout` is over: it is left by so much of it earlier.
const MARGIN: u32 = 16;

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

/// What the kernel knows of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Everything that was sent is acknowledged, or nobody can tell.
    Clear,
    /// Data is not acknowledged; the host was heard so long ago.
    Data(Duration),
    /// Only probes (keep-alive, closed window), two at least, are not answered; the host was heard so long ago.
    Probe(Duration),
}

/// One window on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) number: u64,
    /// Usually one; small blocks that waited share a window.
    pub(super) batches: Vec<Batch>,
    pub(super) bytes: u64,
    pub(super) sent: Instant,
    pub(super) alone: bool,
    pub(super) stage: Stage,
}

impl Flight {
    pub(super) fn events(&self) -> u64 {
        self.batches.iter().map(|batch| u64::from(batch.events())).sum()
    }
}

/// How far a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It waits for those before it, or for the disk: the collector knows nothing of it.
    Planned,
    /// Its first bytes are written.
    Begun,
    /// All of it is.
    Written,
}

/// Whether a collector acks each window once. One that does it twice cannot be told from one that has the next
/// window too, if that has as many events: so the first window goes alone, and the next one a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// Nothing was acked yet.
    First,
    /// An ack that comes before this was not asked for.
    Until(Instant),
    /// It acks once.
    Over,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) conn: u64,
    pub(super) since: Instant,
    pub(super) flight: VecDeque<Flight>,
    pub(super) bytes: u64,
    pub(super) limit: Limit,
    /// Windows that were acked.
    pub(super) windows: u64,
    /// Windows in flight, however fast it is.
    most: usize,
    /// The last ack frame, or when something was in flight again.
    heard: Instant,
    /// The last completed window, or when something was in flight again.
    progressed: Instant,
    owing: Option<Instant>,
    probe_at: Instant,
    trial: Trial,
}

impl Up {
    pub(super) fn new(conn: u64, most: usize, now: Instant) -> Self {
        Self {
            conn,
            since: now,
            flight: VecDeque::new(),
            bytes: 0,
            limit: Limit::default(),
            windows: 0,
            most,
            heard: now,
            progressed: now,
            owing: None,
            probe_at: now,
            trial: Trial::First,
        }
    }

    /// Room for one more, as far as windows go.
    pub(super) fn has_room(&self) -> bool {
        let most = match self.trial {
            Trial::First => 1,
            Trial::Until(_) => 0,
            Trial::Over => self.limit.get().min(self.most),
        };
        self.flight.len() < most && !self.flight.front().is_some_and(|flight| flight.alone)
    }

    /// Time goes by.
    pub(super) fn tick(&mut self, now: Instant) {
        if matches!(self.trial, Trial::Until(end) if end <= now) {
            self.trial = Trial::Over;
        }
    }

    pub(super) fn sent(&mut self, flight: Flight) {
        self.bytes += flight.bytes;
        self.flight.push_back(flight);
        self.limit.sent(self.flight.len());
    }

    /// The first bytes of a window are written. The collector has something to answer from then on.
    pub(super) fn begun(&mut self, number: u64, now: Instant) -> Option<&Flight> {
        if !self.owes() {
            (self.heard, self.progressed) = (now, now);
            self.probe_at = now + LOOK_EVERY;
        }
        let flight = self.flight.iter_mut().find(|flight| flight.number == number)?;
        flight.stage = flight.stage.max(Stage::Begun);
        Some(flight)
    }

    /// A window was written whole: from now on the host owes an acknowledgement.
    pub(super) fn written(&mut self, number: u64, now: Instant) {
        self.probe_at = now;
        if let Some(flight) = self.flight.iter_mut().find(|flight| flight.number == number) {
            flight.stage = Stage::Written;
        }
    }

    /// Whether the collector has anything to answer. Windows are written in their order.
    fn owes(&self) -> bool {
        self.flight.front().is_some_and(|flight| flight.stage > Stage::Planned)
    }

    pub(super) const fn frame(&mut self, now: Instant) {
        self.heard = now;
        self.owing = None;
    }

    /// Takes a window out; it was acked, or never written.
    pub(super) fn take(&mut self, number: u64) -> Option<Flight> {
        let place = self.flight.iter().position(|flight| flight.number == number)?;
        let flight = self.flight.remove(place)?;
        self.bytes -= flight.bytes;
        Some(flight)
    }

    /// A window is complete.
    pub(super) fn completed(&mut self, now: Instant) {
        self.frame(now);
        self.progressed = now;
        self.windows += 1;
        if self.trial == Trial::First {
            self.trial = Trial::Until(now + TRIAL);
        }
    }

    fn forgive(&mut self, late: Duration, now: Instant) {
        for at in [&mut self.heard, &mut self.progressed].into_iter().chain(&mut self.owing) {
            *at = (*at + late).min(now);
        }
    }

    /// Whether the kernel should be asked now; once per time.
    pub(super) fn probe(&mut self, now: Instant) -> bool {
        let due = self.owes() && self.probe_at <= now;
        if due {
            self.probe_at = now + LOOK_EVERY;
        }
        due
    }

    /// The kernel answered. Data is owed since that was first seen, unless the host was heard later: it may
    /// have been idle before. Probes are sent because nothing was heard, so it is owed since then.
    pub(super) fn probed(&mut self, path: Path, now: Instant) {
        self.owing = match path {
            Path::Clear => None,
            Path::Data(ago) => {
                let heard = now.checked_sub(ago).unwrap_or(now);
                Some(self.owing.map_or(now, |since| since.max(heard)))
            }
            Path::Probe(ago) => now.checked_sub(ago).or(Some(now)),
        };
    }

    /// When the connection is left, and why, if nothing is heard until then.
    pub(super) fn deadline(&self, policy: &Policy) -> Option<(Instant, Why)> {
        if !self.owes() {
            return None;
        }
        let silence = (self.heard + policy.silence, Why::Silence);
        let progress = (self.progressed + policy.progress, Why::Progress);
        let patience = policy.user_timeout - policy.user_timeout / MARGIN;
        let deaf = self.owing.map(|since| (since + patience, Why::NoTcpAck));
        [Some(silence), Some(progress), deaf].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(super) fn next_wake(&self, policy: &Policy) -> Option<Instant> {
        let deadline = self.deadline(policy).map(|(at, _)| at.min(self.probe_at));
        let trial = if let Trial::Until(end) = self.trial { Some(end) } else { None };
        deadline.into_iter().chain(trial).min()
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
