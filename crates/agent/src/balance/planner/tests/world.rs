//! A simulated world around the planner, in virtual time: collectors that ack, die, hang, vanish and close
//! on poison; a queue; dead letters. It checks after every step what must always hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pikepole_api::{time::Rfc3339, v1};
use pikepole_fleet::Timestamp;
use pikepole_spool::Seq;
use tokio::time::Instant;

use super::super::{Action, Batch, Key, Path, Planner, Policy, Why};

pub(super) const BUDGET: u64 = 4 << 20;
pub(super) const POLICY: Policy = Policy {
    attempt_timeout: Duration::from_secs(1),
    user_timeout: Duration::from_secs(2),
    silence: Duration::from_secs(10),
    progress: Duration::from_secs(60),
    zone: None,
    max_in_flight: BUDGET,
    window: 2048,
};

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How a collector behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Acks.
    Live,
    /// Refuses connections.
    Dead,
    /// Acknowledges TCP and says nothing.
    Hung,
    /// Keeps alive and completes nothing.
    Stalled,
    /// Its host is gone without a word.
    Vanished,
    /// Accepts connections, and closes on whatever it gets.
    Closes,
    /// Answers all windows that it has with one ack.
    Merges,
}

#[derive(Debug)]
pub(super) struct Collector {
    pub(super) mood: Mood,
    pub(super) latency: Duration,
    changed: Instant,
    pub(super) events: u64,
}

#[derive(Debug)]
struct Conn {
    to: u8,
    up: bool,
    flight: Vec<(u64, Vec<Batch>, bool)>,
    free_at: Instant,
}

#[derive(Debug, Clone)]
enum Event {
    Connect(u64),
    Ack(u64, u64),
    KeepAlive(u64),
    Closed(u64, Why),
    Block,
    Buried(Batch),
}

pub(super) struct World {
    pub(super) planner: Planner,
    pub(super) now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    order: u64,
    pub(super) collectors: BTreeMap<u8, Collector>,
    conns: BTreeMap<u64, Conn>,
    queue: VecDeque<(Seq, u32, u64)>,
    blocks: BTreeMap<Seq, (u32, u64)>,
    largest: u64,
    asked: bool,
    pub(super) poison: BTreeSet<(Seq, u32)>,
    pub(super) acked: BTreeMap<Seq, BTreeSet<(u32, u32)>>,
    pub(super) dead: Vec<(Seq, u32)>,
    pub(super) done: BTreeSet<Seq>,
    rosters: BTreeMap<u64, BTreeSet<u8>>,
    pub(super) revision: u64,
    pub(super) sends: Vec<(Instant, u8, Batch)>,
    pub(super) closes: Vec<(Instant, u8)>,
    pub(super) windows: usize,
}

pub(super) fn member(id: u8, state: v1::MemberState) -> v1::Member {
    v1::Member {
        instance_id: format!("i-{id}"),
        address: ([10, 0, 0, id], 5044).into(),
        zone: Some(if id.is_multiple_of(2) { "a".into() } else { "b".into() }),
        state,
    }
}

fn id(key: &Key) -> u8 {
    key.instance[2..].parse().unwrap()
}

impl World {
    pub(super) fn new(collectors: &[u8], seed: u64) -> Self {
        Self::with(POLICY, collectors, seed)
    }

