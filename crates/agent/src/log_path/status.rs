//! What the log path says about itself, and what is wrong with it. Pure.
//!
//! Invariant: what was lost or set aside stays trouble for a while, so that nobody misses it.

use std::time::Duration;

use pikepole_fleet::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::balance::status::BalanceStatus;
use crate::config::SpoolConfig;
use crate::guard::Forecast;
use crate::queue::QueueStats;
use crate::relay::RelayStatus;
use crate::tail::TailStatus;
use crate::trouble::Kind;

/// The spool's thread says something each second; after so much silence its disk hangs.
const SILENCE: Duration = Duration::from_secs(5);
/// Losses are trouble for this long after the last one.
const FRESH: Duration = Duration::from_secs(600);

/// The log path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogPathStatus {
    /// What shippers send to; `null`: there is no `[relay]`.
    pub relay: Option<RelayStatus>,
    /// What is read; `null`: there is no `[[tail]]`.
    pub tail: Option<TailStatus>,
    /// What waits.
    pub spool: SpoolStatus,
    /// Who takes it.
    pub collectors: BalanceStatus,
    /// What nobody takes.
    pub dead_letters: DeadLetterStatus,
}

/// Blocks and their events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Units of delivery.
    pub blocks: u64,
    /// Events.
    pub events: u64,
    /// Their bytes, as their source counts them.
    pub event_bytes: u64,
}

impl From<pikepole_spool::Counts> for Amount {
    fn from(counts: pikepole_spool::Counts) -> Self {
        Self { blocks: counts.blocks, events: counts.events, event_bytes: counts.event_bytes }
    }
}

/// The spool.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SpoolStatus {
    /// `ok`, `full` or `failing`.
    pub state: String,
    /// What is durable and not delivered.
    pub waiting: Amount,
    /// Milliseconds that the oldest of it has waited; `null`: nothing waits.
    pub oldest_ms: Option<u64>,
    /// Bytes on the disk.
    pub disk_bytes: u64,
    /// Bytes it may have there.
    pub max_bytes: u64,
    /// Bytes that are left to it.
    pub room: u64,
    /// Seconds until that is none, as the last minutes went; `null`: not within a month, or not known.
    pub full_in_seconds: Option<u64>,
    /// What came in since the spool is new.
    pub appended: Amount,
    /// What was delivered, or became dead letters.
    pub done: Amount,
    /// What was given up to make room.
    pub dropped: Amount,
    /// What damage took.
    pub damaged: Amount,
    /// Bytes that damage took.
    pub damaged_bytes: u64,
    /// Writes, syncs and reads that failed since the start.
    pub failures: u64,
    /// What is wrong.
    pub trouble: Option<String>,
}

/// Dead letters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadLetterStatus {
    /// Where they are.
    pub file: String,
    /// Kept since the start.
    pub kept: u64,
    /// Of older ones, those that had to make room since the start.
    pub given_up: u64,
}

/// A counter of losses, and when it last rose.
#[derive(Debug, Default)]
struct Losses {
    seen: Option<u64>,
    rose: Option<Instant>,
}

impl Losses {
    /// Whether it rose lately. What was there at the first look is not news.
    fn are_fresh(&mut self, count: u64, now: Instant) -> bool {
        if self.seen.is_some_and(|seen| count > seen) {
            self.rose = Some(now);
        }
        self.seen = Some(count);
        self.rose.is_some_and(|rose| now.saturating_duration_since(rose) < FRESH)
    }
}

/// What has to be remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Observer {
    forecast: Forecast,
    dropped: Losses,
    damaged: Losses,
    dead: Losses,
}

impl Observer {
    /// Damage that the start found is news.
    pub(super) fn new(found_damage: bool, now: Instant) -> Self {
        let damaged = Losses { seen: None, rose: found_damage.then_some(now) };
        Self { damaged, ..Self::default() }
    }

    /// The spool's status of now.
    pub(super) fn spool(
        &mut self,
        config: &SpoolConfig,
        stats: &QueueStats,
        now: Instant,
        wall: Timestamp,
    ) -> SpoolStatus {
        let spool = &stats.spool;
        let own = config.max_bytes.saturating_sub(spool.disk_bytes);
        let room = spool.free_bytes.map_or(own, |free| own.min(free.saturating_sub(config.min_free)));
        // The spool keeps some of it for itself: for noting what is done.
        let room = if stats.full.is_some() { 0 } else { room };
        self.forecast.observe(now, room, config.max_bytes);
        let silent = stats.told.map(|told| now.saturating_duration_since(told));
        let silent = silent.filter(|silent| *silent >= SILENCE);
        let silent = silent.map(|silent| format!("the disk has not answered for {} s", silent.as_secs()));
        let trouble = silent.or_else(|| stats.trouble.clone()).or_else(|| spool.trouble.clone());
        let state = match (&trouble, stats.full) {
            (_, Some(_)) => "full",
            (Some(_), None) => "failing",
            (None, None) => "ok",
        };
        let age = |at| wall.since(Timestamp::from_millis(at)).as_millis();
        SpoolStatus {
            state: state.into(),
            waiting: spool.waiting.into(),
            oldest_ms: spool.oldest_at.map(|at| u64::try_from(age(at)).unwrap_or(u64::MAX)),
            disk_bytes: spool.disk_bytes,
            max_bytes: config.max_bytes,
            room,
            full_in_seconds: self.forecast.until_full().map(|left| left.as_secs()),
            appended: spool.totals.appended.into(),
            done: spool.totals.done.into(),
            dropped: spool.totals.dropped.into(),
            damaged: spool.totals.damaged.into(),
            damaged_bytes: spool.totals.damaged_bytes,
            failures: stats.failures,
            trouble,
        }
    }

