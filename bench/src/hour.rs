//! An hour of a whole company's AWS calls, in seconds: the real server, engine and AWS source against a
//! fake AWS over real HTTP on loopback, on virtual time.
//!
//! Tokio's clock stands still and is moved by hand in small steps; between two steps everything that
//! real I/O makes ready runs. The directory has no disk, whose time would be real. A blocking task is held for the whole hour, because tokio would jump to
//! the next timer by itself while an answer is still on its way. The calls are counted by the fake.
//!
//! The hour runs twice, with and without readers: what the readers cost is the difference.

mod world;

use serde_json::{Value, json};

use world::World;

/// A step of the clock. Any delay inside the directory is at most this much longer than in real life.
const STEP_MS: u64 = 100;
/// A proxy's cron, in seconds.
const POLL_EVERY_S: u64 = 180;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Auto Scaling groups
    #[arg(long, default_value_t = 100)]
    groups: usize,
    /// Instances, spread evenly over the groups
    #[arg(long, default_value_t = 2_000)]
    instances: usize,
    /// Proxies that ask every 3 minutes, spread evenly over the groups
    #[arg(long, default_value_t = 500)]
    proxies: usize,
    /// Minutes without an event, then as many with events
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Scale events a minute in the second half
    #[arg(long, default_value_t = 10)]
    events: u64,
}

/// What was counted in one run.
#[derive(Debug, Default)]
struct Counted {
    reads: u64,
    hints: u64,
    wrong_lists: usize,
    start: u64,
    quiet: u64,
    storm: u64,
    busiest_minute: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Value> {
    let with = simulate(args)?;
    let without = simulate(&Args { proxies: 0, ..args.clone() })?;
    let seconds = (args.minutes * 60) as f64;
    let quiet = |c: &Counted| c.quiet as i64;
    Ok(json!({
        "groups": args.groups,
        "instances": args.instances,
        "proxies": args.proxies,
        "minutes": args.minutes * 2,
        "reads": with.reads,
        "hints": with.hints,
        "calls_until_ready": with.start,
        "calls_quiet": with.quiet,
        "calls_storm": with.storm,
        "calls_busiest_minute": with.busiest_minute,
        "quiet_per_s": with.quiet as f64 / seconds,
        "storm_per_s": with.storm as f64 / seconds,
        "calls_quiet_without_readers": without.quiet,
        "calls_storm_without_readers": without.storm,
        "calls_per_read": (quiet(&with) - quiet(&without)) as f64 / with.reads.max(1) as f64,
        "wrong_lists_at_the_end": with.wrong_lists,
    }))
}

fn simulate(args: &Args) -> anyhow::Result<Counted> {
    // The same jitter in both runs.
    fastrand::seed(7);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let counted = runtime.block_on(async {
        // It ends when `release` is dropped, also on an error.
        let holding = tokio::task::spawn_blocking(move || held.recv().is_err());
        let counted = hour(args).await;
        drop(release);
        holding.await?;
        counted
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    counted
}

async fn hour(args: &Args) -> anyhow::Result<Counted> {
    let mut world = World::open(args.groups, args.instances).await?;
    let mut counted = Counted::default();
    while !world.is_ready().await? {
        anyhow::ensure!(
            world.now_ms() < 300_000,
            "the directory is not ready after 5 virtual minutes and {} calls",
            world.calls()
        );
        world.step().await?;
    }
    counted.start = world.calls();
    let (begin, mut before_minute) = (world.now_ms(), world.calls());
    let half = args.minutes * 60_000;
    for number in 0..2 * half / STEP_MS {
        let at = number * STEP_MS;
        for proxy in due(args, at) {
            world.read(proxy % args.groups);
            counted.reads += 1;
        }
        if at == half {
            counted.quiet = world.calls();
        }
        let every = 60_000 / args.events.max(1);
        if at >= half && args.events > 0 && (at - half) % every < STEP_MS {
            world.scale_event();
            counted.hints += 1;
        }
        world.step().await?;
        if (at + STEP_MS).is_multiple_of(60_000) {
            let calls = world.calls();
            counted.busiest_minute = counted.busiest_minute.max(calls - before_minute);
            before_minute = calls;
        }
    }
    counted.storm = world.calls() - counted.quiet;
    anyhow::ensure!(world.now_ms() - begin == 2 * half, "the virtual hour has the wrong length");
    // What is still under way ends; then every list must be the truth.
    for _ in 0..300_000 / STEP_MS {
        world.step().await?;
    }
    counted.wrong_lists = world.wrong_lists().await?;
    Ok(counted)
}

/// The proxies whose cron fires in the step that begins at `at`: spread evenly over the three minutes.
fn due(args: &Args, at: u64) -> impl Iterator<Item = usize> {
    let (proxies, period) = (args.proxies as u64, POLL_EVERY_S * 1_000);
    let phase = at % period;
    (0..args.proxies).filter(move |&proxy| {
        let own = proxy as u64 * period / proxies;
        (phase..phase + STEP_MS).contains(&own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proxy_asks_once_in_three_minutes() {
        let args = Args { groups: 1, instances: 1, proxies: 500, minutes: 30, events: 10 };
        let all: Vec<_> = (0..1_800).flat_map(|step| due(&args, 180_000 + step * STEP_MS)).collect();
        assert_eq!(all, (0..500).collect::<Vec<_>>());
    }
}
