//! The queue with its threads, on a file system in memory.

use pikepole_spool::Encoding;
use pikepole_spool::files::faulty::{Call, Fault, Faulty};

use super::*;

pub(super) fn options() -> Options {
    let spool = pikepole_spool::Options {
        segment_bytes: 4096,
        reserve_bytes: 8192,
        cache_bytes: 4096,
        max_bytes: 1 << 20,
        min_free: 0,
        ..pikepole_spool::Options::default()
    };
    Options { spool, ..Options::new("unused") }
}

/// A small one.
fn of_bytes(max_bytes: u64) -> Options {
    let options = options();
    Options { spool: pikepole_spool::Options { max_bytes, ..options.spool }, ..options }
}

fn open(disk: &Faulty, options: Options) -> Queue {
    let clock = Clock::from_fn(|| Timestamp::from_millis(7));
    Queue::open_on(Arc::new(disk.clone()), options, clock).unwrap().0
}

fn block(n: u64) -> NewBlock {
    NewBlock {
        kind: 1,
        events: 1,
        event_bytes: 100,
        at: n,
        encoding: Encoding::Stored,
        body: Bytes::from(vec![u8::try_from(n % 251).unwrap(); 400]),
        marks: vec![Mark { key: "n".into(), value: Some(n.to_string().into()) }],
    }
}

/// Durable when it returns.
async fn append(queue: &Queue, new: NewBlock) -> Result<Seq, QueueError> {
    queue.send(new, Hurry::Soon).await?.durable().await
}

/// As much as the spool takes; the one it does not take waits.
async fn fill(queue: &Queue) -> (u64, Receipt) {
    let mut stats = queue.stats();
    for n in 0.. {
        let receipt = queue.send(block(n), Hurry::Soon).await.unwrap();
        let is_full =
            async { drop(stats.wait_for(|stats| stats.full.is_some() && stats.appends_waiting > 0).await) };
        let mut durable = Box::pin(receipt.durable());
        tokio::select! {
            biased;
            result = &mut durable => { result.unwrap(); }
            () = is_full => {
                drop(durable);
                return (n, queue.send(block(n + 1), Hurry::Soon).await.unwrap());
            }
        }
    }
    unreachable!("some spool is full some time")
}

#[tokio::test]
async fn what_was_answered_survives_a_crash() {
    let disk = Faulty::default();
    let queue = open(&disk, options());
    for n in 0..20 {
        assert_eq!(append(&queue, block(n)).await, Ok(Seq(n + 1)));
    }
    let crashed = disk.fork();
    crashed.crash(|| false);
    let clock = Clock::from_fn(|| Timestamp::from_millis(7));
    let (queue, opened) = Queue::open_on(Arc::new(crashed), options(), clock).unwrap();
    assert_eq!(opened.marks[&b"n"[..]], Bytes::from_static(b"19"));
    for n in 0..20 {
        let found = queue.take(Take::Oldest).await.unwrap();
        assert_eq!((found.seq, &found.body), (Seq(n + 1), &block(n).body));
    }
}

#[tokio::test]
async fn many_appends_share_an_fsync() {
    let disk = Faulty::default();
    let queue = open(&disk, options());
    let before = disk.calls("sync");
    let mut receipts = Vec::new();
    for n in 0..300 {
        receipts.push(queue.send(block(n), Hurry::Group).await.unwrap());
    }
    for (n, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.durable().await, Ok(Seq(n as u64 + 1)), "in order");
    }
    let syncs = disk.calls("sync") - before;
    assert!(syncs < 60, "{syncs} fsyncs");
}

#[tokio::test]
async fn who_is_held_up_does_not_wait_for_the_group() {
    let forever = Duration::from_secs(3600);
    let queue = open(&Faulty::default(), Options { commit_every: forever, ..options() });
    let grouped = queue.send(block(0), Hurry::Group).await.unwrap();
    assert_eq!(append(&queue, block(1)).await, Ok(Seq(2)));
    assert_eq!(grouped.durable().await, Ok(Seq(1)), "it went along");
}

#[tokio::test]
async fn a_full_spool_holds_appends_until_something_is_done() {
    let queue = open(&Faulty::default(), of_bytes(64 << 10));
    let (_, waiting) = fill(&queue).await;
    let mut durable = Box::pin(waiting.durable());
    let mut stats = queue.stats();
    loop {
        tokio::select! {
            result = &mut durable => { result.unwrap(); break; }
            block = queue.take(Take::Oldest) => queue.done(block.unwrap().seq),
        }
    }
    stats.wait_for(|stats| stats.full.is_none()).await.unwrap();
}

#[tokio::test]
async fn a_full_spool_can_be_closed() {
    let disk = Faulty::default();
    let queue = open(&disk, of_bytes(64 << 10));
    let (n, waiting) = fill(&queue).await;
    queue.close().await.unwrap();
    assert_eq!(waiting.durable().await, Err(QueueError::Closed));
    assert_eq!(append(&queue, block(0)).await, Err(QueueError::Closed));
    assert!(queue.take(Take::Oldest).await.is_none());
    let queue = open(&disk, options());
    assert_eq!(queue.stats().borrow().spool.waiting.blocks, n, "what was durable is there");
}

#[tokio::test]
async fn a_block_is_with_one_taker_until_it_is_given_back() {
    let queue = open(&Faulty::default(), options());
    for n in 0..3 {
        append(&queue, block(n)).await.unwrap();
    }
    assert_eq!(queue.take(Take::Oldest).await.unwrap().seq, Seq(1));
    assert_eq!(queue.take(Take::Oldest).await.unwrap().seq, Seq(2));
    queue.give_back(Seq(1));
    assert_eq!(queue.take(Take::Oldest).await.unwrap().seq, Seq(1));
    assert_eq!(queue.take(Take::Oldest).await.unwrap().seq, Seq(3));
    queue.done(Seq(1));
    assert_eq!(queue.read(Seq(1)).await, None);
    assert!(queue.read(Seq(2)).await.is_some(), "taken ones can be read again");
}

