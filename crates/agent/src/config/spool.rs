//! `[spool]`: where events wait, and what happens when there is no room for more.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pikepole_config::Section;

use super::size;

/// Least that `max_bytes` may be: a few small segments.
const LEAST: u64 = 16 << 20;
const COMMIT_EVERY: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(5);
const COMMIT_BYTES: RangeInclusive<u64> = 64 << 10..=64 << 20;

/// The spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Its folder.
    pub path: PathBuf,
    /// Bytes it may take on the disk.
    pub max_bytes: u64,
    /// Bytes that shall stay free on its disk.
    pub min_free: u64,
    /// Whether the oldest events are given up for new ones when it is full; otherwise sources wait.
    pub drop_oldest: bool,
    /// Whether what is acknowledged is on the disk, not only in the system's memory.
    pub fsync: bool,
    /// Longest time from an event's arrival to its fsync begins.
    pub commit_every: Duration,
    /// As many bytes make an fsync begin before that.
    pub commit_bytes: u64,
}

/// `state` is the agent's folder.
pub(super) fn spool(mut s: Section<'_>, state: &Path) -> SpoolConfig {
    let defaults = pikepole_spool::Options::default();
    let path = s.text("path").map_or_else(|| state.join("spool"), PathBuf::from);
    let max_bytes = bytes(&mut s, "max_bytes", LEAST..=u64::MAX, "16MiB").unwrap_or(defaults.max_bytes);
    let min_free = bytes(&mut s, "min_free", 0..=u64::MAX, "0B").unwrap_or(defaults.min_free);
    let drop_oldest = word(&mut s, "when_full", ["block", "drop_oldest"]);
    let unsynced = word(&mut s, "durability", ["fsync", "none"]);
    let commit_every = s.duration_within("commit_every", COMMIT_EVERY);
    let commit_bytes = bytes(&mut s, "commit_bytes", COMMIT_BYTES, "64KiB").unwrap_or(4 << 20);
    s.finish();
    SpoolConfig {
        path,
        max_bytes,
        min_free,
        drop_oldest,
        fsync: !unsynced,
        commit_every: commit_every.unwrap_or(Duration::from_millis(20)),
        commit_bytes,
    }
}

/// Whether it is the second of two words; absent is the first.
fn word(s: &mut Section<'_>, key: &str, words: [&str; 2]) -> bool {
    match s.text(key) {
        None => false,
        Some(text) if words.contains(&text.as_str()) => text == words[1],
        Some(_) => {
            s.not(key, &format!("{:?} or {:?}", words[0], words[1]));
            false
        }
    }
}

fn bytes(s: &mut Section<'_>, key: &str, range: RangeInclusive<u64>, least: &str) -> Option<u64> {
    let text = s.text(key)?;
    let bytes = size::parse(&text).filter(|bytes| range.contains(bytes));
    if bytes.is_none() {
        let most = if *range.end() == u64::MAX { "" } else { " and at most 64MiB" };
        s.not(key, &format!("a size of at least {least}{most}, like \"10GiB\" or \"500MB\""));
    }
    bytes
}
