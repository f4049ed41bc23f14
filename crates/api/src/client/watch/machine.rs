//! When a watch asks whom, and which answers it takes: the state machine of [`Watch`](super::Watch).
//!
//! No I/O and no clock: time is passed in, and [`Machine::step`] says what to do next. Call it again after
//! each thing it asked for; call it without one, and what was under way counts as dropped.
//!
//! Thousands of watches lose one directory at the same moment, and none knows of the others. So each waits
//! anywhere up to [`SPREAD`] after a loss, and when a round of all directories went in vain, no less than
//! [`SPREAD`] before the next: each comes at most once in that time, at a moment of its own, however often
//! it has to come. A thousand are 25 in 100 ms then. Meanwhile the last roster stays in use.
//!
//! Invariants: a failure never changes what is held. A lower revision is taken only if it was confirmed
//! later. Whatever is answered, requests are limited by a token bucket.

use std::time::Duration;

use pikepole_fleet::Timestamp;
use tokio::time::Instant;

/// After a loss the first request comes within this time. Shorter than the 5 s for which a directory takes
/// an agent without a poll for one that is about to come back.
pub(super) const SPREAD: Duration = Duration::from_secs(4);
/// Between two directories of one round, the wait is up to this: who comes at a moment of its own goes on so.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(200);
/// No wait of our own is longer.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// No wait that a server asks for is longer.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// Requests that may follow each other at once: a change, the poll that tells it was applied, and again.
const BURST: f64 = 6.0;
/// After that, so many a second.
const PER_SECOND: f64 = 2.0;
/// A request that failed sooner was not cut for being idle.
const LEAST_CUT: Duration = Duration::from_secs(2);
/// So many cuts are something on the way and not a directory that ended.
const BELIEVED_CUTS: u32 = 2;
/// The shortest long poll: below it a proxy on the way is not the reason.
const LEAST_POLL: Duration = Duration::from_secs(1);
/// A shortened poll becomes longer after this time without a cut.
pub(super) const LENGTHEN_AFTER: Duration = Duration::from_secs(600);
/// "Nothing new" sooner than this is no long poll.
const HASTY: Duration = Duration::from_secs(1);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before that moment.
    Sleep(Instant),
    /// Ask an endpoint which fleet it is.
    Resolve { endpoint: usize },
    /// Poll an endpoint.
    Poll { endpoint: usize, after: Option<u64>, wait: Duration },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The fleet's name is known now.
    Resolved,
    /// A whole roster.
    Roster { revision: u64, confirmed_at: Option<Timestamp> },
    /// The revision that is held is still the one.
    Unchanged { confirmed_at: Option<Timestamp> },
    /// The connection ended, or a gateway lost patience.
    Cut,
    /// Nothing came, and nothing said that nothing will: a directory that hangs, or something on the way that
    /// forgot an idle connection.
    Silent,
    /// The server stops or is full: another one will do.
    Busy { retry_after: Option<Duration> },
    /// No fleet has this name, any more.
    Unknown,
    /// Any other failure.
    Failed,
}

/// What that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another roster, to be taken.
    Take,
    /// Nothing new.
    Same,
    /// A roster that is older than what is held.
    Older,
    /// Something on the way cuts idle requests; polls are this long now.
    Shortened(Duration),
    /// A failure.
    Failed,
    /// Go on.
    Continue,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Ask at once.
    Ready,
    /// Asked at that moment, to wait so long.
    Asking { since: Instant, wait: Duration },
    /// Ask at that moment.
    Waiting { until: Instant },
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Takes a token, or says when there will be one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        self.tokens = (self.tokens + grown).min(BURST);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((1.0 - self.tokens) / PER_SECOND) + Duration::from_millis(1))
    }
}

/// How long polls of one endpoint are.
#[derive(Debug, Clone, Copy)]
struct Patience {
    wait: Duration,
    since: Option<Instant>,
    /// Polls that were cut since one was not: the first may be a directory that ended.
    cuts: u32,
}

/// The state of a watch.
#[derive(Debug)]
pub(super) struct Machine {
    configured: Duration,
    endpoints: Vec<Patience>,
    at: usize,
    resolved: bool,
    resolves: bool,
    held: Option<(u64, Option<Timestamp>)>,
    /// Whether the last request was answered. If not, the next poll does not wait: that somebody is there
    /// again is news too.
    answered: bool,
    /// Failures in a row.
    failures: u32,
    /// Whether the moment we come at is one of our own, and not that of a loss that others suffered too.
    is_spread: bool,
    /// Answers in a row that came too soon to be a long poll's.
    hasty: u32,
    bucket: Bucket,
    state: State,
}

impl Machine {
    /// Over so many endpoints; `resolves`: the fleet's name must be asked for first.
    pub(super) fn new(endpoints: usize, resolves: bool, wait: Duration, now: Instant) -> Self {
        Self {
            configured: wait,
            endpoints: vec![Patience { wait, since: None, cuts: 0 }; endpoints.max(1)],
            at: 0,
            resolved: !resolves,
            resolves,
            held: None,
            answered: false,
            failures: 0,
            is_spread: false,
            hasty: 0,
            bucket: Bucket { tokens: BURST, at: now },
            state: State::Ready,
        }
    }

    /// Goes on from a roster that was kept.
    pub(super) fn hold(&mut self, revision: u64, confirmed_at: Option<Timestamp>) {
        self.held = Some((revision, confirmed_at));
    }