#[tokio::test]
async fn who_waits_gets_the_next_one_and_who_left_takes_none_along() {
    let queue = open(&Faulty::default(), options());
    for n in 0..50 {
        let gone = queue.take(Take::Oldest);
        let mut gone = Box::pin(gone);
        // Asked, and then gone, with or without an answer under way.
        assert!(futures_now(gone.as_mut()).is_none());
        append(&queue, block(n)).await.unwrap();
        drop(gone);
        let found = queue.take(Take::Oldest).await.unwrap();
        assert_eq!(found.seq, Seq(n + 1));
        queue.done(found.seq);
    }
}

fn futures_now<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn live_data_goes_first_and_the_backlog_gets_its_share() {
    let queue = open(&Faulty::default(), options());
    for n in 0..12 {
        append(&queue, block(n)).await.unwrap();
    }
    let mut seqs = Vec::new();
    for _ in 0..8 {
        seqs.push(queue.take(Take::NewestFirst).await.unwrap().seq.0);
    }
    assert_eq!(seqs.iter().filter(|seq| **seq <= 2).count(), 2, "{seqs:?}");
    assert_eq!(seqs.iter().filter(|seq| **seq >= 7).count(), 6, "{seqs:?}");
}

#[tokio::test]
async fn a_disk_that_fails_is_shown_and_tried_again() {
    for (call, fault) in [(Call::Sync, Fault::Io), (Call::Change, Fault::Io), (Call::Change, Fault::Stop)] {
        let disk = Faulty::default();
        let queue = open(&disk, options());
        append(&queue, block(0)).await.unwrap();
        let mut stats = queue.stats();
        disk.fail(call, 0, fault);
        let waiting = queue.send(block(1), Hurry::Soon).await.unwrap();
        stats.wait_for(|stats| stats.failures > 0 || stats.trouble.is_some()).await.unwrap();
        disk.heal();
        assert_eq!(waiting.durable().await, Ok(Seq(2)));
        let crashed = disk.fork();
        crashed.crash(|| false);
        assert_eq!(open(&crashed, options()).stats().borrow().spool.waiting.blocks, 2);
        stats.wait_for(|stats| stats.trouble.is_none()).await.unwrap();
    }
}

#[tokio::test]
async fn a_close_on_a_failing_disk_ends_and_says_so() {
    let disk = Faulty::default();
    let queue = open(&disk, options());
    append(&queue, block(0)).await.unwrap();
    disk.fail(Call::Change, 0, Fault::Stop);
    let waiting = queue.send(block(1), Hurry::Soon).await.unwrap();
    assert!(queue.close().await.is_err());
    assert_eq!(waiting.durable().await, Err(QueueError::Closed));
}

#[tokio::test]
async fn done_and_marks_are_durable_without_anybody_asking() {
    let disk = Faulty::default();
    let queue = open(&disk, options());
    append(&queue, block(0)).await.unwrap();
    queue.done(Seq(1));
    queue.mark(vec![Mark { key: "file".into(), value: Some("9".into()) }]).unwrap();
    queue.stats().wait_for(|stats| stats.commits >= 2).await.unwrap();
    let crashed = disk.fork();
    crashed.crash(|| false);
    let clock = Clock::from_fn(|| Timestamp::from_millis(7));
    let (queue, opened) = Queue::open_on(Arc::new(crashed), options(), clock).unwrap();
    assert_eq!(opened.marks[&b"file"[..]], Bytes::from_static(b"9"));
    assert_eq!(queue.stats().borrow().spool.waiting.blocks, 0);
}

/// A disk with five durable blocks of a spool that ended.
fn five_blocks() -> Faulty {
    let disk = Faulty::default();
    let mut spool = Spool::open(Arc::new(disk.clone()), options().spool, Unreadable::Refuse).unwrap().0;
    for n in 0..5 {
        spool.append(block(n)).unwrap();
        spool.commit().unwrap();
    }
    drop(spool);
    disk
}

/// Once as root and then as somebody else was enough to lose all of it.
#[test]
fn a_start_without_the_right_to_read_fails_and_touches_nothing() {
    let disk = five_blocks();
    let before: Vec<_> = disk.names().into_iter().map(|name| (disk.bytes(&name), name)).collect();
    disk.fail_always("open", None, Fault::Denied);
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let error = open_spool(&files, &options().spool, |_| ()).err().unwrap();
    assert!(error.contains(".spool") && error.contains("ermission"), "{error}");
    disk.heal();
    let after: Vec<_> = disk.names().into_iter().map(|name| (disk.bytes(&name), name)).collect();
    assert!(after == before);
    assert_eq!(open_spool(&files, &options().spool, |_| ()).unwrap().0.stats().waiting.blocks, 5);
}

#[test]
fn a_start_gives_up_what_the_device_does_not_give_back_after_some_tries() {
    let disk = five_blocks();
    let newest = disk.names().into_iter().rfind(|name| name.ends_with(".spool")).unwrap();
    disk.fail_always("open", Some(&newest), Fault::Io);
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let pauses = std::cell::Cell::new(0);
    let (_, recovered) = open_spool(&files, &options().spool, |_| pauses.set(pauses.get() + 1)).unwrap();
    assert_eq!((pauses.get(), recovered.is_damaged()), (STARTS - 1, true));
    // It may be readable for somebody with better tools.
    assert!(disk.names().contains(&format!("quarantine/{newest}")));
}
