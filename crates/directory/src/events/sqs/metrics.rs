//! What Prometheus is told of the queues.
//!
//! Invariant: every queue is in every family, also before its first message.

use std::fmt;
use std::sync::Arc;

use pikepole_fleet::Timestamp;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{QueueHealth, QueueStatus};

type Count = (&'static str, &'static str, fn(&QueueStatus) -> u64);

const COUNTS: [Count; 6] = [
    ("sqs_receives", "Receives that a queue answered", |s| s.receives),
    ("sqs_receive_failures", "Receives that failed", |s| s.failed),
    ("sqs_messages_received", "Messages received, duplicates counted", |s| s.received),
    ("sqs_messages_deleted", "Messages deleted", |s| s.deleted),
    ("sqs_messages_not_deleted", "Messages that were kept but could not be deleted", |s| s.not_deleted),
    ("sqs_messages_not_kept", "Messages left to come again", |s| s.not_kept),
];

/// Writes the metrics of all queues, labelled with their URLs.
pub fn encode_metrics(
    queues: &[Arc<QueueHealth>],
    now: Timestamp,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    if queues.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = queues.iter().map(|q| ([("queue", q.url())], q.status())).collect();
    for (name, help, count) in COUNTS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, status) in &told {
            ConstCounter::new(count(status)).encode(family.encode_family(labels)?)?;
        }
    }
    let help = "Time since a receive was last answered; absent before the first answer";
    let mut family = encoder.encode_descriptor("sqs_silence_seconds", help, None, MetricType::Gauge)?;
    for (labels, status) in &told {
        if let Some(last) = status.last_receive {
            ConstGauge::new(now.since(last).as_secs_f64()).encode(family.encode_family(labels)?)?;
        }
    }
    let help = "How long the oldest message of the last receive was on its way; absent before the first";
    let mut family = encoder.encode_descriptor("sqs_lag_seconds", help, None, MetricType::Gauge)?;
    for (labels, status) in &told {
        if let Some(lag) = status.lag {
            ConstGauge::new(lag.as_secs_f64()).encode(family.encode_family(labels)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[derive(Debug)]
    struct Queues(Vec<Arc<QueueHealth>>);

    impl Collector for Queues {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            encode_metrics(&self.0, Timestamp::from_millis(65_000), &mut encoder)
        }
    }

    #[test]
    fn every_queue_is_told_with_its_numbers() {
        let (one, idle) = (QueueHealth::new("one".to_owned()), QueueHealth::new("idle".to_owned()));
        one.received(Timestamp::from_millis(60_000), 3, Some(std::time::Duration::from_millis(1_500)));
        one.deleted(2, 1);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Queues(vec![Arc::new(one), Arc::new(idle)])));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "sqs_messages_received_total{queue=\"one\"} 3",
            "sqs_messages_received_total{queue=\"idle\"} 0",
            "sqs_messages_deleted_total{queue=\"one\"} 2",
            "sqs_messages_not_deleted_total{queue=\"one\"} 1",
            "sqs_silence_seconds{queue=\"one\"} 5.0",
            "sqs_lag_seconds{queue=\"one\"} 1.5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("sqs_lag_seconds{queue=\"idle\"}"), "{text}");
    }
}
