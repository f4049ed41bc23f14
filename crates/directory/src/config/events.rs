//! `[probe]`, `[drain]` and `[events]`: what comes in between two describes, and what is done about it.

use std::time::Duration;

use pikepole_config::Section;

use crate::events::sns::TopicArn;

/// Is a launching collector's port open?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Whether a new collector is listed only once its port answers.
    pub enabled: bool,
    /// After this it is listed anyway, with an alert: perhaps only we cannot reach it.
    pub give_up: Duration,
}

/// How a dying collector is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainConfig {
    /// From the moment every agent has moved off to the completion of the hook.
    pub settle: Duration,
    /// After this the hook is completed whoever still holds; capped below the hook's own timeout.
    pub deadline: Duration,
}

/// Where events come from, and what is done for them.
#[derive(Debug, Clone)]
pub struct EventsConfig {
    /// Queues to poll, by their URL.
    pub sqs: Vec<String>,
    /// Topics whose messages are taken at `POST /v1/events/sns`, by their ARN.
    pub sns_topics: Vec<String>,
    /// Lifecycle hooks are completed by us.
    pub complete_hooks: bool,
    /// Signatures of SNS that are taken.
    pub sns_signature: SnsSignature,
}

/// Signatures of SNS that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnsSignature {
    /// Version 1 (SHA-1) and 2 (SHA-256).
    Any,
    /// Version 2 only.
    V2,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { enabled: true, give_up: Duration::from_secs(120) }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { settle: Duration::from_secs(2), deadline: Duration::from_secs(90) }
    }
}

pub(super) fn probe(mut s: Section<'_>) -> ProbeConfig {
    let default = ProbeConfig::default();
    let enabled = s.flag_or("enabled", default.enabled);
    let give_up = s.duration("give_up", 1..=7200).unwrap_or(default.give_up);
    s.finish();
    ProbeConfig { enabled, give_up }
}

pub(super) fn drain(mut s: Section<'_>) -> DrainConfig {
    let default = DrainConfig::default();
    let settle = s.duration("settle", 0..=600).unwrap_or(default.settle);
    let deadline = s.duration("deadline", 1..=7200).unwrap_or(default.deadline);
    s.finish();
    DrainConfig { settle, deadline }
}

pub(super) fn events(mut s: Section<'_>) -> EventsConfig {
    let sqs = s.texts("sqs");
    for url in &sqs {
        if cfg!(not(feature = "aws")) {
            s.mistake("sqs", "this build has no AWS support (feature `aws`)");
        }
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            s.mistake(
                "sqs",
                "each must be the URL of a queue, like https://sqs.ap-south-1.amazonaws.com/1234/pikepole",
            );
        }
    }
    let sns_topics = s.texts("sns_topics");
    for arn in &sns_topics {
        if arn.parse::<TopicArn>().is_err() {
            s.mistake(
                "sns_topics",
                "each must be the ARN of a topic, like arn:aws:sns:ap-south-1:123456789012:pikepole",
            );
        }
    }
    let complete_hooks = s.flag_or("complete_hooks", true);
    let sns_signature = match s.text("sns_signature").as_deref() {
        None | Some("any") => SnsSignature::Any,
        Some("v2") => SnsSignature::V2,
        Some(_) => {
            s.not("sns_signature", "\"any\" or \"v2\"");
            SnsSignature::Any
        }
    };
    s.finish();
    EventsConfig { sqs, sns_topics, complete_hooks, sns_signature }
}
