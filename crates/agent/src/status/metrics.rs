//! The status as OpenMetrics, by the Prometheus project's own library.
//!
//! Invariant: labels are outputs, folders and words of ours only, so there are as many series as the
//! configuration has files and folders.

mod log_path;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{DiskGuardStatus, Status};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<i64>>;
type Counters = Family<Labels, Counter>;

/// The text of `/metrics`.
pub(super) fn text(status: &Status) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("pikepole_agent");
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
    };
    let roster = status.roster.as_ref();
    let r = &mut registry;
    gauge(r, "roster_revision", "Revision of the roster that is known", roster.map(|r| r.revision));
    gauge(r, "applied_revision", "Revision that every shipper was reloaded with", status.applied);
    gauge(r, "roster_members", "Members of the roster", roster.map(|r| r.members as u64));
    gauge(r, "roster_sendable", "Members that are sent to", roster.map(|r| r.sendable as u64));
    let age = roster.and_then(|r| r.age_seconds);
    gauge(r, "roster_age_seconds", "Seconds since the source confirmed the roster", age);
    let stale = roster.map(|r| u64::from(r.stale));
    gauge(r, "roster_stale", "Whether the directory calls the roster stale", stale);
    let from_disk = roster.map(|r| u64::from(r.from == "disk"));
    gauge(r, "roster_from_disk", "Whether no directory has answered since the start", from_disk);
    let counts = &status.counts;
    for (name, help, count) in [
        ("rosters", "Rosters taken", counts.rosters),
        ("poll_failures", "Polls that failed", counts.poll_failures),
        ("older_rosters", "Rosters refused because they were older", counts.older),
        ("writes", "Jobs that wrote a file", counts.writes),
        ("reloads", "Reload commands that ran", counts.reloads),
        ("failures", "Jobs that failed", counts.failures),
    ] {
        r.register(name, help, ConstCounter::new(count));
    }
    let trouble = Gauges::default();
    for problem in &status.trouble {
        let labels = vec![("alert", problem.alert.clone()), ("subject", problem.subject.clone())];
        trouble.get_or_create(&labels).set(1);
    }
    r.register("trouble", "Problems that last: 1 each", trouble);
    let revisions = Gauges::default();
    for render in &status.renders {
        if let Some(revision) = render.revision {
            let labels = vec![("output", render.output.clone())];
            revisions.get_or_create(&labels).set(i64::try_from(revision).unwrap_or(i64::MAX));
        }
    }
    r.register("render_revision", "Revision that a file's shipper uses", revisions);
    if let Some(guard) = &status.disk_guard {
        disk_guard(r, guard);
    }
    if let Some(status) = &status.log_path {
        log_path::log_path(r, status);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn disk_guard(r: &mut Registry, guard: &DiskGuardStatus) {
    let [free, total, full] = [(); 3].map(|()| Gauges::default());
    let set = |gauges: &Gauges, path: &str, value: u64| {
        let gauge = gauges.get_or_create(&vec![("path", path.to_string())]).clone();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    };
    for disk in &guard.disks {
        for path in &disk.paths {
            set(&free, path, disk.free);
            set(&total, path, disk.total);
            if let Some(seconds) = disk.full_in_seconds {
                set(&full, path, seconds);
            }
        }
    }
    r.register("disk_free_bytes", "Bytes that are free on the disk of a guarded folder", free);
    r.register("disk_total_bytes", "Bytes of the disk of a guarded folder", total);
    let help = "Seconds until the disk of a guarded folder is full; absent if it is not, within a month";
    r.register("disk_full_in_seconds", help, full);
    let [bytes, lines, files] = [(); 3].map(|()| Counters::default());
    let add = |counters: &Counters, label: &'static str, value: &str, count: u64| {
        counters.get_or_create(&vec![(label, value.to_string())]).inc_by(count);
    };
    for (policy, given) in guard.totals.by_policy() {
        add(&bytes, "policy", policy, given.bytes);
        add(&lines, "policy", policy, given.lines);
    }
    add(&files, "how", "compressed", guard.totals.compressed_files);
    add(&files, "how", "deleted", guard.totals.deleted.files);
    add(&files, "how", "truncated", guard.totals.truncated.files);
    r.register("disk_given_up_bytes", "Bytes of logs that were given up", bytes);
    r.register("disk_given_up_lines", "Lines of logs that were given up, some of them estimated", lines);
    r.register("disk_guard_files", "Files that the disk guard worked on", files);
    let errors = ConstCounter::new(guard.totals.errors);
    r.register("disk_guard_errors", "What the disk guard could not do", errors);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{
        DiskStatus, Given, LogPathStatus, RelayStatus, RenderStatus, RosterStatus, SectionStatus, TailStatus,
        Totals, TroubleStatus,
    };
    use super::*;

    #[test]
    fn what_is_given_up_is_a_counter_and_an_unknown_forecast_is_absent() {
        let disk = |path: &str, full_in_seconds| DiskStatus {
            paths: vec![path.into()],
            free: 5,
            total: 9,
            full_in_seconds,
            low: true,
        };
        let given = Given { files: 1, bytes: 64, lines: 3, estimated: 0 };
        let guard = DiskGuardStatus {
            disks: vec![disk("/a", Some(60)), disk("/b", None)],
            totals: Totals { truncated: given, errors: 2, ..Totals::default() },
            ..DiskGuardStatus::default()
        };
        let text = text(&Status { disk_guard: Some(guard), ..Status::default() }).unwrap();
        for line in [
            "disk_free_bytes{path=\"/b\"} 5",
            "disk_full_in_seconds{path=\"/a\"} 60",
            "disk_given_up_bytes_total{policy=\"truncate\"} 64",
            "disk_given_up_lines_total{policy=\"truncate\"} 3",
            "disk_given_up_bytes_total{policy=\"delete_oldest_rotated\"} 0",
            "disk_guard_files_total{how=\"truncated\"} 1",
            "disk_guard_errors_total 2",
        ] {
            assert!(text.contains(&format!("pikepole_agent_{line}\n")), "{line} is missing:\n{text}");
        }
        assert!(!text.contains("disk_full_in_seconds{path=\"/b\"}"), "{text}");
    }

    /// An agent that does everything.
    fn whole() -> Status {
        let at = pikepole_api::time::Rfc3339(pikepole_fleet::Timestamp::from_millis(0));
        let section = SectionStatus { paths: vec!["/var/log/a.log".into()], ..SectionStatus::default() };
        let ended = [("idle".to_string(), 1)].into();
        let mut path = LogPathStatus {
            relay: Some(RelayStatus { ended, ..RelayStatus::default() }),
            tail: Some(TailStatus { sections: vec![section], ..TailStatus::default() }),
            ..LogPathStatus::default()
        };
        path.spool.full_in_seconds = Some(1);
        path.collectors.collectors.push(log_path::tests::collector());
        let disk = DiskStatus { paths: vec!["/a".into()], full_in_seconds: Some(1), ..DiskStatus::default() };
        Status {
            roster: Some(RosterStatus {
                fleet: "f".into(),
                revision: 1,
                members: 1,
                sendable: 1,
                published_at: at,
                confirmed_at: Some(at),
                age_seconds: Some(1),
                stale: false,
                from: "disk".into(),
            }),
            applied: Some(1),
            renders: vec![RenderStatus {
                output: "/o".into(),
                template: String::new(),
                revision: Some(1),
                written_at: None,
                reloaded_at: None,
            }],
            trouble: vec![TroubleStatus {
                alert: "disk_low".into(),
                subject: "/a".into(),
                detail: String::new(),
                since: at,
            }],
            disk_guard: Some(DiskGuardStatus { disks: vec![disk], ..DiskGuardStatus::default() }),
            log_path: Some(path),
            ..Status::default()
        }
    }

    #[test]
    fn every_metric_is_in_the_table_for_operators_with_its_labels_and_no_other() {
        let text = text(&whole()).unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let named = |line: &str| {
            let (name, rest) = line.split_once([' ', '{']).unwrap();
            let parts: Vec<_> = rest.split("=\"").collect();
            let (_, before) = parts.split_last().unwrap();
            let labels: Vec<_> = before.iter().filter_map(|part| part.rsplit([',', '"']).next()).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            format!("{}{labels}", name.strip_prefix("pikepole_agent_").unwrap())
        };
        let ours: BTreeSet<_> = series.map(named).collect();
        let page = include_str!("../../../../docs/agent-operations.md");
        let table = page.split("## Metrics").nth(1).unwrap().lines().filter(|line| line.starts_with("| `"));
        let theirs: BTreeSet<_> = table
            .flat_map(|row| row.split(" | ").next().unwrap().split('`').skip(1).step_by(2))
            .map(String::from)
            .collect();
        let missing: Vec<_> = ours.difference(&theirs).collect();
        let unknown: Vec<_> = theirs.difference(&ours).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}, unknown: {unknown:?}");
    }
}
