//! What a webhook receives, in which order, and what the log must not say of it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::fmt::{Debug, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pikepole_directory::alerts::Alerts;
use pikepole_directory::config::{FleetConfig, Secret, SourceConfig, Webhook, WebhookFormat};
use pikepole_directory::shutdown;
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{Describe, Input, Proof};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::field::{Field, Visit};
use tracing::span;

use crate::engine_rig::{PATIENCE, Rig, Wall, fleet_config, until};

/// A group's name with Slack's own markup in it.
const GROUP: &str = "a<b>&c";

struct Receiver {
    bodies: mpsc::Receiver<(u16, Value)>,
}

impl Receiver {
    /// Answers with these status codes in turn, and with 200 after them.
    fn start(listener: TcpListener, statuses: &'static [u16]) -> Self {
        let (sender, bodies) = mpsc::channel(100);
        tokio::spawn(async move {
            let mut statuses = statuses.iter().copied();
            while let Ok((stream, _)) = listener.accept().await {
                let status = statuses.next().unwrap_or(200);
                let body = receive(stream, status).await;
                if sender.send((status, body)).await.is_err() {
                    return;
                }
            }
        });
        Self { bodies }
    }

    async fn next(&mut self) -> (u16, Value) {
        timeout(PATIENCE, self.bodies.recv()).await.expect("nothing is delivered").unwrap()
    }
}

async fn receive(mut stream: TcpStream, status: u16) -> Value {
    let mut request = Vec::new();
    loop {
        stream.read_buf(&mut request).await.unwrap();
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() < length.unwrap().parse().unwrap() {
            continue;
        }
        assert!(head.starts_with("POST /services/s3cret-path "), "{head}");
        assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        return serde_json::from_str(body).unwrap();
    }
}

/// Fleets without a source that is asked: the test says what happens.
async fn rig(port: u16, format: WebhookFormat) -> Rig {
    let wall = Wall::new();
    let webhook = Webhook {
        url: Secret::new(format!("http://127.0.0.1:{port}/services/s3cret-path")),
        format,
        routing_key: (format == WebhookFormat::PagerDuty).then(|| Secret::new("s3cret-key")),
    };
    let (trigger, shutdown) = shutdown::channel();
    std::mem::forget(trigger); // the test does not stop
    Rig::open(SimCloud::new(wall.clock()), wall, &["f", "g"], |setup| {
        let asg = SourceConfig::Aws { asg: GROUP.parse().unwrap(), assume_role: None };
        setup.sources[0].fleets[0] = FleetConfig { source: asg, ..fleet_config("f") };
        setup.alerts = Alerts::new(Some(webhook), shutdown);
    })
    .await
}

async fn missing(rig: &Rig, fleet: &str) {
    rig.engine.apply(rig.fleet(fleet), Input::DoesNotExist).await;
    rig.engine.review_alerts();
}

