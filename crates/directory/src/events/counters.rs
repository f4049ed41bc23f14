//! What came in, counted by the way it came and what became of it. All ways share one table, which
//! `/metrics` reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// The way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `POST /v1/events`.
    Http,
    /// `POST /v1/events/sns`.
    Sns,
    /// A queue of SQS.
    Sqs,
}

/// What became of an event, or of the message that it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An event about one of our fleets.
    Ours,
    /// An event about a group or an instance that is not ours.
    Foreign,
    /// A test notification of AWS.
    Test,
    /// Something of AWS that says nothing about collectors.
    Irrelevant,
    /// Something that could not be understood; acknowledged, so that it does not come again.
    Rejected,
    /// An event whose effect is in no store; it has to come again.
    NotKept,
    /// A message that was taken before.
    Replayed,
    /// A subscription that was confirmed.
    Confirmed,
    /// The end of a subscription.
    Unsubscribed,
    /// A message that was refused for good: forged, expired, of another topic, malformed, too large.
    Refused,
    /// A message that could not be taken now; it has to come again.
    Unavailable,
}

impl Way {
    /// Every way, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Http, Self::Sns, Self::Sqs];

    /// The word of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Sns => "sns",
            Self::Sqs => "sqs",
        }
    }
}

impl Outcome {
    /// Every outcome, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::Ours,
        Self::Foreign,
        Self::Test,
        Self::Irrelevant,
        Self::Rejected,
        Self::NotKept,
        Self::Replayed,
        Self::Confirmed,
        Self::Unsubscribed,
        Self::Refused,
        Self::Unavailable,
    ];

    /// The word of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Foreign => "foreign",
            Self::Test => "test",
            Self::Irrelevant => "irrelevant",
            Self::Rejected => "rejected",
            Self::NotKept => "not_kept",
            Self::Replayed => "replayed",
            Self::Confirmed => "confirmed",
            Self::Unsubscribed => "unsubscribed",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The table.
#[derive(Debug)]
pub struct Counters([[AtomicU64; Outcome::ALL.len()]; Way::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { [const { AtomicU64::new(0) }; Outcome::ALL.len()] }; Way::ALL.len()])
    }
}

impl Counters {
    /// Counts `count` more.
    pub fn add(&self, way: Way, outcome: Outcome, count: usize) {
        self.0[way as usize][outcome as usize].fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self, way: Way, outcome: Outcome) -> u64 {
        self.0[way as usize][outcome as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_its_own() {
        let counters = Counters::default();
        for (row, way) in Way::ALL.into_iter().enumerate() {
            for (column, outcome) in Outcome::ALL.into_iter().enumerate() {
                counters.add(way, outcome, 1 + row * Outcome::ALL.len() + column);
            }
        }
        let counts = Way::ALL.into_iter().flat_map(|w| Outcome::ALL.map(|o| counters.get(w, o)));
        assert!(counts.eq(1..=33));
    }
}
