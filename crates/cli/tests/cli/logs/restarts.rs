//! The agent is killed at any moment, and what it acked is there.

use std::time::Duration;

use pikepole_lumberjack::server::collect::Acks;
use tokio::time::sleep;

use super::collector::Near;
use super::ledger::Ledger;
use super::shipper::{Load, Shipper};
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
