//! The directory as its callers see it: a real server on a real socket, in this process.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "directory/agents.rs"]
mod agents;
#[cfg(feature = "aws")]
#[path = "directory/aws_engine.rs"]
mod aws_engine;
#[cfg(feature = "aws")]
#[path = "directory/aws_moto.rs"]
mod aws_moto;
#[path = "directory/drain.rs"]
mod drain;
#[path = "directory/drain_crash.rs"]
mod drain_crash;
#[path = "directory/drain_rig.rs"]
mod drain_rig;
#[path = "directory/engine_failures.rs"]
mod engine_failures;
#[path = "directory/engine_pace.rs"]
mod engine_pace;
#[path = "directory/engine_rig.rs"]
mod engine_rig;
#[path = "directory/engine_stores.rs"]
mod engine_stores;
#[path = "directory/engine_truth.rs"]
mod engine_truth;
#[path = "directory/engine_webhook.rs"]
mod engine_webhook;
#[path = "directory/events_engine.rs"]
mod events_engine;
#[path = "directory/events_http.rs"]
mod events_http;
#[path = "directory/harness.rs"]
mod harness;
#[path = "directory/hostile.rs"]
mod hostile;
#[path = "directory/hosts.rs"]
mod hosts;
#[path = "directory/metrics.rs"]
mod metrics;
#[path = "directory/poll.rs"]
mod poll;
#[path = "directory/probe.rs"]
mod probe;
#[cfg(feature = "redis")]
#[path = "directory/replicas.rs"]
mod replicas;
#[cfg(feature = "redis")]
#[path = "directory/replicas_drain.rs"]
mod replicas_drain;
#[cfg(feature = "redis")]
#[path = "directory/replicas_random.rs"]
mod replicas_random;
#[cfg(feature = "redis")]
#[path = "directory/replicas_rig.rs"]
mod replicas_rig;
#[path = "directory/roster.rs"]
mod roster;
#[path = "directory/sns.rs"]
mod sns;
#[path = "directory/stop.rs"]
mod stop;
#[path = "directory/surface.rs"]
mod surface;
#[path = "directory/tls.rs"]
mod tls;
#[path = "directory/tokens.rs"]
mod tokens;
#[path = "directory/update.rs"]
mod update;
#[path = "directory/watch.rs"]
mod watch;
