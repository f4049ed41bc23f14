//! The keys of signing certificates: fetched once, kept, and not asked for again at once after a failure.
//!
//! A forged message may name any file on AWS's host. What that can cost is bounded: few fetches run at a time, a
//! budget limits how many begin, failures are remembered apart from keys so that they cannot push a key out.
//!
//! Invariant: for one URL there is at most one fetch under way, however many messages wait for it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pikepole_fleet::Timestamp;
use tokio::sync::watch;

use super::outside::{Outside, OutsideError};
use super::place::{CertUrl, TopicArn};
use super::verify::{CertError, Chain, SigningKey};
use crate::clock::Clock;

/// Keys that are kept: one a region, and the next one while it rotates.
const MAX_KEYS: usize = 32;
/// Failures that are remembered. More cannot be young: the budget allows fewer in `RETRY_AFTER`.
const MAX_FAILURES: usize = 128;
/// Fetches under way at a time.
const MAX_FLIGHTS: usize = 8;
/// Fetches that may begin at once after a quiet time.
const BURST: u32 = 32;
/// After this, one more fetch may begin.
const REFILL: Duration = Duration::from_secs(1);
/// A failed fetch is not tried again before this.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// A certificate that is kept is judged again after this: it may have run out meanwhile.
const JUDGE_AGAIN: Duration = Duration::from_secs(600);

/// Why there is no key now. There may be one later, so the message has to come again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// The certificate could not be had.
    #[error("the signing certificate: {0}")]
    Certificate(OutsideError),
    /// The certificate of the authority behind it could not be had.
    #[error("the issuer of the signing certificate: {0}")]
    Issuer(OutsideError),
    /// It is not believed: an old list of roots here, a wrong clock, or something in between.
    #[error("the signing certificate: {0}")]
    NotBelieved(CertError),
    /// Too many other certificates are asked for.
    #[error("too many signing certificates are asked for at once")]
    Busy,
    /// The fetch ended without a word.
    #[error("the fetch of the signing certificate was broken off")]
    BrokenOff,
}

type Found = Result<Arc<Kept>, NoKey>;

/// A certificate that was believed, with its key.
#[derive(Debug)]
struct Kept {
    chain: Chain,
    key: SigningKey,
    judged: Timestamp,
}

/// The keys that are known, and how to get others.
#[derive(Debug)]
pub(super) struct Keys {
    outside: Outside,
    clock: Clock,
    /// For one request.
    time: Duration,
    state: Mutex<State>,
}

/// What a URL has come to. The lists have their latest entry at the end.
#[derive(Debug)]
struct State {
    keys: VecDeque<(CertUrl, Arc<Kept>)>,
    failures: VecDeque<(CertUrl, Timestamp, NoKey)>,
    flights: HashMap<CertUrl, watch::Receiver<Option<Found>>>,
    budget: Budget,
}

/// What there is to do for a URL.
enum Step {
    Done(Found),
    Judge(Arc<Kept>),
    Wait(watch::Receiver<Option<Found>>),
    Fetch(watch::Sender<Option<Found>>, watch::Receiver<Option<Found>>),
}

impl Keys {
    pub(super) fn new(outside: Outside, clock: Clock, time: Duration) -> Arc<Self> {
        let budget = Budget { left: BURST, since: clock.now() };
        let state =
            State { keys: VecDeque::new(), failures: VecDeque::new(), flights: HashMap::new(), budget };
        Arc::new(Self { outside, clock, time, state: Mutex::new(state) })
    }

