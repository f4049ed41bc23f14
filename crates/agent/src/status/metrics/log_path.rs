//! The log path's part of `/metrics`.
//!
//! Invariant: labels are patterns of the configuration, words of ours, and the collectors of the roster.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::super::{
    Amount, CollectorState, CollectorStatus, LogPathStatus, RelayStatus, SpoolStatus, TailStatus,
};
use super::{Counters, Gauges, Labels};

type Seconds = prometheus_client::metrics::family::Family<Labels, Gauge<f64, AtomicU64>>;

pub(super) fn log_path(r: &mut Registry, status: &LogPathStatus) {
    if let Some(status) = &status.relay {
        relay(r, status);
    }
    if let Some(status) = &status.tail {
        tail(r, status);
    }
    spool(r, &status.spool);
    collectors(r, &status.collectors.collectors);
    let dead = &status.dead_letters;
    r.register("dead_letters", "Events among the dead letters since the start", ConstCounter::new(dead.kept));
    let help = "Dead letters that gave way to newer ones since the start";
    r.register("dead_letters_given_up", help, ConstCounter::new(dead.given_up));
}

fn relay(r: &mut Registry, relay: &RelayStatus) {
    gauge(r, "relay_connections", "Shippers that are connected", relay.connections);
    for (name, help, count) in [
        ("relay_windows", "Whole windows that shippers sent", relay.windows),
        ("relay_events", "Events of those", relay.events),
        ("relay_bytes", "Bytes of those", relay.bytes),
        ("relay_acked_events", "Events that were durable when their window was acked", relay.acked_events),
        ("relay_dead_letters", "Events of shippers that are no JSON object", relay.dead_lettered),
    ] {
        r.register(name, help, ConstCounter::new(count));
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
    let [lines, bytes, cut, errors, rotations] = [(); 5].map(|()| Counters::default());
    let [files, unread, pinned] = [(); 3].map(|()| Gauges::default());
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
        set(&files, section.files);
        set(&unread, section.unread_bytes);
        set(&pinned, section.pinned_deleted_bytes);
        for (how, count) in [("renamed", section.renamed), ("truncated", section.truncated)] {
            let labels = vec![("paths", section.paths.join(" ")), ("how", how.to_string())];
            rotations.get_or_create(&labels).inc_by(count);
        }
    }
    r.register("tail_lines", "Lines that are durable in the spool", lines);
    r.register("tail_bytes", "Their bytes, without line ends", bytes);
    r.register("tail_truncated_lines", "Lines that were cut or had no end", cut);
    r.register("tail_errors", "What could not be read", errors);
    r.register("tail_rotations", "Files that were renamed or truncated", rotations);
    r.register("tail_files", "Log files that are there or held open", files);
    r.register("tail_unread_bytes", "Bytes in log files that were not read yet", unread);
    r.register("tail_pinned_deleted_bytes", "Bytes that deleted files keep on the disk", pinned);
}

fn spool(r: &mut Registry, spool: &SpoolStatus) {
    for (name, help, value) in [
        ("spool_waiting_blocks", "Blocks that wait for a collector", spool.waiting.blocks),
        ("spool_waiting_events", "Events that wait for a collector", spool.waiting.events),
        ("spool_waiting_bytes", "Bytes of those events", spool.waiting.event_bytes),
        ("spool_disk_bytes", "Bytes of the spool on the disk", spool.disk_bytes),
        ("spool_room_bytes", "Bytes that are left to the spool", spool.room),
        ("spool_full", "Whether there is no room for more", u64::from(spool.state == "full")),
    ] {
        gauge(r, name, help, value);
    }
    if let Some(seconds) = spool.full_in_seconds {
        gauge(r, "spool_full_in_seconds", "Seconds until the spool is full; absent if not known", seconds);
    }
    let oldest: Gauge<f64, AtomicU64> = Gauge::default();
    oldest.set(spool.oldest_ms.unwrap_or(0) as f64 / 1000.0);
    r.register("spool_oldest_seconds", "How long the oldest event waits", oldest);
    let [events, bytes] = [(); 2].map(|()| Counters::default());
    let amounts: [(&str, Amount); 4] = [
        ("appended", spool.appended),
        ("done", spool.done),
        ("dropped", spool.dropped),
        ("damaged", spool.damaged),
    ];
    for (what, amount) in amounts {
        events.get_or_create(&vec![("what", what.to_string())]).inc_by(amount.events);
        bytes.get_or_create(&vec![("what", what.to_string())]).inc_by(amount.event_bytes);
    }
    r.register("spool_events", "Events since the spool is new, by what became of them", events);
    r.register("spool_event_bytes", "Their bytes", bytes);
    let help = "Bytes of the spool that could not be read";
    r.register("spool_damaged_bytes", help, ConstCounter::new(spool.damaged_bytes));
    let help = "Writes, syncs and reads of the spool that failed";
    r.register("spool_failures", help, ConstCounter::new(spool.failures));
}

