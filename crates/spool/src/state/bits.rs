//! One bit per block of a segment: is it finished? Grows as far as a bit was set.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn get(&self, at: u32) -> bool {
        self.0.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Sets it; was it not set before?
    pub(crate) fn set(&mut self, at: u32) -> bool {
        let (word, bit) = (at as usize / 64, 1 << (at % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// The first one at or after `from` that is not set, below `end`.
    pub(crate) fn next_unset(&self, mut from: u32, end: u32) -> Option<u32> {
        while from < end {
            let Some(word) = self.0.get(from as usize / 64) else { return Some(from) };
            let ahead = (word >> (from % 64)).trailing_ones().min(64 - from % 64);
            if ahead == 0 {
                return Some(from);
            }
            from += ahead;
        }
        None
    }

    /// The last one before `end` that is not set.
    pub(crate) fn last_unset(&self, mut end: u32) -> Option<u32> {
        while end > 0 {
            let last = end - 1;
            let Some(word) = self.0.get(last as usize / 64) else { return Some(last) };
            let behind = (word << (63 - last % 64)).leading_ones().min(last % 64 + 1);
            if behind == 0 {
                return Some(last);
            }
            end -= behind;
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// One bit per block, low bit first.
    pub(crate) fn to_bytes(&self, blocks: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(blocks.div_ceil(8) as usize, 0);
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self(bytes.chunks(8).map(word).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_plain_search_finds(set in proptest::collection::btree_set(0u32..200, 0..200), from in 0u32..210, end in 0u32..210) {
            let mut bits = Bits::default();
            for at in &set {
                prop_assert!(bits.set(*at));
                prop_assert!(!bits.set(*at));
            }
            prop_assert_eq!(bits.next_unset(from, end), (from..end).find(|at| !set.contains(at)));
            prop_assert_eq!(bits.last_unset(end), (0..end).rev().find(|at| !set.contains(at)));
            let back = Bits::from_bytes(&bits.to_bytes(200));
            prop_assert!((0..200).all(|at| back.get(at) == set.contains(&at)));
        }
    }
}
