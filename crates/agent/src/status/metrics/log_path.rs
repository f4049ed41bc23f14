//! The log path's part of `/metrics`.
//!
//! Invariant: labels are patterns of the configuration, words of ours, and the collectors of the roster.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::super::{
    Amount, BalanceState, BalanceStatus, CollectorState, CollectorStatus, DeadLetterStatus, LogPathStatus,
    RelayStatus, SpoolStatus, TailStatus,
};
use super::{Counters, Gauges, Labels};

type Seconds = prometheus_client::metrics::family::Family<Labels, Gauge<f64, AtomicU64>>;

/// A counter of a collector: its name, its help, its value.
type Count = (&'static str, &'static str, fn(&CollectorStatus) -> u64);

pub(super) fn log_path(r: &mut Registry, status: &LogPathStatus) {
    if let Some(status) = &status.relay {
        relay(r, status);
    }
    if let Some(status) = &status.tail {
        tail(r, status);
    }
    spool(r, &status.spool);
    delivery(r, &status.collectors);
    collectors(r, &status.collectors.collectors);
    dead_letters(r, &status.dead_letters);
}

fn dead_letters(r: &mut Registry, dead: &DeadLetterStatus) {
    counter(r, "dead_letters", "Events among the dead letters since the start", dead.kept);
    counter(
        r,
        "dead_letters_given_up",
        "Dead letters that gave way to newer ones since the start",
        dead.given_up,
    );
    let help = "Whether dead letters wait because they cannot be written";
    gauge(r, "dead_letters_failing", help, u64::from(dead.failing.is_some()));
}

fn relay(r: &mut Registry, relay: &RelayStatus) {
    gauge(r, "relay_connections", "Shippers that are connected", relay.connections);
    for (name, help, count) in [
        ("relay_windows", "Whole windows that shippers sent", relay.windows),
        ("relay_events", "Events of those", relay.events),
        ("relay_bytes", "Bytes of those events, as they are after decompression", relay.bytes),
        (
            "relay_acked_events",
            "Events that went into the spool and whose window was acked",
            relay.acked_events,
        ),
        ("relay_dead_letters", "Events of shippers that are no JSON object", relay.dead_lettered),
    ] {
        counter(r, name, help, count);
    }
    let ended = Counters::default();
    for (reason, count) in &relay.ended {
        ended.get_or_create(&vec![("reason", reason.clone())]).inc_by(*count);
    }
    r.register("relay_connections_ended", "Connections of shippers that ended", ended);
}

