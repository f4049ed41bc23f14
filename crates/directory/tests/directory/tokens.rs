//! Who may do what.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::harness::{Plan, Rig};

const READ: &str = "read-token-1";
const WRITE: &str = "write-token-1";
const HOSTS: &str = "/logstash-ip?dcid=some-dc&region=ap-south-1";
const HINT: &str = "/update-ip-list?region=ap-south-1&dcid=some-dc&as_name=f1";
const REFRESH: &str = "/v1/fleets/f1/refresh";

/// Everything a token for reading opens.
const READABLE: [&str; 12] = [
    HOSTS,
    "/v1/fleets",
    "/v1/fleets/f1",
    "/v1/fleets/f1/roster",
    "/prometheus/sd",
    "/metrics",
    "/openapi.json",
    "/",
    "/app.js",
    "/lives.js",
    "/app.css",
    "/v1/fleets/f1/roster?after=1&wait=5m",
];

async fn guarded(plan: Plan) -> Rig {
    let rig = plan.tokens(READ, WRITE).limits(|l| l.update_answer = std::time::Duration::ZERO).start().await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    rig
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn without_a_token_nothing_is_told_but_that_one_is_needed() {
    let rig = guarded(Plan::new()).await;
    for (method, path) in
        READABLE.map(|path| ("GET", path)).into_iter().chain([("GET", HINT), ("POST", REFRESH)])
    {
        let answer = rig.ask(method, path, &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{path}");
        let asked: Vec<&str> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "www-authenticate")
            .map(|(_, value)| value.split(' ').next().unwrap())
            .collect();
        assert_eq!(asked, ["Basic", "Bearer"], "{path}");
        assert!(!answer.text().contains("10.0.0.1"), "{path}");
    }
    assert_eq!(rig.ask("GET", "/v1/fleets/unknown/roster", &[]).await.status, 401);
    assert_eq!(rig.ask("GET", "/v1/watch", &[]).await.status, 401);
}

#[tokio::test]
async fn health_needs_no_token() {
    let rig = guarded(Plan::new()).await;
    for path in ["/healthz", "/readyz", "/favicon.svg"] {
        assert_eq!(rig.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_read_token_reads_as_bearer_or_as_a_browsers_password() {
    let rig = guarded(Plan::new()).await;
    let basic = format!("Basic {}", STANDARD.encode(format!("anyone:{READ}")));
    for authorization in [bearer(READ), bearer(WRITE), format!("bearer  {READ} "), basic] {
        for path in READABLE {
            let answer = rig.ask("GET", path, &[("Authorization", &authorization)]).await;
            assert_eq!(answer.status, 200, "{authorization} {path}");
        }
    }
    let mut wire = rig.connect().await;
    wire.request("GET", "/v1/watch", &[("Authorization", &bearer(READ))]).await;
    assert_eq!(wire.events().await.roster().await["fleet"], "f1");
}

#[tokio::test]
async fn only_the_write_token_causes_work() {
    let rig = guarded(Plan::new()).await;
    for (method, path) in [("POST", REFRESH), ("GET", HINT)] {
        let answer = rig.ask(method, path, &[("Authorization", &bearer(READ))]).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{path}");
        let answer = rig.ask(method, path, &[("Authorization", &bearer(WRITE))]).await;
        assert_eq!(answer.status, 202, "{path}");
        let basic = format!("Basic {}", STANDARD.encode(format!(":{WRITE}")));
        assert_eq!(rig.ask(method, path, &[("Authorization", &basic)]).await.status, 202, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_or_odd_token_is_unauthorized_and_never_repeated() {
    let rig = guarded(Plan::new()).await;
    let longer = format!("{READ}x");
    let no_colon = format!("Basic {}", STANDARD.encode(READ));
    for authorization in [
        &bearer("nope"),
        &bearer(""),
        &bearer(&longer),
        &bearer(&READ[..READ.len() - 1]),
        &bearer(&READ.to_uppercase()),
        READ,
        "Bearer",
        "Basic",
        "Basic !!!",
        &no_colon,
        &format!("Digest {READ}"),
        &bearer("\u{e9}"),
    ] {
        let answer = rig.ask("GET", "/v1/fleets", &[("Authorization", authorization)]).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{authorization}");
        assert!(!answer.text().contains("nope"), "{}", answer.text());
    }
    // A token in the URL would end up in logs; it opens nothing.
    assert_eq!(rig.get(&format!("/v1/fleets?token={READ}")).await.status, 401);
}

#[tokio::test]
async fn the_seeds_two_routes_may_be_left_open_for_its_crons() {
    let rig = guarded(Plan::new().compat_anonymous()).await;
    assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.1:5044']");
    assert_eq!(rig.get(HINT).await.status, 202);
    for path in READABLE.into_iter().filter(|path| *path != HOSTS) {
        assert_eq!(rig.get(path).await.status, 401, "{path}");
    }
    assert_eq!(rig.ask("POST", REFRESH, &[]).await.status, 401);
}
