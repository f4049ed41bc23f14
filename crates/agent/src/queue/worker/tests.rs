//! The worker, turn by turn, on a clock that is stepped.

use pikepole_fleet::Timestamp;
use pikepole_spool::files::faulty::{Fault, Faulty};
use pikepole_spool::{Block, Encoding, NewBlock, Unreadable};
use tokio::sync::Semaphore;

use super::*;
use crate::queue::Take;

struct Stepped {
    disk: Faulty,
    worker: Worker,
    inbox: Arc<Inbox>,
    stats: watch::Receiver<QueueStats>,
    permits: Arc<Semaphore>,
    now: Instant,
}

/// Nothing is cached: what is handed out is read.
fn options() -> Options {
    let mut options = crate::queue::tests::options();
    options.spool.cache_bytes = 0;
    options
}

fn block(n: u64) -> NewBlock {
    let body = Bytes::from(vec![u8::try_from(n % 251).unwrap(); 400]);
    NewBlock {
        kind: 1,
        events: 1,
        event_bytes: 100,
        at: n,
        encoding: Encoding::Stored,
        body,
        marks: Vec::new(),
    }
}

impl Stepped {
    /// With so many blocks.
    fn new(options: &Options, blocks: u64) -> Self {
        let disk = Faulty::default();
        let mut spool =
            Spool::open(Arc::new(disk.clone()), options.spool.clone(), Unreadable::Refuse).unwrap().0;
        for n in 0..blocks {
            spool.append(block(n)).unwrap();
            spool.commit().unwrap();
        }
        spool.close().unwrap();
        let spool = Spool::open(Arc::new(disk.clone()), options.spool.clone(), Unreadable::Refuse).unwrap().0;
        let (inbox, clock) = (Arc::new(Inbox::default()), Clock::from_fn(|| Timestamp::from_millis(7)));
        let (tell, stats) = watch::channel(QueueStats::default());
        let worker = Worker::new(spool, options, clock, inbox.clone(), tell).unwrap();
        Self { disk, worker, inbox, stats, permits: Arc::new(Semaphore::new(1000)), now: Instant::now() }
    }

    /// One turn, this much later. Waits for what the threads beside it are at.
    fn step(&mut self, later: Duration) -> bool {
        self.now += later;
        let is_helped = self.worker.committing.is_some() || self.worker.indexing.is_some();
        let patience = if is_helped { Duration::from_secs(60) } else { Duration::ZERO };
        let work = self.inbox.take(patience);
        self.worker.turn(work, self.now)
    }

    fn permit(&self) -> OwnedSemaphorePermit {
        self.permits.clone().try_acquire_owned().unwrap()
    }

    fn ask(&self, take: Take) -> oneshot::Receiver<Arc<Block>> {
        let (answer, block) = oneshot::channel();
        let _permit = self.permit();
        self.inbox.put(|work| work.takers.push_back(Taker { take, answer, _permit }));
        block
    }

    /// What a taker gets, in steps of 100 ms.
    fn take(&mut self, take: Take, steps: u32) -> Option<u64> {
        let mut block = self.ask(take);
        for _ in 0..steps {
            self.step(Duration::from_millis(100));
            if let Ok(block) = block.try_recv() {
                return Some(block.seq.0);
            }
        }
        None
    }

    /// The first segment, and the seq after its blocks.
    fn first_segment(&self) -> (String, u64) {
        let names: Vec<String> = self.disk.names().into_iter().filter(|n| n.ends_with(".spool")).collect();
        (names[0].clone(), names[1][..20].parse().unwrap())
    }

    fn damaged(&self) -> u64 {
        self.worker.spool.totals().damaged.blocks
    }
}

/// A few failed opens of a segment counted all of it as damaged, and nothing else was handed out meanwhile.
#[test]
fn a_segment_that_cannot_be_opened_holds_up_nothing_and_is_not_lost() {
    for fault in [Fault::Denied, Fault::Io] {
        let mut world = Stepped::new(&options(), 30);
        let (name, next) = world.first_segment();
        world.disk.fail_always("open", Some(&name), fault);
        assert_eq!(world.take(Take::Oldest, 5), Some(next), "the next segment's");
        world.step(Duration::from_secs(1));
        assert!(world.stats.borrow().trouble.is_some());
        // An hour of it.
        for _ in 0..720 {
            let asked = world.ask(Take::Oldest);
            world.step(Duration::from_secs(5));
            drop(asked);
        }
        assert_eq!(world.damaged(), 0, "{fault:?}");
        world.disk.heal();
        world.step(Duration::from_secs(5));
        assert_eq!(world.take(Take::Oldest, 100), Some(1));
        world.step(Duration::from_secs(90));
        world.step(Duration::from_secs(1));
        assert_eq!(world.stats.borrow().trouble, None);
    }
}

