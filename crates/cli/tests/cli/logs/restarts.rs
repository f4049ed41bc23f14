//! The agent is killed at any moment, and what it acked is there.

use std::time::Duration;

use pikepole_lumberjack::client::{Connector, Options};
use pikepole_lumberjack::server::collect::Acks;
use tokio::time::sleep;

use super::collector::Near;
use super::ledger::Ledger;
use super::shipper::{Load, Shipper, deliver, window};
use super::world::{World, dice, rounds};

#[tokio::test]
async fn an_agent_killed_at_random_moments_loses_nothing_it_acked() {
    let mut dice = dice();
    let ledger = Ledger::default();
    let a = Near::start(&ledger, Acks::AtOnce).await;
    let b = Near::start(&ledger, Acks::After(Duration::from_millis(30))).await;
    let world = World::new(&[a.address, b.address]).await;
    let shippers = [0, 3].map(|level| {
        let load = Load { level, ..Load::default() };
        Shipper::start(world.relay, &ledger, load)
    });
    let rounds = rounds(10);
    for _ in 0..rounds {
        let mut child = world.spawn();
        sleep(Duration::from_millis(dice.u64(0..800))).await;
        child.kill().await.unwrap();
    }
    let agent = world.start().await;
    let mut resent = 0;
    for shipper in shippers {
        resent += shipper.finish().await.resent;
    }
    let counts = ledger.settled(&format!("{rounds} kills of the agent")).await;
    println!("resent by the shippers: {resent}");
    let status = agent.empty().await;
    assert_eq!(status["log_path"]["spool"]["damaged_bytes"], 0);
    assert!(counts.promised > 0);
    agent.stop().await;
}

/// A shipper that never gets an ack in time sends the same window over and over: all of it arrives, exactly as often
/// as it was stored.
#[tokio::test]
async fn a_window_that_is_sent_again_and_again_is_taken_each_time() {
    let ledger = Ledger::default();
    let near = Near::start(&ledger, Acks::AtOnce).await;
    let world = World::new(&[near.address]).await;
    let agent = world.start().await;
    agent.until("a relay", |_| true).await;
    let connector = Connector::new(Options::default(), None).unwrap();
    let (ids, times) = (ledger.issue(100), 7);
    let same = window(ids.clone(), 3, 100);
    for count in 1..times {
        let (mut writer, reader) = connector.connect(world.relay).await.unwrap();
        writer.write(&same).await.unwrap();
        agent
            .until("a window in the spool", |s| s["log_path"]["spool"]["appended"]["events"] == count * 100)
            .await;
        drop((writer, reader));
    }
    let events: Vec<_> = ids.clone().map(|id| format!("{{\"id\":{id}}}").into_bytes()).collect();
    deliver(world.relay, &events, 3).await;
    ledger.promised(ids.clone());
    ledger.settled("a window that is sent again").await;
    agent.empty().await;
    let received: Vec<_> = ids.map(|id| ledger.times_received(id)).collect();
    assert_eq!(received, [times; 100]);
    agent.stop().await;
}
