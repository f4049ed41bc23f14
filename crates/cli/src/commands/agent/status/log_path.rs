//! The log path in `pikepole agent status`: where events come from, where they wait, who takes them.

use std::collections::BTreeMap;

use pikepole_agent::status::{
    CollectorState, CollectorStatus, LogPathStatus, SpoolState, SpoolStatus, TailStatus,
};

use super::size;
use crate::commands::short;
use crate::table::Table;

pub(super) fn log_path(status: &LogPathStatus, width: Option<usize>) -> String {
    let mut text = format!("\n{}", sources(status).render(width));
    text.extend(status.tail.iter().map(errors));
    text.push_str(&spool(&status.spool));
    let dead = &status.dead_letters;
    if dead.kept > 0 {
        text.push_str(&format!("DEAD LETTERS {} since the start, in {}\n", dead.kept, dead.file));
    }
    if dead.given_up > 0 {
        text.push_str(&format!("DEAD LETTERS LOST {}: newer ones took their place\n", dead.given_up));
    }
    if let Some(why) = &dead.failing {
        text.push_str(&format!("DEAD LETTERS cannot be written, and block what they came with: {why}\n"));
    }
    let collectors = &status.collectors;
    if collectors.collectors.is_empty() {
        text.push_str(&format!("\ncollectors: none ({})\n", collectors.state.as_str()));
    } else {
        text.push_str(&format!("\n{}", table(&collectors.collectors).render(width)));
    }
    text
}

fn sources(status: &LogPathStatus) -> Table {
    let mut table = Table::new(&["source", "events", "bytes", "dead", "now"]);
    if let Some(relay) = &status.relay {
        table.row(vec![
            format!("relay {}", relay.listen),
            relay.events.to_string(),
            size(relay.bytes),
            relay.dead_lettered.to_string(),
            format!("{} shippers", relay.connections),
        ]);
    }
    for section in status.tail.iter().flat_map(|tail| &tail.sections) {
        let mut now = format!("{} files, {} unread", section.files, size(section.unread_bytes));
        if section.pinned_deleted_bytes > 0 {
            now.push_str(&format!(", {} held by deleted ones", size(section.pinned_deleted_bytes)));
        }
        if section.rest_missing > 0 {
            now.push_str(&format!(", the rest of {} truncated ones is nowhere", section.rest_missing));
        }
        if section.missing_bytes > 0 {
            now.push_str(&format!(", {} MISSING", size(section.missing_bytes)));
        }
        if section.lost_files > 0 {
            now.push_str(&format!(", {} LOST", size(section.lost_bytes)));
        }
        if section.unreadable_files > 0 {
            now.push_str(&format!(", {} in a compression that is not read", section.unreadable_files));
        }
        if section.errors_total > 0 {
            now.push_str(&format!(", {} ERRORS", section.errors_total));
        }
        table.row(vec![
            format!("tail {}", section.paths.join(" ")),
            section.lines.to_string(),
            size(section.bytes),
            "-".into(),
            now,
        ]);
    }
    table
}

/// The first error of each section, and of the folders.
fn errors(tail: &TailStatus) -> String {
    let sections = tail.sections.iter().map(|section| &section.errors);
    let line = |errors: &BTreeMap<String, String>| {
        let (path, error) = errors.first_key_value()?;
        let more = if errors.len() > 1 { format!(" ({} more)", errors.len() - 1) } else { String::new() };
        Some(format!("tail TROUBLE {path}: {error}{more}\n"))
    };
    sections.chain([&tail.errors]).filter_map(line).collect()
}

fn spool(spool: &SpoolStatus) -> String {
    let state = match spool.state {
        SpoolState::Ok => "ok",
        SpoolState::Full => "FULL",
        SpoolState::Failing if spool.is_full => "FAILING, FULL",
        SpoolState::Failing => "FAILING",
    };
    let oldest =
        spool.oldest_ms.map(|ms| format!(", the oldest for {}", short(ms / 1000))).unwrap_or_default();
    let full = spool.full_in_seconds.map(|s| format!(", full in {}", short(s))).unwrap_or_default();
    let mut text = format!(
        "\nspool {state}: {} events wait{oldest}; {} of {} on the disk{full}\n",
        spool.waiting.events,
        size(spool.disk_bytes),
        size(spool.max_bytes),
    );
    if let Some(trouble) = &spool.trouble {
        text.push_str(&format!("spool TROUBLE: {trouble}\n"));
    }
    if spool.torn_bytes > 0 {
        let (events, bytes) = (spool.torn.events, size(spool.torn_bytes));
        text.push_str(&format!("spool cut off at the start, never acked: {events} events, {bytes}\n"));
    }
    if spool.damaged_bytes > 0 {
        text.push_str(&format!("spool DAMAGED: {}\n", size(spool.damaged_bytes)));
    }
    let lost = [("DROPPED to make room", spool.dropped), ("LOST to damage", spool.damaged)];
    for (what, amount) in lost.into_iter().filter(|(_, amount)| amount.blocks > 0) {
        text.push_str(&format!("spool {what}: {} events, {}\n", amount.events, size(amount.event_bytes)));
    }
    text
}

