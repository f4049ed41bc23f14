//! Every other route, and what all routes have in common.

use serde_json::{Value, json};

use super::harness::{Plan, Rig};

/// Every route of the contract, and the methods it takes.
const ROUTES: [(&str, &str); 20] = [
    ("/logstash-ip?dcid=some-dc&region=ap-south-1", "GET, HEAD"),
    ("/update-ip-list?region=ap-south-1&dcid=some-dc&as_name=f1", "GET, HEAD"),
    ("/v1/fleets", "GET, HEAD"),
    ("/v1/fleets/f1", "GET, HEAD"),
    ("/v1/fleets/f1/roster", "GET, HEAD"),
    ("/v1/fleets/f1/refresh", "POST"),
    ("/v1/events", "POST"),
    ("/v1/events/sns", "POST"),
    ("/v1/agents", "GET, HEAD"),
    ("/v1/watch", "GET, HEAD"),
    ("/prometheus/sd", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/openapi.json", "GET, HEAD"),
    ("/", "GET, HEAD"),
    ("/app.js", "GET, HEAD"),
    ("/lives.js", "GET, HEAD"),
    ("/app.css", "GET, HEAD"),
    ("/favicon.svg", "GET, HEAD"),
];

async fn reconciling() -> Rig {
    let rig = Plan::new().reconciling().start().await;
    rig.cloud.create_group(&"f1".parse().unwrap(), 1);
    rig.launch("f1");
    assert_eq!(rig.ask("POST", "/v1/fleets/f1/refresh?wait=30s", &[]).await.status, 200);
    rig
}

#[tokio::test]
async fn another_method_is_refused_and_the_right_ones_are_named() {
    let rig = reconciling().await;
    for (path, allow) in ROUTES {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if allow.split(", ").any(|a| a == method) {
                continue;
            }
            let answer = rig.ask(method, path, &[]).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let rig = reconciling().await;
    let mut wire = rig.connect().await;
    for (path, _) in ROUTES.iter().filter(|(path, allow)| allow.contains("HEAD") && *path != "/v1/watch") {
        let get = wire.ask("GET", path, &[]).await;
        assert_eq!(get.status, 200, "{path}");
        let head = wire.ask("HEAD", path, &[]).await;
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        if !["/metrics", "/v1/fleets", "/v1/fleets/f1"].contains(path) {
            assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()), "{path}");
        }
    }
    // Nothing of a body was sent, or this connection would be out of step; nor does a stream open.
    let head = rig.ask("HEAD", "/v1/watch", &[]).await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    rig.watched_by("f1", 0).await;
}

#[tokio::test]
async fn what_is_not_there_is_a_404_in_json() {
    let rig = Rig::with_two().await;
    for path in [
        "/x",
        "/v1",
        "/v1/",
        "/v1/fleets/",
        "/v1/fleets/f1/",
        "/v1/fleets/f1/roster/",
        "/v1/fleets/f1/nothing",
        "/v2/fleets",
        "/healthz/",
        "//",
        "/../etc/passwd",
        "/app.js/..",
        "/%2e%2e/",
        "/V1/FLEETS",
    ] {
        let answer = rig.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "bad_request"), "{path}");
    }
}

#[tokio::test]
async fn an_unknown_fleet_has_its_own_code_everywhere() {
    let rig = Rig::with_two().await;
    let long = "x".repeat(4_000);
    for (method, path) in [
        ("GET", "/v1/fleets/f9".to_string()),
        ("GET", "/v1/fleets/f9/roster".into()),
        ("GET", "/v1/fleets/f9/roster?after=1&wait=5m".into()),
        ("POST", "/v1/fleets/f9/refresh".into()),
        ("GET", "/v1/watch?fleet=f1&fleet=f9".into()),
        ("GET", "/v1/watch?fleet=".into()),
        ("GET", "/prometheus/sd?fleet=f9".into()),
        ("GET", "/v1/fleets/f1%00/roster".into()),
        ("GET", "/v1/fleets/%ff/roster".into()),
        ("GET", format!("/v1/fleets/{long}")),
        ("GET", format!("/v1/watch?fleet={long}")),
    ] {
        let answer = rig.ask(method, &path, &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "unknown_fleet"), "{method} {path}");
        assert!(answer.body.len() < 1_000, "an error repeats no more than a little: {}", answer.text());
    }
}

