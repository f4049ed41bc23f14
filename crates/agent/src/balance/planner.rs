//! Which batch goes to which collector, and when a collector is left: decided from rosters, time and what
//! connections report, without I/O.
//!
//! One durable queue is above all collectors. A collector with room is offered the next batch; what is not
//! acked when a connection ends goes elsewhere at once, oldest first.
//!
//! Call [`Planner::poll`] after each input and at [`Planner::next_wake`], and do what it says in that order.
//!
//! Invariants: a block is done once, when each of its events was acked or is a dead letter. Nothing new goes
//! to a member that is not sendable. What is in flight stays within `max_in_flight`, but for one window at
//! each collector that has none. An event is given up only on the word of collectors that live and take
//! other events; see `planner/suspects.rs`.

mod batch;
mod deal;
mod endpoint;
mod links;
mod pace;
mod suspects;
mod suspicion;
mod up;
mod view;
mod windows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pikepole_spool::Seq;
use tokio::time::Instant;

pub(crate) use batch::Batch;
pub(crate) use endpoint::{Key, Why};
pub(in crate::balance) use pace::MOST as MOST_WINDOWS;
pub(crate) use up::Path;

use batch::{Place, Pool};
use endpoint::Endpoint;

/// Rosters that may still be what is really used.
const ROSTERS: usize = 8;
/// A dead letter that could not be kept is tried again after this time.
const BURY_AGAIN: Duration = Duration::from_secs(5);

/// If nobody asked for so long past the time, the process stood still.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// What does not change while the process runs.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// Longest wait for a connection, TLS included. Whoever connects has limits of its own, and says more.
    pub(crate) attempt_timeout: Duration,
    /// A host that does not acknowledge TCP is left after this time.
    pub(crate) user_timeout: Duration,
    /// A collector that sends no ack frame is left after this time.
    pub(crate) silence: Duration,
    /// A collector that completes no window is left after this time.
    pub(crate) progress: Duration,
    /// Members of this zone come first.
    pub(crate) zone: Option<String>,
    /// Bytes of blocks in flight, at all collectors together.
    pub(crate) max_in_flight: u64,
    /// Events of a window that several blocks share.
    pub(crate) window: u32,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connect; answered with [`Planner::connected`] or [`Planner::closed`].
    Connect {
        /// The name of the connection from now on.
        conn: u64,
        /// To whom.
        to: Arc<Key>,
    },
    /// End a connection or an attempt at once.
    Close {
        /// Which.
        conn: u64,
    },
    /// Write a window.
    Send {
        /// On which connection.
        conn: u64,
        /// The name of the window, never used again.
        number: u64,
        /// Its events: one batch, or several small ones together.
        batches: Vec<Batch>,
    },
    /// Take back every window of a connection of which nothing was written; each is answered with
    /// [`Planner::recalled`].
    Recall {
        /// Which.
        conn: u64,
    },
    /// Ask the kernel about a connection; answered with [`Planner::probed`].
    Probe {
        /// Which.
        conn: u64,
    },
    /// Get the next block; answered with [`Planner::block`].
    Fetch,
    /// A block is delivered.
    Done(Seq),
    /// Keep a single event for good; answered with [`Planner::buried`].
    DeadLetter {
        /// The event.
        batch: Batch,
        /// `false`: the event; `true`: the body of the whole block, which is not made of events.
        whole: bool,
        /// Why.
        why: String,
    },
}

/// Why a batch was not written at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unsendable {
    /// The queue has it no more.
    Gone,
    /// No events can be made of it.
    Malformed(String),
}

/// A roster that was in use.
#[derive(Debug)]
struct Known {
    revision: u64,
    sendable: BTreeSet<Arc<Key>>,
}

/// Plans all connections.
#[derive(Debug)]
pub(crate) struct Planner {
    policy: Policy,
    dice: fastrand::Rng,
    endpoints: BTreeMap<Arc<Key>, Endpoint>,
    conns: BTreeMap<u64, Arc<Key>>,
    /// The newest is the last.
    rosters: VecDeque<Known>,
    pool: Pool,
    actions: Vec<Action>,
    /// Since when the next block is waited for.
    fetching: Option<Instant>,
    /// The usual size of a block.
    typical: u64,
    next_conn: u64,
    next_number: u64,
    is_stopping: bool,
    /// When it was polled last.
    polled: Instant,
    /// Since when nobody is connected.
    alone_since: Option<Instant>,
    /// When a window was acked last, or nothing waited for that.
    took: Instant,
    totals: view::Totals,
}

impl Planner {
    /// Nothing is known yet. The same seed decides the same.
    pub(crate) fn new(policy: Policy, seed: u64, now: Instant) -> Self {
        Self {
            policy,
            dice: fastrand::Rng::with_seed(seed),
            endpoints: BTreeMap::new(),
            conns: BTreeMap::new(),
            rosters: VecDeque::new(),
            pool: Pool::default(),
            actions: Vec::new(),
            fetching: None,
            typical: 0,
            next_conn: 0,
            next_number: 0,
            is_stopping: false,
            polled: now,
            alone_since: Some(now),
            took: now,
            totals: view::Totals::default(),
        }
    }