    /// The key at a URL: from memory, or fetched. The fetch goes on if the caller goes away, since others wait too.
    pub(super) async fn get(self: &Arc<Self>, url: &CertUrl, topic: &TopicArn) -> Result<SigningKey, NoKey> {
        let step = self.lock().step(url, self.clock.now());
        let mut flight = match step {
            Step::Done(found) => return found.map(|kept| kept.key.clone()),
            Step::Judge(kept) => return self.judge_again(url, topic, &kept),
            Step::Wait(flight) => flight,
            Step::Fetch(done, flight) => {
                let (keys, url, topic) = (Arc::clone(self), url.clone(), topic.clone());
                tokio::spawn(async move {
                    let landing = Landing { keys: &keys, url: &url };
                    let found = keys.fetch(&url, &topic).await;
                    landing.land(&found);
                    done.send_replace(Some(found));
                });
                flight
            }
        };
        match flight.wait_for(Option::is_some).await {
            Ok(found) => found.clone().unwrap_or(Err(NoKey::BrokenOff)).map(|kept| kept.key.clone()),
            Err(_) => Err(NoKey::BrokenOff),
        }
    }

    fn judge_again(&self, url: &CertUrl, topic: &TopicArn, kept: &Kept) -> Result<SigningKey, NoKey> {
        let now = self.clock.now();
        let judged = kept.chain.believe(topic, self.outside.roots(), now).map_err(NoKey::NotBelieved);
        let found = judged.map(|key| Arc::new(Kept { chain: kept.chain.clone(), key, judged: now }));
        self.lock().keep(url, &found, now);
        found.map(|kept| kept.key.clone())
    }

    async fn fetch(&self, url: &CertUrl, topic: &TopicArn) -> Found {
        let pem = self.outside.get(url.as_str(), self.time).await.map_err(NoKey::Certificate)?;
        let mut chain = Chain::from_pem(&pem).map_err(NoKey::NotBelieved)?;
        let (roots, now) = (self.outside.roots(), self.clock.now());
        let mut judged = chain.believe(topic, roots, now);
        if let (Err(CertError::Untrusted(_)), Some(issuer)) = (&judged, chain.issuer_url()) {
            let issuer = self.outside.get(issuer, self.time).await.map_err(NoKey::Issuer)?;
            chain.add_issuer(&issuer);
            judged = chain.believe(topic, roots, now);
        }
        let key = judged.map_err(NoKey::NotBelieved)?;
        Ok(Arc::new(Kept { chain, key, judged: now }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing in here is left half-done by a panic: each list is changed in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flight is taken off the list however it ends.
struct Landing<'a> {
    keys: &'a Keys,
    url: &'a CertUrl,
}

impl Landing<'_> {
    fn land(&self, found: &Found) {
        match found {
            Ok(_) => tracing::info!(url = self.url.as_str(), "took a new signing certificate of SNS"),
            Err(error) => tracing::warn!(url = self.url.as_str(), %error, "cannot verify messages of SNS"),
        }
        self.keys.lock().keep(self.url, found, self.keys.clock.now());
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.keys.lock().flights.remove(self.url);
    }
}

impl State {
    fn step(&mut self, url: &CertUrl, now: Timestamp) -> Step {
        if let Some(at) = self.keys.iter().position(|(known, _)| known == url)
            && let Some(entry) = self.keys.remove(at)
        {
            let kept = Arc::clone(&entry.1);
            self.keys.push_back(entry);
            let fresh = is_within(kept.judged, now, JUDGE_AGAIN);
            return if fresh { Step::Done(Ok(kept)) } else { Step::Judge(kept) };
        }
        if let Some(flight) = self.flights.get(url) {
            return Step::Wait(flight.clone());
        }
        let recent =
            |(known, at, _): &&(CertUrl, Timestamp, NoKey)| known == url && is_within(*at, now, RETRY_AFTER);
        if let Some((_, _, error)) = self.failures.iter().find(recent) {
            return Step::Done(Err(error.clone()));
        }
        if self.flights.len() >= MAX_FLIGHTS || !self.budget.take(now) {
            return Step::Done(Err(NoKey::Busy));
        }
        let (done, flight) = watch::channel(None);
        self.flights.insert(url.clone(), flight.clone());
        Step::Fetch(done, flight)
    }

    /// Keeps what became of a URL, and no more than the limits of all others.
    fn keep(&mut self, url: &CertUrl, found: &Found, now: Timestamp) {
        self.keys.retain(|(known, _)| known != url);
        self.failures.retain(|(known, at, _)| known != url && is_within(*at, now, RETRY_AFTER));
        match found {
            Ok(kept) => self.keys.push_back((url.clone(), Arc::clone(kept))),
            Err(error) => self.failures.push_back((url.clone(), now, error.clone())),
        }
        let too_many = self.keys.len().saturating_sub(MAX_KEYS);
        self.keys.drain(..too_many);
        let too_many = self.failures.len().saturating_sub(MAX_FAILURES);
        self.failures.drain(..too_many);
    }
}

/// Whether `now` lies within `time` after `then`. A clock that was set back is outside too.
fn is_within(then: Timestamp, now: Timestamp, time: Duration) -> bool {
    then <= now && now.since(then) < time
}

/// How many fetches may begin.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Timestamp,
}

impl Budget {
    fn take(&mut self, now: Timestamp) -> bool {
        let passed = now.since(self.since).as_millis() / REFILL.as_millis();
        if passed > 0 || now < self.since {
            self.left = self.left.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX)).min(BURST);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(number: usize) -> CertUrl {
        let topic = "arn:aws:sns:ap-south-1:1:t".parse().unwrap();
        let text =
            format!("https://sns.ap-south-1.amazonaws.com/SimpleNotificationService-{number:032x}.pem");
        CertUrl::parse(&text, &topic).unwrap()
    }

