//! What `bench/run` cannot do with wrk: ten thousand watchers, an hour of AWS calls in seconds, events on
//! their way, agents that come back, and logs to carry.
//!
//! Not a benchmark by itself: `bench/run` starts the servers, alternates the contenders and prints the
//! table. Each command here prints one JSON object on stdout.

mod answer;
mod carry;
mod events;
mod hour;
mod memory;
mod returns;
mod spread;
mod watchers;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "pikepole-bench", about = "Load generators and simulations behind bench/run")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold long polls open against a running directory, and time how long each change takes to reach all
    Watchers(watchers::Args),
    /// Count the AWS calls of a simulated hour
    Hour(hour::Args),
    /// Time events on their way to the proxies, and drains on their way back
    Events(events::Args),
    /// Restart a directory under agents, and count how they come back
    Returns(returns::Args),
    /// Load for the agent's log path
    #[command(subcommand)]
    Carry(carry::Command),
}

#[expect(clippy::print_stdout, reason = "the result of a measurement")]
fn main() -> anyhow::Result<()> {
    let measured = match Args::parse().command {
        Command::Watchers(args) => watchers::run(&args)?,
        Command::Hour(args) => hour::run(&args)?,
        Command::Events(args) => events::run(&args)?,
        Command::Returns(args) => returns::run(&args)?,
        Command::Carry(command) => carry::run(&command)?,
    };
    println!("{measured}");
    Ok(())
}
