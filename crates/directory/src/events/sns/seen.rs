//! The messages that were taken: SNS sends one again under the same id when it did not hear our answer.
//!
//! Not a lock: two copies that arrive at the same moment both take effect, which is the same effect.
//!
//! Invariant: an id is here only once its message's effect is kept, so that a retry of one that failed still works.

use std::collections::{HashSet, VecDeque};

/// Ids that are remembered: an hour of five messages a second. A message older than an hour is refused anyway.
const MAX_IDS: usize = 16 * 1024;

/// The last ids.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn insert(&mut self, id: &str) {
        if !self.ids.insert(id.into()) {
            return;
        }
        self.order.push_back(id.into());
        if self.order.len() > MAX_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ids_are_known_and_no_more() {
        let mut seen = Seen::default();
        for id in 0..MAX_IDS + 10 {
            seen.insert(&id.to_string());
            seen.insert(&id.to_string());
        }
        assert!(!seen.contains("9") && seen.contains("10") && seen.contains(&(MAX_IDS + 9).to_string()));
        assert_eq!((seen.ids.len(), seen.order.len()), (MAX_IDS, MAX_IDS));
    }
}