async fn found(rig: &Rig, fleet: &str) {
    let instances = rig.fleet("g").state().snapshot.as_ref().map(|s| s.instances.clone()).unwrap_or_default();
    let describe = Describe { made_at: rig.wall.now(), desired: Some(0), instances };
    rig.engine.apply(rig.fleet(fleet), Input::Described { describe, proof: Proof::default() }).await;
    rig.engine.review_alerts();
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn our_own_shape_says_what_when_and_since_when() {
    let (listener, port) = listener().await;
    let mut receiver = Receiver::start(listener, &[]);
    let rig = rig(port, WebhookFormat::Json).await;
    missing(&rig, "f").await;
    missing(&rig, "f").await;
    let (_, raised) = receiver.next().await;
    assert_eq!((&raised["alert"], &raised["subject"]), (&json!("fleet_missing"), &json!("f")));
    assert_eq!(raised["status"], "raised");
    assert!(raised["detail"].as_str().unwrap().contains(GROUP), "{raised}");
    assert!(raised["since"].as_str().unwrap().starts_with("2026-11-22T"), "{raised}");
    found(&rig, "f").await;
    // One alert a problem: the next word is that it is over. An empty fleet is the next problem.
    let (_, next) = receiver.next().await;
    assert_eq!((&next["alert"], &next["status"]), (&json!("fleet_missing"), &json!("resolved")));
    assert_eq!(next["since"], raised["since"]);
    let (_, next) = receiver.next().await;
    assert_eq!((&next["alert"], &next["status"]), (&json!("fleet_empty"), &json!("raised")));
    assert!(receiver.bodies.try_recv().is_err());
}

#[tokio::test]
async fn slacks_shape_is_a_text_with_its_markup_escaped() {
    let (listener, port) = listener().await;
    let mut receiver = Receiver::start(listener, &[]);
    let rig = rig(port, WebhookFormat::Slack).await;
    missing(&rig, "f").await;
    let (_, body) = receiver.next().await;
    let text = body["text"].as_str().unwrap();
    assert!(text.starts_with(":rotating_light: raised pikepole: fleet_missing (f): "), "{text}");
    assert!(text.contains("a&lt;b&gt;&amp;c") && !text.contains('<'), "{text}");
    assert_eq!(body.as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn pagerdutys_shape_opens_and_ends_one_incident() {
    let (listener, port) = listener().await;
    let mut receiver = Receiver::start(listener, &[]);
    let rig = rig(port, WebhookFormat::PagerDuty).await;
    missing(&rig, "f").await;
    let (_, raised) = receiver.next().await;
    assert_eq!(raised["event_action"], "trigger");
    assert_eq!(raised["routing_key"], "s3cret-key");
    assert_eq!(raised["dedup_key"], "pikepole/fleet_missing/f");
    assert_eq!(raised["payload"]["severity"], "critical");
    assert_eq!(
        (&raised["payload"]["source"], &raised["payload"]["class"]),
        (&json!("f"), &json!("fleet_missing"))
    );
    assert!(raised["payload"]["summary"].as_str().unwrap().contains(GROUP));
    found(&rig, "f").await;
    let (_, resolved) = receiver.next().await;
    assert_eq!(
        (&resolved["event_action"], &resolved["dedup_key"]),
        (&json!("resolve"), &raised["dedup_key"])
    );
}

#[tokio::test]
async fn what_is_refused_is_tried_again_before_the_next_and_no_secret_is_logged() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    // Bound but not listening: connections are refused, and nobody else gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let rig = rig(port, WebhookFormat::PagerDuty).await;
    missing(&rig, "f").await;
    missing(&rig, "g").await;
    until("the first try is refused", || log.text().contains("could not be reached")).await;
    let mut receiver = Receiver::start(socket.listen(16).unwrap(), &[500]);
    let of = |(status, body): (u16, Value)| (status, body["payload"]["source"].as_str().unwrap().to_owned());
    assert_eq!(of(receiver.next().await), (500, "f".into()));
    assert_eq!(of(receiver.next().await), (200, "f".into()), "the same once more");
    assert_eq!(of(receiver.next().await), (200, "g".into()), "and only then the next");
    assert_eq!(rig.engine.alerts().undelivered().load(Ordering::SeqCst), 0);
    let text = log.text();
    assert!(text.contains("the webhook refused an alert") && text.contains("alert raised"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_webhook_that_never_answers_holds_nothing_up_and_what_does_not_fit_is_counted() {
    let (listener, port) = listener().await;
    let rig = rig(port, WebhookFormat::Json).await;
    let turns = async {
        for _ in 0..300 {
            missing(&rig, "g").await;
            found(&rig, "g").await;
        }
    };
    timeout(Duration::from_secs(20), turns).await.expect("the engine waits for the webhook");
    assert!(rig.engine.alerts().undelivered().load(Ordering::SeqCst) > 300);
    drop(listener);
}

/// Keeps every event as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let mut log = self.0.lock().unwrap();
        log.push_str(&line.0);
        log.push('\n');
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