#[test]
fn a_block_that_the_device_refuses_is_given_up_alone_and_late() {
    let mut world = Stepped::new(&options(), 30);
    // All of its first segment is in one sector.
    let (name, next) = world.first_segment();
    assert_eq!(world.take(Take::Oldest, 5), Some(1));
    world.disk.fail_reads(&name, 0..u64::MAX, Fault::Io);
    assert_eq!(world.take(Take::Oldest, 5), Some(next), "others are held up by nothing");
    let began = world.now;
    while world.damaged() == 0 {
        let asked = world.ask(Take::Oldest);
        world.step(Duration::from_secs(1));
        drop(asked);
        assert!(world.now < began + Duration::from_secs(600));
    }
    assert!(world.now > began + Duration::from_secs(100), "storage on a network may fail for that long");
    assert_eq!(world.damaged(), next - 2, "all of the segment but the block that is under way");
    world.inbox.put(|work| work.done.extend([Seq(1)]));
    world.step(Duration::from_secs(1));
    assert_eq!(world.worker.spool.totals().done.events, 1);
}

/// What was live reset the pauses of what failed, and what failed held up what was live.
#[test]
fn live_blocks_go_on_beside_a_backlog_that_cannot_be_read() {
    let cached = pikepole_spool::Options { cache_bytes: 1 << 20, ..options().spool };
    let mut world = Stepped::new(&Options { share: Share::new(1, 2), spool: cached, ..options() }, 30);
    for name in world.disk.names() {
        world.disk.fail_always("open", Some(&name), Fault::Io);
    }
    let mut live = 0;
    for n in 30..60 {
        world.worker.spool.append(block(n)).unwrap();
        world.worker.spool.commit().unwrap();
        live += u32::from(world.take(Take::NewestFirst, 4).is_some());
    }
    assert!(live > 20, "{live}");
}

#[test]
fn an_fsync_that_hangs_is_told() {
    let mut world = Stepped::new(&options(), 3);
    world.worker.committing = Some(world.now);
    world.worker.tell(world.now + Duration::from_secs(4));
    assert_eq!(world.stats.borrow_and_update().trouble, None);
    world.worker.tell(world.now + Duration::from_secs(7));
    assert_eq!(world.stats.borrow().trouble.as_deref(), Some("an fsync has been running for 7 s"));
}

#[test]
fn refused_marks_are_told() {
    let mut world = Stepped::new(&options(), 3);
    let large = Bytes::from(vec![7; 16 << 10]);
    let marks = (0..40_u8).map(|n| Mark { key: Bytes::from(vec![n]), value: Some(large.clone()) });
    world.inbox.put(|work| work.marks.extend(marks.map(|mark| (mark.key.clone(), mark))));
    world.step(Duration::from_secs(1));
    assert!(world.stats.borrow().trouble.as_ref().is_some_and(|told| told.contains("max_bytes")));
    for _ in 0..70 {
        world.step(Duration::from_secs(1));
    }
    assert_eq!(world.stats.borrow().trouble, None);
}

/// The stop of a full agent that followed rotations never came to an end.
#[test]
fn a_full_spool_with_marks_to_write_can_be_closed() {
    let mut options = options();
    options.spool.max_bytes = 64 << 10;
    let mut world = Stepped::new(&options, 0);
    loop {
        match world.worker.spool.append(block(0)) {
            Err(AppendError::Full(_)) => break,
            _ => world.worker.spool.commit().unwrap(),
        }
    }
    let mark = |len: usize| Mark { key: Bytes::from("k"), value: Some(Bytes::from(vec![7; len])) };
    // One that is written all the same, and one that is too large for that.
    for len in [10, 7000] {
        world.inbox.put(|work| work.marks.insert(Bytes::from("k"), mark(len)));
        for _ in 0..10 {
            world.step(Duration::from_secs(1));
        }
        let written = world.worker.spool.marks().get(&b"k"[..]).map(Bytes::len);
        assert_eq!(written, Some(10), "{len}");
    }
    world.inbox.put(|work| work.is_closing = true);
    assert!((0..40).any(|_| world.step(Duration::from_millis(100))), "it ends");
}

#[test]
fn what_is_done_is_noted_although_something_else_cannot_be() {
    let mut world = Stepped::new(&options(), 30);
    let (name, next) = world.first_segment();
    world.disk.fail_always("open", Some(&name), Fault::Denied);
    let _read = world.take(Take::Oldest, 5);
    world.inbox.put(|work| work.done.extend([Seq(1), Seq(next)]));
    world.step(Duration::from_secs(1));
    assert_eq!(world.worker.spool.totals().done.blocks, 1);
    world.disk.heal();
    world.step(Duration::from_secs(5));
    assert_eq!(world.worker.spool.totals().done.blocks, 2);
}
