//! What is held against a part: who closed on it, and when it may go again.
//!
//! Not the verdict: that is `planner/suspects.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Key;

/// Closings that are remembered of one part.
const REMEMBERED: usize = 8;

/// After a collector closed on a suspect, others go first for this time.
const PAUSE: Duration = Duration::from_millis(150);
/// While nothing else passes, that time is doubled up to this: nobody is closed on all day for nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A collector closed the connection on a part that was alone there.
#[derive(Debug, Clone)]
pub(super) struct Strike {
    pub(super) by: Arc<Key>,
    pub(super) at: Instant,
    /// That connection had acked something else before.
    pub(super) proven: bool,
    /// The collector went on and acked something else afterwards.
    pub(super) confirmed: bool,
}

/// What is held against a part.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    /// Who closed while it was in flight, alone or not.
    pub(super) avoid: BTreeSet<Arc<Key>>,
    /// Who closed on it alone.
    pub(super) strikes: Vec<Strike>,
    /// It waits until then.
    pub(super) not_before: Instant,
    /// It waits until then for a connection that has acked something; later, any is good enough.
    pub(super) proof_until: Instant,
    /// How often a collector closed on it that had acked nothing on that connection.
    pub(super) unproven: u32,
    /// It is a part of something that was proven bad.
    pub(super) is_part: bool,
    /// Parts of one group are sent together, until the group is split.
    pub(super) group: u64,
}

impl Suspicion {
    pub(super) fn new(group: u64, now: Instant) -> Self {
        Self {
            group,
            avoid: BTreeSet::new(),
            strikes: Vec::new(),
            not_before: now,
            proof_until: now,
            unproven: 0,
            is_part: false,
        }
    }

    /// What proves nothing makes room first: however many of those come, the others are weighed one day.
    pub(super) fn strike(&mut self, strike: Strike) {
        self.not_before = strike.at + PAUSE;
        if !strike.proven {
            let wait = PAUSE.saturating_mul(1 << self.unproven.min(10)).min(LONGEST_PAUSE);
            self.proof_until = strike.at + wait;
            self.unproven += 1;
        }
        if self.strikes.len() == REMEMBERED {
            let least = self.strikes.iter().position(|s| !s.proven).unwrap_or(0);
            self.strikes.remove(least);
        }
        self.strikes.push(strike);
    }

    /// How often, and by how many different collectors, among the strikes that count.
    pub(super) fn weigh(&self, counts: impl Fn(&Strike) -> bool) -> (usize, usize) {
        let counted: Vec<_> = self.strikes.iter().filter(|s| counts(s)).collect();
        let by: BTreeSet<_> = counted.iter().map(|s| &s.by).collect();
        (counted.len(), by.len())
    }
}
