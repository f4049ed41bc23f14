//! Which lines of one proxy have arrived at a collector, one by one.
//!
//! Not an estimate: every line has a number, 1, 2, 3, …, and there is one bit for each from the first that has
//! not arrived on.
//!
//! Invariant: a number counts as received once, and every further time as a duplicate. Memory is that of the
//! numbers between the first gap and the last line written, and a proxy that may not write bounds those.

use std::collections::VecDeque;

const BITS: u64 = u64::BITS as u64;

/// The numbers of one proxy.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    written: u64,
    received: u64,
    duplicates: u64,
    /// Whole words of numbers that have all arrived.
    full: u64,
    /// The numbers after those, 64 to a word.
    words: VecDeque<u64>,
}

impl Ledger {
    /// The next `count` lines are about to be written.
    pub(super) fn write(&mut self, count: u64) {
        self.written += count;
    }

    /// A line has arrived. False: nobody wrote such a line.
    pub(super) fn arrive(&mut self, number: u64) -> bool {
        if number == 0 || number > self.written {
            return false;
        }
        let (word, bit) = ((number - 1) / BITS, 1_u64 << ((number - 1) % BITS));
        let Some(at) = word.checked_sub(self.full).and_then(|at| usize::try_from(at).ok()) else {
            self.duplicates += 1;
            return true;
        };
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        if self.words[at] & bit != 0 {
            self.duplicates += 1;
            return true;
        }
        self.words[at] |= bit;
        self.received += 1;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.full += 1;
        }
        true
    }

    /// Lines that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Lines that have arrived, each counted once.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// How often a line arrived that had arrived before.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Up to here everything has arrived.
    pub(super) fn whole(&self) -> u64 {
        let more = self.words.front().map_or(0, |word| u64::from(word.trailing_ones()));
        self.full * BITS + more
    }

    /// How many of the first `upto` have not arrived.
    pub(super) fn gaps(&self, upto: u64) -> u64 {
        let beyond = upto.saturating_sub(self.full * BITS);
        let (whole, rest) = (beyond / BITS, beyond % BITS);
        let ones = self.words.iter().zip(0..=whole).map(|(word, at)| {
            let counted = if at < whole { *word } else { *word & ((1 << rest) - 1) };
            u64::from(counted.count_ones())
        });
        beyond - ones.sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_counts_once_whatever_the_order() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut ledger = Ledger::default();
        ledger.write(1_000);
        let mut numbers: Vec<u64> = (1..=1_000).collect();
        rng.shuffle(&mut numbers);
        let late = numbers.split_off(950);
        for number in &numbers {
            assert!(ledger.arrive(*number));
        }
        let first = *late.iter().min().unwrap();
        assert_eq!((ledger.received(), ledger.duplicates(), ledger.whole()), (950, 0, first - 1));
        for upto in [0, 1, 63, 64, 65, 500, 1_000] {
            let gaps = late.iter().filter(|number| **number <= upto).count() as u64;
            assert_eq!(ledger.gaps(upto), gaps, "{upto}");
        }
        for number in numbers.iter().take(10).chain(&late) {
            assert!(ledger.arrive(*number));
        }
        assert_eq!((ledger.received(), ledger.duplicates(), ledger.whole()), (1_000, 10, 1_000));
        assert_eq!(ledger.gaps(1_000), 0);
        assert!(ledger.words.len() <= 1, "what has arrived takes no room");
    }

    #[test]
    fn a_line_that_was_never_written_is_no_line() {
        let mut ledger = Ledger::default();
        ledger.write(3);
        assert!(!ledger.arrive(0) && !ledger.arrive(4) && !ledger.arrive(u64::MAX));
        assert_eq!((ledger.received(), ledger.gaps(3)), (0, 3));
    }
}
