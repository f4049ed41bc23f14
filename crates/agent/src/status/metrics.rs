//! The status as OpenMetrics, by the Prometheus project's own library.
//!
//! Invariant: labels are outputs and alert words only, so there are as many series as the configuration has
//! files.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Status;

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<i64>>;

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
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
