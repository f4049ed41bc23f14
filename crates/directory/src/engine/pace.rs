//! When a reconciler asks its source again. Pure: the time comes in, jitter comes from a seed.
//!
//! Three clocks are kept apart: the regular tick, the gap that no demand may undercut, and the
//! back-off after failures. Only being throttled delays demands; any other failure is retried as soon
//! as somebody wants to know.

use std::time::Duration;

use tokio::time::Instant;

/// The longest back-off, as AWS recommends minutes rather than seconds when a whole account is throttled.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// The first back-off.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Share of the interval that a tick may come early or late: replicas must not march in step.
const JITTER: f64 = 0.2;

/// How a sweep over all fleets of a source went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// Every fleet got its answer. `again_within`: something is worth another look soon.
    Done { again_within: Option<Duration> },
    /// At least one did not.
    Failed,
    /// At least one was throttled.
    Throttled,
}

#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    gap: Duration,
    backoff: Option<Duration>,
    next_tick: Instant,
    not_before: Instant,
    rng: fastrand::Rng,
}

impl Pace {
    /// Ticks at once, then every `interval` ±20 %; demands at least `gap` apart.
    pub(super) fn new(interval: Duration, gap: Duration, now: Instant, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { interval, gap, backoff: None, next_tick: now, not_before: now, rng }
    }

    /// When the next regular sweep is due.
    pub(super) fn next_tick(&self) -> Instant {
        self.next_tick
    }

    /// Before this, not even a demand may ask.
    pub(super) fn not_before(&self) -> Instant {
        self.not_before
    }

    /// A sweep that began at `began` is over.
    pub(super) fn swept(&mut self, sweep: Sweep, began: Instant, now: Instant) {
        self.not_before = began + self.gap;
        match sweep {
            Sweep::Done { again_within } => {
                self.backoff = None;
                let regular = self.jittered(self.interval);
                self.next_tick = now + again_within.map_or(regular, |soon| soon.min(regular));
            }
            Sweep::Failed => {
                let wait = self.back_off(self.interval);
                self.next_tick = now + wait;
            }
            Sweep::Throttled => {
                let wait = self.back_off(MAX_BACKOFF);
                self.next_tick = now + wait;
                self.not_before = self.next_tick;
            }
        }
        self.next_tick = self.next_tick.max(self.not_before);
    }

    /// The same for a sweep that some fleets were left out of: theirs stays due when it was, so that
    /// demands for one fleet never put the others off. Throttling holds up all of them.
    pub(super) fn swept_some(&mut self, sweep: Sweep, began: Instant, now: Instant) {
        let due = self.next_tick;
        self.swept(sweep, began, now);
        if sweep != Sweep::Throttled {
            self.next_tick = self.next_tick.min(due).max(self.not_before);
        }
    }

    /// Decorrelated jitter: between the first back-off and three times the last, at most `most`.
    fn back_off(&mut self, most: Duration) -> Duration {
        let last = self.backoff.unwrap_or(FIRST_BACKOFF);
        let upper = (last * 3).min(most).max(FIRST_BACKOFF);
        let spread = (upper - FIRST_BACKOFF).as_secs_f64() * self.rng.f64();
        let wait = FIRST_BACKOFF + Duration::from_secs_f64(spread);
        // What grows is the bound, not the draw: a lucky short wait must not restart the climb.
        self.backoff = Some(upper);
        wait
    }

    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Sweep = Sweep::Done { again_within: None };

    fn pace() -> (Pace, Instant) {
        let now = Instant::now();
        (Pace::new(Duration::from_secs(30), Duration::from_secs(1), now, 7), now)
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_are_spread_by_a_fifth_and_demands_keep_their_gap() {
        let (mut pace, now) = pace();
        for _ in 0..1000 {
            pace.swept(DONE, now, now);
            let tick = pace.next_tick() - now;
            assert!((24.0..=36.0).contains(&tick.as_secs_f64()), "{tick:?}");
            assert_eq!(pace.not_before() - now, Duration::from_secs(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_backs_off_to_minutes_and_delays_demands() {
        let (mut pace, now) = pace();
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            pace.swept(Sweep::Throttled, now, now);
            assert_eq!(pace.not_before(), pace.next_tick());
            longest = longest.max(pace.next_tick() - now);
            assert!(longest <= MAX_BACKOFF);
        }
        assert!(longest > Duration::from_secs(240), "{longest:?}");
        pace.swept(DONE, now, now);
        assert_eq!(pace.not_before() - now, Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn other_failures_are_retried_within_the_interval_and_on_demand() {
        let (mut pace, now) = pace();
        for _ in 0..200 {
            pace.swept(Sweep::Failed, now, now);
            assert!(pace.next_tick() - now <= Duration::from_secs(30));
            assert_eq!(pace.not_before() - now, Duration::from_secs(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_look_comes_sooner_but_not_before_the_gap() {
        let (mut pace, now) = pace();
        pace.swept(Sweep::Done { again_within: Some(Duration::from_secs(5)) }, now, now);
        assert_eq!(pace.next_tick() - now, Duration::from_secs(5));
        pace.swept(Sweep::Done { again_within: Some(Duration::ZERO) }, now, now);
        assert_eq!(pace.next_tick() - now, Duration::from_secs(1));
    }
}
