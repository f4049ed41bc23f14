//! The flow of one fleet: what its proxies wrote, what its collectors received, what waits between them, and
//! what was done to it by pressing a button.
//!
//! Not who does it: proxies, agents, collectors and the group each have a handle on it, and tell.
//!
//! Invariants: sent = received + waiting + missing, always and exactly. A line is missing only if no collector has it
//! although its agent said that it had read it, and some time later that its spool has nothing as old. Once is not
//! enough: what an agent says of its parts is not of one moment.

mod after;
mod show;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pikepole_agent::status::Status;
use pikepole_directory::clock::Clock;
use pikepole_fleet::{InstanceId, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::ledger::Ledger;
use after::After;
pub(super) use after::thousands;
use show::History;

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(100);
/// Looks between two samples of the rates.
const SAMPLE: u32 = 10;
/// What an agent says of its files is at most a second old, and so is when it says it.
const SETTLED: Duration = Duration::from_secs(3);
/// What was read when it said so is in its spool after this time, or gone, and it has told of that.
const AGAIN: Duration = Duration::from_secs(4);
/// Between two notes of how much was written.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// What was said and not printed yet, at most.
const MOST_SAID: usize = 64;
/// Presses that wait, at most.
const MOST_PRESSES: usize = 8;

/// A button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Press {
    ScaleOut,
    ScaleIn,
    SpotKill,
    Kill,
    Hang,
    StopAll,
    RestartAgent,
}

impl Press {
    /// By its name in a path.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "scale-out" => Self::ScaleOut,
            "scale-in" => Self::ScaleIn,
            "spot-kill" => Self::SpotKill,
            "kill" => Self::Kill,
            "hang" => Self::Hang,
            "stop-all" => Self::StopAll,
            "restart-agent" => Self::RestartAgent,
            _ => return None,
        })
    }
}

/// One proxy and its agent.
#[derive(Debug, Default)]
struct Proxy {
    id: String,
    ledger: Ledger,
    /// When how many lines were in its files.
    notes: VecDeque<(Instant, u64)>,
    /// Up to here the agent has read all, and when it said so.
    read: Option<(Instant, u64)>,
    /// Up to here it has nothing any more.
    settled: u64,
    is_running: bool,
    kill: Arc<Notify>,
}

impl Proxy {
    fn missing(&self) -> u64 {
        self.ledger.gaps(self.settled)
    }

    /// The agent says that it has read all there is, and how old the oldest is that its spool has.
    fn has_read(&mut self, oldest: Duration, now: Instant) {
        match self.read {
            // Something in the spool may be what it had read then.
            Some((at, _)) if now - at < AGAIN + oldest => return,
            Some((_, upto)) => self.settled = self.settled.max(upto),
            None => {}
        }
        let old = self.notes.front().filter(|(at, _)| now - *at >= SETTLED);
        self.read = Some((now, old.map_or(0, |(_, written)| *written)));
    }

    fn waiting(&self) -> u64 {
        self.ledger.written() - self.ledger.received() - self.missing()
    }
}

/// One collector.
#[derive(Debug)]
struct Collector {
    address: SocketAddr,
    listens: bool,
    leaves: bool,
    hangs_until: Option<Instant>,
    received: u64,
}

/// What all proxies together have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) waiting: u64,
    pub(super) missing: u64,
    pub(super) duplicates: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.waiting += other.waiting;
        self.missing += other.missing;
        self.duplicates += other.duplicates;
    }
}

#[derive(Debug, Default)]
struct State {
    proxies: Vec<Proxy>,
    collectors: BTreeMap<InstanceId, Collector>,
    stopped_until: Option<Instant>,
    after: Option<After>,
    history: History,
    /// Lines that nobody wrote. A collector of the demo got something else than the demo's logs.
    foreign: u64,
    /// What is to be printed.
    said: VecDeque<(Timestamp, String)>,
    last_said: Option<(Timestamp, String)>,
}

/// A handle on it; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Flow(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fleet: String,
    clock: Clock,
    presses: mpsc::Sender<Press>,
    state: Mutex<State>,
}

impl Flow {
    /// The flow of a fleet whose proxies have these ids, and the presses that somebody has to carry out.
    pub(super) fn new(fleet: &str, proxies: Vec<String>, clock: Clock) -> (Self, mpsc::Receiver<Press>) {
        let (presses, pressed) = mpsc::channel(MOST_PRESSES);
        let proxies = proxies.into_iter().map(|id| Proxy { id, ..Proxy::default() }).collect();
        let state = Mutex::new(State { proxies, ..State::default() });
        (Self(Arc::new(Inner { fleet: fleet.into(), clock, presses, state })), pressed)
    }

    pub(super) fn fleet(&self) -> &str {
        &self.0.fleet
    }

    /// Looks after what is due, for ever.
    pub(super) async fn live(self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for look in (0..SAMPLE).cycle() {
            looks.tick().await;
            let mut state = self.lock();
            let now = Instant::now();
            for words in state.due(now) {
                state.say(self.0.clock.now(), words);
            }
            if look == 0 {
                state.sample(now);
            }
        }
    }

