//! What is wrong with the log path, from one look at it to the next. Pure: time is passed in.
//!
//! Not what collectors do: that is the balancer's.
//!
//! Invariants: what was lost or set aside stays trouble for a while, so that nobody misses it. What comes and goes
//! by the second is one trouble that lasts.

use std::collections::BTreeMap;
use std::time::Duration;

use pikepole_fleet::Timestamp;
use pikepole_spool::Recovered;
use tokio::time::Instant;

use super::REPORT_EVERY;
use super::status::{Amount, DeadLetterStatus, LogPathStatus, SpoolState, SpoolStatus};
use crate::config::SpoolConfig;
use crate::guard::Forecast;
use crate::queue::QueueStats;
use crate::tail::{SectionStatus, TailStatus};
use crate::trouble::Kind;

/// Losses are trouble for this long after the last one.
const FRESH: Duration = Duration::from_secs(600);
/// A full spool is no trouble any more when it had room for so long,
const ROOMY: Duration = Duration::from_secs(60);
/// or when this part of it is free: it comes free by segments, which are an eighth at most.
const FREE: u64 = 4;
/// A spool that says nothing, or makes nothing durable, for so long hangs. Its slowest disk answers sooner.
const HANGS: Duration = Duration::from_secs(10);

/// Trouble: the kind, with what, a sentence.
pub(super) type Trouble = (Kind, String, String);

/// A counter of losses, and when it last rose.
#[derive(Debug, Default)]
struct Losses {
    seen: Option<u64>,
    rose: Option<Instant>,
}

impl Losses {
    /// Of something that is counted from the start of the process.
    const fn from_zero() -> Self {
        Self { seen: Some(0), rose: None }
    }

    /// Whether it rose lately. What was there at the first look is not news.
    fn are_fresh(&mut self, count: u64, now: Instant) -> bool {
        if self.seen.is_some_and(|seen| count > seen) {
            self.rose = Some(now);
        }
        self.seen = Some(count);
        self.rose.is_some_and(|rose| now.saturating_duration_since(rose) < FRESH)
    }
}

/// What the tail could not read. What is missing may be found again.
#[derive(Debug, Default)]
struct TailLosses {
    truncated: Losses,
    missing: Losses,
    forgotten: Losses,
}

/// Whether the spool's thread is heard, and makes durable what it has.
#[derive(Debug, Default)]
struct Pulse {
    looked: Option<Instant>,
    told: Option<Timestamp>,
    commits: u64,
    silent: Duration,
    idle: Duration,
}

impl Pulse {
    /// What hangs, in words.
    fn hangs(&mut self, stats: &QueueStats, now: Instant) -> Option<String> {
        // A process that was stopped for a while has not looked, and knows nothing of that time.
        let since = self.looked.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let since = since.min(REPORT_EVERY * 2);
        self.looked = Some(now);
        let is_idle = stats.spool.uncommitted_bytes > 0 && stats.full.is_none();
        self.silent = if stats.at == self.told { self.silent + since } else { Duration::ZERO };
        self.idle = if is_idle && stats.commits == self.commits { self.idle + since } else { Duration::ZERO };
        (self.told, self.commits) = (stats.at, stats.commits);
        match () {
            () if self.silent >= HANGS => Some("it says nothing any more; does its disk hang?".into()),
            () if self.idle >= HANGS => Some("nothing becomes durable; does its disk hang?".into()),
            () => None,
        }
    }
}

/// What has to be remembered from one look to the next.
#[derive(Debug)]
pub(super) struct Observer {
    forecast: Forecast,
    pulse: Pulse,
    /// When the spool was full last, as long as that is trouble.
    full: Option<Instant>,
    dropped: Losses,
    damaged: Losses,
    dead: Losses,
    dead_given_up: Losses,
    tail: TailLosses,
    torn: Amount,
    torn_bytes: u64,
}

impl Observer {
    /// `opened` is how the spool was at the start, `recovered` what that found; damage is news.
    pub(super) fn new(opened: &QueueStats, recovered: &Recovered, now: Instant) -> Self {
        let totals = &opened.spool.totals;
        Self {
            forecast: Forecast::default(),
            pulse: Pulse::default(),
            full: None,
            dropped: Losses { seen: Some(totals.dropped.events), rose: None },
            damaged: Losses {
                seen: Some(totals.damaged_bytes.saturating_add(totals.damaged.blocks)),
                rose: recovered.is_damaged().then_some(now),
            },
            dead: Losses::from_zero(),
            dead_given_up: Losses::from_zero(),
            tail: TailLosses { forgotten: Losses::from_zero(), ..TailLosses::default() },
            torn: recovered.torn.into(),
            torn_bytes: recovered.torn_bytes,
        }
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
        let is_full = stats.full.is_some();
        // The spool keeps some of it for itself: for noting what is done.
        let room = if is_full { 0 } else { room };
        self.forecast.observe(now, room, config.max_bytes);
        let hangs = self.pulse.hangs(stats, now);
        let trouble = stats.trouble.clone().or_else(|| spool.trouble.clone()).or(hangs);
        let state = match (&trouble, is_full) {
            (Some(_), _) => SpoolState::Failing,
            (None, true) => SpoolState::Full,
            (None, false) => SpoolState::Ok,
        };
        let age = |at| wall.since(Timestamp::from_millis(at)).as_millis();
        SpoolStatus {
            state,
            is_full,
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
            torn: self.torn,
            torn_bytes: self.torn_bytes,
            failures: stats.failures,
            trouble,
        }
    }

