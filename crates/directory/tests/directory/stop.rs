//! The end of a server: what was begun is finished, what waits is sent elsewhere.

use std::time::Duration;

use pikepole_directory::http::Limits;

use super::harness::{Plan, Rig, eventually};

const FOR_EVER: Duration = Duration::from_secs(300);

/// A server that must not need its grace.
async fn patient(plan: Plan) -> Rig {
    assert_eq!(Limits::default().grace, Duration::from_secs(5));
    let rig = plan.limits(|l| l.grace = FOR_EVER).start().await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    rig
}

#[tokio::test]
async fn long_polls_are_sent_to_another_directory_at_once() {
    let rig = patient(Plan::new()).await;
    let path = format!("/v1/fleets/f1/roster?after={}&wait=5m", rig.revision("f1"));
    let mut polls = Vec::new();
    for _ in 0..50 {
        polls.push(rig.begin("GET", &path).await);
    }
    rig.watched_by("f1", 50).await;
    rig.begin_stop();
    for poll in &mut polls {
        let answer = poll.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
        assert_eq!(answer.header("retry-after"), Some("0"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(poll.rest().await.is_empty());
    }
    rig.stopped().await;
}

#[tokio::test]
async fn streams_end_with_a_goaway() {
    let rig = patient(Plan::new()).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = rig.watch("?fleet=f1").await;
        stream.roster().await;
        streams.push(stream);
    }
    rig.begin_stop();
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap(), "event: goaway\ndata: {}\n\n");
        assert_eq!(stream.next().await, None);
    }
    rig.stopped().await;
}

#[tokio::test]
async fn idle_connections_are_closed_without_a_word_and_new_ones_refused() {
    let rig = patient(Plan::new()).await;
    let mut idle = rig.connect().await;
    assert_eq!(idle.get("/healthz").await.status, 200);
    let mut fresh = rig.connect().await;
    rig.begin_stop();
    assert!(idle.rest().await.is_empty());
    assert!(fresh.rest().await.is_empty());
    let address = rig.address;
    rig.stopped().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_was_sent_before_the_stop_is_answered_even_if_nobody_has_read_it_yet() {
    let rig = patient(Plan::new()).await;
    let mut wires = Vec::new();
    for n in 0..40 {
        let mut wire = rig.connect().await;
        if n % 2 == 0 {
            assert_eq!(wire.get("/healthz").await.status, 200);
        }
        wires.push(wire);
    }
    for wire in &mut wires {
        wire.request("GET", "/v1/fleets/f1/roster", &[]).await;
    }
    rig.begin_stop();
    for wire in &mut wires {
        let answer = wire.try_answer().await.expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection"), Some("close"));
    }
    rig.stopped().await;
}

#[tokio::test]
async fn a_server_that_stops_is_alive_but_not_ready() {
    let rig = patient(Plan::new()).await;
    let mut wires = [rig.connect().await, rig.connect().await];
    wires[0].request("GET", "/readyz", &[]).await;
    wires[1].request("GET", "/healthz", &[]).await;
    rig.begin_stop();
    let answer = wires[0].answer().await;
    assert_eq!((answer.status, answer.text()), (503, "stopping\n"));
    assert_eq!(wires[1].answer().await.status, 200);
    rig.stopped().await;
}

/// A reconciling directory whose source now takes its time, and a describe under way in it.
async fn slow_source(delay: Duration) -> Rig {
    let plan = Plan::new().reconciling().limits(|l| {
        l.grace = FOR_EVER;
        l.update_answer = FOR_EVER;
    });
    let rig = plan.start().await;
    rig.cloud.create_group(&"f1".parse().unwrap(), 1);
    rig.launch("f1");
    assert_eq!(rig.ask("POST", "/v1/fleets/f1/refresh?wait=30s", &[]).await.status, 200);
    rig.cloud.delay(delay);
    rig
}

#[tokio::test]
async fn a_refresh_under_way_is_finished() {
    let rig = slow_source(Duration::from_millis(300)).await;
    rig.launch("f1");
    let describes = rig.cloud.describes();
    let mut refresh = rig.begin("POST", "/v1/fleets/f1/refresh?wait=60s").await;
    eventually("a describe", || rig.cloud.describes() > describes).await;
    rig.begin_stop();
    let answer = refresh.answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["roster"]["members"].as_array().unwrap().len(), 2);
    rig.stopped().await;
}

#[tokio::test]
async fn a_refresh_that_nobody_will_meet_any_more_is_sent_elsewhere() {
    let rig = slow_source(Duration::from_millis(300)).await;
    let describes = rig.cloud.describes();
    let mut first = rig.begin("POST", "/v1/fleets/f1/refresh?wait=60s").await;
    eventually("a describe", || rig.cloud.describes() > describes).await;
    // These came too late for the describe under way; they wait for the next, which will not come.
    let mut late = rig.begin("POST", "/v1/fleets/f1/refresh?wait=60s").await;
    let hint = "/update-ip-list?region=ap-south-1&dcid=some-dc&as_name=f1";
    let mut late_hint = rig.begin("GET", hint).await;
    rig.get("/healthz").await;
    rig.begin_stop();
    assert_eq!(first.answer().await.status, 200);
    let answer = late.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    let answer = late_hint.answer().await;
    assert_eq!((answer.status, answer.text()), (503, "Failure"));
    rig.stopped().await;
}

#[tokio::test]
async fn whoever_does_not_finish_is_cut_when_the_grace_is_over() {
    let rig = Plan::new().limits(|l| l.grace = Duration::from_millis(200)).start().await;
    let mut half = rig.begin("GET", "/healthz").await;
    assert_eq!(half.answer().await.status, 200);
    half.send("GET /healthz HTTP/1.1\r\nHost: d").await;
    let mut first = rig.connect().await;
    first.send("GET /hea").await;
    rig.get("/healthz").await;
    rig.begin_stop();
    rig.stopped().await;
}