    /// What to do next.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if let State::Waiting { until } = self.state
            && now < until
        {
            return Step::Sleep(until);
        }
        if let Err(until) = self.bucket.take(now) {
            self.state = State::Waiting { until };
            return Step::Sleep(until);
        }
        self.state = State::Asking { since: now, wait: Duration::ZERO };
        let endpoint = self.at;
        if !self.resolved {
            return Step::Resolve { endpoint };
        }
        let patience = &mut self.endpoints[endpoint];
        if patience.since.is_some_and(|since| now.saturating_duration_since(since) >= LENGTHEN_AFTER) {
            patience.wait = patience.wait.mul_f64(1.25).min(self.configured);
            patience.since = (patience.wait < self.configured).then_some(now);
        }
        let wait = if self.answered { patience.wait } else { Duration::ZERO };
        self.state = State::Asking { since: now, wait };
        Step::Poll { endpoint, after: self.held.map(|(revision, _)| revision), wait }
    }

    /// Takes in what came of a step.
    pub(super) fn ended(&mut self, ending: Ending, now: Instant) -> Verdict {
        let State::Asking { since, wait } = self.state else { return Verdict::Continue };
        let took = now.saturating_duration_since(since);
        self.state = State::Ready;
        match ending {
            Ending::Resolved => {
                self.resolved = true;
                Verdict::Continue
            }
            Ending::Roster { revision, confirmed_at } => {
                self.offered(revision, confirmed_at, took >= HASTY.min(wait / 2), now)
            }
            Ending::Unchanged { .. } if self.held.is_none() => self.failed(None, now),
            Ending::Unchanged { confirmed_at } => {
                if took >= LEAST_CUT {
                    self.endpoints[self.at].cuts = 0;
                }
                self.unchanged(confirmed_at, took >= HASTY.min(wait / 2), now)
            }
            Ending::Cut if took < LEAST_CUT || took > wait => self.failed(None, now),
            Ending::Cut => self.cut(took.mul_f64(0.75), now),
            Ending::Silent if wait < LEAST_CUT => self.failed(None, now),
            Ending::Silent => {
                let verdict = self.cut(wait / 2, now);
                self.answered = false; // perhaps it hangs: the next poll does not wait, and tells
                verdict
            }
            Ending::Busy { retry_after } => self.failed(retry_after, now),
            Ending::Unknown => {
                self.resolved = !self.resolves; // it may have another name by now
                self.failed(None, now)
            }
            Ending::Failed => self.failed(None, now),
        }
    }

    fn offered(
        &mut self,
        revision: u64,
        confirmed_at: Option<Timestamp>,
        is_patient: bool,
        now: Instant,
    ) -> Verdict {
        match self.held {
            // The whole list again, although we said that we have it.
            Some((held, _)) if held == revision => return self.unchanged(confirmed_at, is_patient, now),
            Some((held, at)) if revision < held && confirmed_at <= at => {
                // A replica that lags behind: another one may not, and it may catch up.
                self.failed(None, now);
                return Verdict::Older;
            }
            _ => {}
        }
        self.held = Some((revision, confirmed_at));
        (self.failures, self.is_spread, self.hasty, self.answered) = (0, false, 0, true);
        Verdict::Take
    }

    fn unchanged(&mut self, confirmed_at: Option<Timestamp>, is_patient: bool, now: Instant) -> Verdict {
        if let Some((_, at)) = &mut self.held {
            *at = confirmed_at.max(*at);
        }
        (self.failures, self.is_spread, self.answered) = (0, false, true);
        if is_patient {
            self.hasty = 0;
            return Verdict::Same;
        }
        // Something answers in the directory's stead, a cache perhaps.
        self.hasty = self.hasty.saturating_add(1);
        self.wait(full_jitter(self.hasty, LONGEST_WAIT), now);
        Verdict::Same
    }

    /// A poll that would have come through, had it been shorter.
    fn cut(&mut self, shorter: Duration, now: Instant) -> Verdict {
        let patience = &mut self.endpoints[self.at];
        patience.cuts = patience.cuts.saturating_add(1);
        if patience.cuts < BELIEVED_CUTS {
            return self.failed(None, now);
        }
        patience.wait = shorter.max(LEAST_POLL);
        patience.since = Some(now);
        let wait = patience.wait;
        let pause = self.spread(); // or a directory that ended twice, for everybody
        self.wait(pause, now);
        Verdict::Shortened(wait)
    }

    /// The next endpoint; after a round of all of them, later and later.
    fn failed(&mut self, retry_after: Option<Duration>, now: Instant) -> Verdict {
        let was_answered = std::mem::take(&mut self.answered);
        let count = self.endpoints.len();
        self.at = (self.at + 1) % count;
        let rounds = u32::try_from(self.failures as usize / count).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let is_round_over = (self.failures as usize).is_multiple_of(count);
        let wait = if !self.is_spread && (was_answered || is_round_over) {
            self.spread()
        } else if is_round_over {
            SPREAD + full_jitter(rounds, LONGEST_WAIT - SPREAD)
        } else {
            full_jitter(0, FIRST_WAIT)
        };
        // Told to all at once, so each adds its own.
        let asked = retry_after.filter(|_| is_round_over).unwrap_or_default().min(LONGEST_ASKED);
        self.wait(wait + asked, now);
        Verdict::Failed
    }

    /// A moment of our own.
    fn spread(&mut self) -> Duration {
        self.is_spread = true;
        SPREAD.mul_f64(fastrand::f64())
    }

    fn wait(&mut self, wait: Duration, now: Instant) {
        self.state = State::Waiting { until: now + wait };
    }
}

/// Anywhere between nothing and a bound that doubles, up to `most`.
fn full_jitter(doublings: u32, most: Duration) -> Duration {
    let bound = FIRST_WAIT.saturating_mul(1 << doublings.min(10)).min(most);
    bound.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests;
