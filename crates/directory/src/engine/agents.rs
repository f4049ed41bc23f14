//! The agents that follow a fleet: who polls, and which revision each really uses.
//!
//! An agent is known by its id and by the UUID of its start, so that cloned hosts and restarts are told
//! apart. It is live while its poll is open and for a moment after; that is all the liveness there is.
//!
//! Invariant: an agent that is known is never forgotten while it lives. One that finds no place is counted,
//! and as long as it comes nothing is called converged.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pikepole_fleet::drain::AgentSeen;
use pikepole_fleet::{Revision, Timestamp};
use tokio::time::Instant;

use crate::store::{AgentKey, KnownAgent};

/// An agent whose poll ended less than this ago is live: it is about to come back.
pub const LIVE: Duration = Duration::from_secs(5);
/// After a restart or a change of leader the known agents have this long to come back.
pub const COME_BACK: Duration = Duration::from_secs(15);
/// An agent that was not seen for this long is forgotten.
const REMEMBERED: Duration = Duration::from_secs(900);
/// Agents of one fleet that have a place.
pub const MAX_AGENTS: usize = 20_000;
/// Agents with a place behind one address: a host that invents ids must not take everyone's.
const MAX_PER_ADDRESS: usize = 4_096;

#[derive(Debug)]
struct Entry {
    applied: Option<Revision>,
    address: IpAddr,
    last_seen: Timestamp,
    /// Polls that are open.
    open: u32,
    /// Until when it is live without an open poll.
    live_until: Instant,
    /// What the store was told last: the revision, and whether it is live.
    told: Option<(Option<Revision>, bool)>,
}

impl Entry {
    fn is_live(&self, now: Instant) -> bool {
        self.open > 0 || now < self.live_until
    }
}

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<AgentKey, Entry>,
    by_address: HashMap<IpAddr, usize>,
    /// Agents of other replicas, as the shared store tells of them.
    others: Vec<KnownAgent>,
    others_as_of: Option<Instant>,
    /// Keys that were forgotten and are still in the store.
    forgotten: Vec<AgentKey>,
    /// Somebody found no place until then.
    full_until: Option<Instant>,
    refused: u64,
}

/// The agents of one fleet.
#[derive(Debug, Default)]
pub struct Agents {
    book: Mutex<Book>,
    /// Held while the store is told: an older list must not come after a newer one.
    pub(super) telling: tokio::sync::Mutex<()>,
}

/// What the store has to be told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unwritten {
    /// Agents that are new or have moved.
    pub put: Vec<KnownAgent>,
    /// Agents that are forgotten.
    pub remove: Vec<AgentKey>,
}

impl Agents {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent polls. It is live until [`Agents::poll_ended`] and [`LIVE`] after.
    pub fn poll_began(&self, key: &AgentKey, applied: Option<Revision>, address: IpAddr, now: Timestamp) {
        let mut book = self.book();
        let book = &mut *book;
        if !book.entries.contains_key(key) && !book.has_place(address) {
            book.refused += 1;
            book.full_until = Some(Instant::now() + LIVE);
            return;
        }
        let entry = book.entries.entry(key.clone()).or_insert_with(|| {
            *book.by_address.entry(address).or_default() += 1;
            Entry { applied: None, address, last_seen: now, open: 0, live_until: Instant::now(), told: None }
        });
        entry.open += 1;
        entry.last_seen = now;
        entry.applied = applied;
    }

    /// Its poll ended: answered, or given up.
    pub fn poll_ended(&self, key: &AgentKey, now: Timestamp) {
        let mut book = self.book();
        if let Some(entry) = book.entries.get_mut(key) {
            entry.open = entry.open.saturating_sub(1);
            entry.last_seen = now;
            entry.live_until = Instant::now() + LIVE;
        }
    }

    /// All agents, and whether some found no place: then nothing can be called converged.
    pub fn seen(&self) -> (Vec<AgentSeen<AgentKey>>, bool) {
        let all = self.list().into_iter();
        let all = all.map(|a| AgentSeen { key: a.key, live: a.live, applied: a.applied }).collect();
        (all, self.book().full_until.is_some_and(|until| Instant::now() < until))
    }

    /// All agents, by id. Of an agent that two replicas know, where it lives counts, or lived last.
    pub fn list(&self) -> Vec<KnownAgent> {
        let now = Instant::now();
        let book = self.book();
        let own = book.entries.iter().map(|(key, entry)| known(key, entry, now));
        let mut all: Vec<_> = own.chain(book.others.iter().cloned()).collect();
        drop(book);
        all.sort_by(|a, b| (&a.key, b.live, b.last_seen).cmp(&(&b.key, a.live, a.last_seen)));
        all.dedup_by(|later, first| later.key == first.key);
        all
    }

