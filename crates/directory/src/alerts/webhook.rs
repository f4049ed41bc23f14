//! Delivers alerts to a webhook, in order, with retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use pikepole_api::time;
use pikepole_fleet::{Alert, Notice};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::config::{Webhook, WebhookFormat};
use crate::shutdown::Shutdown;

/// Tries of one alert: about five minutes in all, then the next one matters more.
const TRIES: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// For one try.
const TRY_TIME: Duration = Duration::from_secs(10);

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Delivers until the handle is dropped; after the shutdown it makes one last try of what waits.
pub(super) async fn deliver(
    webhook: Webhook,
    mut queue: mpsc::Receiver<Alert>,
    undelivered: Arc<AtomicU64>,
    mut shutdown: Shutdown,
) {
    let client = match client() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "no alert can be delivered: the system's certificates cannot be read");
            return;
        }
    };
    while let Some(alert) = queue.recv().await {
        let body = Bytes::from(body(&webhook, &alert).to_string());
        if !deliver_one(&client, &webhook, &body, &mut shutdown).await {
            undelivered.fetch_add(1, Ordering::Relaxed);
            tracing::error!(alert = %alert.problem.kind, "alert not delivered: the webhook took it not");
        }
    }
}

fn client() -> std::io::Result<HttpClient> {
    let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

async fn deliver_one(client: &HttpClient, webhook: &Webhook, body: &Bytes, shutdown: &mut Shutdown) -> bool {
    let mut wait = FIRST_WAIT;
    for attempt in 1..=TRIES {
        match tokio::time::timeout(TRY_TIME, post(client, webhook, body.clone())).await {
            Ok(Ok(status)) if status.is_success() => return true,
            // The URL may be a secret: neither it nor the error's text, which may quote it, is logged.
            Ok(Ok(status)) => tracing::warn!(attempt, %status, "the webhook refused an alert"),
            Ok(Err(())) => tracing::warn!(attempt, "the webhook could not be reached"),
            Err(_) => tracing::warn!(attempt, "the webhook did not answer in time"),
        }
        if shutdown.is_stopping() {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64())) => {}
            () = shutdown.wait() => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    false
}

async fn post(client: &HttpClient, webhook: &Webhook, body: Bytes) -> Result<http::StatusCode, ()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(webhook.url.expose())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(drop)?;
    client.request(request).await.map(|response| response.status()).map_err(drop)
}

/// The body in the shape the receiver expects.
fn body(webhook: &Webhook, alert: &Alert) -> Value {
    match webhook.format {
        WebhookFormat::Json => json!({
            "alert": alert.problem.kind.as_str(),
            "subject": alert.problem.subject,
            "status": status(alert.notice),
            "detail": alert.detail,
            "since": time::format(alert.since),
        }),
        WebhookFormat::Slack => json!({ "text": slack_text(alert) }),
        WebhookFormat::PagerDuty => pagerduty(webhook, alert),
    }
}

const fn status(notice: Notice) -> &'static str {
    match notice {
        Notice::Raised => "raised",
        Notice::Repeated => "still open",
        Notice::Resolved => "resolved",
    }
}

fn summary(alert: &Alert) -> String {
    format!("pikepole: {} ({}): {}", alert.problem.kind, alert.problem.subject, alert.detail)
}

/// Slack's own markup characters must be escaped.
fn slack_text(alert: &Alert) -> String {
    let mark = match alert.notice {
        Notice::Raised => ":rotating_light:",
        Notice::Repeated => ":warning:",
        Notice::Resolved => ":white_check_mark:",
    };
    let text = summary(alert).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("{mark} {} {text}", status(alert.notice))
}

/// PagerDuty's Events API v2. One `dedup_key` a problem: a repeat joins the incident, "resolve" ends it.
fn pagerduty(webhook: &Webhook, alert: &Alert) -> Value {
    let action = if alert.notice == Notice::Resolved { "resolve" } else { "trigger" };
    let mut event = json!({
        "event_action": action,
        "dedup_key": format!("pikepole/{}/{}", alert.problem.kind, alert.problem.subject),
        "client": "pikepole",
        "payload": {
            "summary": summary(alert).chars().take(1024).collect::<String>(),
            "source": alert.problem.subject,
            "severity": "critical",
            "timestamp": time::format(alert.since),
            "component": "directory",
            "class": alert.problem.kind.as_str(),
        },
    });
    if let Some(key) = &webhook.routing_key {
        event["routing_key"] = Value::from(key.expose());
    }
    event
}