    pub(super) fn with(policy: Policy, collectors: &[u8], seed: u64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            planner: Planner::new(policy, seed, now),
            now,
            events: BTreeMap::new(),
            order: 0,
            collectors: BTreeMap::new(),
            conns: BTreeMap::new(),
            queue: VecDeque::new(),
            blocks: BTreeMap::new(),
            largest: 0,
            asked: false,
            poison: BTreeSet::new(),
            acked: BTreeMap::new(),
            dead: Vec::new(),
            done: BTreeSet::new(),
            rosters: BTreeMap::new(),
            revision: 0,
            sends: Vec::new(),
            closes: Vec::new(),
            windows: 0,
        };
        collectors.iter().for_each(|c| world.launch(*c, ms(20)));
        let active: Vec<_> = collectors.iter().map(|c| (*c, v1::MemberState::Active)).collect();
        world.roster(&active);
        world
    }

    pub(super) fn launch(&mut self, id: u8, latency: Duration) {
        let collector = Collector { mood: Mood::Live, latency, changed: self.now, events: 0 };
        self.collectors.insert(id, collector);
    }

    pub(super) fn roster(&mut self, members: &[(u8, v1::MemberState)]) {
        self.revision += 1;
        let roster = v1::Roster {
            fleet: "f".into(),
            dc: "d".into(),
            region: "r".into(),
            revision: self.revision,
            published_at: Rfc3339(Timestamp::from_millis(0)),
            members: members.iter().map(|(id, state)| member(*id, *state)).collect(),
        };
        let best = members.iter().map(|(_, s)| pikepole_fleet::MemberState::from(*s)).min();
        let sendable = members.iter().filter(|(_, s)| Some(pikepole_fleet::MemberState::from(*s)) == best);
        self.rosters.insert(self.revision, sendable.map(|(id, _)| *id).collect());
        self.planner.roster(&roster, self.now);
        self.act();
    }

    /// More blocks in the queue: so many, each of so many events and bytes.
    pub(super) fn fill(&mut self, count: usize, events: u32, bytes: u64) {
        self.largest = self.largest.max(bytes);
        for _ in 0..count {
            let seq = Seq(self.blocks.len() as u64);
            self.blocks.insert(seq, (events, bytes));
            self.queue.push_back((seq, events, bytes));
        }
        self.give();
        self.act();
    }

    pub(super) fn mood(&mut self, id: u8, mood: Mood) {
        let Some(collector) = self.collectors.get_mut(&id) else { return };
        collector.mood = mood;
        collector.changed = self.now;
        if mood == Mood::Dead {
            self.cut(id);
        }
    }

    /// Every connection of a collector is broken off, as by a restart that takes no time.
    pub(super) fn cut(&mut self, id: u8) {
        let of = |conn: &&u64| self.conns[*conn].to == id && self.conns[*conn].up;
        for conn in self.conns.keys().filter(of).copied().collect::<Vec<_>>() {
            self.later(ms(1), Event::Closed(conn, Why::Reset));
        }
    }

    fn later(&mut self, after: Duration, event: Event) {
        self.order += 1;
        self.events.insert((self.now + after, self.order), event);
    }

    fn give(&mut self) {
        if self.asked && !self.queue.is_empty() {
            self.asked = false;
            self.later(ms(0), Event::Block);
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let next = event.into_iter().chain(self.planner.next_wake()).min().filter(|at| *at <= end);
            let Some(at) = next else { break };
            self.now = self.now.max(at);
            while let Some(entry) = self.events.first_entry().filter(|e| e.key().0 <= self.now) {
                let event = entry.remove();
                self.happen(event);
            }
            self.act();
            assert!(self.planner.next_wake().is_none_or(|wake| wake > self.now), "it would spin");
        }
        self.now = end;
        self.act();
    }

    /// Time passes in which we ourselves stand still.
    pub(super) fn sleep(&mut self, time: Duration) {
        self.now += time;
        self.run(ms(0));
    }

    /// Until everything is done; panics if that takes longer.
    pub(super) fn finish(&mut self, limit: Duration) {
        let end = self.now + limit;
        while self.done.len() < self.blocks.len() {
            let missing = || self.blocks.keys().filter(|seq| !self.done.contains(seq)).collect::<Vec<_>>();
            assert!(self.now < end, "not done: {:?}\n{:?}", missing(), self.planner.status());
            self.run(ms(100));
        }
        for (seq, (events, _)) in &self.blocks {
            let ranges = self.acked.get(seq).cloned().unwrap_or_default();
            let dead = self.dead.iter().filter(|(dead, _)| dead == seq).map(|(_, event)| (*event, event + 1));
            let mut parts: Vec<(u32, u32)> = ranges.into_iter().chain(dead).collect();
            parts.sort_unstable();
            let end = parts.iter().fold(0, |end, (from, to)| if *from <= end { end.max(*to) } else { end });
            assert!(end >= *events, "{seq:?} {end} is lost");
        }
        assert!(self.dead.iter().all(|dead| self.poison.contains(dead)), "{:?} was no poison", self.dead);
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Connect(conn) => {
                let Some(c) = self.conns.get_mut(&conn) else { return };
                match self.collectors.get(&c.to).map_or(Mood::Dead, |collector| collector.mood) {
                    Mood::Dead => {
                        self.conns.remove(&conn);
                        self.planner.closed(conn, Why::Refused, "refused", now);
                    }
                    Mood::Vanished => {}
                    _ => {
                        c.up = true;
                        self.planner.connected(conn, now);
                    }
                }
            }
            Event::Ack(conn, number) => self.ack(conn, number),
            Event::KeepAlive(conn) => {
                let Some(c) = self.conns.get(&conn) else { return };
                if self.collectors[&c.to].mood == Mood::Stalled && !c.flight.is_empty() {
                    self.planner.heard(conn, now);
                    self.later(ms(3000), Event::KeepAlive(conn));
                }
            }
            Event::Closed(conn, why) => {
                if let Some(c) = self.conns.remove(&conn) {
                    self.closes.push((now, c.to));
                    self.planner.closed(conn, why, "", now);
                }
            }
            Event::Block => {
                let Some((seq, events, bytes)) = self.queue.pop_front() else { return };
                self.planner.block(seq, events, bytes);
            }
            Event::Buried(batch) => self.planner.buried(batch, Ok(()), now),
        }
    }

    fn ack(&mut self, conn: u64, number: u64) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let collector = self.collectors.get_mut(&c.to).unwrap();
        if !matches!(collector.mood, Mood::Live | Mood::Merges) {
            return;
        }
        let place = c.flight.iter().position(|(n, ..)| *n == number).unwrap();
        if collector.mood == Mood::Merges && c.flight.len() > 1 {
            self.later(ms(0), Event::Closed(conn, Why::BadAck));
            return;
        }
        for batch in c.flight.remove(place).1 {
            collector.events += u64::from(batch.events());
            self.acked.entry(batch.seq).or_default().insert((batch.from, batch.to));
        }
        self.planner.acked(conn, number, self.now);
    }

    /// Does what the planner says, and checks it.
    pub(super) fn act(&mut self) {
        loop {
            let actions = self.planner.poll(self.now);
            if actions.is_empty() {
                break;
            }
            actions.into_iter().for_each(|action| self.obey(action));
        }
        let flight = self.conns.values().flat_map(|c| &c.flight);
        let bytes: u64 = flight.flat_map(|(_, batches, _)| batches).map(|batch| self.bytes(*batch)).sum();
        assert!(bytes <= self.largest.max(2 * BUDGET), "{bytes} bytes are in flight");
        if let Some(applied) = self.planner.applied() {
            let sendable = &self.rosters[&applied];
            for conn in self.conns.values().filter(|conn| !conn.flight.is_empty()) {
                assert!(sendable.contains(&conn.to), "applied {applied}, but {conn:?}");
            }
        }
    }

    fn bytes(&self, batch: Batch) -> u64 {
        let (events, bytes) = self.blocks[&batch.seq];
        bytes * u64::from(batch.events()) / u64::from(events)
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Connect { conn, to } => {
                let c = Conn { to: id(&to), up: false, flight: Vec::new(), free_at: self.now };
                self.conns.insert(conn, c);
                self.later(ms(1), Event::Connect(conn));
            }
            Action::Close { conn } => {
                let c = self.conns.remove(&conn).expect("only what is there is closed");
                self.closes.push((self.now, c.to));
            }
            Action::Send { conn, number, batches } => self.send(conn, number, batches),
            Action::Recall { .. } => {} // what is sent here is begun at once
            Action::Probe { conn } => {
                let Some(c) = self.conns.get(&conn) else { return };
                let collector = &self.collectors[&c.to];
                let path = match collector.mood {
                    Mood::Vanished => Path::Data(self.now - collector.changed),
                    _ => Path::Clear,
                };
                self.planner.probed(conn, path, self.now);
            }
            Action::Fetch => {
                assert!(!self.asked, "one at a time");
                self.asked = true;
                self.give();
            }
            Action::Done(seq) => assert!(self.done.insert(seq), "{seq:?} is done twice"),
            Action::DeadLetter { batch, whole, .. } => {
                assert!(batch.events() == 1 && !whole);
                self.dead.push((batch.seq, batch.from));
                self.later(ms(5), Event::Buried(batch));
            }
        }
    }

    fn send(&mut self, conn: u64, number: u64, batches: Vec<Batch>) {
        let newest = self.rosters.values().next_back().unwrap();
        let is_alone = self.planner.up_mut(conn).is_some_and(|up| up.flight.iter().any(|f| f.alone));
        let c = self.conns.get_mut(&conn).expect("only to a connection that stands");
        assert!(c.up && newest.contains(&c.to), "to one that is not sendable");
        assert!(batches.iter().all(|batch| !self.done.contains(&batch.seq)), "{batches:?}: one is done");
        let events: u32 = batches.iter().map(|batch| batch.events()).sum();
        assert!(batches.len() == 1 || events <= POLICY.window, "{batches:?}");
        let alone = c.flight.first().is_some_and(|(_, _, alone)| *alone);
        assert!(!alone, "a suspect is not alone any more");
        c.flight.push((number, batches.clone(), is_alone));
        assert!(c.flight.len() <= super::super::MOST_WINDOWS);
        self.windows += 1;
        self.sends.extend(batches.iter().map(|batch| (self.now, c.to, *batch)));
        let collector = &self.collectors[&c.to];
        let is_bad = |batch: &Batch| {
            self.poison.iter().any(|(seq, e)| *seq == batch.seq && (batch.from..batch.to).contains(e))
        };
        let is_poison = batches.iter().any(is_bad);
        c.free_at = c.free_at.max(self.now) + collector.latency;
        let after = c.free_at - self.now;
        match collector.mood {
            Mood::Closes => self.later(ms(1), Event::Closed(conn, Why::Closed)),
            Mood::Live if is_poison => self.later(after, Event::Closed(conn, Why::Closed)),
            Mood::Stalled => self.later(ms(3000), Event::KeepAlive(conn)),
            _ => self.later(after, Event::Ack(conn, number)),
        }
        self.planner.begun(conn, number, self.now);
        self.planner.written(conn, number, self.now);
    }

    /// Windows in flight at a collector.
    pub(super) fn in_flight(&self, id: u8) -> usize {
        self.conns.values().filter(|c| c.to == id).map(|c| c.flight.len()).sum()
    }

    pub(super) fn blocks(&self) -> BTreeSet<Seq> {
        self.blocks.keys().copied().collect()
    }

    pub(super) fn keys(&self) -> Vec<Arc<Key>> {
        self.planner.endpoints.keys().cloned().collect()
    }
}
