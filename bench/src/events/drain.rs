//! A drain with a thousand agents: how long after the last one applied is the hook completed?
//!
//! The settle delay is nought here; in production it is added.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use pikepole_api::client::{AgentPoll, Client, Poll, Polled};
use pikepole_directory::clock::Clock;
use pikepole_testkit::aws::{Action, HookKind};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::site::{FLEET, GROUP, Site};
use crate::spread;

const PATIENCE: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(55);
/// An agent takes up to this long to apply a roster.
const SLOWEST: Duration = Duration::from_millis(500);

/// When the last agent sent the poll that says it applied a revision.
type Last = Arc<Mutex<Option<Instant>>>;

pub(super) async fn measure(agents: usize, drains: usize) -> anyhow::Result<Value> {
    let site = Site::open(drains + 2, "0s").await?;
    site.aws.put_hook(GROUP, "drain", HookKind::Terminate, Duration::from_secs(120));
    let last: Last = Arc::default();
    let mut crowd = JoinSet::new();
    for number in 0..agents {
        crowd.spawn(follow(site.client()?, number, Arc::clone(&last)));
    }
    wait_for_agents(&site, agents).await?;
    let mut times = Vec::new();
    for (number, id) in site.ids().iter().take(drains).enumerate() {
        site.aws.begin_terminate(id);
        site.post(&site.aws.hook_message(id)).await?;
        let give_up = Instant::now() + PATIENCE;
        let completed = loop {
            let calls = site.aws.hook_calls();
            let done: Vec<_> = calls.iter().filter(|c| c.action == Action::CompleteHook).collect();
            if let Some(call) = done.get(number) {
                break call.at;
            }
            ensure!(Instant::now() < give_up, "a hook was never completed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let last = last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let last = last.ok_or_else(|| anyhow::anyhow!("a hook was completed before any agent applied"))?;
        times.push(completed.saturating_duration_since(last));
        wait_for_agents(&site, agents).await?; // all on the newest revision, and parked
    }
    Ok(spread::of(&mut times))
}

/// Follows the fleet as an agent does, for ever.
async fn follow(client: Client, number: usize, last: Last) {
    let (id, start) = (format!("agent-{number:04}"), format!("00000000-0000-4000-8000-{number:012x}"));
    let mut applied = None;
    loop {
        let agent = Some(AgentPoll { id: &id, start: &start, applied });
        let poll = Poll { after: applied, wait: WAIT, agent };
        if let Ok(Polled::Roster(roster, _)) = client.poll(FLEET, poll).await {
            tokio::time::sleep(SLOWEST.mul_f64(fastrand::f64())).await;
            applied = Some(roster.revision);
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

async fn wait_for_agents(site: &Site, agents: usize) -> anyhow::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let fleet = site.client()?.fleet(FLEET).await?;
        let there = fleet.convergence;
        if usize::try_from(there.applied)? >= agents {
            return Ok(());
        }
        ensure!(
            Instant::now() < give_up,
            "{} of {agents} agents came, at {:?}",
            there.applied,
            Clock::system().now()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