#[tokio::test]
async fn v1_refuses_parameters_it_does_not_know() {
    let rig = Rig::with_two().await;
    for (method, path) in [
        ("GET", "/v1/fleets?x=1"),
        ("GET", "/v1/fleets/f1?wait=1s"),
        ("GET", "/v1/fleets/f1/roster?x=1"),
        ("POST", "/v1/fleets/f1/refresh?x=1"),
        ("POST", "/v1/fleets/f1/refresh?wait=1s&wait=1s"),
        ("POST", "/v1/fleets/f1/refresh?wait=61s"),
        ("POST", "/v1/fleets/f1/refresh?wait=10"),
        ("GET", "/v1/watch?fleets=f1"),
        ("GET", "/v1/watch?fleet=f1&x"),
        ("GET", "/prometheus/sd?dc=some-dc"),
    ] {
        let answer = rig.ask(method, path, &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{method} {path}");
    }
}

#[tokio::test]
async fn a_refresh_is_accepted_at_once_or_waited_for() {
    let rig = reconciling().await;
    rig.launch("f1");
    let describes = rig.cloud.describes();
    let answer = rig.ask("POST", "/v1/fleets/f1/refresh?wait=30s", &[]).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("confirmed")));
    assert_eq!(answer.json()["roster"], rig.get("/v1/fleets/f1/roster").await.json());
    assert_eq!(answer.json()["roster"]["members"].as_array().unwrap().len(), 2);
    assert!(rig.cloud.describes() > describes);

    rig.launch("f1");
    let revision = rig.revision("f1");
    let answer = rig.ask("POST", "/v1/fleets/f1/refresh", &[]).await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("pending")));
    let path = format!("/v1/fleets/f1/roster?after={revision}&wait=5m");
    assert_eq!(rig.get(&path).await.json()["members"].as_array().unwrap().len(), 3);

    rig.cloud.delay(std::time::Duration::from_secs(300));
    let answer = rig.ask("POST", "/v1/fleets/f1/refresh?wait=30ms", &[]).await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("pending")));
}

#[tokio::test]
async fn a_refresh_that_fails_says_why() {
    let rig = reconciling().await;
    rig.cloud.fail_with(Some(pikepole_directory::source::SourceError::Denied("the token expired".into())));
    let answer = rig.ask("POST", "/v1/fleets/f1/refresh?wait=30s", &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "source_failed"));
    assert!(answer.text().contains("the token expired"));
}

#[tokio::test]
async fn prometheus_discovers_every_member_with_its_labels() {
    let rig = Plan::new().fleet("f2", "other-dc", "us-east-1").start().await;
    rig.describe("f1", &["10.0.0.1:5044", "[2001:db8::1]:5044"]).await;
    rig.describe("f2", &["10.0.1.1:5044"]).await;
    let answer = rig.get("/prometheus/sd?fleet=f1").await;
    let group = |address: &str, id: &str| {
        json!({"targets": [address], "labels": {
            "__meta_pikepole_fleet": "f1", "__meta_pikepole_dc": "some-dc",
            "__meta_pikepole_region": "ap-south-1", "__meta_pikepole_instance_id": id,
            "__meta_pikepole_state": "active", "__meta_pikepole_zone": "a",
        }})
    };
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!([group("10.0.0.1:5044", "i-0"), group("[2001:db8::1]:5044", "i-1")]));
    let count = |answer: Value| answer.as_array().unwrap().len();
    assert_eq!(count(rig.get("/prometheus/sd").await.json()), 3);
    assert_eq!(count(rig.get("/prometheus/sd?fleet=f2&fleet=f1").await.json()), 3);
    assert_eq!(count(rig.get("/prometheus/sd?fleet=f2&fleet=f2").await.json()), 1);
}