    /// Passes a button on. False: too many wait.
    pub(super) fn press(&self, press: Press) -> bool {
        self.0.presses.try_send(press).is_ok()
    }

    /// For the terminal and the page.
    pub(super) fn say(&self, words: String) {
        let now = self.0.clock.now();
        self.lock().say(now, words);
    }

    /// What was said since the last call.
    pub(super) fn said(&self) -> Vec<(Timestamp, String)> {
        self.lock().said.drain(..).collect()
    }

    pub(super) fn totals(&self) -> Totals {
        self.lock().totals()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole when it ends, so what a panic left behind is usable.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What proxies and agents tell.
impl Flow {
    pub(super) fn proxy_id(&self, proxy: usize) -> String {
        self.lock().proxies[proxy].id.clone()
    }

    /// So many lines will be written at once.
    pub(super) fn write(&self, proxy: usize, lines: u64) {
        self.lock().proxies[proxy].ledger.write(lines);
    }

    /// They are in the file, and so are all before.
    pub(super) fn wrote(&self, proxy: usize) {
        let now = Instant::now();
        let proxy = &mut self.lock().proxies[proxy];
        if proxy.notes.back().is_none_or(|(at, _)| now - *at >= NOTE_EVERY) {
            proxy.notes.push_back((now, proxy.ledger.written()));
        }
        while proxy.notes.get(1).is_some_and(|(at, _)| now - *at >= SETTLED) {
            proxy.notes.pop_front(); // the next one is old enough too
        }
    }

    /// Up to here all lines of a proxy have arrived.
    pub(super) fn whole(&self, proxy: usize) -> u64 {
        self.lock().proxies[proxy].ledger.whole()
    }

    /// What kills the agent of a proxy.
    pub(super) fn kill(&self, proxy: usize) -> Arc<Notify> {
        Arc::clone(&self.lock().proxies[proxy].kill)
    }

    /// An agent began, or ended.
    pub(super) fn runs(&self, proxy: usize, is_running: bool) {
        let proxy = &mut self.lock().proxies[proxy];
        proxy.is_running = is_running;
        proxy.read = None; // what the one before said is no word of this one
    }

    /// An agent says how it is.
    pub(super) fn reported(&self, proxy: usize, status: &Status) {
        let Some(path) = &status.log_path else { return };
        let Some(tail) = path.tail.as_ref().filter(|tail| !tail.sections.is_empty()) else { return };
        // Before its first look it knows of no file.
        let has_read = tail.sections.iter().all(|section| section.files > 0 && section.unread_bytes == 0);
        let oldest = match (path.spool.waiting.events, path.spool.oldest_ms) {
            (0, _) => Duration::ZERO,
            (_, Some(ms)) => Duration::from_millis(ms),
            (_, None) => return,
        };
        // Blocks are always on their way to the spool; where it takes them, they are there long before the next word.
        if has_read && !tail.is_waiting {
            self.lock().proxies[proxy].has_read(oldest, Instant::now());
        }
    }
}

/// What the group and its collectors tell.
impl Flow {
    /// These are all there are, where they listen, and whether they leave.
    pub(super) fn collectors<'a>(&self, all: impl Iterator<Item = (&'a InstanceId, SocketAddr, bool)>) {
        let mut state = self.lock();
        let mut old = std::mem::take(&mut state.collectors);
        for (id, address, leaves) in all {
            let new = Collector { address, listens: false, leaves, hangs_until: None, received: 0 };
            let known = old.remove(id).unwrap_or(new);
            state.collectors.insert(id.clone(), Collector { leaves, ..known });
        }
    }

    /// Its port is open.
    pub(super) fn listens(&self, id: &InstanceId) {
        if let Some(collector) = self.lock().collectors.get_mut(id) {
            collector.listens = true;
        }
    }

    /// Lines of a window that is complete.
    pub(super) fn arrive(&self, id: &InstanceId, lines: impl Iterator<Item = (String, u64)>) {
        let mut state = self.lock();
        let mut count = 0;
        for (proxy, number) in lines {
            count += 1;
            let known = state.proxies.iter_mut().find(|known| known.id == proxy);
            if !known.is_some_and(|known| known.ledger.arrive(number)) {
                state.foreign += 1;
            }
        }
        if let Some(collector) = state.collectors.get_mut(id) {
            collector.received += count;
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped_until.is_some()
    }

    pub(super) fn hangs(&self, id: &InstanceId) -> bool {
        self.lock().collectors.get(id).is_some_and(|collector| collector.hangs_until.is_some())
    }
}

impl State {
    fn say(&mut self, at: Timestamp, words: String) {
        self.last_said = Some((at, words.clone()));
        if self.said.len() == MOST_SAID {
            self.said.pop_front(); // nobody prints them
        }
        self.said.push_back((at, words));
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for proxy in &self.proxies {
            totals += Totals {
                sent: proxy.ledger.written(),
                received: proxy.ledger.received(),
                waiting: proxy.waiting(),
                missing: proxy.missing(),
                duplicates: proxy.ledger.duplicates(),
            };
        }
        totals
    }
}

#[cfg(test)]
mod tests;
