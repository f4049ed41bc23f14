//! From an event to the proxies, and from the proxies to the hook: the real server and engine, a store on
//! disk and HTTP on loopback, in this process; AWS is the fake of `testkit`.

mod drain;
mod signature;
mod site;

use std::time::Duration;

use anyhow::{Context, ensure};
use pikepole_api::client::{Poll, Polled};
use pikepole_testkit::aws::Action;
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::spread;
use site::Site;

/// No step may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Members of the fleet.
const MEMBERS: usize = 100;
/// How long the storm lasts.
const STORM: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Events whose way to one watcher is timed
    #[arg(long, default_value_t = 500)]
    events: usize,
    /// Events of the storm of ten seconds
    #[arg(long, default_value_t = 1_000)]
    storm: usize,
    /// Messages of SNS that are verified
    #[arg(long, default_value_t = 5_000)]
    messages: usize,
    /// Agents that move off a dying collector
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// Drains, one after the other
    #[arg(long, default_value_t = 10)]
    drains: usize,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        Ok(json!({
            "events": args.events,
            "published": published(args.events).await?,
            "storm": storm(args.storm).await?,
            "signature": signature::measure(args.messages)?,
            "drain": drain::measure(args.agents, args.drains).await?,
        }))
    })
}

/// From just before an event is posted until one long poll has read the roster it led to.
async fn published(events: usize) -> anyhow::Result<Value> {
    let site = Site::open(MEMBERS, "2s").await?;
    let mut revision = site.revision().await?;
    let ids = site.ids();
    let mut times = Vec::new();
    for number in 0..events {
        // Each instance dies, and then is launched anew: no list runs empty.
        let id = &ids[number % (MEMBERS / 2)];
        let dies = (number / (MEMBERS / 2)).is_multiple_of(2);
        let client = site.client()?;
        let poll = Poll { after: Some(revision), wait: PATIENCE, agent: None };
        let waiting = tokio::spawn(async move { (client.poll(site::FLEET, poll).await, Instant::now()) });
        tokio::time::sleep(Duration::from_millis(3)).await; // the poll is parked by then
        let began = Instant::now();
        site.post(&site::notification(id, dies)).await?;
        let (polled, at) = waiting.await?;
        match polled? {
            Polled::Roster(roster, _) => revision = roster.revision,
            Polled::Unchanged(_) => anyhow::bail!("an event changed nothing"),
        }
        times.push(at - began);
    }
    Ok(spread::of(&mut times))
}

/// Events at an even pace, launches and terminations in turn; what AWS is asked meanwhile, and whether every effect is there in the end.
async fn storm(events: usize) -> anyhow::Result<Value> {
    let site = Site::open(MEMBERS, "2s").await?;
    let before = site.aws.calls(Action::DescribeGroups);
    let mut pace = interval(STORM / u32::try_from(events)?);
    let began = Instant::now();
    for number in 0..events {
        pace.tick().await;
        if number % 2 == 0 {
            let oldest = site.ids().swap_remove(0);
            site.aws.remove(&oldest);
            site.post(&site::notification(&oldest, true)).await?;
        } else {
            let id = site.launch();
            site.post(&site::notification(&id, false)).await?;
        }
    }
    let took = began.elapsed();
    let describes = site.aws.calls(Action::DescribeGroups) - before;
    let lost = site.lost().await.context("the roster after the storm")?;
    ensure!(took < STORM * 2, "this machine cannot post {events} events in {STORM:?}");
    Ok(json!({ "events": events, "seconds": took.as_secs_f64(), "describes": describes, "lost": lost }))
}
