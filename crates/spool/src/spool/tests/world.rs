//! A spool beside a simple model of what it must hold.

use std::collections::BTreeSet;
use std::ops::Range;

use super::*;
use crate::frame::{HEAD, Kind, SegmentId};
use crate::walk::{Item, Walk};

pub(super) fn options() -> Options {
    Options {
        max_bytes: 1 << 20,
        min_free: 0,
        segment_bytes: 3000,
        cache_bytes: 1500,
        uncommitted_bytes: 8000,
        reserve_bytes: 8000,
        ..Options::default()
    }
}

/// Text that compresses a little, and differs from others.
pub(super) fn body(n: u64, len: usize) -> Bytes {
    (0..len)
        .map(|at| u8::try_from((n * 31 + at as u64 * (at as u64 % 7)) % 61 + 32).unwrap())
        .collect::<Vec<_>>()
        .into()
}

/// What was written, in order.
#[derive(Debug, Clone)]
struct Written {
    /// A block, or marks alone.
    seq: Option<u64>,
    body: Bytes,
    events: u32,
}

/// A block, and where its payload is.
type Place = (u64, Range<u64>);

/// Both of them.
pub(super) struct World {
    pub(super) disk: Faulty,
    pub(super) options: Options,
    pub(super) spool: Option<Spool>,
    log: Vec<Written>,
    /// So much of the log was said to be durable.
    durable: usize,
    done: BTreeSet<u64>,
    done_durable: BTreeSet<u64>,
    /// Blocks that the disk was made to lose.
    hit: BTreeSet<u64>,
    flight: Option<(CommitJob, usize, BTreeSet<u64>)>,
    count: u64,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let (log, done) = (Vec::new(), BTreeSet::new());
        let (done_durable, hit) = (BTreeSet::new(), BTreeSet::new());
        let (disk, spool, flight) = (Faulty::default(), None, None);
        Self { disk, options, spool, log, durable: 0, done, done_durable, hit, flight, count: 0 }
    }

    /// Opens it if it is not open; a fault may keep it from that.
    pub(super) fn spool(&mut self) -> Option<&mut Spool> {
        if self.spool.is_none() {
            let opened = Spool::open(Arc::new(self.disk.clone()), self.options.clone(), Unreadable::Refuse);
            self.spool = opened.ok().map(|(spool, _)| spool);
            // One that cannot be read yet is opened again later: what it knows of what is done is not known.
            if self.spool.is_some() && !self.check() {
                self.spool = None;
            }
        }
        self.spool.as_mut()
    }

    pub(super) fn append(&mut self, len: usize) {
        self.spool();
        let place = self.log.len();
        self.count += 1;
        let count = self.count;
        let new = NewBlock {
            kind: 1,
            events: u32::try_from(count % 9).unwrap(),
            event_bytes: len as u64,
            at: count,
            encoding: if count.is_multiple_of(3) { Encoding::Stored } else { Encoding::Zstd },
            body: body(count, len),
            marks: vec![Mark { key: "place".into(), value: Some(place.to_string().into()) }],
        };
        let (events, body) = (new.events, new.body.clone());
        let Some(spool) = self.spool() else { return };
        if let Ok(seq) = spool.append(new) {
            let last = self.log.iter().rev().find_map(|written| written.seq).unwrap_or(0);
            assert_eq!(seq.0, last + 1);
            self.log.push(Written { seq: Some(seq.0), body, events });
        }
    }

    pub(super) fn mark(&mut self) {
        self.spool();
        let place = self.log.len();
        let Some(spool) = &mut self.spool else { return };
        if spool.mark(vec![Mark { key: "place".into(), value: Some(place.to_string().into()) }]).is_ok() {
            self.log.push(Written { seq: None, body: Bytes::new(), events: 0 });
        }
    }

    pub(super) fn begin(&mut self) {
        self.spool();
        let (len, done) = (self.log.len(), self.done.clone());
        let Some(spool) = &mut self.spool else { return };
        if let Ok(Some(job)) = spool.commit_begin() {
            self.flight = Some((job, len, done));
        }
    }

    pub(super) fn end(&mut self) {
        let Some((job, len, done)) = self.flight.take() else { return };
        let Some(spool) = self.spool() else { return };
        // On a full disk what is done may need a second commit, and it says so.
        if spool.commit_end(job.run()).is_ok() {
            let is_all = !spool.needs_commit();
            self.durable = self.durable.max(len);
            if is_all {
                self.done_durable = done;
            }
        }
    }

    pub(super) fn commit(&mut self) {
        self.end();
        self.begin();
        self.end();
    }

    /// The nth block of those that are offered is done.
    pub(super) fn done(&mut self, nth: usize, newest: bool) {
        let Some(spool) = self.spool() else { return };
        let mut taken = Vec::new();
        let mut found = None;
        for _ in 0..=nth {
            found = spool.find(if newest { Order::Newest } else { Order::OldestFrom(Seq(0)) }).or(found);
            if let Some(seq) = found {
                spool.take(seq);
                taken.push(seq);
            }
        }
        let is_done = found.is_some_and(|seq| {
            spool.read(seq).is_ok_and(|block| block.is_some()) && spool.done(seq).is_ok_and(|is_new| is_new)
        });
        taken.iter().for_each(|seq| spool.give_back(*seq));
        if let (true, Some(seq)) = (is_done, found) {
            self.done.insert(seq.0);
        }
    }

    /// The blocks of the nth of all segments that a durable one follows, and where their payload is: damage in what was
    /// committed last cannot be told from a torn tail, if a power cut took the `synced` record behind it too. What is
    /// synced under a name that is not does not follow: a crash takes it back.
    fn older_blocks(&self, nth: usize) -> Option<(String, Vec<Place>)> {
        let disk = self.disk.fork();
        disk.crash(|| false);
        let is_durable =
            |name: &String| SegmentId::from_name(name).is_some() && self.disk.is_name_durable(name);
        let names: Vec<String> = disk.names().into_iter().filter(is_durable).collect();
        let items = |name: &str| {
            let file = disk.open(name).unwrap();
            let salt = SegmentId::from_name(name).unwrap().salt;
            let mut walk = Walk::new(&*file, salt, HEAD as u64, true, false).unwrap();
            std::iter::from_fn(|| walk.next().unwrap()).collect::<Vec<_>>()
        };
        let is_begun = |name: &String| matches!(items(name).first(), Some((_, Item::Record(header))) if header.kind == Kind::Checkpoint);
        let older = names.iter().rposition(is_begun)?;
        let name = names.get(nth % older.max(1)).filter(|_| older > 0)?;
        let payload = |(range, item): (Range<u64>, Item)| match item {
            Item::Record(header) if header.kind == Kind::Block => {
                Some((header.seq, range.start + HEAD as u64 + u64::from(header.marks_len)..range.end))
            }
            _ => None,
        };
        Some((name.clone(), items(name).into_iter().filter_map(payload).collect()))
    }

    /// A bit flips in the payload of a block; not of the last one, whose marks nothing repeats.
    pub(super) fn flip(&mut self, nth: usize, bit: usize) {
        let Some((name, mut blocks)) = self.older_blocks(nth) else { return };
        blocks.pop();
        let Some((seq, place)) = blocks.get(bit % blocks.len().max(1)).cloned() else { return };
        let (from, bits) = (
            usize::try_from(place.start * 8).unwrap(),
            usize::try_from(place.end - place.start).unwrap() * 8,
        );
        if bits > 0 {
            self.disk.flip(&name, from + bit % bits);
            self.hit.insert(seq);
        }
    }

    /// The device gives nothing of a segment back, and what it does not give is given up.
    pub(super) fn refuse(&mut self, nth: usize) {
        let Some((name, blocks)) = self.older_blocks(nth) else { return };
        let Some(spool) = &mut self.spool else { return };
        self.disk.fail_reads(&name, 0..u64::MAX, Fault::Io);
        for (seq, _) in blocks {
            self.hit.insert(seq);
            if spool.read(Seq(seq)).is_err() {
                // Another fault may keep it from that.
                let _given_up = spool.give_up(Seq(seq));
            }
        }
        self.disk.heal();
    }

    pub(super) fn close(&mut self) {
        self.end();
        let len = self.log.len();
        if let Some(spool) = self.spool.take()
            && spool.close().is_ok()
        {
            self.durable = len;
        }
        self.reopen();
    }

    /// The process ends, and starts again.
    pub(super) fn reopen(&mut self) {
        self.flight = None;
        self.spool = None;
        self.spool();
    }

    /// The machine goes down; the bits say what survives of what was not synced.
    pub(super) fn crash(&mut self, bits: u64) {
        let mut n = 0;
        self.disk.crash(|| {
            n += 1;
            bits >> (n % 64) & 1 == 1
        });
        self.reopen();
        assert!(self.spool.is_some(), "a start is never refused");
    }

    /// What the spool holds must be a beginning of the log, no shorter than what is durable, and the marks must be those
    /// of its end. The rest of the log is forgotten.
    fn check(&mut self) -> bool {
        let spool = self.spool.as_mut().unwrap();
        let next = spool.durable().0;
        let blocks =
            |log: &[Written]| log.iter().rev().find_map(|written| written.seq).map_or(1, |seq| seq + 1);
        let place = spool
            .marks()
            .get(&b"place"[..])
            .map(|place| std::str::from_utf8(place).unwrap().parse::<usize>().unwrap());
        let len = place.map_or(0, |place| place + 1);
        assert!(
            len >= self.durable,
            "{len} of {} came back, and {} were durable",
            self.log.len(),
            self.durable
        );
        assert!(len <= self.log.len());
        self.log.truncate(len);
        self.durable = len;
        assert_eq!(next, blocks(&self.log), "marks and blocks go together");
        self.check_blocks()
    }

    /// Says whether the disk could be read.
    pub(super) fn check_blocks(&mut self) -> bool {
        let Some(spool) = self.spool.as_mut() else { return false };
        let Ok(found) = try_all(spool) else { return false };
        let durable = spool.durable().0;
        let drops = self.options.when_full == WhenFull::DropOldest;
        let stats = spool.stats();
        let damaged = stats.totals.damaged;
        assert!(damaged.blocks <= self.hit.len() as u64, "{damaged:?} of {:?}", self.hit);
        let (mut waiting, mut appended, mut lost) = (Counts::default(), Counts::default(), 0);
        for written in self.log.iter().filter(|written| written.seq.is_some_and(|seq| seq < durable)) {
            let seq = written.seq.unwrap();
            let counts =
                Counts { blocks: 1, events: written.events.into(), event_bytes: written.body.len() as u64 };
            appended += counts;
            if let Some(block) = found.get(&seq) {
                waiting += counts;
                assert_eq!((&block.body, block.events), (&written.body, written.events), "block {seq}");
            } else if !self.done.contains(&seq) {
                assert!(drops || self.hit.contains(&seq), "block {seq} is lost");
                lost += u64::from(written.events);
            }
            assert!(
                !(found.contains_key(&seq) && self.done_durable.contains(&seq)),
                "block {seq} was done for good"
            );
        }
        assert_eq!(waiting, stats.waiting);
        assert_eq!(appended, stats.totals.appended);
        let given_up = stats.totals.dropped.events + damaged.events;
        // What was done, was forgotten in a crash, and was hit then, is not missed.
        let is_exact = damaged == Counts::default();
        assert!(
            lost == given_up || (!is_exact && lost < given_up),
            "{lost} are lost, {given_up} are counted"
        );
        let mut sum = stats.waiting;
        sum += stats.totals.done;
        sum += stats.totals.dropped;
        sum += damaged;
        assert_eq!(sum, appended);
        assert_eq!(found.keys().next_back().copied(), spool.find(Order::Newest).map(|seq| seq.0));
        assert!(found.keys().all(|seq| *seq < durable));
        // What was not done for good may be delivered once more.
        self.done.retain(|seq| !found.contains_key(seq));
        true
    }

    /// A bit of everything.
    pub(super) fn scenario(&mut self) {
        for round in 0..4 {
            for n in 0..4 {
                self.append(150 + 90 * n * round);
            }
            self.begin();
            self.append(333);
            self.mark();
            self.end();
            self.commit();
            for n in [0, 2, 1, 0, 0, 0] {
                self.done(n, round % 2 == 1);
            }
            self.commit();
            self.check_blocks();
            if round % 3 == 1 {
                self.reopen();
            }
        }
        self.close();
        self.done(0, false);
        self.append(10);
        self.commit();
    }
}

fn try_all(spool: &mut Spool) -> Result<BTreeMap<u64, Arc<Block>>, ReadError> {
    let mut seqs = BTreeMap::new();
    let mut from = Seq(0);
    while let Some(seq) = spool.find(Order::OldestFrom(from)) {
        from = Seq(seq.0 + 1);
        if let Some(block) = spool.read(seq)? {
            seqs.insert(seq.0, block);
        }
    }
    Ok(seqs)
}