    /// How many are live, and how many of those have applied this revision.
    pub fn count(&self, revision: Option<Revision>) -> (u64, u64) {
        let (seen, _) = self.seen();
        let live = seen.iter().filter(|agent| agent.live);
        let there = live.clone().filter(|agent| agent.applied.is_some() && agent.applied == revision);
        (live.count() as u64, there.count() as u64)
    }

    /// Polls that are open here.
    pub fn open_polls(&self) -> u64 {
        self.book().entries.values().map(|entry| u64::from(entry.open)).sum()
    }

    /// Polls of agents that found no place, since the start.
    pub fn refused(&self) -> u64 {
        self.book().refused
    }

    /// Takes in what the store remembers after a start: they have [`COME_BACK`] to come back.
    pub fn remember(&self, agents: Vec<KnownAgent>) {
        let live_until = Instant::now() + COME_BACK;
        let mut book = self.book();
        let book = &mut *book;
        for agent in agents.into_iter().filter(|agent| agent.live) {
            let (key, address) = (agent.key, agent.address);
            if !book.has_place(address) || book.entries.contains_key(&key) {
                continue;
            }
            *book.by_address.entry(address).or_default() += 1;
            let entry = Entry {
                applied: agent.applied,
                address,
                last_seen: agent.last_seen,
                open: 0,
                live_until,
                told: None,
            };
            book.entries.insert(key, entry);
        }
    }

    /// Replaces what is known of the agents of other replicas, as of the time somebody began to ask.
    pub fn others_are(&self, others: Vec<KnownAgent>, as_of: Instant) {
        let mut book = self.book();
        book.others_as_of = Some(as_of);
        book.others = others;
    }

    /// Forgets those that were long not seen, and says what the store does not know yet. What is returned
    /// counts as written; [`Agents::not_written`] takes that back.
    pub fn unwritten(&self) -> Option<Unwritten> {
        let now = Instant::now();
        let mut book = self.book();
        let book = &mut *book;
        book.keep_only(|entry| entry.is_live(now) || now.duration_since(entry.live_until) < REMEMBERED);
        let Book { entries, forgotten, .. } = book;
        let mut unwritten = Unwritten { put: Vec::new(), remove: std::mem::take(forgotten) };
        for (key, entry) in entries {
            let tell = Some((entry.applied, entry.is_live(now)));
            if entry.told != tell {
                entry.told = tell;
                unwritten.put.push(known(key, entry, now));
            }
        }
        (unwritten != Unwritten::default()).then_some(unwritten)
    }

    /// When what is known of the agents of other replicas was so.
    pub fn others_as_of(&self) -> Option<Instant> {
        self.book().others_as_of
    }

    /// What the store should have, and has not, is told again.
    pub fn retell_all_but(&self, there: &HashSet<&AgentKey>) {
        let mut book = self.book();
        for (_, entry) in book.entries.iter_mut().filter(|(key, _)| !there.contains(key)) {
            entry.told = None;
        }
    }

    /// Everything is told again: the store may have lost it.
    pub fn retell(&self) {
        self.book().entries.values_mut().for_each(|entry| entry.told = None);
    }

    /// The store did not take it: it is told again.
    pub fn not_written(&self, unwritten: Unwritten) {
        let mut book = self.book();
        for agent in unwritten.put {
            if let Some(entry) = book.entries.get_mut(&agent.key) {
                entry.told = None;
            }
        }
        book.forgotten.extend(unwritten.remove);
        book.forgotten.truncate(MAX_AGENTS);
    }
}

impl Book {
    /// Whether there is a place for one more from there. The dead make room for the living.
    fn has_place(&mut self, address: IpAddr) -> bool {
        let is_full = |book: &Self| {
            book.entries.len() >= MAX_AGENTS
                || book.by_address.get(&address).is_some_and(|count| *count >= MAX_PER_ADDRESS)
        };
        if !is_full(self) {
            return true;
        }
        let now = Instant::now();
        self.keep_only(|entry| entry.is_live(now));
        !is_full(self)
    }

    /// Forgets all others, and remembers that the store has to.
    fn keep_only(&mut self, stays: impl Fn(&Entry) -> bool) {
        let Self { entries, by_address, forgotten, .. } = self;
        entries.retain(|key, entry| {
            let stays = stays(entry);
            if !stays {
                forgotten.push(key.clone());
                if let Some(count) = by_address.get_mut(&entry.address) {
                    *count -= 1;
                }
            }
            stays
        });
        by_address.retain(|_, count| *count > 0);
    }
}

fn known(key: &AgentKey, entry: &Entry, now: Instant) -> KnownAgent {
    KnownAgent {
        key: key.clone(),
        applied: entry.applied,
        address: entry.address,
        last_seen: entry.last_seen,
        live: entry.is_live(now),
    }
}
