//! Callers that are broken or mean no good. Whatever they send, the server goes on answering others.

use std::time::Duration;

use super::harness::{Plan, Rig, within};
use super::watch::{publish_large, slow_reader};

const SOON: Duration = Duration::from_millis(100);

async fn still_answers(rig: &Rig) {
    assert_eq!(rig.get("/healthz").await.text(), "alive\n");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let rig = Rig::with_two().await;
    let long_query = format!("GET /v1/watch?fleet={} HTTP/1.1\r\nHost: d\r\n\r\n", "x".repeat(1 << 20));
    let many_headers =
        format!("GET /healthz HTTP/1.1\r\nHost: d\r\n{}\r\n", "X-Filler: some words\r\n".repeat(10_000));
    let some_headers = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
    let long_header = format!("GET /healthz HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1 << 20));
    for head in [long_query, many_headers, some_headers, long_header] {
        let mut wire = rig.connect().await;
        // The server may close before it has read it all, and a reset may overtake its answer.
        let sent = wire.try_send(head.as_bytes()).await;
        match wire.try_answer().await {
            Ok(answer) => assert!([414, 431].contains(&answer.status), "{answer:?}"),
            Err(error) => assert!(sent.is_err() || head.len() > 16 * 1024, "{error}"),
        }
        still_answers(&rig).await;
    }
}

#[tokio::test]
async fn a_head_within_the_limits_is_taken() {
    let rig = Rig::with_two().await;
    let filler = "x".repeat(12 * 1024);
    let mut headers = vec![("A", "b"); 60];
    headers.push(("X-Filler", &filler));
    assert_eq!(rig.ask("GET", "/healthz", &headers).await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() {
    let rig = Plan::new().limits(|l| l.head_time = SOON).start().await;
    let mut silent = rig.connect().await;
    let mut half = rig.connect().await;
    half.send("GET /healthz HTTP/1.1\r\nHost: d").await;
    let mut idle = rig.connect().await;
    assert_eq!(idle.get("/healthz").await.status, 200);
    // A byte now and then does not make the time longer.
    let mut drip = rig.connect().await;
    let dripped = within("the end of the slow head", async {
        while drip.try_send(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    for wire in [&mut silent, &mut half, &mut idle] {
        assert!(wire.rest().await.is_empty());
    }
    dripped.await;
    rig.eventually_metric("pikepole_http_connections_open", 1.0).await;
}

#[tokio::test]
async fn a_long_poll_is_not_an_idle_connection() {
    let rig = Plan::new().limits(|l| l.head_time = Duration::from_millis(20)).start().await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    let path = format!("/v1/fleets/f1/roster?after={}&wait=300ms", rig.revision("f1"));
    assert_eq!(rig.get(&path).await.status, 304);
}

#[tokio::test]
async fn garbage_is_answered_with_an_error_or_not_at_all() {
    let rig = Rig::with_two().await;
    let noise: Vec<u8> = (0..4_096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let garbage: [&[u8]; 12] = [
        b"\r\n\r\n\r\n\r\nhello\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /\0healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nNo colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nA: \0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        &noise,
    ];
    for bytes in garbage {
        let mut wire = rig.connect().await;
        wire.send(bytes).await;
        // A half-closed connection is done with: what is unfinished will stay so.
        tokio::io::AsyncWriteExt::shutdown(wire.stream()).await.unwrap();
        let said = wire.rest().await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{bytes:?}: {said}");
        still_answers(&rig).await;
    }
}

#[tokio::test]
async fn a_request_with_two_lengths_smuggles_nothing() {
    let rig = Rig::with_two().await;
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
    ] {
        let mut wire = rig.connect().await;
        wire.send(format!(
            "POST /healthz HTTP/1.1\r\nHost: d\r\n{framing}\r\n\r\n0\r\n\r\nGET /v1/fleets HTTP/1.1\r\nHost: d\r\n\r\n"
        ))
        .await;
        tokio::io::AsyncWriteExt::shutdown(wire.stream()).await.unwrap();
        let said = String::from_utf8_lossy(&wire.rest().await).into_owned();
        assert!(said.starts_with("HTTP/1.1 4"), "{framing}: {said}");
        let chunked_wins = framing.ends_with(": chunked");
        assert!(chunked_wins || !said.contains("\"fleets\""), "{framing}: {said}");
    }
}

#[tokio::test]
async fn odd_encodings_in_a_query_are_text_like_any_other() {
    let rig = Rig::with_two().await;
    for (query, status) in [
        ("dcid=some-dc%00&region=ap-south-1", 404),
        ("dcid=%ff%fe&region=ap-south-1", 404),
        ("dcid=%&region=%zz", 404),
        ("dcid=%C0%AEsome-dc&region=ap-south-1", 404),
        ("dcid=some-dc&region=%ff", 200),
        ("dcid=some-dc&region=ap-south-1&%00=%00", 200),
        ("dcid=some%252Ddc&region=ap-south-1", 404),
        ("dcid='%3Bdrop+table--&region=ap-south-1", 404),
    ] {
        let answer = rig.get(&format!("/logstash-ip?{query}")).await;
        assert_eq!(answer.status, status, "{query}");
        assert!(!answer.body.contains(&0), "{query}");
        for header in answer.headers {
            assert!(header.1.bytes().all(|b| (0x20..0x7f).contains(&b)), "{query}: {header:?}");
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let rig = Rig::with_two().await;
    let poll = format!("/v1/fleets/f1/roster?after={}&wait=5m", rig.revision("f1"));
    let mut wire = rig.connect().await;
    let mut bytes = String::new();
    for path in ["/healthz", "/nothing", &poll, "/readyz"] {
        bytes.push_str(&format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\n"));
    }
    wire.send(bytes).await;
    assert_eq!(wire.answer().await.text(), "alive\n");
    assert_eq!(wire.answer().await.status, 404);
    rig.watched_by("f1", 1).await;
    rig.describe("f1", &["10.0.0.3:5044"]).await;
    assert_eq!(wire.answer().await.json()["members"][0]["address"], "10.0.0.3:5044");
    assert_eq!(wire.answer().await.text(), "ready\n");
}

#[tokio::test]
async fn other_forms_of_a_request_are_understood() {
    let rig = Rig::with_two().await;
    for (head, status) in [
        ("GET http://directory:8044/healthz HTTP/1.1\r\nHost: other\r\n", 200),
        ("GET http://directory/v1/fleets/f1/roster?after=1&wait=5m HTTP/1.1\r\nHost: d\r\n", 200),
        ("GET /healthz HTTP/1.0\r\n", 200),
        ("OPTIONS * HTTP/1.1\r\nHost: d\r\n", 404),
        ("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n", 404),
        ("GET ftp://x/healthz HTTP/1.1\r\nHost: d\r\nConnection: upgrade\r\nUpgrade: h2c\r\n", 200),
    ] {
        let mut wire = rig.connect().await;
        wire.send(format!("{head}\r\n")).await;
        assert_eq!(wire.answer().await.status, status, "{head}");
    }
}

#[tokio::test]
async fn a_body_on_a_refresh_is_neither_awaited_nor_kept() {
    let rig = Rig::with_two().await;
    // Small and whole: it is skipped, and the connection goes on.
    let mut wire = rig.connect().await;
    wire.send("POST /v1/fleets/f1/refresh HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!(wire.answer().await.status, 202);
    assert_eq!(wire.get("/healthz").await.status, 200);
    let mut wire = rig.connect().await;
    wire.send(
        "POST /v1/fleets/f1/refresh HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(wire.answer().await.status, 202);
    // Announced but never sent, with and without being asked for it: answered at once.
    for announced in [
        "Content-Length: 1000000000000",
        "Content-Length: 5\r\nExpect: 100-continue",
        "Transfer-Encoding: chunked\r\nExpect: 100-continue",
    ] {
        let mut wire = rig.connect().await;
        wire.send(format!("POST /v1/fleets/f1/refresh HTTP/1.1\r\nHost: d\r\n{announced}\r\n\r\n")).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 202, "{announced}");
        assert!(wire.rest().await.is_empty(), "{announced}");
    }
}

#[tokio::test]
async fn a_huge_body_is_cut_off_but_its_sender_hears_the_answer() {
    let rig = Rig::with_two().await;
    for framing in ["Content-Length: 67108864", "Transfer-Encoding: chunked"] {
        let mut wire = rig.connect().await;
        wire.send(format!("POST /v1/fleets/f1/refresh HTTP/1.1\r\nHost: d\r\n{framing}\r\n\r\n")).await;
        let piece = vec![b'0'; 64 * 1024];
        for _ in 0..4 {
            if wire.try_send(&piece).await.is_err() {
                break;
            }
        }
        let answer = wire.try_answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status, 202, "{framing}");
        still_answers(&rig).await;
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off_and_what_it_held_is_freed() {
    let rig = Plan::new().limits(|l| l.write_time = SOON).start().await;
    let addresses: Vec<String> = (0..5_000).map(|n| format!("10.1.{}.{}:5044", n / 250, n % 250)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    rig.describe("f1", &addresses).await;
    let published = rig.fleet("f1").published().unwrap();
    assert!(published.seed.is_unique());
    let mut greedy = rig.connect().await;
    let request = b"GET /logstash-ip?dcid=some-dc&region=ap-south-1 HTTP/1.1\r\nHost: d\r\n\r\n";
    greedy.send(request.repeat(200)).await;
    rig.eventually_metric("pikepole_http_slow_readers_total", 1.0).await;
    rig.eventually_metric("pikepole_http_connections_open", 1.0).await;
    assert!(published.seed.is_unique(), "a connection that is gone still holds the answer");
    still_answers(&rig).await;
}

#[tokio::test]
async fn a_stream_that_is_never_read_is_cut_off() {
    let rig = Plan::new().without_guard().limits(|l| l.write_time = SOON).start().await;
    publish_large(&rig, 0).await;
    let _stream = slow_reader(&rig, "").await;
    rig.watched_by("f1", 1).await;
    for round in 1..=8 {
        publish_large(&rig, round).await;
    }
    rig.watched_by("f1", 0).await;
    rig.eventually_metric("pikepole_http_slow_readers_total", 1.0).await;
}

#[tokio::test]
async fn two_thousand_half_open_connections_keep_nobody_out() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(limit.current.is_none_or(|n| n > 4_500), "this test needs 4,500 file descriptors");
    let rig = Rig::with_two().await;
    let mut half_open = Vec::new();
    for n in 0..2_000 {
        let mut wire = rig.connect().await;
        if n % 2 == 0 {
            wire.send("GET /healthz HTT").await;
        }
        half_open.push(wire);
    }
    rig.eventually_metric("pikepole_http_connections_open", 2_001.0).await;
    assert_eq!(rig.get("/v1/fleets/f1/roster").await.status, 200);
    drop(half_open);
    rig.eventually_metric("pikepole_http_connections_open", 1.0).await;
}
