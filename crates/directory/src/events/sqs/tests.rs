//! A queue in every trouble that we know of, on the fake over real HTTP.
//!
//! Real sockets and tokio's paused clock do not go together, so times are short here.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use pikepole_testkit::aws::{FakeSqs, SqsAction, SqsFault};
use tokio::task::JoinHandle;

use super::*;
use crate::shutdown::{Trigger, channel};

const RECEIVE: SqsAction = SqsAction::Receive;
const DELETE: SqsAction = SqsAction::Delete;
const VISIBILITY: SqsAction = SqsAction::Visibility;
const FOREVER: u32 = u32::MAX;
const PATIENCE: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn settings(endpoint: String, url: String) -> SqsSettings {
    let clock = Clock::from_fn(|| Timestamp::from_millis(1_795_341_700_000));
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
    let mut settings = SqsSettings::new(url, "ap-south-1".parse().unwrap(), clock);
    settings.aws.credentials = Some(SharedCredentialsProvider::new(credentials));
    settings.aws.endpoint_url = Some(endpoint);
    settings.times = SqsTimes {
        first_backoff: Duration::from_millis(20),
        last_backoff: Duration::from_millis(50),
        last_stuck: Duration::from_millis(50),
        least: Duration::from_millis(200),
        again: Duration::ZERO,
        ..SqsTimes::default()
    };
    settings
}

struct World {
    sqs: FakeSqs,
    health: Arc<QueueHealth>,
    seen: Arc<Mutex<Vec<String>>>,
    trigger: Trigger,
    poller: JoinHandle<()>,
}

/// A poller whose handler keeps everything but bodies that begin with `no`.
async fn world(visibility: Duration) -> World {
    start(visibility, |_| (), |body| async move { kept(!body.starts_with("no")) }).await
}

fn kept(yes: bool) -> Kept {
    if yes { Kept::Yes } else { Kept::No }
}

