//! Which events there are, and what became of each: sent, acked to its shipper, received by a collector.
//!
//! Not a store of events: an id is all that is kept of one, and of a tailed line its document id.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

/// No wait for deliveries is longer.
const PATIENCE: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Default)]
struct Entry {
    /// It must not be lost: its shipper was told so, or it is in a file.
    promised: bool,
    received: u32,
    dead: bool,
    /// `@metadata._id`s that it came with.
    documents: HashSet<String>,
}

/// Shared by whoever sends and receives.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Vec<Entry>>>);

/// What became of all events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) promised: u64,
    /// Different ones.
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) dead: u64,
    pub(super) lost: u64,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap()
    }

    /// New ids.
    pub(super) fn issue(&self, count: u64) -> Range<u64> {
        let mut entries = self.lock();
        let first = entries.len() as u64;
        entries.resize((first + count) as usize, Entry::default());
        first..first + count
    }

    /// These must not be lost from now on.
    pub(super) fn promised(&self, ids: Range<u64>) {
        self.lock()[ids.start as usize..ids.end as usize].iter_mut().for_each(|e| e.promised = true);
    }

    pub(super) fn dead(&self, id: u64) {
        self.lock()[id as usize].dead = true;
    }

    /// A collector has these, each with its document id if there is one.
    pub(super) fn received(&self, events: &[(u64, Option<String>)]) {
        let mut entries = self.lock();
        for (id, document) in events {
            let entry = &mut entries[*id as usize];
            entry.received += 1;
            entry.documents.extend(document.clone());
        }
    }

    pub(super) fn times_received(&self, id: u64) -> u32 {
        self.lock()[id as usize].received
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.lock().iter() {
            counts.sent += 1;
            counts.promised += u64::from(entry.promised);
            counts.received += u64::from(entry.received > 0);
            counts.duplicates += u64::from(entry.received.saturating_sub(1));
            counts.dead += u64::from(entry.dead);
            counts.lost += u64::from(entry.promised && entry.received == 0 && !entry.dead);
        }
        counts
    }

    /// The first of those that are missing.
    pub(super) fn missing(&self) -> Vec<usize> {
        let entries = self.lock();
        let missing = entries.iter().enumerate().filter(|(_, e)| e.promised && e.received == 0 && !e.dead);
        missing.map(|(id, _)| id).take(20).collect()
    }

    /// Lines that came with more than one document id: downstream they would be two. The first few of them.
    pub(super) fn ambiguous(&self) -> Vec<(usize, HashSet<String>)> {
        let entries = self.lock();
        let several = entries.iter().enumerate().filter(|(_, entry)| entry.documents.len() > 1);
        several.map(|(id, entry)| (id, entry.documents.clone())).take(20).collect()
    }

    /// Waits until nothing is missing, and says how it went; panics if that does not come to be.
    pub(super) async fn settled(&self, what: &str) -> Counts {
        let began = Instant::now();
        loop {
            let counts = self.counts();
            if counts.lost == 0 {
                println!("{what}: {counts:?}");
                return counts;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: lost {:?}, … of {counts:?}", self.missing());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many different events were received.
    pub(super) async fn reached(&self, received: u64) {
        let began = Instant::now();
        while self.counts().received < received {
            assert!(began.elapsed() < PATIENCE, "{received} events are not received: {:?}", self.counts());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The id of an event: its field, or `id=` in its message; and its document id.
pub(super) fn identify(json: &[u8]) -> (u64, Option<String>) {
    let event: Value = serde_json::from_slice(json).expect("a collector gets JSON");
    let document = event["@metadata"]["_id"].as_str().map(String::from);
    let written = || {
        let message = event["message"].as_str()?;
        let digits = message.split("id=").nth(1)?;
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().ok()
    };
    let id = event["id"].as_u64().or_else(written);
    (id.unwrap_or_else(|| panic!("an event without an id: {event}")), document)
}
