//! `GET /metrics`, read the way Prometheus and its relatives read it.

use std::collections::{BTreeMap, BTreeSet};

use super::harness::{Plan, Rig};

/// What Prometheus 3 sends, less the protobuf it asks for only on request.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// One family: its type, its help, its series.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    series: BTreeMap<String, f64>,
}

/// A strict reader of either format. `counters_end` is what a counter's series append to its name.
fn parse(text: &str, counters_end: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").map(|l| l.split_once(' ').unwrap()) {
            let family = families.entry(name.into()).or_default();
            assert!(family.help.is_empty() && family.kind.is_empty(), "{line} stands twice or late");
            family.help = help.into();
            current = name.into();
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").map(|l| l.split_once(' ').unwrap()) {
            assert_eq!(name, current, "a family in one piece");
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            families.get_mut(name).unwrap().kind = kind.into();
            continue;
        }
        assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let family = families.get_mut(&current).unwrap();
        let ends: &[&str] = match family.kind.as_str() {
            "counter" => &[counters_end],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(ends.iter().any(|end| name == format!("{current}{end}")), "{line}");
        assert!(name.starts_with("pikepole_"), "{name}");
        check_labels(series.strip_prefix(name).unwrap());
        assert!(seen.insert(series.to_string()), "{series} stands twice");
        family.series.insert(series.into(), value.parse().unwrap());
    }
    families
}

fn check_labels(labels: &str) {
    if labels.is_empty() {
        return;
    }
    let inner = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).unwrap();
    for pair in inner.split("\",") {
        let (name, value) = pair.split_once("=\"").unwrap();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{labels}");
        assert!(!value.trim_end_matches('"').is_empty(), "{labels}");
    }
}

async fn busy() -> Rig {
    let rig = Plan::new().fleet("f2", "other-dc", "us-east-1").start().await;
    rig.describe("f1", &["10.0.0.1:5044", "10.0.0.2:5044"]).await;
    rig.get("/v1/fleets").await;
    rig.get("/nothing-here").await;
    rig.get("/v1/fleets/f2/roster").await;
    rig
}

#[tokio::test]
async fn prometheus_gets_openmetrics_with_its_end_mark() {
    let rig = busy().await;
    let answer = rig.ask("GET", "/metrics", &[("Accept", PROMETHEUS)]).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(kind));
    let text = answer.text().strip_suffix("# EOF\n").expect("the end mark, and nothing after it");
    let families = parse(text, "_total");
    assert_eq!(families["pikepole_rosters_published"].series["pikepole_rosters_published_total"], 1.0);
    check_content(&families, "");
}

#[tokio::test]
async fn everyone_else_gets_the_classic_text() {
    let rig = busy().await;
    for accept in ["", "*/*", "text/plain", "text/plain;version=0.0.4", "text/html,*/*;q=0.1"] {
        let headers = [("Accept", accept)];
        let headers = if accept.is_empty() { &[][..] } else { &headers[..] };
        let answer = rig.ask("GET", "/metrics", headers).await;
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        assert!(answer.text().ends_with('\n'));
        let families = parse(answer.text(), "");
        assert_eq!(families["pikepole_rosters_published_total"].kind, "counter");
        check_content(&families, "_total");
    }
}

/// What both texts must say; `total` is what a counter's name has in `TYPE`.
fn check_content(families: &BTreeMap<String, Family>, total: &str) {
    for (name, family) in families {
        assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name}");
    }
    let value = |family: &str, series: &str| families[family].series.get(series).copied();
    let of = |name: &str, fleet: &str| {
        let name = format!("pikepole_{name}");
        value(&name, &format!("{name}{{fleet=\"{fleet}\"}}"))
    };
    assert_eq!(of("fleet_known", "f1"), Some(1.0));
    assert_eq!(of("fleet_known", "f2"), Some(0.0));
    assert_eq!(of("fleet_age_seconds", "f1"), Some(0.0));
    assert_eq!(of("fleet_age_seconds", "f2"), None, "an age that is not known is not zero");
    assert_eq!(of("fleet_revision", "f2"), None);
    let members = "pikepole_fleet_members";
    assert_eq!(value(members, "pikepole_fleet_members{fleet=\"f1\",state=\"active\"}"), Some(2.0));
    assert_eq!(value(members, "pikepole_fleet_members{fleet=\"f1\",state=\"draining\"}"), Some(0.0));
    let requests = format!("pikepole_http_requests{total}");
    let of = |route: &str, status: u16| {
        value(&requests, &format!("pikepole_http_requests_total{{route=\"{route}\",status=\"{status}\"}}"))
    };
    assert_eq!(of("/v1/fleets", 200), Some(1.0));
    assert_eq!(of("other", 404), Some(1.0));
    assert_eq!(of("/v1/fleets/{fleet}/roster", 503), Some(1.0));
}

#[tokio::test]
async fn what_callers_send_makes_no_series() {
    let rig = Rig::with_two().await;
    let before = rig.get("/metrics").await.text().lines().count();
    for n in 0..50 {
        rig.get(&format!("/nothing/{n}")).await;
        rig.get(&format!("/v1/fleets/unknown-{n}/roster")).await;
        rig.get(&format!("/logstash-ip?dcid={n}&region={n}")).await;
    }
    let after = rig.get("/metrics").await.text().lines().count();
    // The three routes, and the first look itself.
    assert_eq!(after - before, 4);
}
