//! A watch on one fleet that recovers by itself: long polls, one after the other, with jittered waits
//! after failures.
//!
//! Invariants: a failure never produces a roster. A lower revision is taken only if it was confirmed
//! later than what is held (another replica, or a store that was lost).

use std::time::Duration;

use pikepole_fleet::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::{Client, ClientError, Freshness, Poll, Polled};
use crate::v1;

/// The first wait after a failure is up to this.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Two polls begin at least this far apart: a server that answers at once, always, is not hammered.
const LEAST_GAP: Duration = Duration::from_millis(20);

/// What a watch saw.
#[derive(Debug)]
pub enum Event {
    /// Another roster.
    Roster(v1::Roster, Freshness),
    /// The same roster, confirmed or not.
    Unchanged(Freshness),
    /// A call failed; the watch goes on by itself.
    Trouble(ClientError),
}

#[derive(Debug)]
enum State {
    /// Poll at once.
    Ready,
    /// Poll after a wait; `failures` in a row so far.
    Waiting { until: Instant, failures: u32 },
}

/// Follows one fleet.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    fleet: String,
    wait: Duration,
    held: Option<(u64, Option<Timestamp>)>,
    state: State,
    failures: u32,
}

impl Watch {
    /// Follows `fleet`, with long polls of `wait`.
    pub fn new(client: Client, fleet: &str, wait: Duration) -> Self {
        Self { client, fleet: fleet.into(), wait, held: None, state: State::Ready, failures: 0 }
    }

    /// The next thing that happens. Cancel-safe: a poll that is dropped is made again.
    pub async fn next(&mut self) -> Event {
        loop {
            if let State::Waiting { until, failures } = self.state {
                sleep_until(until).await;
                self.failures = failures;
                self.state = State::Ready;
            }
            let began = Instant::now();
            let after = self.held.map(|(revision, _)| revision);
            let poll = Poll { after, wait: self.wait, agent: None };
            let polled = self.client.poll(&self.fleet, poll).await;
            let gap = State::Waiting { until: began + LEAST_GAP, failures: 0 };
            match polled {
                Ok(Polled::Roster(roster, freshness)) => {
                    self.state = gap;
                    if self.is_older(&roster, freshness) {
                        // A replica that lags behind: ask again, later, perhaps it has caught up.
                        self.back_off(self.failures);
                        continue;
                    }
                    self.held = Some((roster.revision, freshness.confirmed_at));
                    return Event::Roster(roster, freshness);
                }
                Ok(Polled::Unchanged(freshness)) => {
                    self.state = gap;
                    if let Some((_, confirmed_at)) = &mut self.held {
                        *confirmed_at = freshness.confirmed_at.max(*confirmed_at);
                    }
                    return Event::Unchanged(freshness);
                }
                Err(error) => {
                    self.back_off(self.failures);
                    return Event::Trouble(error);
                }
            }
        }
    }

    fn is_older(&self, roster: &v1::Roster, freshness: Freshness) -> bool {
        self.held.is_some_and(|(revision, confirmed_at)| {
            roster.revision < revision && freshness.confirmed_at <= confirmed_at
        })
    }

    /// Full jitter: anywhere between nothing and a bound that doubles.
    fn back_off(&mut self, failures: u32) {
        let bound = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT);
        let wait = bound.mul_f64(fastrand::f64()).max(LEAST_GAP);
        self.state = State::Waiting { until: Instant::now() + wait, failures: failures.saturating_add(1) };
    }
}
