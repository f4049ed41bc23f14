//! The binary `pikepole-lambda`: hands what AWS Lambda was invoked with to a directory inside a VPC.
//!
//! It does not look into events: SNS and SQS records, EventBridge events and direct invocations go on as
//! they came, as the body of `POST /v1/events`, and the directory understands them.
//!
//! Invariant: an invocation succeeds only if a directory took the event. Everything else is an error, so
//! that Lambda tries again and, in the end, its failure destination gets the event.

mod config;
mod forward;
mod token;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use lambda_runtime::{Diagnostic, LambdaEvent, Runtime, service_fn};
use serde_json::value::RawValue;
use tracing_subscriber::EnvFilter;

use config::{Config, ConfigError};
use forward::{Delivered, Forwarder, HttpClient, NotDelivered};

/// For telling Lambda why the start failed.
const INIT_ERROR_TIME: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("PIKEPOLE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .json()
        .flatten_event(true)
        .init();
    let config = match Config::read(|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(mistakes) => return refuse_to_start(&mistakes).await,
    };
    let forwarder = Arc::new(Forwarder::new(config));
    let handler = service_fn(move |event: LambdaEvent<Box<RawValue>>| {
        let forwarder = Arc::clone(&forwarder);
        async move { handle(&forwarder, event).await }
    });
    match Runtime::new(handler).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "Lambda's runtime API cannot be reached");
            ExitCode::FAILURE
        }
    }
}

async fn handle(forwarder: &Forwarder, event: LambdaEvent<Box<RawValue>>) -> Result<Delivered, Diagnostic> {
    let body = Bytes::from(Box::<str>::from(event.payload).into_string());
    let budget = forwarder.budget(event.context.deadline, unix_ms());
    match forwarder.deliver(body, budget).await {
        Ok(delivered) => {
            tracing::info!(directory = %delivered.directory, status = delivered.status, "event delivered");
            Ok(delivered)
        }
        Err(error) => {
            tracing::error!(%error, "event not delivered");
            Err(error.into())
        }
    }
}

impl From<NotDelivered> for Diagnostic {
    fn from(error: NotDelivered) -> Self {
        Self { error_type: error.kind().into(), error_message: error.to_string() }
    }
}

/// Every mistake in the log, and to Lambda, which shows them to whoever invokes the function.
async fn refuse_to_start(mistakes: &ConfigError) -> ExitCode {
    for mistake in &mistakes.0 {
        tracing::error!("{mistake}");
    }
    if let Ok(api) = std::env::var("AWS_LAMBDA_RUNTIME_API") {
        let scheme = if api.contains("://") { "" } else { "http://" };
        let client: HttpClient<_> = forward::plain_client();
        let error =
            Diagnostic { error_type: "Pikepole.Configuration".into(), error_message: mistakes.to_string() };
        let report = Request::builder()
            .method(Method::POST)
            .uri(format!("{scheme}{api}/2018-06-01/runtime/init/error"))
            .header("Lambda-Runtime-Function-Error-Type", "Pikepole.Configuration")
            .body(Full::new(Bytes::from(serde_json::to_vec(&error).unwrap_or_default())));
        if let Ok(report) = report
            && !matches!(tokio::time::timeout(INIT_ERROR_TIME, client.request(report)).await, Ok(Ok(_)))
        {
            tracing::warn!("Lambda could not be told");
        }
    }
    ExitCode::from(2)
}

/// Lambda gives its deadline as a time of day.
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
fn unix_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