fn tail(r: &mut Registry, tail: &TailStatus) {
    gauge(r, "tail_open_files", "Log files that are open", tail.open_files);
    gauge(r, "tail_waiting", "Whether reading waits for the spool", u64::from(tail.is_waiting));
    gauge(r, "tail_failing_folders", "Folders that cannot be looked into", tail.errors.len() as u64);
    let help = "Folders without inotify: what changes there is seen by the next scan";
    gauge(r, "tail_unwatched_folders", help, tail.unwatched_folders);
    let help = "Blocks of lines that the spool did not take; they were read again";
    counter(r, "tail_refused_blocks", help, tail.refused);
    let [lines, bytes, cut, errors, expired, lost_files, lost_bytes, rotations] =
        [(); 8].map(|()| Counters::default());
    let [files, failing, unreadable, rest_unreadable, held, rest_missing, missing, unread, pinned] =
        [(); 9].map(|()| Gauges::default());
    for section in &tail.sections {
        let labels = vec![("paths", section.paths.join(" "))];
        let add = |counters: &Counters, count| {
            counters.get_or_create(&labels).inc_by(count);
        };
        let set = |gauges: &Gauges, value: u64| {
            gauges.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        add(&lines, section.lines);
        add(&bytes, section.bytes);
        add(&cut, section.truncated_lines);
        add(&errors, section.errors_total);
        add(&expired, section.expired);
        add(&lost_files, section.lost_files);
        add(&lost_bytes, section.lost_bytes);
        set(&files, section.files);
        set(&failing, section.errors.len() as u64);
        set(&unreadable, section.unreadable_files);
        set(&rest_unreadable, section.rest_unreadable);
        set(&held, section.held);
        set(&missing, section.missing_bytes);
        set(&rest_missing, section.rest_missing);
        set(&unread, section.unread_bytes);
        set(&pinned, section.pinned_deleted_bytes);
        for (how, count) in [("renamed", section.renamed), ("truncated", section.truncated)] {
            let labels = vec![("paths", section.paths.join(" ")), ("how", how.to_string())];
            rotations.get_or_create(&labels).inc_by(count);
        }
    }
    r.register("tail_lines", "Lines that are durable in the spool", lines);
    r.register("tail_bytes", "Bytes of those lines as they are in the files, without line ends", bytes);
    r.register("tail_truncated_lines", "Lines that were cut or had no end", cut);
    r.register("tail_errors", "What could not be read", errors);
    r.register("tail_expired_files", "Files that were gone for so long that they were forgotten", expired);
    r.register("tail_lost_files", "Files given up of which something was not read", lost_files);
    r.register("tail_lost_bytes", "Bytes that are known not to have been read of files given up", lost_bytes);
    r.register("tail_unreadable_files", "Files in a compression that is not read", unreadable);
    let help = "Files that were not read to their end and may be one of those now";
    r.register("tail_rest_unreadable_files", help, rest_unreadable);
    let help = "Bytes not read in files that are nowhere now; they may be found again";
    r.register("tail_missing_bytes", help, missing);
    r.register("tail_rotations", "Files that were renamed or truncated", rotations);
    r.register("tail_files", "Log files that are there or held open", files);
    r.register("tail_failing_files", "Log files that cannot be read as they should", failing);
    r.register("tail_held_files", "Files that look like a copy of one that is still there, and wait", held);
    let help = "Truncated files whose rest is found nowhere yet";
    r.register("tail_rest_missing_files", help, rest_missing);
    r.register("tail_unread_bytes", "Bytes in log files that were not read yet", unread);
    r.register("tail_pinned_deleted_bytes", "Bytes that deleted files keep on the disk", pinned);
}

fn spool(r: &mut Registry, spool: &SpoolStatus) {
    for (name, help, value) in [
        ("spool_waiting_blocks", "Blocks that wait for a collector", spool.waiting.blocks),
        ("spool_waiting_events", "Events that wait for a collector", spool.waiting.events),
        (
            "spool_waiting_event_bytes",
            "Bytes of those events, as their source counts them",
            spool.waiting.event_bytes,
        ),
        ("spool_disk_bytes", "Bytes of the spool's folder on the disk", spool.disk_bytes),
        ("spool_room_bytes", "Bytes that are left to the spool", spool.room),
        ("spool_full", "Whether there is no room for more", u64::from(spool.is_full)),
        ("spool_failing", "Whether the spool cannot write, sync or read", u64::from(spool.trouble.is_some())),
    ] {
        gauge(r, name, help, value);
    }
    if let Some(seconds) = spool.full_in_seconds {
        gauge(r, "spool_full_in_seconds", "Seconds until the spool is full; absent if not known", seconds);
    }
    let oldest: Gauge<f64, AtomicU64> = Gauge::default();
    oldest.set(spool.oldest_ms.unwrap_or(0) as f64 / 1000.0);
    r.register("spool_oldest_age_seconds", "How long the oldest event waits", oldest);
    let amounts: [(&str, &str, Amount); 4] = [
        ("appended", "became durable", spool.appended),
        ("done", "were delivered, or became dead letters", spool.done),
        ("dropped", "were given up to make room", spool.dropped),
        ("damaged", "were lost to damage", spool.damaged),
    ];
    for (word, what, amount) in amounts {
        let name = format!("spool_{word}");
        counter(
            r,
            &format!("{name}_blocks"),
            &format!("Blocks that {what}, since the spool is new"),
            amount.blocks,
        );
        counter(
            r,
            &format!("{name}_events"),
            &format!("Events that {what}, since the spool is new"),
            amount.events,
        );
        let help = format!("Bytes of events that {what}, as their source counts them");
        counter(r, &format!("{name}_event_bytes"), &help, amount.event_bytes);
    }
    let help = "Bytes of the spool's files that were not what had been written";
    counter(r, "spool_damaged_bytes", help, spool.damaged_bytes);
    let help =
        "Events that were being written when the agent stopped, and were cut off at its start; never acked";
    counter(r, "spool_torn_events", help, spool.torn.events);
    counter(
        r,
        "spool_torn_bytes",
        "Bytes of the spool's files that were cut off at the start",
        spool.torn_bytes,
    );
    counter(r, "spool_failures", "Writes, syncs and reads of the spool that failed", spool.failures);
}

/// All collectors together, those that left too.
fn delivery(r: &mut Registry, all: &BalanceStatus) {
    let states = Gauges::default();
    for state in BalanceState::ALL {
        let labels = vec![("state", state.as_str().to_string())];
        states.get_or_create(&labels).set(i64::from(state == all.state));
    }
    r.register("delivery_state", "1 for what the balancer is at", states);
    gauge(
        r,
        "delivery_in_flight_bytes",
        "Bytes of blocks that collectors have and did not ack",
        all.bytes_in_flight,
    );
    gauge(r, "delivery_suspects", "Batches that wait to be sent alone: they may be poison", all.suspects);
    for (name, help, count) in [
        ("delivery_done_blocks", "Blocks of which everything was acked or is a dead letter", all.blocks_done),
        ("delivery_sent_events", "Events that were sent, again or not", all.events_sent),
        ("delivery_acked_events", "Events that were acked", all.events_acked),
        ("delivery_resent_events", "Events that had been sent before", all.events_resent),
        ("delivery_dead_lettered_events", "Events that no collector takes", all.events_dead_lettered),
        (
            "delivery_gone_events",
            "Events that were gone from the spool before they could be sent",
            all.events_gone,
        ),
        (
            "delivery_sent_bytes",
            "Bytes of blocks that were sent: the relay's compressed, the tail's raw",
            all.bytes_sent,
        ),
        ("delivery_resent_bytes", "Bytes of blocks that had been sent before", all.bytes_resent),
        (
            "delivery_acked_bytes",
            "Bytes of blocks that were acked: the relay's compressed, the tail's raw",
            all.bytes_acked,
        ),
        (
            "delivery_dead_letter_failures",
            "Tries to keep such an event as a dead letter that failed",
            all.dead_letters_failed,
        ),
    ] {
        counter(r, name, help, count);
    }
}

/// Each collector of the roster.
fn collectors(r: &mut Registry, collectors: &[CollectorStatus]) {
    let [up, in_flight] = [(); 2].map(|()| Gauges::default());
    let failures = Counters::default();
    let latency = Seconds::default();
    let own = |collector: &CollectorStatus| -> Labels {
        vec![("collector", collector.address.to_string()), ("instance", collector.instance_id.clone())]
    };
    for collector in collectors {
        let is_up = matches!(collector.state, CollectorState::Live | CollectorState::Draining);
        up.get_or_create(&own(collector)).set(i64::from(is_up));
        let flying = i64::try_from(collector.bytes_in_flight).unwrap_or(i64::MAX);
        in_flight.get_or_create(&own(collector)).set(flying);
        if let Some(ms) = collector.ack_latency_ms {
            latency.get_or_create(&own(collector)).set(ms / 1000.0);
        }
        for (reason, count) in &collector.failures {
            let labels = own(collector).into_iter().chain([("reason", reason.clone())]).collect();
            failures.get_or_create(&labels).inc_by(*count);
        }
    }
    r.register("collector_up", "Whether there is a connection to a collector", up);
    r.register(
        "collector_in_flight_bytes",
        "Bytes of blocks that a collector has and did not ack",
        in_flight,
    );
    r.register("collector_ack_latency_seconds", "From a window to its ack, smoothed", latency);
    r.register("collector_failures", "Connections to a collector that failed or ended", failures);
    let counts: [Count; 9] = [
        ("resent_bytes", "Bytes of blocks a collector was sent that had been sent before", |c| {
            c.bytes_resent
        }),
        ("dead_lettered_bytes", "Bytes of blocks given up because a collector closed on them", |c| {
            c.bytes_dead_lettered
        }),
        ("connects", "Connections to a collector that were made", |c| c.connects),
        ("sent_events", "Events that a collector was sent", |c| c.events_sent),
        ("acked_events", "Events that a collector acked", |c| c.events_acked),
        ("resent_events", "Events a collector was sent that had been sent before, to it or another", |c| {
            c.events_resent
        }),
        ("dead_lettered_events", "Events given up because a collector, among others, closed on them", |c| {
            c.events_dead_lettered
        }),
        (
            "sent_bytes",
            "Bytes of blocks that a collector was sent: the relay's compressed, the tail's raw",
            |c| c.bytes_sent,
        ),
        (
            "acked_bytes",
            "Bytes of blocks that a collector acked: the relay's compressed, the tail's raw",
            |c| c.bytes_acked,
        ),
    ];
    for (name, help, count) in counts {
        let counters = Counters::default();
        for collector in collectors {
            counters.get_or_create(&own(collector)).inc_by(count(collector));
        }
        r.register(format!("collector_{name}"), help, counters);
    }
}

fn counter(r: &mut Registry, name: &str, help: &str, count: u64) {
    r.register(name, help, ConstCounter::new(count));
}

fn gauge(r: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    r.register(name, help, gauge);
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::{BalanceStatus, LogPathStatus, SectionStatus, Status};
    use super::super::text;
    use super::*;

    pub(in super::super) fn collector() -> CollectorStatus {
        serde_json::from_value(serde_json::json!({
            "instance_id": "i-1", "address": "10.0.0.1:5044", "zone": null, "state": "live", "connects": 1,
            "failures": {"reset": 2}, "failures_in_a_row": 0, "last_error": null, "windows_in_flight": 1,
            "windows_limit": 2, "bytes_in_flight": 500, "ack_latency_ms": 2.5, "windows_sent": 4,
            "windows_acked": 3, "events_sent": 40, "events_acked": 30, "bytes_sent": 400, "bytes_acked": 300,
            "events_resent": 10, "events_dead_lettered": 0,
            "bytes_resent": 100, "bytes_dead_lettered": 0
        }))
        .unwrap()
    }

    #[test]
    fn every_part_of_the_log_path_has_its_series() {
        let section = SectionStatus {
            paths: vec!["/var/log/a.log".into()],
            lines: 9,
            rest_missing: 5,
            errors: [("/var/log/a.log".to_string(), "denied".to_string())].into(),
            ..SectionStatus::default()
        };
        let spool = SpoolStatus {
            waiting: Amount { blocks: 1, events: 10, event_bytes: 100 },
            oldest_ms: Some(1_500),
            dropped: Amount { blocks: 1, events: 3, event_bytes: 30 },
            damaged: Amount { blocks: 2, ..Amount::default() },
            ..SpoolStatus::default()
        };
        let relay =
            RelayStatus { events: 5, ended: [("idle".to_string(), 4)].into(), ..RelayStatus::default() };
        let log_path = LogPathStatus {
            relay: Some(relay),
            tail: Some(TailStatus { sections: vec![section], ..TailStatus::default() }),
            spool,
            // Its counts are those of collectors that left too.
            collectors: BalanceStatus {
                state: BalanceState::Sending,
                events_acked: 70,
                dead_letters_failed: 6,
                collectors: vec![collector()],
                ..BalanceStatus::default()
            },
            ..LogPathStatus::default()
        };
        let text = text(&Status { log_path: Some(log_path), ..Status::default() }).unwrap();
        for line in [
            "relay_events_total 5",
            "relay_connections_ended_total{reason=\"idle\"} 4",
            "tail_lines_total{paths=\"/var/log/a.log\"} 9",
            "spool_waiting_events 10",
            "spool_oldest_age_seconds 1.5",
            "spool_dropped_events_total 3",
            "spool_damaged_blocks_total 2",
            "delivery_state{state=\"sending\"} 1",
            "delivery_state{state=\"no_collector\"} 0",
            "delivery_acked_events_total 70",
            "delivery_dead_letter_failures_total 6",
            "tail_rest_missing_files{paths=\"/var/log/a.log\"} 5",
            "tail_failing_files{paths=\"/var/log/a.log\"} 1",
            "collector_up{collector=\"10.0.0.1:5044\",instance=\"i-1\"} 1",
            "collector_acked_events_total{collector=\"10.0.0.1:5044\",instance=\"i-1\"} 30",
            "collector_connects_total{collector=\"10.0.0.1:5044\",instance=\"i-1\"} 1",
            "collector_failures_total{collector=\"10.0.0.1:5044\",instance=\"i-1\",reason=\"reset\"} 2",
            "collector_ack_latency_seconds{collector=\"10.0.0.1:5044\",instance=\"i-1\"} 0.0025",
            "dead_letters_total 0",
        ] {
            assert!(text.contains(&format!("pikepole_agent_{line}\n")), "{line} is missing:\n{text}");
        }
        assert!(!text.contains("spool_full_in_seconds"), "{text}");
    }
}
