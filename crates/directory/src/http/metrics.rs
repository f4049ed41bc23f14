//! `GET /metrics`. Gauges are read from the fleets when Prometheus asks; nothing is kept twice.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use pikepole_api::exposition::negotiated;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::App;
use super::reply::{Reply, whole};
use super::route::Route;
use crate::engine::{Engine, Fleet};
use crate::events::{Outcome, Way};

/// Statuses that are counted by themselves; the rest shares the last place.
const STATUSES: [u16; 15] = [200, 202, 304, 400, 401, 403, 404, 405, 408, 413, 431, 500, 502, 503, 0];

/// Counts of one server.
#[derive(Debug)]
pub(super) struct Counters {
    requests: [[AtomicU64; STATUSES.len()]; Route::LABELS.len()],
    /// Answers of `/logstash-ip` that ignored a wrong region.
    pub(super) region_ignored: AtomicU64,
    /// Connections accepted.
    pub(super) accepted: AtomicU64,
    /// Connections open now.
    pub(super) open: AtomicU64,
    /// Readers cut off because they took nothing for too long.
    pub(super) slow_readers: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: [const { [const { AtomicU64::new(0) }; STATUSES.len()] }; Route::LABELS.len()],
            region_ignored: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            slow_readers: AtomicU64::new(0),
        }
    }
}

impl Counters {
    pub(super) fn count(&self, label: usize, status: StatusCode) {
        let last = STATUSES.len() - 1;
        let place = STATUSES.iter().position(|s| *s == status.as_u16()).unwrap_or(last);
        self.requests[label][place].fetch_add(1, Ordering::Relaxed);
    }
}

/// OpenMetrics for whoever asks for it by name, as Prometheus does; the classic text for all others.
pub(super) fn reply(app: &Arc<App>, headers: &HeaderMap) -> Reply {
    let mut registry = Registry::with_prefix("pikepole");
    registry.register_collector(Box::new(Scrape(Arc::clone(app))));
    let mut body = String::new();
    encode(&mut body, &registry).expect("writing to a String cannot fail");
    let accept = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let (kind, body) = negotiated(body, accept);
    whole(StatusCode::OK, HeaderValue::from_static(kind), body.into())
}

/// Reads everything at the time of the scrape.
struct Scrape(Arc<App>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

type Labels<'a> = [(&'static str, &'a str); 1];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let app = &self.0;
        fleets(&app.engine, &mut encoder)?;
        engine(&app.engine, &mut encoder)?;
        events(app.feed.counters(), &mut encoder)?;
        #[cfg(feature = "aws")]
        crate::events::sqs::encode_metrics(app.feed.queues(), app.engine.clock().now(), &mut encoder)?;
        server(&app.counters, &mut encoder)
    }
}

