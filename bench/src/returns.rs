//! A thousand agents whose directory ends and comes back: how many connections come at once, and how long
//! it takes until each holds a poll again.
//!
//! The agents are real watches in this process, each with a client and a connection of its own; the
//! directory is a real process that is killed, or told to stop, and started again on its port. Between them
//! is a relay in this process that counts: it takes every connection at once, also while there is no
//! directory, and notes when. What it cannot hand on it closes, as a refusal.

mod relay;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pikepole_api::client::{Client, Event, Target, Watch};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use relay::{Attempt, Relay};

/// No step may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an agent's poll waits, as by default.
const WAIT: Duration = Duration::from_secs(55);
/// Polls are this old, or a little more, when the directory ends.
const QUIET: Duration = Duration::from_secs(3);
/// The window in which connections are counted.
const WINDOW: Duration = Duration::from_millis(100);
/// Between two looks at who is back.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EndedBy {
    /// SIGKILL
    Kill,
    /// SIGTERM: it answers the polls that are open with 503
    Stop,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The binary `pikepole`
    #[arg(long)]
    pikepole: PathBuf,
    /// The directory's configuration
    #[arg(long)]
    config: PathBuf,
    /// Where it listens
    #[arg(long)]
    directory: SocketAddr,
    /// The fleet the agents follow
    #[arg(long)]
    fleet: String,
    /// How many they are
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// How the directory ends
    #[arg(long, value_enum)]
    ended_by: EndedBy,
    /// How long it is away, in milliseconds
    #[arg(long, default_value_t = 2_000)]
    away: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Value> {
    // The agent's end of a connection, and the relay's two.
    crate::watchers::raise_file_limit(3 * args.agents)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(args));
    runtime.shutdown_background();
    measured
}

async fn measure(args: &Args) -> anyhow::Result<Value> {
    let direct = Client::new(&format!("http://{}", args.directory), None)?;
    let mut directory = start(&args.pikepole, &args.config)?;
    until(&direct, &args.fleet, "the directory is ready", |_| true).await?;
    let relay = Relay::open(args.directory).await?;
    let mut agents = JoinSet::new();
    for number in 0..args.agents {
        let client = Client::new(&format!("http://{}", relay.address()), None)?;
        let start = format!("00000000-0000-4000-8000-{number:012x}");
        let target = Target::Fleet(args.fleet.clone());
        agents.spawn(follow(
            Watch::at(vec![client], target, WAIT).as_agent(&format!("proxy-{number}"), &start),
        ));
    }
    let all = args.agents as u64;
    until(&direct, &args.fleet, "every agent polls", |watchers| watchers == all).await?;
    sleep(QUIET).await;

    let lost = Instant::now();
    let pid = directory.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let signal = if args.ended_by == EndedBy::Kill { Signal::KILL } else { Signal::TERM };
    kill_process(pid.context("the directory ended by itself")?, signal)?;
    timeout(PATIENCE, directory.wait()).await.context("the directory does not end")??;
    let ended = Instant::now();
    sleep_until(ended + Duration::from_millis(args.away)).await;
    let started = Instant::now();
    let _directory = start(&args.pikepole, &args.config)?; // ended when this is over
    until(&direct, &args.fleet, "every agent polls again", |watchers| watchers == all).await?;
    let back = Instant::now();

    let attempts: Vec<Attempt> = relay.attempts().into_iter().filter(|attempt| attempt.at >= lost).collect();
    ensure!(attempts.len() >= args.agents, "{} connections for {} agents", attempts.len(), args.agents);
    let every: Vec<Instant> = attempts.iter().map(|attempt| attempt.at).collect();
    let taken: Vec<Instant> = attempts.iter().filter(|a| a.is_taken).map(|a| a.at).collect();
    Ok(json!({
        "agents": args.agents,
        "connections": every.len(),
        "refused": every.len() - taken.len(),
        "most_in_100_ms": busiest(&every),
        "most_taken_in_100_ms": busiest(&taken),
        "ended_after_s": (ended - lost).as_secs_f64(),
        "back_after_start_s": (back - started).as_secs_f64(),
        "back_after_loss_s": (back - lost).as_secs_f64(),
    }))
}

/// What an agent does with its watch: it applies what it gets, at once.
async fn follow(mut watch: Watch) {
    loop {
        if let Event::Roster(roster, _) = watch.next().await {
            watch.set_applied(Some(roster.revision));
        }
    }
}

fn start(program: &Path, config: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command.args(["directory", "-c"]).arg(config).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Asks the directory itself, not over the relay, how many polls it holds.
async fn until(
    directory: &Client,
    fleet: &str,
    what: &str,
    is_so: impl Fn(u64) -> bool,
) -> anyhow::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let last = match directory.fleet(fleet).await {
            Ok(fleet) if fleet.roster.is_some() && is_so(fleet.watchers) => return Ok(()),
            Ok(fleet) => format!("{} polls are open", fleet.watchers),
            Err(error) => error.to_string(),
        };
        if Instant::now() > give_up {
            bail!("it never came about that {what}: {last}");
        }
        sleep(LOOK).await;
    }
}

/// The most in any window; the times are in order.
fn busiest(times: &[Instant]) -> usize {
    let within = |from: usize| times.partition_point(|at| *at < times[from] + WINDOW) - from;
    (0..times.len()).map(within).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_anywhere_and_does_not_hold_its_end() {
        let begin = Instant::now();
        let at = |millis: &u64| begin + Duration::from_millis(*millis);
        let times: Vec<Instant> = [0, 60, 99, 100, 159, 160, 400].iter().map(at).collect();
        assert_eq!(busiest(&times), 4, "60 to 159");
        assert_eq!(busiest(&[]), 0);
    }
}
