//! A watch on one fleet that recovers by itself: long polls, one after the other, at one of several
//! directories, with jittered waits after failures.
//!
//! What it decides is in `machine.rs`; here is the I/O.
//!
//! Invariants: a failure never produces a roster. A lower revision is taken only if it was confirmed
//! later than what is held (another replica, or a store that was lost).

mod machine;

use std::time::Duration;

use pikepole_fleet::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::{AgentPoll, Client, ClientError, Freshness, Poll, Polled};
use crate::v1::{self, ErrorCode};
use machine::{Ending, Machine, Step, Verdict};

/// What a watch saw.
#[derive(Debug)]
pub enum Event {
    /// Another roster.
    Roster(v1::Roster, Freshness),
    /// The same roster, confirmed or not.
    Unchanged(Freshness),
    /// A call failed; the watch goes on by itself.
    Trouble(ClientError),
    /// A directory offers an older roster than the one that is held, which stays.
    Older {
        /// The directory.
        url: String,
        /// Its revision.
        revision: u64,
    },
    /// Something on the way cuts idle requests; polls wait only this long now.
    Shortened(Duration),
}

/// Which fleet to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By its name.
    Fleet(String),
    /// By its place; the directory knows the name.
    Place {
        /// The data centre.
        dc: String,
        /// The region.
        region: String,
    },
}

/// Who follows, if it is an agent whose progress counts.
#[derive(Debug, Clone)]
struct Agent {
    id: String,
    start: String,
    applied: Option<u64>,
}

/// Follows one fleet.
#[derive(Debug)]
pub struct Watch {
    clients: Vec<Client>,
    target: Target,
    fleet: Option<String>,
    agent: Option<Agent>,
    machine: Machine,
}

impl Watch {
    /// Follows the fleet called `fleet` at one directory, with long polls of `wait`.
    pub fn new(client: Client, fleet: &str, wait: Duration) -> Self {
        Self::at(vec![client], Target::Fleet(fleet.into()), wait)
    }

    /// Follows a fleet at several directories, which are tried in turn.
    pub fn at(clients: Vec<Client>, target: Target, wait: Duration) -> Self {
        let fleet = match &target {
            Target::Fleet(name) => Some(name.clone()),
            Target::Place { .. } => None,
        };
        let machine = Machine::new(clients.len(), fleet.is_none(), wait, Instant::now());
        Self { clients, target, fleet, agent: None, machine }
    }

    /// Polls in the name of an agent; `start` is the UUID of its start.
    pub fn as_agent(mut self, id: &str, start: &str) -> Self {
        self.agent = Some(Agent { id: id.into(), start: start.into(), applied: None });
        self
    }

    /// Goes on from a roster that was kept: it is not asked for again, and nothing older is taken.
    pub fn resume(&mut self, revision: u64, confirmed_at: Option<Timestamp>) {
        self.machine.hold(revision, confirmed_at);
    }

    /// The revision that the agent really uses, from the next poll on. To tell it at once, drop the future
    /// of [`Watch::next`] and call that again.
    pub fn set_applied(&mut self, applied: Option<u64>) {
        if let Some(agent) = &mut self.agent {
            agent.applied = applied;
        }
    }

    /// Goes on with these clients, of the same directories: their certificates are others now.
    pub fn replace_clients(&mut self, clients: Vec<Client>) {
        if clients.len() == self.clients.len() {
            self.clients = clients;
        }
    }

    /// The next thing that happens. Cancel-safe: a poll that is dropped is made again.
    pub async fn next(&mut self) -> Event {
        loop {
            match self.machine.step(Instant::now()) {
                Step::Sleep(until) => sleep_until(until).await,
                Step::Resolve { endpoint } => match self.resolve(endpoint).await {
                    Ok(fleet) => {
                        self.fleet = Some(fleet);
                        self.machine.ended(Ending::Resolved, Instant::now());
                    }
                    Err(error) => {
                        self.machine.ended(ending(&error), Instant::now());
                        return Event::Trouble(error);
                    }
                },
                Step::Poll { endpoint, after, wait } => {
                    if let Some(event) = self.poll(endpoint, after, wait).await {
                        return event;
                    }
                }
            }
        }
    }

    async fn poll(&mut self, endpoint: usize, after: Option<u64>, wait: Duration) -> Option<Event> {
        let client = &self.clients[endpoint];
        let fleet = self.fleet.as_deref().unwrap_or_default();
        let agent = self.agent.as_ref().map(|a| AgentPoll { id: &a.id, start: &a.start, applied: a.applied });
        let polled = client.poll(fleet, Poll { after, wait, agent }).await;
        let now = Instant::now();
        let polled = match polled {
            Ok(Polled::Roster(roster, _)) if roster.fleet != fleet => {
                Err(client.garbage("the roster of another fleet"))
            }
            other => other,
        };
        match polled {
            Ok(Polled::Roster(roster, freshness)) => {
                let (revision, confirmed_at) = (roster.revision, freshness.confirmed_at);
                Some(match self.machine.ended(Ending::Roster { revision, confirmed_at }, now) {
                    Verdict::Take => Event::Roster(roster, freshness),
                    Verdict::Older => Event::Older { url: client.base.clone(), revision },
                    _ => Event::Unchanged(freshness),
                })
            }
            Ok(Polled::Unchanged(freshness)) => {
                self.machine.ended(Ending::Unchanged { confirmed_at: freshness.confirmed_at }, now);
                Some(Event::Unchanged(freshness))
            }
            Err(error) => Some(match self.machine.ended(ending(&error), now) {
                Verdict::Shortened(wait) => Event::Shortened(wait),
                _ => Event::Trouble(error),
            }),
        }
    }

    /// The name of the fleet at a place.
    async fn resolve(&self, endpoint: usize) -> Result<String, ClientError> {
        let client = &self.clients[endpoint];
        let (dc, region) = match &self.target {
            Target::Fleet(name) => return Ok(name.clone()),
            Target::Place { dc, region } => (dc, region),
        };
        let fleets = client.fleets().await?.fleets;
        let found = fleets.into_iter().find(|f| f.dc == *dc && f.region == *region);
        found.map(|f| f.fleet).ok_or_else(|| ClientError::Refused {
            url: client.base.clone(),
            status: 404,
            code: Some(ErrorCode::UnknownFleet),
            message: format!("no fleet has dc {dc:?} and region {region:?}"),
            retry_after: None,
        })
    }
}

fn ending(error: &ClientError) -> Ending {
    match error {
        ClientError::Unreachable { .. } => Ending::Cut,
        ClientError::Refused { status: 408 | 504 | 502, code: None, .. } => Ending::Cut,
        ClientError::Refused { code: Some(ErrorCode::UnknownFleet), .. } => Ending::Unknown,
        ClientError::Refused { retry_after, .. } => Ending::Busy { retry_after: *retry_after },
        ClientError::TimedOut { .. } => Ending::Silent,
        ClientError::Garbage { .. } | ClientError::BadUrl(_) => Ending::Failed,
    }
}

#[cfg(test)]
mod tests;