#[tokio::test]
async fn prometheus_never_gets_an_empty_list_because_nothing_is_known() {
    let rig = Plan::new().fleet("f2", "other-dc", "us-east-1").start().await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    for path in ["/prometheus/sd", "/prometheus/sd?fleet=f2", "/prometheus/sd?fleet=f1&fleet=f2"] {
        let answer = rig.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "not_ready"), "{path}");
    }
    assert_eq!(rig.get("/prometheus/sd?fleet=f1").await.status, 200);
    // One wrong name in the configuration does not blind Prometheus to the rest; nothing but wrong names does.
    rig.engine.apply(rig.fleet("f2"), pikepole_fleet::Input::DoesNotExist).await;
    assert_eq!(rig.get("/prometheus/sd").await.json().as_array().unwrap().len(), 1);
    assert_eq!(rig.get("/prometheus/sd?fleet=f2").await.status, 502);
    let wrong = Plan::new().start().await;
    wrong.engine.apply(wrong.fleet("f1"), pikepole_fleet::Input::DoesNotExist).await;
    assert_eq!(wrong.get("/prometheus/sd").await.status, 502);
    // A fleet that really is empty is an empty list.
    rig.describe("f2", &[]).await;
    assert_eq!(rig.get("/prometheus/sd?fleet=f2").await.json(), json!([]));
}

#[tokio::test]
async fn ready_means_that_every_fleet_has_answered_once_also_with_no() {
    let rig = Plan::new().fleet("f2", "other-dc", "us-east-1").start().await;
    assert_eq!((rig.get("/healthz").await.status, rig.get("/readyz").await.status), (200, 503));
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    let answer = rig.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("f2") && !answer.text().contains("f1"), "{}", answer.text());
    rig.engine.apply(rig.fleet("f2"), pikepole_fleet::Input::DoesNotExist).await;
    assert_eq!(rig.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn the_page_and_its_parts_are_whole_and_locked_down() {
    let rig = Rig::with_two().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/app.css", "text/css; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
    ] {
        let answer = rig.get(path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert!(!answer.body.is_empty(), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    // What the policy forbids is not there, and what the page names is.
    let page = rig.get("/").await;
    for part in page.text().split(['"', '\'']).filter(|part| part.starts_with('/')) {
        let path = part.split(['?', '#']).next().unwrap();
        assert_ne!(rig.get(path).await.status, 404, "the page names {part}");
    }
    for forbidden in ["<style", " style=", " onclick=", "http://", "https://"] {
        assert!(!page.text().contains(forbidden), "{forbidden}");
    }
}

#[tokio::test]
async fn the_description_of_the_api_says_what_is_there() {
    let rig = reconciling().await;
    let description = rig.get("/openapi.json").await.json();
    let described = description["paths"].as_object().unwrap();
    let is_part = |path: &str| [".js", ".css", ".svg"].iter().any(|ending| path.ends_with(ending));
    for (route, allow) in ROUTES.iter().filter(|(path, _)| !is_part(path)) {
        let path = route.split('?').next().unwrap().replace("/f1", "/{fleet}");
        let method = allow.split(", ").next().unwrap();
        let operation = &described[&path][method.to_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not described");
        let head = rig.begin(method, route).await.head().await;
        let answer = &operation["responses"][head.status.to_string()];
        assert!(answer.is_object(), "{method} {path}: {} is not described", head.status);
        let kind = head.header("content-type").unwrap().split(';').next().unwrap();
        assert!(answer["content"][kind].is_object(), "{method} {path}: {kind} is not described");
    }
    let methods = described.values().map(|operations| operations.as_object().unwrap().len());
    assert_eq!(methods.sum::<usize>(), ROUTES.len() - 4, "something is described that is not there");
}
