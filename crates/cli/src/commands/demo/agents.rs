//! The simulated agents of one fleet: each follows the directory over its real HTTP API, as the agents on
//! the proxies do, and takes a moment to use what it got.
//!
//! Not an agent: it reloads nothing and carries no logs. Now and then one hangs while it applies a roster,
//! or dies and comes back under a new start.

use std::time::Duration;

use pikepole_api::client::{AgentPoll, Client, Poll, Polled};
use tokio::time::{Instant, sleep, sleep_until};

use super::Pace;

/// Agents that follow each fleet.
pub(super) const AGENTS: usize = 12;

/// One long poll.
const WAIT: Duration = Duration::from_secs(20);
/// After a failed poll.
const PAUSE: Duration = Duration::from_secs(1);

/// One agent.
pub(super) struct Agent {
    client: Client,
    fleet: String,
    id: String,
    pace: Pace,
}

impl Agent {
    pub(super) fn new(client: Client, fleet: &str, dc: &str, number: usize, pace: Pace) -> Self {
        Self { client, fleet: fleet.into(), id: format!("proxy-{number:02}.{dc}"), pace }
    }

    /// Lives, dies and comes back for ever.
    pub(super) async fn live(mut self) {
        loop {
            let start = self.pace.uuid();
            let dies = Instant::now() + self.pace.some_time(60.0, 600.0);
            tokio::select! {
                () = self.follow(&start) => {}
                () = sleep_until(dies) => {}
            }
            sleep(self.pace.some_time(4.0, 15.0)).await;
        }
    }

    /// Polls, and applies what comes at the same time: an agent that hangs is still there, and holds.
    async fn follow(&mut self, start: &str) {
        let (mut have, mut applied) = (None, None);
        let mut applying: Option<(u64, Instant)> = None;
        loop {
            let agent = AgentPoll { id: &self.id, start, applied };
            let poll = self.client.poll(&self.fleet, Poll { after: have, wait: WAIT, agent: Some(agent) });
            let done = async {
                match applying {
                    Some((_, at)) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                answer = poll => match answer {
                    Ok(Polled::Roster(roster, _)) => {
                        have = Some(roster.revision);
                        // What it is at takes its time; the newest roster is what comes of it.
                        let at = applying.map(|(_, at)| at);
                        let at = at.unwrap_or_else(|| Instant::now() + self.pace.reload());
                        applying = Some((roster.revision, at));
                    }
                    Ok(Polled::Unchanged(_)) => {}
                    Err(_) => sleep(PAUSE).await,
                },
                () = done => applied = applying.take().map(|(revision, _)| revision),
            }
        }
    }
}
