//! The account of a flow, and what is told after a button was pressed.

use pikepole_agent::status::{LogPathStatus, SectionStatus, TailStatus};
use pikepole_fleet::Timestamp;
use tokio::time::{advance, sleep};

use super::*;

const ID: &str = "proxy-01.x";

fn flow() -> (Flow, mpsc::Receiver<Press>) {
    Flow::new("f", vec![ID.into(), "proxy-02.x".into()], Clock::from_fn(|| Timestamp::from_millis(0)))
}

fn status(unread: u64, waiting: u64) -> Status {
    let section = SectionStatus { files: 1, unread_bytes: unread, ..SectionStatus::default() };
    let tail = TailStatus { sections: vec![section], ..TailStatus::default() };
    let mut path = LogPathStatus { tail: Some(tail), ..LogPathStatus::default() };
    path.spool.waiting.events = waiting;
    Status { log_path: Some(path), ..Status::default() }
}

/// The oldest of them for so long.
fn waits(events: u64, oldest_ms: u64) -> Status {
    let mut status = status(0, events);
    status.log_path.as_mut().unwrap().spool.oldest_ms = Some(oldest_ms);
    status
}

fn id() -> InstanceId {
    "i-00000000000000001".parse().unwrap()
}

fn arrive(flow: &Flow, numbers: impl IntoIterator<Item = u64>) {
    flow.arrive(&id(), numbers.into_iter().map(|number| (ID.to_string(), number)));
}

fn totals(sent: u64, received: u64, waiting: u64, missing: u64, duplicates: u64) -> Totals {
    Totals { sent, received, waiting, missing, duplicates }
}

#[tokio::test(start_paused = true)]
async fn a_line_is_missing_only_if_its_agent_has_nothing_older_any_more() {
    let (flow, _presses) = flow();
    flow.write(0, 10);
    flow.wrote(0);
    arrive(&flow, (1..=10).filter(|number| *number != 4));
    flow.reported(0, &status(0, 0));
    assert_eq!(flow.totals(), totals(10, 9, 1, 0, 0), "it may be in a file that nobody has looked at yet");
    advance(Duration::from_secs(4)).await;
    for has_it in [Status::default(), status(1, 0), status(0, 1)] {
        flow.reported(0, &has_it);
        assert_eq!(flow.totals(), totals(10, 9, 1, 0, 0));
    }
    flow.reported(0, &status(0, 0));
    advance(Duration::from_secs(1)).await;
    flow.reported(0, &status(0, 0));
    assert_eq!(flow.totals(), totals(10, 9, 1, 0, 0), "it may be between two parts that told at two moments");
    advance(Duration::from_secs(3)).await;
    for has_it in [Status::default(), status(1, 0), waits(1, 100)] {
        flow.reported(0, &has_it);
        assert_eq!(flow.totals(), totals(10, 9, 1, 0, 0));
    }
    advance(Duration::from_secs(1)).await;
    flow.reported(0, &waits(1, 900)); // of a line that came later
    assert_eq!(flow.totals(), totals(10, 9, 0, 1, 0));
    // What was written since is not judged by what was said before.
    flow.write(0, 5);
    flow.wrote(0);
    assert_eq!(flow.totals(), totals(15, 9, 5, 1, 0));
    arrive(&flow, [4, 11, 11]);
    assert_eq!(flow.totals(), totals(15, 11, 4, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_that_came_back_has_read_and_not_told_of_yet_is_not_missing() {
    let (flow, _presses) = flow();
    flow.write(0, 10);
    flow.wrote(0);
    advance(Duration::from_secs(60)).await;
    flow.reported(0, &status(0, 0));
    flow.runs(0, false);
    flow.runs(0, true);
    // It has looked at no file yet.
    let mut before = status(0, 0);
    before.log_path.as_mut().unwrap().tail.as_mut().unwrap().sections[0].files = 0;
    flow.reported(0, &before);
    advance(Duration::from_secs(9)).await;
    // It has read them, and told of its spool before.
    flow.reported(0, &status(0, 0));
    assert_eq!(flow.totals(), totals(10, 0, 10, 0, 0));
    advance(Duration::from_secs(30)).await;
    flow.reported(0, &waits(10, 29_000));
    assert_eq!(flow.totals(), totals(10, 0, 10, 0, 0), "they are older than what it read then");
    arrive(&flow, 1..=10);
    flow.reported(0, &status(0, 0));
    assert_eq!((flow.totals(), flow.lock().proxies[0].settled), (totals(10, 10, 0, 0, 0), 10));
}

#[tokio::test(start_paused = true)]
async fn what_waited_while_all_were_stopped_is_told_until_it_is_delivered() {
    let (flow, _presses) = flow();
    tokio::spawn(flow.clone().live());
    flow.collectors([(&id(), "127.1.0.1:5044".parse().unwrap(), false)].into_iter());
    flow.stop_all(Duration::from_secs(30));
    assert!(flow.is_stopped());
    flow.write(0, 1_240);
    sleep(Duration::from_secs(31)).await;
    assert!(!flow.is_stopped());
    let said = |flow: &Flow| flow.said().into_iter().map(|(_, words)| words).collect::<Vec<_>>();
    assert_eq!(
        said(&flow),
        [
            "stopped all 1 collectors for 30 s; everything waits at the proxies",
            "collectors are back; 1,240 events wait in 1 spools"
        ]
    );
    flow.write(0, 10);
    arrive(&flow, 1..=1_239);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(said(&flow), [""; 0]);
    arrive(&flow, 1_230..=1_240);
    sleep(Duration::from_secs(1)).await;
    let [words] = &said(&flow)[..] else { panic!("one line") };
    assert!(
        words.starts_with("all 1,240 delivered after 2.") && words.ends_with("missing 0, duplicates 10"),
        "{words}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_collector_hangs_for_a_while_and_an_agent_that_runs_is_killed() {
    let (flow, _presses) = flow();
    tokio::spawn(flow.clone().live());
    flow.collectors([(&id(), "127.1.0.1:5044".parse().unwrap(), false)].into_iter());
    flow.hang(&id(), Duration::from_secs(40));
    assert!(flow.hangs(&id()));
    sleep(Duration::from_secs(41)).await;
    assert!(!flow.hangs(&id()));
    flow.kill_agent(|_| unreachable!("none runs"));
    flow.runs(1, true);
    flow.kill_agent(|count| count - 1);
    flow.kill(1).notified().await;
}

#[test]
fn presses_that_nobody_carries_out_are_not_kept_without_end() {
    let (flow, _presses) = flow();
    let taken = (0..100).filter(|_| flow.press(Press::ScaleOut)).count();
    assert_eq!(taken, MOST_PRESSES);
}

#[test]
fn what_came_from_nobody_is_counted_apart() {
    let (flow, _presses) = flow();
    flow.write(0, 1);
    flow.arrive(&id(), [(String::new(), 0), ("proxy-77.x".into(), 1), (ID.into(), 2)].into_iter());
    assert_eq!((flow.totals(), flow.lock().foreign), (totals(1, 0, 1, 0, 0), 3));
}