async fn start<H, F>(visibility: Duration, adjust: fn(&mut SqsTimes), handle: H) -> World
where
    H: Fn(String) -> F + Send + Sync + 'static,
    F: Future<Output = Kept> + Send + 'static,
{
    let sqs = FakeSqs::start(visibility).await;
    let mut settings = settings(sqs.url(), sqs.queue_url());
    adjust(&mut settings.times);
    let poller = SqsPoller::new(settings).await.unwrap();
    let (trigger, shutdown) = channel();
    let (health, seen) = (poller.health(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&seen);
    let handler = move |message: Message| {
        noted.lock().unwrap().push(message.body.clone());
        handle(message.body)
    };
    let poller = tokio::spawn(poller.run(handler, shutdown));
    World { sqs, health, seen, trigger, poller }
}

impl World {
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let looks = async {
            while !holds(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let status = || self.health.status();
        timeout(PATIENCE, looks).await.unwrap_or_else(|_| panic!("never {what}: {:?}", status()));
    }

    fn seen(&self, body: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|b| *b == body).count()
    }

    /// Shows that the poller has lost nothing by its troubles.
    async fn still_works(&self) {
        self.sqs.clear_faults();
        self.sqs.send("afterwards");
        self.until("works", |w| w.seen("afterwards") > 0 && w.sqs.left() == 0).await;
    }
}

#[tokio::test]
async fn what_is_kept_is_deleted_and_told_with_its_lag() {
    let w = world(MINUTE).await;
    for n in 0..25 {
        w.sqs.send(&format!("{n}"));
    }
    w.until("all are deleted", |w| w.health.status().deleted == 25).await;
    assert_eq!(w.sqs.left(), 0);
    let status = w.health.status();
    assert_eq!((status.received, status.not_deleted, status.not_kept, status.failures), (25, 0, 0, 0));
    assert!(status.lag.is_some_and(|lag| lag > Duration::from_secs(80)), "{status:?}");
    assert_eq!(status.last_receive, Some(Timestamp::from_millis(1_795_341_700_000)));
    assert_eq!(w.sqs.calls(SqsAction::Attributes), 1, "asked once");
}

#[tokio::test]
async fn what_is_not_kept_is_not_deleted_and_comes_again() {
    static STORE: AtomicBool = AtomicBool::new(false);
    let w = start(MINUTE, |_| (), |_| async { kept(STORE.load(Ordering::SeqCst)) }).await;
    w.sqs.send("event");
    w.until("it came three times", |w| w.seen("event") >= 3).await;
    assert_eq!((w.sqs.left(), w.sqs.calls(DELETE)), (1, 0));
    STORE.store(true, Ordering::SeqCst);
    w.until("it is deleted", |w| w.sqs.left() == 0).await;
    let status = w.health.status();
    assert!(status.not_kept >= 3 && status.deleted == 1, "{status:?}");
}

#[tokio::test]
async fn one_that_is_not_kept_does_not_hold_up_the_others_and_ends_in_the_dead_letter_queue() {
    let w = world(MINUTE).await;
    w.sqs.max_receive_count(3);
    w.sqs.send("no 1");
    w.sqs.send("yes 1");
    w.until("it is given up", |w| w.sqs.dead() == ["no 1"]).await;
    assert_eq!((w.seen("no 1"), w.seen("yes 1"), w.sqs.left()), (3, 1, 0));
}

#[tokio::test]
async fn a_handler_that_panics_or_hangs_keeps_nothing() {
    let handle = |body: String| async move {
        match &body[..] {
            "panic" => panic!("as the test wants"),
            "hang" => std::future::pending().await,
            _ => Kept::Yes,
        }
    };
    let w = start(MINUTE, |t| t.handling = Duration::from_millis(50), handle).await;
    for body in ["panic", "hang", "good"] {
        w.sqs.send(body);
    }
    w.until("both came again", |w| w.seen("panic") > 1 && w.seen("hang") > 1).await;
    assert_eq!((w.sqs.left(), w.seen("good")), (2, 1));
}

#[tokio::test]
async fn a_message_in_hand_for_longer_than_it_is_hidden_is_hidden_for_longer() {
    let handle = |_| async {
        sleep(Duration::from_millis(2_500)).await;
        Kept::Yes
    };
    let w = start(Duration::from_secs(1), |_| (), handle).await;
    w.sqs.send("slow");
    w.until("it is deleted", |w| w.health.status().deleted == 1).await;
    assert_eq!((w.seen("slow"), w.health.status().received), (1, 1), "it did not come twice");
    assert!(w.sqs.calls(VISIBILITY) >= 3, "extended every third of a second");
}

#[tokio::test]
async fn every_trouble_of_the_queue_is_told_and_outlived() {
    let w = start(MINUTE, |t| t.call = Duration::from_millis(200), |_| async { Kept::Yes }).await;
    for (fault, kind) in [
        (SqsFault::Drop, "unreachable"),
        (SqsFault::Internal500, "unreachable"),
        (SqsFault::Throttled, "throttled"),
        (SqsFault::Denied, "denied"),
        (SqsFault::Html200, "malformed"),
    ] {
        let before = w.health.status();
        w.sqs.fault(RECEIVE, fault, FOREVER);
        w.until("it failed thrice", |w| w.health.status().failures >= 3).await;
        let status = w.health.status();
        let (_, error) = status.last_error.unwrap();
        assert_eq!(error.kind(), kind, "{fault:?}: {error}");
        assert!(error.to_string().contains("ReceiveMessage"), "{error}");
        if fault == SqsFault::Denied {
            assert!(error.to_string().contains("allow sqs:ReceiveMessage"), "{error}");
        }
        assert_eq!(status.received, before.received);
        w.still_works().await;
        assert_eq!(w.health.status().failures, 0);
    }
}

#[tokio::test]
async fn half_a_message_is_no_message() {
    let w = world(Duration::from_secs(1)).await;
    w.sqs.fault(RECEIVE, SqsFault::Truncated, 1);
    w.sqs.send("whole");
    w.until("it is seen", |w| w.seen("whole") == 1).await;
    assert_eq!(w.seen.lock().unwrap().len(), 1);
    assert_eq!(w.health.status().last_error.map(|(_, e)| e.kind()), Some("malformed"));
    w.still_works().await;
}

#[tokio::test]
async fn a_silent_queue_is_given_up_a_little_after_its_long_poll() {
    let adjust = |t: &mut SqsTimes| (t.wait, t.call) = (Duration::ZERO, Duration::from_millis(150));
    let w = start(MINUTE, adjust, |_| async { Kept::Yes }).await;
    w.sqs.fault(RECEIVE, SqsFault::Silence, FOREVER);
    w.until("it failed", |w| w.health.status().failures >= 2).await;
    assert_eq!(w.health.status().last_error.map(|(_, e)| e.kind()), Some("unreachable"));
    w.still_works().await;
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_said_so_until_it_does() {
    let w = world(MINUTE).await;
    w.sqs.exists(false);
    w.until("it failed", |w| w.health.status().failures >= 2).await;
    let (_, error) = w.health.status().last_error.unwrap();
    assert_eq!(error, QueueError::Missing("ReceiveMessage"));
    w.sqs.exists(true);
    w.still_works().await;
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let queue = "https://sqs.ap-south-1.amazonaws.com/1/q".to_owned();
    let poller = SqsPoller::new(settings(endpoint, queue)).await.unwrap();
    let error = poller.queue.receive().await.unwrap_err();
    assert_eq!(error.kind(), "unreachable", "{error}");
}

#[tokio::test]
async fn an_empty_answer_at_once_is_not_asked_for_again_at_once() {
    let w = world(MINUTE).await;
    w.sqs.fault(RECEIVE, SqsFault::EmptyAtOnce, FOREVER);
    w.until("it was asked some times", |w| w.health.status().receives >= 5).await;
    let calls = w.sqs.all_calls();
    let times: Vec<_> = calls.iter().filter(|c| c.action == RECEIVE).map(|c| c.at).collect();
    // The first may be a long poll that was open when the fault came.
    for pair in times[1..].windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(190), "{:?} apart", pair[1] - pair[0]);
    }
    w.still_works().await;
}