fn table(collectors: &[CollectorStatus]) -> Table {
    let heading =
        ["collector", "zone", "state", "in flight", "sent", "acked", "resent", "dead", "ack", "last error"];
    let mut table = Table::new(&heading);
    for c in collectors {
        let state = match c.state {
            CollectorState::Live => "live",
            CollectorState::Connecting => "connecting",
            CollectorState::Backoff => "backoff",
            CollectorState::Draining => "draining",
        };
        table.row(vec![
            c.address.to_string(),
            c.zone.clone().unwrap_or_else(|| "-".into()),
            state.into(),
            size(c.bytes_in_flight),
            c.events_sent.to_string(),
            c.events_acked.to_string(),
            c.events_resent.to_string(),
            c.events_dead_lettered.to_string(),
            c.ack_latency_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.0} ms")),
            c.last_error.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use pikepole_agent::status::{
        Amount, BalanceState, BalanceStatus, DeadLetterStatus, RelayStatus, SectionStatus,
    };

    use super::*;

    #[test]
    fn what_comes_in_what_waits_and_what_is_lost_is_shown() {
        let relay = RelayStatus { listen: "127.0.0.1:5044".into(), events: 7, ..RelayStatus::default() };
        let section = SectionStatus {
            paths: vec!["/var/log/kong/access*.log".into()],
            lines: 9,
            files: 2,
            unread_bytes: 3 << 10,
            ..SectionStatus::default()
        };
        let spool = SpoolStatus {
            state: SpoolState::Full,
            is_full: true,
            waiting: Amount { blocks: 2, events: 16, event_bytes: 100 },
            oldest_ms: Some(65_000),
            disk_bytes: 1 << 30,
            max_bytes: 10 << 30,
            full_in_seconds: Some(3600),
            dropped: Amount { blocks: 1, events: 5, event_bytes: 2048 },
            ..SpoolStatus::default()
        };
        let status = LogPathStatus {
            relay: Some(relay),
            tail: Some(TailStatus { sections: vec![section], ..TailStatus::default() }),
            spool,
            collectors: BalanceStatus { state: BalanceState::NoCollector, ..BalanceStatus::default() },
            ..LogPathStatus::default()
        };
        let text = log_path(&status, Some(80));
        for words in [
            "relay 127.0.0.1:5044",
            "2 files, 3.0 KiB unread",
            "spool FULL: 16 events wait, the oldest for 1m 5s; 1.0 GiB of 10.0 GiB on the disk, full in 1h",
            "spool DROPPED to make room: 5 events, 2.0 KiB",
            "collectors: none (no_collector)",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        assert!(!text.contains("LOST") && !text.contains("DEAD LETTERS"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_and_what_is_lost_of_dead_letters_is_named() {
        let error = |path: &str, error: &str| (path.to_string(), error.to_string());
        let section = SectionStatus {
            paths: vec!["/l/*.log".into()],
            rest_missing: 1,
            errors_total: 25,
            errors: [error("/l/b.log", "denied"), error("/l/a.log", "Permission denied")].into(),
            ..SectionStatus::default()
        };
        let errors = [error("/m", "not a directory")].into();
        let dead_letters = DeadLetterStatus {
            kept: 9,
            given_up: 4,
            failing: Some("no space".into()),
            ..DeadLetterStatus::default()
        };
        let status = LogPathStatus {
            tail: Some(TailStatus { sections: vec![section], errors, ..TailStatus::default() }),
            dead_letters,
            ..LogPathStatus::default()
        };
        let text = log_path(&status, Some(200));
        for words in [
            "the rest of 1 truncated ones is nowhere, 25 ERRORS",
            "tail TROUBLE /l/a.log: Permission denied (1 more)\n",
            "tail TROUBLE /m: not a directory\n",
            "DEAD LETTERS LOST 4: newer ones",
            "DEAD LETTERS cannot be written, and block what they came with: no space",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
    }
}