fn fleets(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let now = engine.clock().now();
    type Read = fn(&Engine, &Fleet, pikepole_fleet::Timestamp) -> Option<i64>;
    let gauges: [(&str, &str, Read); 12] = [
        ("fleet_revision", "Revision of the published roster", |_, f, _| {
            f.published().map(|p| i64::try_from(p.revision().get()).unwrap_or(i64::MAX))
        }),
        ("fleet_age_seconds", "Seconds since the source confirmed the roster", |_, f, now| {
            f.age(now).map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
        }),
        ("fleet_stale", "1 if the roster was not confirmed for too long", |e, f, _| {
            Some(e.is_stale(f).into())
        }),
        ("fleet_known", "1 if a roster is published", |_, f, _| Some(f.published().is_some().into())),
        ("fleet_missing", "1 if the source says there is no such group", |_, f, _| {
            Some(f.state().missing.into())
        }),
        ("fleet_guard_holding", "1 while the guard holds the last good roster", |_, f, _| {
            Some(f.state().hold.is_some().into())
        }),
        ("fleet_source_failures", "Failures of the source since its last answer", |_, f, _| {
            Some(f.health().failures.into())
        }),
        ("fleet_watchers", "Long polls and event streams open on this fleet", |_, f, _| {
            Some(i64::try_from(f.watchers()).unwrap_or(i64::MAX))
        }),
        ("fleet_agents_live", "Agents whose poll is open or ended a moment ago", |_, f, _| {
            Some(i64::try_from(agents(f).0).unwrap_or(i64::MAX))
        }),
        ("fleet_agents_applied", "Live agents that use the published revision", |_, f, _| {
            Some(i64::try_from(agents(f).1).unwrap_or(i64::MAX))
        }),
        ("fleet_drains", "Dying collectors that agents have not all left", |_, f, _| {
            let state = f.state();
            Some(state.lives.iter().filter(|(_, l)| l.is_leaving() && l.moved_off.is_none()).count() as i64)
        }),
        ("fleet_newcomers", "New collectors whose port has not answered", |_, f, _| {
            Some(f.state().lives.iter().filter(|(_, life)| life.wants_probe()).count() as i64)
        }),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for fleet in engine.fleets() {
            if let Some(value) = read(engine, fleet, now) {
                let labels: Labels<'_> = [("fleet", fleet.config().name.as_str())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let mut family = encoder.encode_descriptor(
        "fleet_members",
        "Members of the published roster by state",
        None,
        MetricType::Gauge,
    )?;
    for fleet in engine.fleets() {
        let Some(published) = fleet.published() else { continue };
        use pikepole_fleet::MemberState::{Active, Draining, LastResort};
        for state in [Active, LastResort, Draining] {
            let count = published.roster.members().iter().filter(|m| m.state == state).count();
            let labels = [("fleet", fleet.config().name.as_str()), ("state", state.as_str())];
            ConstGauge::new(count as i64).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Agents that are live, and those of them that use the published revision.
fn agents(fleet: &Fleet) -> (u64, u64) {
    fleet.agents().count(fleet.published().map(|p| p.revision()))
}

fn engine(engine: &Engine, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let counters = engine.counters();
    for (name, help, value) in [
        ("rosters_published", "Rosters published", &counters.published),
        ("guard_held", "Describes that the guard held up", &counters.held),
        ("guard_observed", "Describes that the guard would have held up", &counters.observed),
        ("store_failures", "Reads and writes of a store that failed", &counters.store_failures),
    ] {
        counter(encoder, name, help, value)?;
    }
    let lag = &counters.lag;
    for (at, histogram) in
        [("received", &lag.received), ("published", &lag.published), ("converged", &lag.converged)]
    {
        let name = format!("event_{at}_lag_seconds");
        let help = format!("From the time an event carries to the moment it was {at}");
        histogram.encode(encoder.encode_descriptor(&name, &help, None, MetricType::Histogram)?)?;
    }
    counter(encoder, "alerts_undelivered", "Alerts that no webhook took", engine.alerts().undelivered())?;
    let mut family =
        encoder.encode_descriptor("source_sweeps", "Times a source was asked", None, MetricType::Counter)?;
    for (label, sweeps) in engine.sweeps() {
        let labels: Labels<'_> = [("source", label)];
        ConstCounter::new(sweeps).encode(family.encode_family(&labels)?)?;
    }
    let mut family = encoder.encode_descriptor(
        "aws_calls",
        "Calls made to AWS by API, and throttled ones",
        None,
        MetricType::Counter,
    )?;
    for (label, api, calls) in engine.api_calls() {
        let labels = [("source", label), ("api", api)];
        ConstCounter::new(calls).encode(family.encode_family(&labels)?)?;
    }
    let mut family =
        encoder.encode_descriptor("alerts_open", "Problems that are open now", None, MetricType::Gauge)?;
    for (kind, count) in engine.alerts().open_by_kind() {
        let labels: Labels<'_> = [("kind", kind.as_str())];
        ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn events(counters: &crate::events::Counters, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Events and the messages they came in, by the way in and what became of them";
    let mut family = encoder.encode_descriptor("events", help, None, MetricType::Counter)?;
    for way in Way::ALL {
        for outcome in Outcome::ALL {
            let labels = [("way", way.as_str()), ("outcome", outcome.as_str())];
            ConstCounter::new(counters.get(way, outcome)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn server(counters: &Counters, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    counter(encoder, "http_connections_accepted", "Connections accepted", &counters.accepted)?;
    counter(
        encoder,
        "http_slow_readers",
        "Connections cut because they took nothing",
        &counters.slow_readers,
    )?;
    counter(encoder, "seed_region_ignored", "Answers that ignored a wrong region", &counters.region_ignored)?;
    let open = ConstGauge::new(i64::try_from(counters.open.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
    open.encode(encoder.encode_descriptor(
        "http_connections_open",
        "Connections open now",
        None,
        MetricType::Gauge,
    )?)?;
    let mut family = encoder.encode_descriptor(
        "http_requests",
        "Requests by route and status",
        None,
        MetricType::Counter,
    )?;
    for (route, by_status) in Route::LABELS.iter().zip(&counters.requests) {
        for (status, count) in STATUSES.iter().zip(by_status) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let status = if *status == 0 { "other".into() } else { status.to_string() };
                let labels = [("route", *route), ("status", status.as_str())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: &AtomicU64) -> fmt::Result {
    let value = ConstCounter::new(value.load(Ordering::Relaxed));
    value.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}