    /// What to do now; each only once.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Action> {
        self.forgive(now);
        self.polled = now;
        self.expire(now);
        self.leave();
        self.connect(now);
        self.fetch(now);
        self.judge(now);
        self.bury_again(now);
        self.deal(now);
        if self.pool.len() == 0 {
            self.took = now;
        }
        let is_up = self.ups().next().is_some();
        self.alone_since = if is_up { None } else { self.alone_since.or(Some(now)) };
        std::mem::take(&mut self.actions)
    }

    /// The next block came.
    pub(crate) fn block(&mut self, seq: Seq, events: u32, bytes: u64) {
        self.fetching = None;
        if events == 0 {
            self.actions.push(Action::Done(seq));
            return;
        }
        self.typical = if self.typical == 0 { bytes } else { (self.typical * 7 + bytes) / 8 };
        self.pool.add(seq, events, bytes);
    }

    /// A dead letter is durable, or could not be kept.
    pub(crate) fn buried(&mut self, batch: Batch, result: Result<(), String>, now: Instant) {
        if self.pool.get(batch).is_none_or(|work| work.place != Place::Burying(None)) {
            return;
        }
        match result {
            Ok(()) => {
                self.count_dead(batch);
                self.settle(batch);
            }
            Err(error) => {
                tracing::warn!(%error, "a dead letter cannot be kept; it is tried again");
                self.totals.dead_letters_failed += 1;
                self.pool.change(batch, |work| work.place = Place::Burying(Some(now + BURY_AGAIN)));
            }
        }
    }

    /// Takes nothing new from now on; what is in flight may still be acked.
    pub(crate) const fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Nothing is in flight and no dead letter is being kept.
    pub(crate) fn is_idle(&self) -> bool {
        !self.endpoints.values().any(Endpoint::is_busy) && self.pool.graves().next().is_none()
    }

    /// The blocks that are not done; they are forgotten here.
    pub(crate) fn release(&mut self) -> Vec<Seq> {
        let blocks = self.pool.blocks();
        self.pool = Pool::default();
        blocks
    }

    /// The newest revision that is really used: nothing new is sent to, and nothing unacked is left at,
    /// members that are not sendable in it. `None`: of the last few none is, right now.
    pub(crate) fn applied(&self) -> Option<u64> {
        let newest = self.rosters.back()?;
        let holds = |known: &&Known| {
            let no_new = newest.sendable.is_subset(&known.sendable);
            no_new && self.endpoints.iter().all(|(key, e)| !e.is_busy() || known.sendable.contains(key))
        };
        self.rosters.iter().rev().find(holds).map(|known| known.revision)
    }

    /// When to poll again, if nothing happens before.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let links = self.endpoints.values().filter_map(|endpoint| self.link_wake(endpoint));
        let graves = self.pool.graves().filter_map(|(_, work)| match work.place {
            Place::Burying(at) => at,
            _ => None,
        });
        links.chain(graves).chain(self.suspects_wake()).min()
    }

    /// We ourselves stood still: SIGSTOP, a pause of the machine. No collector is to blame for that time.
    fn forgive(&mut self, now: Instant) {
        if now.saturating_duration_since(self.polled) < STOOD_STILL {
            return;
        }
        let late = self.next_wake().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if late >= STOOD_STILL {
            self.endpoints.values_mut().for_each(|endpoint| endpoint.forgive(late, now));
        }
    }

    fn bury(&mut self, batch: Batch, whole: bool, why: String) {
        self.pool.change(batch, |work| {
            work.place = Place::Burying(None);
            work.whole = whole;
            work.verdict = Some(why.clone());
        });
        self.actions.push(Action::DeadLetter { batch, whole, why });
    }

    fn bury_again(&mut self, now: Instant) {
        let due = |work: &batch::Work| matches!(work.place, Place::Burying(Some(at)) if at <= now);
        let again: Vec<_> = self.pool.graves().filter(|(_, work)| due(work)).collect();
        let again: Vec<_> = again.iter().map(|(b, w)| (*b, w.whole, w.verdict.clone())).collect();
        for (batch, whole, why) in again {
            self.bury(batch, whole, why.unwrap_or_default());
        }
    }

    fn settle(&mut self, batch: Batch) {
        if let Some(seq) = self.pool.settle(batch) {
            self.totals.blocks_done += 1;
            self.actions.push(Action::Done(seq));
        }
    }

    fn up_mut(&mut self, conn: u64) -> Option<&mut up::Up> {
        let key = self.conns.get(&conn)?;
        self.endpoints.get_mut(key)?.up_mut()
    }

    /// The collectors that something new may be sent to now.
    fn ups(&self) -> impl Iterator<Item = (&Arc<Key>, &up::Up)> {
        let wanted = self.endpoints.iter().filter(|(_, endpoint)| endpoint.wanted);
        wanted.filter_map(|(key, endpoint)| endpoint.up().map(|up| (key, up)))
    }

    /// Bytes in flight everywhere.
    fn in_flight(&self) -> u64 {
        self.endpoints.values().filter_map(Endpoint::up).map(|up| up.bytes).sum()
    }
}

#[cfg(test)]
mod tests;
