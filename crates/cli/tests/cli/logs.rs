//! The log path of the real agent under faults: between real shippers and collectors that die, hang, lie, come
//! and go, on disks that are full or damaged, while the agent itself is killed.
//!
//! Not timing: that is measured in `bench/`. Invariant of every test: each event has an id, and an event that was
//! acked to its shipper, or stands in a tailed file, is received by a collector or is among the dead letters.

#![expect(clippy::print_stdout, reason = "what a test counted is part of its report")]

#[path = "logs/acks.rs"]
mod acks;
#[path = "../../../lumberjack/tests/it/certs.rs"]
mod certs;
#[path = "logs/collector.rs"]
mod collector;
#[path = "logs/disk.rs"]
mod disk;
#[path = "logs/fleet.rs"]
mod fleet;
#[path = "logs/hostile.rs"]
mod hostile;
#[path = "logs/ledger.rs"]
mod ledger;
#[path = "logs/network.rs"]
mod network;
#[path = "logs/peers.rs"]
mod peers;
#[path = "logs/restarts.rs"]
mod restarts;
#[path = "logs/rotate.rs"]
mod rotate;
#[path = "logs/shipper.rs"]
mod shipper;
#[path = "logs/world.rs"]
mod world;
