mod parts;

use std::collections::BTreeSet;
use std::sync::Arc;

use pikepole_api::time::Rfc3339;
use pikepole_fleet::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::balance::Policy;
use crate::balance::status::CollectorState;
use crate::config::Order;
use parts::{BAD, Bytewise, GARBAGE, Letters, Manner, Net, Queue};

const FAST: Manner = Manner::Acks(Duration::from_millis(10));

struct Running {
    queue: Arc<Queue>,
    net: Arc<Net>,
    letters: Arc<Letters>,
    rosters: watch::Sender<Option<Arc<v1::Roster>>>,
    watches: Watches,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

fn roster(revision: u64, ports: &[u16]) -> Option<Arc<v1::Roster>> {
    let member = |port: &u16| v1::Member {
        instance_id: format!("i-{port}"),
        address: ([10, 0, 0, 1], *port).into(),
        zone: None,
        state: v1::MemberState::Active,
    };
    Some(Arc::new(v1::Roster {
        fleet: "f".into(),
        dc: "d".into(),
        region: "r".into(),
        revision,
        published_at: Rfc3339(Timestamp::from_millis(0)),
        members: ports.iter().map(member).collect(),
    }))
}

fn start(manners: &[(u16, Manner)]) -> Running {
    let (queue, net, letters) = (Arc::new(Queue::default()), Net::new(manners), Arc::new(Letters::default()));
    let parts = Parts {
        source: queue.clone(),
        dial: net.clone(),
        encoder: Box::new(|| Bytewise),
        letters: letters.clone(),
    };
    let policy = Policy {
        attempt_timeout: Duration::from_secs(1),
        user_timeout: Duration::from_secs(2),
        silence: Duration::from_secs(10),
        progress: Duration::from_secs(60),
        zone: None,
        max_in_flight: 1 << 20,
        window: 100,
    };
    let options =
        Options { policy, order: Order::Oldest, stop_wait: Duration::from_secs(5), encoders: 2, seed: 7 };
    let (balancer, watches) = Balancer::new(parts, options);
    let ports: Vec<u16> = manners.iter().map(|(port, _)| *port).collect();
    let (rosters, roster_watch) = watch::channel(roster(1, &ports));
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(balancer.run(roster_watch, async move { drop(stopped.await) }));
    Running { queue, net, letters, rosters, watches, stop: Some(stop), task }
}

impl Running {
    fn fill(&self, seqs: std::ops::Range<u64>) {
        seqs.for_each(|seq| self.queue.push(seq, &[1; 100]));
    }