fn collectors(r: &mut Registry, collectors: &[CollectorStatus]) {
    let [up, in_flight] = [(); 2].map(|()| Gauges::default());
    let [events, bytes, failures] = [(); 3].map(|()| Counters::default());
    let latency = Seconds::default();
    for collector in collectors {
        let with = |label: Option<(&'static str, &str)>| -> Labels {
            let own =
                [("collector", collector.address.to_string()), ("instance", collector.instance_id.clone())];
            own.into_iter().chain(label.map(|(name, value)| (name, value.to_string()))).collect()
        };
        let is_up = matches!(collector.state, CollectorState::Live | CollectorState::Draining);
        up.get_or_create(&with(None)).set(i64::from(is_up));
        let flying = i64::try_from(collector.bytes_in_flight).unwrap_or(i64::MAX);
        in_flight.get_or_create(&with(None)).set(flying);
        if let Some(ms) = collector.ack_latency_ms {
            latency.get_or_create(&with(None)).set(ms / 1000.0);
        }
        for (what, count) in [
            ("sent", collector.events_sent),
            ("acked", collector.events_acked),
            ("resent", collector.events_resent),
            ("dead_lettered", collector.events_dead_lettered),
        ] {
            events.get_or_create(&with(Some(("what", what)))).inc_by(count);
        }
        for (what, count) in [
            ("sent", collector.bytes_sent),
            ("acked", collector.bytes_acked),
            ("resent", collector.bytes_resent),
            ("dead_lettered", collector.bytes_dead_lettered),
        ] {
            bytes.get_or_create(&with(Some(("what", what)))).inc_by(count);
        }
        for (reason, count) in &collector.failures {
            failures.get_or_create(&with(Some(("reason", reason)))).inc_by(*count);
        }
    }
    r.register("collector_up", "Whether there is a connection to a collector", up);
    r.register("collector_in_flight_bytes", "Bytes that a collector has and did not ack", in_flight);
    r.register("collector_ack_latency_seconds", "From a window to its ack, smoothed", latency);
    r.register("collector_events", "Events of a collector, by what became of them", events);
    r.register("collector_bytes", "Bytes of a collector, by what became of them", bytes);
    r.register("collector_failures", "Connections to a collector that failed or ended", failures);
}

fn gauge(r: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    r.register(name, help, gauge);
}

#[cfg(test)]
mod tests {
    use super::super::super::{BalanceStatus, LogPathStatus, SectionStatus, Status};
    use super::super::text;
    use super::*;

    fn collector() -> CollectorStatus {
        serde_json::from_value(serde_json::json!({
            "instance_id": "i-1", "address": "10.0.0.1:5044", "zone": null, "state": "live", "connects": 1,
            "failures": {"reset": 2}, "failures_in_a_row": 0, "last_error": null, "windows_in_flight": 1,
            "windows_limit": 2, "bytes_in_flight": 500, "ack_latency_ms": 2.5, "windows_sent": 4,
            "windows_acked": 3, "events_sent": 40, "events_acked": 30, "bytes_sent": 400, "bytes_acked": 300,
            "events_resent": 10, "events_dead_lettered": 0
        }))
        .unwrap()
    }

    #[test]
    fn every_part_of_the_log_path_has_its_series() {
        let section =
            SectionStatus { paths: vec!["/var/log/a.log".into()], lines: 9, ..SectionStatus::default() };
        let spool = SpoolStatus {
            waiting: Amount { blocks: 1, events: 10, event_bytes: 100 },
            oldest_ms: Some(1_500),
            dropped: Amount { blocks: 1, events: 3, event_bytes: 30 },
            ..SpoolStatus::default()
        };
        let relay =
            RelayStatus { events: 5, ended: [("idle".to_string(), 4)].into(), ..RelayStatus::default() };
        let log_path = LogPathStatus {
            relay: Some(relay),
            tail: Some(TailStatus { sections: vec![section], ..TailStatus::default() }),
            spool,
            collectors: BalanceStatus { collectors: vec![collector()], ..BalanceStatus::default() },
            ..LogPathStatus::default()
        };
        let text = text(&Status { log_path: Some(log_path), ..Status::default() }).unwrap();
        for line in [
            "relay_events_total 5",
            "relay_connections_ended_total{reason=\"idle\"} 4",
            "tail_lines_total{paths=\"/var/log/a.log\"} 9",
            "spool_waiting_events 10",
            "spool_oldest_seconds 1.5",
            "spool_events_total{what=\"dropped\"} 3",
            "collector_up{collector=\"10.0.0.1:5044\",instance=\"i-1\"} 1",
            "collector_events_total{collector=\"10.0.0.1:5044\",instance=\"i-1\",what=\"acked\"} 30",
            "collector_failures_total{collector=\"10.0.0.1:5044\",instance=\"i-1\",reason=\"reset\"} 2",
            "collector_ack_latency_seconds{collector=\"10.0.0.1:5044\",instance=\"i-1\"} 0.0025",
            "dead_letters_total 0",
        ] {
            assert!(text.contains(&format!("pikepole_agent_{line}\n")), "{line} is missing:\n{text}");
        }
        assert!(!text.contains("spool_full_in_seconds"), "{text}");
    }
}