    /// What is wrong with what waits and with what nobody takes.
    pub(super) fn troubles(&mut self, status: &LogPathStatus, now: Instant) -> Vec<(Kind, String, String)> {
        let spool = &status.spool;
        let mut troubles = Vec::new();
        let mut tell =
            |kind, subject: &str, detail: String| troubles.push((kind, subject.to_string(), detail));
        match (spool.state.as_str(), &spool.trouble) {
            ("full", _) => {
                let waiting = spool.waiting.events;
                tell(
                    Kind::SpoolFull,
                    "spool",
                    format!("{waiting} events wait, and there is no room for more"),
                );
            }
            ("failing", Some(why)) => tell(Kind::SpoolFailing, "spool", why.clone()),
            _ => {}
        }
        if self.dropped.are_fresh(spool.dropped.events, now) {
            let detail = format!("{} events were given up to make room, ever", spool.dropped.events);
            tell(Kind::EventsDropped, "spool", detail);
        }
        if self.damaged.are_fresh(spool.damaged_bytes, now) {
            let (bytes, events) = (spool.damaged_bytes, spool.damaged.events);
            tell(Kind::SpoolDamaged, "spool", format!("{bytes} bytes, {events} events are damaged, ever"));
        }
        let dead = &status.dead_letters;
        if self.dead.are_fresh(dead.kept, now) {
            tell(Kind::EventsDeadLettered, &dead.file, format!("{} new ones since the start", dead.kept));
        }
        troubles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SpoolConfig {
        SpoolConfig {
            path: "/spool".into(),
            max_bytes: 1000,
            min_free: 100,
            drop_oldest: false,
            fsync: true,
            commit_every: Duration::from_millis(20),
            commit_bytes: 4096,
        }
    }

    #[test]
    fn room_is_what_both_limits_leave() {
        let mut stats = QueueStats::default();
        (stats.spool.disk_bytes, stats.spool.free_bytes) = (300, Some(550));
        stats.spool.oldest_at = Some(4_000);
        let look = |stats: &QueueStats| {
            Observer::default().spool(&config(), stats, Instant::now(), Timestamp::from_millis(9_000))
        };
        let status = look(&stats);
        assert_eq!((status.room, status.oldest_ms, status.state.as_str()), (450, Some(5_000), "ok"));
        stats.spool.free_bytes = Some(5_000);
        assert_eq!(look(&stats).room, 700);
        (stats.spool.free_bytes, stats.trouble) = (Some(1), Some("no sync".into()));
        let status = look(&stats);
        assert_eq!((status.room, status.state.as_str()), (0, "failing"));
    }

    #[test]
    fn a_spool_that_says_nothing_hangs() {
        let now = Instant::now();
        let stats = QueueStats { told: Some(now), ..QueueStats::default() };
        let look = |seconds| {
            let later = now + Duration::from_secs(seconds);
            Observer::default().spool(&config(), &stats, later, Timestamp::from_millis(9_000))
        };
        assert_eq!((look(4).state.as_str(), look(4).trouble), ("ok", None));
        assert_eq!(look(8).state, "failing");
        assert_eq!(look(8).trouble.as_deref(), Some("the disk has not answered for 8 s"));
    }

    #[test]
    fn losses_are_trouble_for_a_while_and_old_ones_are_no_news() {
        let mut observer = Observer::default();
        let mut status = LogPathStatus::default();
        let now = Instant::now();
        let mut kinds = |status: &LogPathStatus, seconds| {
            let troubles = observer.troubles(status, now + Duration::from_secs(seconds));
            troubles.into_iter().map(|(kind, ..)| kind).collect::<Vec<_>>()
        };
        status.spool.dropped.events = 7;
        assert_eq!(kinds(&status, 0), []);
        status.spool.dropped.events = 8;
        status.dead_letters.kept = 1;
        assert_eq!(kinds(&status, 1), [Kind::EventsDropped, Kind::EventsDeadLettered]);
        status.dead_letters.kept = 2;
        assert_eq!(kinds(&status, 500), [Kind::EventsDropped, Kind::EventsDeadLettered]);
        assert_eq!(kinds(&status, 700), [Kind::EventsDeadLettered]);
        assert_eq!(kinds(&status, 1200), []);
    }
}
