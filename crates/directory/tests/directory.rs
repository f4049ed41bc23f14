//! The directory as its callers see it: a real server on a real socket, in this process.

#[cfg(feature = "aws")]
#[path = "directory/aws_engine.rs"]
mod aws_engine;
#[cfg(feature = "aws")]
#[path = "directory/aws_moto.rs"]
mod aws_moto;
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
#[cfg(feature = "redis")]
#[path = "directory/replicas.rs"]
mod replicas;
#[cfg(feature = "redis")]
#[path = "directory/replicas_random.rs"]
mod replicas_random;
#[cfg(feature = "redis")]
#[path = "directory/replicas_rig.rs"]
mod replicas_rig;
