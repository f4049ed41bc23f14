//! How fast: windows in flight at one collector, its ack latency, and the waits between attempts.
//!
//! The limit is AIMD on ack latency: one more when the limit was in use and acks are no slower than usual,
//! a tenth less when they are clearly slower; one decision per round trip.
//!
//! Invariant: the limit is always within [`LEAST`]..=[`MOST`].

use std::time::Duration;

use tokio::time::Instant;

/// Windows in flight at a collector at first.
pub(super) const INITIAL: usize = 2;
/// Never fewer.
pub(super) const LEAST: usize = 1;
/// Never more: so many windows are resent at worst when a collector dies.
pub(in crate::balance) const MOST: usize = 16;
/// The weight of a new latency.
const WEIGHT: f64 = 0.3;
/// Slower by so many deviations is clearly slower.
const DEVIATIONS: f64 = 2.5;
/// Slower by less than this is noise, in seconds.
const NOISE: f64 = 0.005;
/// The latency of a collector that is not asked counts half after this time, in seconds: nobody is
/// avoided for ever for one slow ack.
const FADE: f64 = 10.0;
/// The first wait after a failure; doubled each time, and anything between nothing and all of it is waited.
const RETRY: Duration = Duration::from_secs(1);
/// No such wait is longer.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// No such wait is shorter.
const SHORTEST_RETRY: Duration = Duration::from_millis(50);

/// How long acks take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Latency {
    mean: f64,
    deviation: f64,
    last: Option<Instant>,
}

impl Latency {
    fn learn(&mut self, seconds: f64, now: Instant) {
        if self.last.is_none() {
            (self.mean, self.deviation) = (seconds, seconds / 2.0);
        } else {
            self.deviation += WEIGHT * ((seconds - self.mean).abs() - self.deviation);
            self.mean += WEIGHT * (seconds - self.mean);
        }
        self.last = Some(now);
    }

    /// In seconds, for choosing; `None`: not known yet.
    pub(super) fn fading(&self, now: Instant) -> Option<f64> {
        let idle = now.saturating_duration_since(self.last?).as_secs_f64();
        Some(self.mean * (-idle / FADE).exp2())
    }

    /// In milliseconds, for people.
    pub(super) fn millis(&self) -> Option<f64> {
        self.last.map(|_| (self.mean * 1e6).round() / 1e3)
    }
}

/// How many windows may be in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    windows: usize,
    was_reached: bool,
    decided: Option<Instant>,
}

impl Default for Limit {
    fn default() -> Self {
        Self { windows: INITIAL, was_reached: false, decided: None }
    }
}

impl Limit {
    pub(super) const fn get(&self) -> usize {
        self.windows
    }

    /// So many are in flight now.
    pub(super) const fn sent(&mut self, in_flight: usize) {
        self.was_reached |= in_flight >= self.windows;
    }

    /// A window was acked.
    pub(super) fn acked(&mut self, latency: &mut Latency, sent: Instant, now: Instant) {
        let seconds = now.saturating_duration_since(sent).as_secs_f64();
        let before = *latency;
        latency.learn(seconds, now);
        // A window that was sent before the last decision tells nothing about it.
        if before.last.is_none() || self.decided.is_some_and(|decided| sent < decided) {
            return;
        }
        let slow = before.mean + (DEVIATIONS * before.deviation).max(NOISE);
        if seconds > slow {
            self.windows = (self.windows * 9 / 10).max(LEAST);
        } else if self.was_reached && seconds <= before.mean + NOISE {
            self.windows = (self.windows + 1).min(MOST);
        } else {
            return;
        }
        self.decided = Some(now);
        self.was_reached = false;
    }
}

/// The wait after so many failures in a row; `dice` is in 0..1.
pub(super) fn backoff(failures: u32, dice: f64) -> Duration {
    let most = RETRY.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_RETRY);
    most.mul_f64(dice).max(SHORTEST_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(limit: &mut Limit, latency: &mut Latency, now: &mut Instant, rounds: usize, millis: u64) {
        for _ in 0..rounds {
            let sent = *now;
            limit.sent(limit.get());
            *now += Duration::from_millis(millis);
            limit.acked(latency, sent, *now);
        }
    }

    #[test]
    fn a_fast_collector_gets_more_and_a_slowing_one_less_within_bounds() {
        let (mut limit, mut latency, mut now) = (Limit::default(), Latency::default(), Instant::now());
        drive(&mut limit, &mut latency, &mut now, 40, 50);
        assert_eq!(limit.get(), MOST);
        drive(&mut limit, &mut latency, &mut now, 1, 900);
        assert_eq!(limit.get(), 14);
        for step in 1..30 {
            drive(&mut limit, &mut latency, &mut now, 1, 900 << step.min(12));
        }
        assert!(limit.get() < 14 && limit.get() >= LEAST);
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        let (mut limit, mut latency, mut now) = (Limit::default(), Latency::default(), Instant::now());
        for _ in 0..40 {
            limit.sent(1);
            let sent = now;
            now += Duration::from_millis(50);
            limit.acked(&mut latency, sent, now);
        }
        assert_eq!(limit.get(), INITIAL);
    }

    #[test]
    fn one_slow_ack_is_forgotten_in_time() {
        let mut latency = Latency::default();
        let now = Instant::now();
        latency.learn(8.0, now);
        assert_eq!(latency.fading(now), Some(8.0));
        assert!(latency.fading(now + Duration::from_secs(60)).unwrap() < 0.2);
    }

    #[test]
    fn waits_double_up_to_half_a_minute_and_any_part_of_them_is_waited() {
        let most: Vec<u64> = (1..8).map(|n| backoff(n, 1.0).as_secs()).collect();
        assert_eq!(most, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff(5, 0.25), Duration::from_secs(4));
        assert_eq!(backoff(9, 0.0), SHORTEST_RETRY);
        assert_eq!(backoff(u32::MAX, 1.0), LONGEST_RETRY);
    }
}