    async fn until_done(&self, count: usize, limit: u64) {
        let all = async {
            while self.queue.done().len() < count {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = timeout(Duration::from_secs(limit), all).await;
        assert!(waited.is_ok(), "{} of {count}: {:?}", self.queue.done().len(), self.watches.status.borrow());
    }

    async fn stop(&mut self) {
        drop(self.stop.take());
        timeout(Duration::from_secs(6), &mut self.task).await.expect("a stop is bounded").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_reach_collectors_and_the_status_tells() {
    let mut running = start(&[(1, FAST), (2, FAST)]);
    running.fill(0..200);
    running.until_done(200, 10).await;
    let taken: Vec<u64> = running.net.taken.lock().unwrap().values().copied().collect();
    assert_eq!(taken.iter().sum::<u64>(), 20_000);
    assert!(taken.iter().all(|events| *events > 5_000), "{taken:?}");
    assert_eq!(*running.watches.applied.borrow(), Some(1));
    sleep(Duration::from_secs(1)).await;
    let status = running.watches.status.borrow().clone();
    assert_eq!((status.state.as_str(), status.events_acked, status.blocks_done), ("sending", 20_000, 200));
    assert_eq!((status.events_resent, status.bytes_in_flight), (0, 0));
    assert!(status.collectors.iter().all(|c| c.state == CollectorState::Live && c.connects == 1));
    running.stop().await;
    assert_eq!(running.queue.given_back.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_read_holds_nobody_and_is_left() {
    let running = start(&[(1, Manner::Stuck), (2, FAST)]);
    running.fill(0..100);
    running.until_done(99, 3).await;
    running.until_done(100, 12).await;
    sleep(Duration::from_secs(1)).await;
    let status = running.watches.status.borrow().clone();
    assert_eq!(status.collectors[0].failures.get("silence"), Some(&1), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_at_a_collector_that_dies_is_read_again_and_sent_elsewhere() {
    let running = start(&[(1, Manner::Silent), (2, Manner::Silent)]);
    running.fill(0..2);
    sleep(Duration::from_millis(50)).await;
    for block in running.queue.blocks.lock().unwrap().values() {
        assert_eq!(Arc::strong_count(block), 1, "what is written is not held in memory");
    }
    running.net.manners.lock().unwrap().extend([(1, Manner::Refuses), (2, FAST)]);
    running.net.cut.notify_waiters();
    running.until_done(2, 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_answer_is_given_up_after_the_connect_timeout() {
    let running = start(&[(1, Manner::NoAnswer), (2, Manner::Refuses), (3, FAST)]);
    running.fill(0..20);
    running.until_done(20, 2).await;
    sleep(Duration::from_secs(3)).await;
    let status = running.watches.status.borrow().clone();
    assert!(status.collectors[0].failures["connect_timeout"] >= 1);
    assert!(status.collectors[1].failures["refused"] >= 1);
    assert_eq!(status.collectors[2].failures.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn poison_becomes_a_dead_letter_and_the_rest_is_delivered() {
    let running = start(&[(1, FAST), (2, FAST), (3, FAST)]);
    let mut body = [1; 100];
    body[41] = BAD;
    running.queue.push(0, &body);
    running.fill(1..5_000);
    running.until_done(5_000, 120).await;
    let letters = running.letters.0.lock().unwrap().clone();
    let told: Vec<_> = letters.iter().map(|l| (l.seq, l.event, l.at, l.payload.to_vec())).collect();
    assert_eq!(told, [(Seq(0), Some(41), 5, vec![BAD])]);
}

#[tokio::test(start_paused = true)]
async fn a_body_without_events_is_kept_whole() {
    let running = start(&[(1, FAST)]);
    running.queue.push(0, &[GARBAGE, 7, 7]);
    running.fill(1..10);
    running.until_done(10, 5).await;
    let letters = running.letters.0.lock().unwrap();
    assert_eq!(
        (letters.len(), letters[0].event, letters[0].payload.to_vec()),
        (1, None, vec![GARBAGE, 7, 7])
    );
    assert_eq!(letters[0].why, "garbage");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_dead_letter_is_kept_does_not_strand_its_block() {
    let running = start(&[(1, FAST)]);
    running.letters.1.store(true, std::sync::atomic::Ordering::Relaxed);
    running.queue.push(0, &[GARBAGE, 7, 7]);
    running.until_done(1, 10).await;
    assert_eq!(running.letters.0.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn small_blocks_do_not_wait_for_an_ack_each() {
    let running = start(&[(1, Manner::Acks(Duration::from_millis(500)))]);
    (0..2_000).for_each(|seq| running.queue.push(seq, &[1]));
    // One ack for each of them would be 1,000 s.
    running.until_done(2_000, 60).await;
    let taken: u64 = running.net.taken.lock().unwrap().values().sum();
    assert_eq!(taken, 2_000, "each once");
}

#[tokio::test(start_paused = true)]
async fn a_block_that_the_queue_dropped_meanwhile_is_counted_and_forgotten() {
    let running = start(&[(1, Manner::Silent)]);
    running.fill(0..2);
    sleep(Duration::from_millis(50)).await;
    running.queue.blocks.lock().unwrap().remove(&Seq(0));
    running.net.manners.lock().unwrap().insert(1, FAST);
    running.net.cut.notify_waiters();
    running.until_done(1, 5).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.watches.status.borrow().events_gone, 100);
    assert_eq!(running.queue.done(), BTreeSet::from([Seq(1)]));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_acks_and_gives_the_rest_back() {
    let mut running = start(&[(1, Manner::Acks(Duration::from_secs(2))), (2, Manner::Silent)]);
    running.fill(0..100);
    sleep(Duration::from_millis(100)).await;
    running.stop().await;
    let done = running.queue.done();
    let back = running.queue.given_back.lock().unwrap().clone();
    assert_eq!(done.len(), 1, "its ack was waited for: {done:?}");
    assert_eq!(back.len(), 2, "one that was silent has one, and one waited: {back:?} {done:?}");
    assert!(back.is_disjoint(&done));
    assert_eq!(running.watches.status.borrow().state.as_str(), "stopping");
}

#[tokio::test(start_paused = true)]
async fn a_roster_is_applied_when_those_that_left_have_acked() {
    let mut running = start(&[(1, Manner::Acks(Duration::from_secs(3))), (2, FAST)]);
    running.fill(0..50);
    sleep(Duration::from_millis(500)).await;
    running.rosters.send_replace(roster(2, &[2]));
    sleep(Duration::from_millis(500)).await;
    assert_eq!(*running.watches.applied.borrow_and_update(), Some(1));
    timeout(Duration::from_secs(8), running.watches.applied.changed()).await.unwrap().unwrap();
    assert_eq!(*running.watches.applied.borrow(), Some(2));
    running.until_done(50, 1).await;
}
