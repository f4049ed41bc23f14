//! Load for the agent's log path: a shipper, collectors, and writers of log files, each a process of its own.
//!
//! Not the measurement: `bench/carry.py` starts agents, kills collectors and compares what each of these wrote
//! down.
//!
//! Invariant: every event has a number, so that what is lost or doubled is known exactly.

mod collector;
mod event;
mod lines;
mod shipper;

use serde_json::Value;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Send events as Filebeat does, and time the acks
    Ship(shipper::Args),
    /// Take events, ack them, and write down which
    Collect(collector::Args),
    /// Write log files, at once or at a pace
    Lines(lines::Args),
}

pub(crate) fn run(command: &Command) -> anyhow::Result<Value> {
    match command {
        Command::Ship(args) => shipper::run(args),
        Command::Collect(args) => collector::run(args),
        Command::Lines(args) => lines::run(args),
    }
}

/// Microseconds since the machine started: the same clock in every process, and Python's `time.monotonic`.
fn micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}
