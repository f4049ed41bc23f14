//! Collectors that ack late, partially, wrongly, and twice.

use std::time::Duration;

use pikepole_lumberjack::server::collect::Acks;
use serde_json::Value;

use super::collector::Near;
use super::ledger::Ledger;
use super::shipper::{Load, Shipper};
use super::world::World;

/// A calm life first: everything arrives, once.
#[tokio::test]
async fn what_is_acked_to_a_shipper_arrives_once_while_nothing_fails() {
    let ledger = Ledger::default();
    let (a, b) = (Near::start(&ledger, Acks::AtOnce).await, Near::start(&ledger, Acks::AtOnce).await);
    let world = World::new(&[a.address, b.address]).await;
    let agent = world.start().await;
    let shipper = Shipper::start(world.relay, &ledger, Load::default());
    ledger.reached(5_000).await;
    shipper.finish().await;
    let counts = ledger.settled("calm").await;
    agent.empty().await;
    assert_eq!((counts.duplicates, counts.sent), (0, counts.received));
    assert!(a.events() > 0 && b.events() > 0, "{} and {}", a.events(), b.events());
    agent.stop().await;
}

#[tokio::test]
async fn collectors_that_ack_late_partially_and_wrongly_lose_nothing() {
    let ledger = Ledger::default();
    let late = Near::start(&ledger, Acks::After(Duration::from_millis(300))).await;
    let partly = Near::start(&ledger, Acks::Partly(Duration::from_millis(100))).await;
    let wrong = Near::start(&ledger, Acks::Wrong).await;
    let world = World::new(&[late.address, partly.address, wrong.address]).await;
    let agent = world.start().await;
    let load = Load { window: 20, ..Load::default() };
    let shippers = [1, 2].map(|_| Shipper::start(world.relay, &ledger, load.clone()));
    ledger.reached(6_000).await;
    for shipper in shippers {
        shipper.finish().await;
    }
    let counts = ledger.settled("odd acks").await;
    let status = agent.empty().await;
    // What was sent again is all that may have come twice.
    let resent = status["log_path"]["collectors"]["events_resent"].as_u64().unwrap();
    assert!(counts.duplicates <= resent, "{counts:?}, resent {resent}");
    assert!(late.events() > 0 && partly.events() > 0 && wrong.events() > 0);
    let failures = |word: &str| {
        let collectors = status["log_path"]["collectors"]["collectors"].as_array().unwrap();
        collectors.iter().filter_map(|c| c["failures"][word].as_u64()).sum::<u64>()
    };
    assert!(failures("bad_ack") > 0, "{:#}", status["log_path"]["collectors"]);
    assert_eq!(world.dead_letters().len(), 0);
    agent.stop().await;
}

/// The protocol does not say which window an ack is for, so that a doubled ack of a window passes for the ack of the
/// next one if that has as many events. The first window of a connection goes alone: there it shows.
#[tokio::test]
async fn a_collector_that_acks_twice_is_found_out_by_its_first_window_and_loses_nothing() {
    for grows in [false, true] {
        let ledger = Ledger::default();
        let (twice, good) = (Near::twice(&ledger).await, Near::start(&ledger, Acks::AtOnce).await);
        let world = World::new(&[twice.address, good.address]).await;
        let agent = world.start().await;
        let load = Load { window: 20, grows, ..Load::default() };
        let shipper = Shipper::start(world.relay, &ledger, load);
        ledger.reached(6_000).await;
        shipper.finish().await;
        let counts = ledger.settled("doubled acks").await;
        let bad_acks = |status: &Value| {
            let collectors = status["log_path"]["collectors"]["collectors"].as_array();
            let count = |c: &Value| c["failures"]["bad_ack"].as_u64();
            collectors.into_iter().flatten().filter_map(count).sum::<u64>()
        };
        let status = agent.until("a bad ack", |status| bad_acks(status) > 0).await;
        let resent = status["log_path"]["collectors"]["events_resent"].as_u64().unwrap();
        assert!(counts.duplicates <= resent, "{counts:?}, resent {resent}");
        assert!(twice.events() > 0);
        agent.stop().await;
    }
}