    fn state() -> State {
        let budget = Budget { left: BURST, since: at(0) };
        State { keys: VecDeque::new(), failures: VecDeque::new(), flights: HashMap::new(), budget }
    }

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_763_800_000_000 + seconds * 1_000)
    }

    #[test]
    fn ten_thousand_urls_begin_no_more_fetches_than_the_budget_and_are_not_kept() {
        let mut state = state();
        let mut begun = 0;
        for number in 0..10_000 {
            if let Step::Fetch(..) = state.step(&url(number), at(0)) {
                begun += 1;
                state.flights.remove(&url(number));
                state.keep(&url(number), &Err(NoKey::BrokenOff), at(0));
            }
        }
        assert_eq!(begun, BURST);
        for number in 0..10_000 {
            state.keep(&url(number), &Err(NoKey::BrokenOff), at(0));
        }
        assert_eq!((state.failures.len(), state.keys.len(), state.flights.len()), (MAX_FAILURES, 0, 0));
    }

    #[test]
    fn only_so_many_fetches_run_at_a_time_and_the_budget_fills_again() {
        let mut state = state();
        let fetches = |state: &mut State, now| {
            (0..1_000).filter(|n| matches!(state.step(&url(*n), now), Step::Fetch(..))).count()
        };
        assert_eq!(fetches(&mut state, at(0)), MAX_FLIGHTS);
        state.flights.clear();
        let mut budget = Budget { left: 0, since: at(10) };
        assert!(!budget.take(at(10)));
        assert!(budget.take(at(11)) && !budget.take(at(11)));
        // Set back by an hour, the clock still fills it from there on.
        assert!(!budget.take(at(0)));
        assert!(budget.take(at(2)) && budget.take(at(2)) && !budget.take(at(2)));
    }

    #[test]
    fn a_failure_is_remembered_for_its_time_and_not_after_the_clock_went_back() {
        let mut state = state();
        state.keep(&url(1), &Err(NoKey::BrokenOff), at(100));
        assert!(matches!(state.step(&url(1), at(129)), Step::Done(Err(NoKey::BrokenOff))));
        assert!(matches!(state.step(&url(1), at(130)), Step::Fetch(..)));
        state.flights.clear();
        assert!(matches!(state.step(&url(1), at(50)), Step::Fetch(..)));
    }
}
