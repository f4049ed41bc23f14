//! The budget of one API: a least distance between the starts of two calls.
//!
//! Not a token bucket: a burst would be spent just when everyone else in the account has one too.
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
    last: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn per_second(calls: f64) -> Self {
        let calls = if calls.is_finite() && calls > 0.0 { calls } else { DEFAULT_PER_SECOND };
        Self { distance: Duration::from_secs_f64(1.0 / calls.max(MIN_PER_SECOND)), last: Mutex::new(None) }
    }

    /// Waits until the next call may start.
    pub(super) async fn turn(&self) {
        // Held while waiting, on purpose: tokio's lock is fair, and so are the turns.
        let mut last = self.last.lock().await;
        if let Some(last) = *last {
            tokio::time::sleep_until(last + self.distance).await;
        }
        *last = Some(Instant::now());
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
