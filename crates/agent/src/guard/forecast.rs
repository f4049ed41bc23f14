//! When a disk, or the room of a spool, is full, from how its free space went. Pure.
//!
//! Not an alarm: that is in `levels.rs`.
//!
//! Invariants: the answer is whole seconds, or nothing; too little data says nothing. A single odd sample
//! does not change the answer: the rate is the median of the slopes between all pairs (Theil and Sen).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How far back is looked.
const WINDOW: Duration = Duration::from_secs(300);
/// Samples closer together than this say nothing new: a window has at most this many.
const MAX_SAMPLES: usize = 60;
/// Fewer samples than this say nothing.
const MIN_SAMPLES: usize = 5;
/// A shorter time than this says nothing.
const MIN_SPAN: Duration = Duration::from_secs(20);
/// Nobody can use a forecast that is longer: a month.
const HORIZON: Duration = Duration::from_secs(30 * 86_400);
/// Somebody gave back space if this part of the disk came free at once: what was before says nothing then.
const STEP: u64 = 100;

/// What is known of a disk's past.
#[derive(Debug, Default)]
pub(crate) struct Forecast {
    samples: VecDeque<(Instant, u64)>,
    last: Option<u64>,
}

impl Forecast {
    /// Takes in the free space of now, in bytes.
    pub(crate) fn observe(&mut self, now: Instant, free: u64, total: u64) {
        if self.last.is_some_and(|last| free > last.saturating_add(total / STEP)) {
            self.samples.clear();
        }
        self.last = Some(free);
        let is_new = self.samples.back().is_none_or(|(at, _)| {
            now.saturating_duration_since(*at) >= WINDOW / u32::try_from(MAX_SAMPLES).unwrap_or(1)
        });
        if !is_new {
            return;
        }
        self.samples.push_back((now, free));
        while self.samples.len() > MAX_SAMPLES
            || self.samples.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Whether there is enough data to say anything.
    pub(crate) fn is_known(&self) -> bool {
        let span = self.samples.front().zip(self.samples.back());
        let span = span.map(|((first, _), (last, _))| last.saturating_duration_since(*first));
        self.samples.len() >= MIN_SAMPLES && span >= Some(MIN_SPAN)
    }

    /// When the disk is full; `None`: not within a month, or not known.
    pub(crate) fn until_full(&self) -> Option<Duration> {
        let rate = self.rate()?;
        let free = self.last? as f64;
        if rate >= 0.0 {
            return None;
        }
        let seconds = free / -rate;
        (seconds < HORIZON.as_secs_f64()).then(|| Duration::from_secs(seconds as u64))
    }

    /// Bytes a second; negative: the disk fills.
    fn rate(&self) -> Option<f64> {
        if !self.is_known() {
            return None;
        }
        let mut slopes = Vec::with_capacity(self.samples.len() * self.samples.len() / 2);
        for (index, (at, free)) in self.samples.iter().enumerate() {
            for (later, then) in self.samples.iter().skip(index + 1) {
                let seconds = later.saturating_duration_since(*at).as_secs_f64();
                if seconds > 0.0 {
                    slopes.push((*then as f64 - *free as f64) / seconds);
                }
            }
        }
        slopes.sort_by(f64::total_cmp);
        slopes.get(slopes.len() / 2).copied().filter(|slope| slope.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GB: u64 = 1_000_000_000;

    fn fed(samples: impl IntoIterator<Item = (u64, u64)>) -> Forecast {
        let start = Instant::now();
        let mut forecast = Forecast::default();
        for (second, free) in samples {
            forecast.observe(start + Duration::from_secs(second), free, 200 * GB);
        }
        forecast
    }

    #[test]
    fn two_hundred_gigabytes_fill_in_twenty_two_minutes() {
        let forecast = fed((0..10).map(|n| (n * 5, 200 * GB - n * 5 * 150_000_000)));
        let left = forecast.until_full().unwrap().as_secs();
        assert_eq!(left, (200 * GB - 45 * 150_000_000) / 150_000_000);
    }

    #[test]
    fn too_little_data_says_nothing_and_neither_does_a_disk_that_does_not_fill() {
        assert!(!fed((0..4).map(|n| (n * 10, GB - n))).is_known());
        assert!(!fed((0..19).map(|n| (n, GB - n))).is_known());
        assert_eq!(fed((0..4).map(|n| (n * 10, GB - n * 1000))).until_full(), None);
        assert_eq!(fed((0..10).map(|n| (n * 10, GB))).until_full(), None);
        assert_eq!(fed((0..10).map(|n| (n * 10, GB + n))).until_full(), None);
    }

    #[test]
    fn one_odd_sample_changes_nothing_and_a_deletion_starts_anew() {
        let falling = |n: u64| (n * 5, 100 * GB - n * GB);
        let plain = fed((0..20).map(falling)).until_full().unwrap().as_secs();
        let odd = |n: u64| if n == 7 { (35, 60 * GB) } else { falling(n) };
        // What comes back after the odd one looks like a deletion; what counts is the same rate again.
        let with_odd = fed((0..20).map(odd)).until_full().unwrap().as_secs();
        assert_eq!(plain, with_odd);
        // A file that is there for a moment, too small to look like a deletion when it is gone.
        let brief = |n: u64| if n == 7 { (35, 92 * GB) } else { falling(n) };
        assert_eq!(fed((0..20).map(brief)).until_full().unwrap().as_secs(), plain);
        let mut samples: Vec<_> = (0..20).map(falling).collect();
        samples.push((100, 150 * GB));
        assert!(!fed(samples).is_known());
    }

    proptest! {
        #[test]
        fn it_is_always_a_number_of_seconds_or_nothing(
            samples in proptest::collection::vec((0u64..20, any::<u64>()), 0..200), total in any::<u64>(),
        ) {
            let mut forecast = Forecast::default();
            let mut now = Instant::now();
            for (step, free) in samples {
                now += Duration::from_secs(step);
                forecast.observe(now, free, total);
                prop_assert!(forecast.samples.len() <= MAX_SAMPLES);
                prop_assert!(forecast.until_full().is_none_or(|left| left < HORIZON));
            }
        }
    }
}
