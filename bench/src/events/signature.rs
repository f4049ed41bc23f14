//! What it costs to verify a message of SNS with a key that is known.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, ensure};
use pikepole_directory::config::SnsSignature;
use pikepole_directory::events::sns::{Chain, Envelope, verify};
use pikepole_fleet::Timestamp;
use pikepole_testkit::sns;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::spread;

/// Messages measured as one: a clock is too coarse for one.
const BATCH: usize = 50;

pub(super) fn measure(messages: usize) -> anyhow::Result<Value> {
    let root = sns::Authority::root("bench root");
    let pem = sns::Leaf::new("sns.amazonaws.com").signed_by(&root);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().into())?;
    let topic = sns::TOPIC.parse().map_err(|_| anyhow::anyhow!("the topic is none"))?;
    let chain = Chain::from_pem(pem.as_bytes())?;
    let key = chain.believe(&topic, &roots, Timestamp::from_millis(1_763_800_000_000))?;
    let hook = r#"{"LifecycleTransition":"autoscaling:EC2_INSTANCE_TERMINATING","EC2InstanceId":"i-0"}"#;
    let version_2 = sns::notification("m", "2025-11-22T08:26:40.123Z", hook).to_string();
    let version_1 = sns::version_1().into_iter().next().context("no message of version 1")?.to_string();
    let mut results = Vec::new();
    for body in [version_1, version_2] {
        let mut times = Vec::new();
        for _ in 0..messages.div_ceil(BATCH) {
            let began = Instant::now();
            for _ in 0..BATCH {
                let envelope = Envelope::parse(black_box(body.as_bytes())).map_err(anyhow::Error::msg)?;
                ensure!(verify(&envelope, &key, SnsSignature::Any).is_ok(), "a good signature was refused");
            }
            times.push(began.elapsed() / BATCH as u32);
        }
        results.push(micros(&mut times));
    }
    Ok(json!({ "version_1_us": results[0], "version_2_us": results[1] }))
}

fn micros(times: &mut [Duration]) -> Value {
    // The table of spreads speaks of milliseconds.
    let mut scaled: Vec<Duration> = times.iter().map(|time| *time * 1000).collect();
    spread::of(&mut scaled)["p50_ms"].clone()
}