#[tokio::test]
async fn duplicates_are_handed_over_again_and_deleted_again() {
    let w = world(MINUTE).await;
    w.sqs.fault(RECEIVE, SqsFault::Duplicates, 3);
    w.sqs.fault(DELETE, SqsFault::Internal500, 4);
    w.sqs.send("twice");
    w.until("it is deleted", |w| w.sqs.left() == 0).await;
    let status = w.health.status();
    assert!(w.seen("twice") >= 2, "{status:?}");
    assert_eq!((status.not_deleted, status.failures), (1, 0), "{status:?}");
    w.still_works().await;
}

#[tokio::test]
async fn what_a_batch_left_undeleted_is_tried_again() {
    let w = world(MINUTE).await;
    w.sqs.fault(DELETE, SqsFault::FailEntries(1), 1);
    w.sqs.send("a");
    w.until("it is deleted", |w| w.health.status().deleted == 1).await;
    assert_eq!((w.sqs.left(), w.sqs.calls(DELETE), w.seen("a")), (0, 2, 1));
    assert_eq!(w.health.status().not_deleted, 0);
    w.sqs.fault(DELETE, SqsFault::FailEntries(1), FOREVER);
    w.sqs.send("b");
    w.until("it is given up", |w| w.health.status().not_deleted == 1).await;
    assert_eq!(w.sqs.calls(DELETE), 2 + 3, "three tries, and then it comes again");
    assert_eq!(w.sqs.left(), 1);
}

#[tokio::test]
async fn without_the_permissions_beside_receiving_events_still_come_in() {
    let w = world(Duration::from_secs(1)).await;
    w.sqs.fault(SqsAction::Attributes, SqsFault::Denied, FOREVER);
    w.sqs.fault(VISIBILITY, SqsFault::Denied, FOREVER);
    w.sqs.send("no");
    w.sqs.send("yes");
    w.until("the queue's own time brings it again", |w| w.seen("no") >= 2).await;
    assert_eq!((w.seen("yes"), w.sqs.left()), (1, 1));
    assert!(w.sqs.calls(SqsAction::Attributes) <= 1, "a refusal is not asked for again");
}

#[tokio::test]
async fn a_stop_ends_an_open_poll_at_once() {
    let w = world(MINUTE).await;
    w.until("a poll is open", |w| w.sqs.calls(RECEIVE) == 1).await;
    w.trigger.stop();
    timeout(Duration::from_secs(5), w.poller).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_hand_and_receives_no_more() {
    let handle = |_| async {
        sleep(Duration::from_millis(300)).await;
        Kept::Yes
    };
    let w = start(MINUTE, |_| (), handle).await;
    w.sqs.send("in hand");
    w.until("it is in hand", |w| w.seen("in hand") == 1).await;
    let receives = w.sqs.calls(RECEIVE);
    w.trigger.stop();
    w.sqs.send("too late");
    timeout(PATIENCE, w.poller).await.expect("it stops").unwrap();
    assert_eq!((w.sqs.left(), w.health.status().deleted), (1, 1));
    assert_eq!(w.sqs.calls(RECEIVE), receives);
}

#[tokio::test]
async fn a_stop_leaves_what_takes_too_long_and_deletes_none_of_it() {
    let w = start(MINUTE, |t| t.grace = Duration::from_millis(100), |_| std::future::pending()).await;
    w.sqs.send("stuck");
    w.until("it is in hand", |w| w.seen("stuck") == 1).await;
    w.trigger.stop();
    timeout(PATIENCE, w.poller).await.expect("it stops").unwrap();
    assert_eq!((w.sqs.left(), w.sqs.calls(DELETE)), (1, 0));
}

#[test]
fn pauses_grow_to_their_limit_and_begin_anew() {
    let (first, last) = (Duration::from_secs(1), Duration::from_secs(30));
    let mut backoff = Backoff::new(first, last);
    for doubled in [1, 2, 4, 8, 16, 30, 30, 30] {
        let pause = backoff.next();
        assert!(pause >= first / 10 && pause <= Duration::from_secs(doubled), "{pause:?} of {doubled} s");
    }
    let pauses: Vec<_> = (0..100).map(|_| backoff.next()).collect();
    assert!(pauses.iter().all(|p| *p <= last) && pauses.iter().any(|p| *p > last / 2), "{pauses:?}");
    assert_eq!(backoff.reset(), Duration::ZERO);
    assert!(backoff.next() <= first);
}
