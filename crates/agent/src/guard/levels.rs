//! Whether a disk is about to be full, or low. Pure.
//!
//! Not a forecast: that is in `forecast.rs`.
//!
//! Invariant: no alarm flaps. What raises one is stricter than what must hold to lower it, and not knowing
//! changes nothing.

use std::time::Duration;

/// A disk that is full sooner than this is told early.
const SOON: Duration = Duration::from_secs(30 * 60);
/// It is no longer told when it takes longer than this.
const NOT_SOON: Duration = Duration::from_secs(45 * 60);
/// This part of `min_free` more must be free before a disk is no longer low.
const MARGIN: u64 = 10;

/// How much must be free before a disk is no longer low, in bytes; what a policy works towards.
pub(super) const fn goal(min_free: u64) -> u64 {
    min_free.saturating_add(min_free / MARGIN)
}

/// Whether the goal can be reached at all. Else everything would be given up for nothing.
pub(super) const fn is_possible(min_free: u64, total: u64) -> bool {
    goal(min_free) <= total / 2
}

/// Which alarms are raised.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Levels {
    /// It will soon be full.
    pub(super) is_filling: bool,
    /// Less than `min_free` is free.
    pub(super) is_low: bool,
}

impl Levels {
    /// Takes in how it is now. `is_known`: there is data enough for a forecast.
    pub(super) fn observe(&mut self, free: u64, min_free: u64, is_known: bool, until_full: Option<Duration>) {
        if is_known {
            let limit = if self.is_filling { NOT_SOON } else { SOON };
            self.is_filling = until_full.is_some_and(|left| left < limit);
        }
        self.is_low = free < if self.is_low { goal(min_free) } else { min_free };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_do_not_flap() {
        let mut levels = Levels::default();
        let minutes = |n: u64| Some(Duration::from_secs(n * 60));
        let mut seen = Vec::new();
        for left in [31, 29, 31, 44, 29, 46, 31] {
            levels.observe(500, 100, true, minutes(left));
            seen.push(levels.is_filling);
        }
        assert_eq!(seen, [false, true, true, true, true, false, false]);
        seen.clear();
        for free in [100, 99, 100, 109, 99, 110, 100] {
            levels.observe(free, 100, true, None);
            seen.push(levels.is_low);
        }
        assert_eq!(seen, [false, true, true, true, true, false, false]);
    }

    #[test]
    fn not_knowing_changes_nothing() {
        let mut levels = Levels::default();
        levels.observe(500, 100, false, None);
        assert_eq!(levels, Levels::default());
        levels.observe(500, 100, true, Some(Duration::ZERO));
        levels.observe(500, 100, false, None);
        assert!(levels.is_filling);
    }
}
