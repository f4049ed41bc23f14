//! When the next commit begins: group commit. And when what failed is tried again.
//!
//! Pure: time is passed in. Invariants: two commits begin at least [`GAP`] apart. Whoever hurries waits no longer than
//! that; others wait for `every` at most, or until there are enough bytes. What nobody waits for waits for [`LAZY`].

use std::time::Duration;

use tokio::time::Instant;

/// An fsync that carries little costs as much as one that carries much.
const GAP: Duration = Duration::from_millis(5);
/// What is done, and marks: forgetting them costs duplicates at most.
const LAZY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    enough: usize,
    bytes: usize,
    is_hurried: bool,
    /// Since when somebody waits.
    waiting: Option<Instant>,
    /// Since when there is something that nobody waits for.
    lazy: Option<Instant>,
    began: Option<Instant>,
    failures: u32,
    is_ending: bool,
}

impl Pace {
    pub(super) const fn new(every: Duration, enough: usize) -> Self {
        let (bytes, failures, is_ending) = (0, 0, false);
        let (waiting, lazy, began) = (None, None, None);
        Self { every, enough, bytes, is_hurried: false, waiting, lazy, began, failures, is_ending }
    }

    /// Somebody waits for these bytes to be durable.
    pub(super) fn appended(&mut self, bytes: usize, is_hurried: bool, now: Instant) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.is_hurried |= is_hurried;
        self.waiting.get_or_insert(now);
    }

    /// There is something nobody waits for.
    pub(super) fn noted(&mut self, now: Instant) {
        self.lazy.get_or_insert(now);
    }

    /// Room is wanted, and a commit may make some.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.is_hurried = true;
        self.waiting.get_or_insert(now);
    }

    /// These are the last ones: nobody waits long for a disk that fails.
    pub(super) fn end(&mut self, now: Instant) {
        self.is_ending = true;
        self.hurry(now);
    }

    /// A commit begins: what is there goes with it.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
        (self.bytes, self.is_hurried, self.waiting, self.lazy) = (0, false, None, None);
    }

    /// It ended well. `more` says whether another one has something to do.
    pub(super) fn succeeded(&mut self, more: bool, now: Instant) {
        self.failures = 0;
        if more {
            self.noted(now);
        }
    }

    /// It failed: all of it is still to be done, and later each time.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.waiting.get_or_insert(now);
    }

    /// When the next commit is to begin.
    pub(super) fn due(&self) -> Option<Instant> {
        let wanted = match (self.waiting, self.lazy) {
            (Some(since), _) if self.is_hurried || self.bytes >= self.enough => since,
            (Some(since), Some(lazy)) => (since + self.every).min(lazy + LAZY),
            (Some(since), None) => since + self.every,
            (None, Some(lazy)) => lazy + LAZY,
            (None, None) => return None,
        };
        let gap = match self.failures {
            0 => GAP,
            _ if self.is_ending => GAP * 10,
            failures => super::backoff(failures),
        };
        Some(self.began.map_or(wanted, |began| wanted.max(began + gap)))
    }
}

/// Waits longer after each failure in a row.
#[derive(Default)]
pub(super) struct Patience {
    failures: u32,
    pub(super) until: Option<Instant>,
    pub(super) last: Option<String>,
}

impl Patience {
    pub(super) fn failed(&mut self, error: &dyn std::fmt::Display, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + super::backoff(self.failures));
        self.last = Some(error.to_string());
    }

    pub(super) fn may(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(20);

    fn pace() -> (Pace, Instant) {
        (Pace::new(EVERY, 1000), Instant::now())
    }

    #[test]
    fn groups_wait_for_company_and_hurried_ones_do_not() {
        let (mut pace, now) = pace();
        assert_eq!(pace.due(), None);
        pace.appended(10, false, now);
        assert_eq!(pace.due(), Some(now + EVERY));
        pace.appended(10, false, now + EVERY / 2);
        assert_eq!(pace.due(), Some(now + EVERY), "the first one's patience counts");
        pace.appended(10, true, now + EVERY / 2);
        assert_eq!(pace.due(), Some(now));
    }

    #[test]
    fn enough_bytes_do_not_wait() {
        let (mut pace, now) = pace();
        pace.appended(999, false, now);
        assert_eq!(pace.due(), Some(now + EVERY));
        pace.appended(1, false, now);
        assert_eq!(pace.due(), Some(now));
    }

    #[test]
    fn commits_begin_apart() {
        let (mut pace, now) = pace();
        pace.begin(now);
        pace.succeeded(false, now + GAP / 5);
        pace.appended(1, true, now + GAP / 5);
        assert_eq!(pace.due(), Some(now + GAP));
    }

    #[test]
    fn what_nobody_waits_for_is_not_hurried() {
        let (mut pace, now) = pace();
        pace.noted(now);
        pace.noted(now + EVERY);
        assert_eq!(pace.due(), Some(now + LAZY));
    }

    #[test]
    fn a_failing_disk_is_asked_less_and_less_often() {
        let (mut pace, now) = pace();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            pace.appended(1, true, now);
            pace.begin(now);
            pace.failed(now);
            let wait = pace.due().unwrap() - now;
            assert!(wait >= last && wait <= Duration::from_secs(5), "{wait:?}");
            last = wait;
        }
        assert_eq!(last, Duration::from_secs(5));
        pace.end(now);
        assert_eq!(pace.due(), Some(now + GAP * 10), "but not when it is to end");
        pace.succeeded(true, now);
        assert!(pace.due().unwrap() <= now + LAZY);
    }
}