    /// What is wrong with what comes in, with what waits, and with what nobody takes.
    pub(super) fn troubles(&mut self, status: &LogPathStatus, now: Instant) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        self.spool_troubles(&status.spool, now, &mut troubles);
        self.dead_troubles(&status.dead_letters, now, &mut troubles);
        if let Some(tail) = &status.tail {
            self.tail_troubles(tail, now, &mut troubles);
        }
        troubles
    }

    fn spool_troubles(&mut self, spool: &SpoolStatus, now: Instant, troubles: &mut Vec<Trouble>) {
        let mut tell = |kind, detail| troubles.push((kind, "spool".to_string(), detail));
        if self.has_no_room(spool, now) {
            let waiting = spool.waiting.events;
            let still = if spool.is_full { "" } else { ", or there was none a moment ago" };
            tell(Kind::SpoolFull, format!("{waiting} events wait, and there is no room for more{still}"));
        }
        if let Some(why) = &spool.trouble {
            tell(Kind::SpoolFailing, why.clone());
        }
        if self.dropped.are_fresh(spool.dropped.events, now) {
            tell(
                Kind::EventsDropped,
                format!("{} events were given up to make room, ever", spool.dropped.events),
            );
        }
        let damage = spool.damaged_bytes.saturating_add(spool.damaged.blocks);
        if self.damaged.are_fresh(damage, now) {
            let (bytes, blocks, events) = (spool.damaged_bytes, spool.damaged.blocks, spool.damaged.events);
            let detail =
                format!("{bytes} bytes are damaged, {blocks} blocks with {events} events lost, ever");
            tell(Kind::SpoolDamaged, detail);
        }
    }

    /// Whether it is full, or full again and again.
    fn has_no_room(&mut self, spool: &SpoolStatus, now: Instant) -> bool {
        if spool.is_full {
            self.full = Some(now);
        } else if spool.room >= spool.max_bytes / FREE {
            self.full = None;
        }
        self.full = self.full.filter(|full| now.saturating_duration_since(*full) < ROOMY);
        self.full.is_some()
    }

    fn dead_troubles(&mut self, dead: &DeadLetterStatus, now: Instant, troubles: &mut Vec<Trouble>) {
        let mut tell = |kind, detail| troubles.push((kind, dead.file.clone(), detail));
        if self.dead.are_fresh(dead.kept, now) {
            tell(Kind::EventsDeadLettered, format!("{} new ones since the start", dead.kept));
        }
        if self.dead_given_up.are_fresh(dead.given_up, now) {
            let detail = format!(
                "{} acked events are lost since the start: newer ones took their place",
                dead.given_up
            );
            tell(Kind::DeadLettersLost, detail);
        }
        if let Some(why) = &dead.failing {
            tell(
                Kind::DeadLettersFailing,
                format!("{why}; what they came with waits until they are written"),
            );
        }
    }

    fn tail_troubles(&mut self, tail: &TailStatus, now: Instant, troubles: &mut Vec<Trouble>) {
        let mut tell = |kind, subject: &str, detail| troubles.push((kind, subject.to_string(), detail));
        if let Some(detail) = errors(&tail.errors) {
            tell(Kind::TailFailing, "tail", detail);
        }
        for section in &tail.sections {
            if let Some(detail) = errors(&section.errors) {
                tell(Kind::TailFailing, &section.paths.join(" "), detail);
            }
        }
        if tail.sections.is_empty() {
            return; // it has not looked yet
        }
        let sum = |count: fn(&SectionStatus) -> u64| tail.sections.iter().map(count).sum::<u64>();
        let (truncated, missing) = (sum(|s| s.rest_missing), sum(|s| s.missing_bytes));
        let (files, bytes) = (sum(|s| s.lost_files), sum(|s| s.lost_bytes));
        let losses = &mut self.tail;
        let is_fresh = [
            losses.truncated.are_fresh(truncated, now),
            losses.missing.are_fresh(missing, now),
            losses.forgotten.are_fresh(files, now),
        ];
        if is_fresh.contains(&true) {
            let detail = format!(
                "not read: {missing} bytes of files that are nowhere now, what {truncated} truncated files had of \
                 which no copy is found, and {bytes} bytes of {files} files that are given up since the start"
            );
            tell(Kind::TailLost, "tail", detail);
        }
    }
}

/// The first error, and how many more there are.
fn errors(errors: &BTreeMap<String, String>) -> Option<String> {
    let (path, error) = errors.first_key_value()?;
    let gap = if path.is_empty() { "" } else { ": " };
    let more = match errors.len() - 1 {
        0 => String::new(),
        more => format!("; {more} more"),
    };
    Some(format!("{path}{gap}{error}{more}"))
}

#[cfg(test)]
mod tests;
