//! The budget of one API: a least distance between the starts of two calls.
//!
//! Describes have no burst: it would be spent just when everyone else in the account has one too. What
//! cannot wait may have one.
//!
//! Invariant: turns are given in the order they were asked for, and one whose caller went away is not
//! lost to the next.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Used where the configured number is none: one call a second.
const DEFAULT_PER_SECOND: f64 = 1.0;

/// Below this a sweep would take hours.
const MIN_PER_SECOND: f64 = 0.01;

/// Gives out turns.
#[derive(Debug)]
pub(super) struct Pace {
    distance: Duration,
    /// How far ahead of an even pace calls may be.
    ahead: Duration,
    /// When the next call would start at an even pace.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn per_second(calls: f64) -> Self {
        Self::with_burst(calls, 1)
    }

    /// The same, but after a rest so many calls may start at once.
    pub(super) fn with_burst(calls: f64, burst: u32) -> Self {
        let calls = if calls.is_finite() && calls > 0.0 { calls } else { DEFAULT_PER_SECOND };
        let distance = Duration::from_secs_f64(1.0 / calls.max(MIN_PER_SECOND));
        Self { distance, ahead: distance.saturating_mul(burst.saturating_sub(1)), next: Mutex::new(None) }
    }

    /// Waits until the next call may start.
    pub(super) async fn turn(&self) {
        // Held while waiting, on purpose: tokio's lock is fair, and so are the turns.
        let mut next = self.next.lock().await;
        if let Some(earliest) = next.and_then(|next| next.checked_sub(self.ahead)) {
            tokio::time::sleep_until(earliest).await;
        }
        let now = Instant::now();
        *next = Some(next.map_or(now, |next| next.max(now)) + self.distance);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_start_a_distance_apart_also_when_all_ask_at_once() {
        let pace = Arc::new(Pace::per_second(2.0));
        let begin = Instant::now();
        let mut turns = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let pace = Arc::clone(&pace);
            turns.spawn(async move {
                pace.turn().await;
                begin.elapsed().as_millis()
            });
        }
        let mut starts = turns.join_all().await;
        starts.sort_unstable();
        assert_eq!(starts, [0, 500, 1_000, 1_500]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_had_at_once_and_earned_again_by_resting() {
        let pace = Pace::with_burst(5.0, 10);
        let turns = async |count: u32| {
            let begin = Instant::now();
            for _ in 0..count {
                pace.turn().await;
            }
            begin.elapsed().as_millis()
        };
        assert_eq!(turns(10).await, 0);
        assert_eq!(turns(5).await, 1_000, "then five a second");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(turns(4).await, 200, "three were earned");
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(turns(11).await, 200, "and never more than the burst");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_given_up_is_not_lost() {
        let pace = Pace::per_second(1.0);
        pace.turn().await;
        let begin = Instant::now();
        assert!(timeout(Duration::from_millis(900), pace.turn()).await.is_err());
        pace.turn().await;
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_is_none_means_one_a_second() {
        for calls in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Pace::per_second(calls).distance, Duration::from_secs(1), "{calls}");
        }
        assert_eq!(Pace::per_second(1e-300).distance, Duration::from_secs(100));
    }
}
