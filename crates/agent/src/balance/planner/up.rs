//! A connection that stands: what is in flight there, and its time limits.
//!
//! Invariant: each time limit runs only while the collector has something to answer: from the first bytes of a
//! window that are written.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Policy;
use super::batch::Batch;
use super::endpoint::Why;
use super::pace::Limit;

/// Between two looks at what the kernel knows of a connection with something in flight.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A second ack of a window comes right behind the first, if at all.
const TRIAL: Duration = Duration::from_millis(50);
/// What a vanished host had is elsewhere when `user_timeout` is over: it is left by so much of it earlier.
const MARGIN: u32 = 16;

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

    pub(super) fn forgive(&mut self, late: Duration, now: Instant) {
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
