//! A shipper: sends windows as Filebeat does, each compressed anew, a few in flight, and times their acks.
//!
//! Not Filebeat: it makes its events beforehand and only numbers them. What was not acked when a connection
//! ends is sent again on the next one.
//!
//! Invariant: an event counts as acked once, when its window was acked as a whole.
#![expect(clippy::disallowed_methods, reason = "a thread of its own that paces itself; there is no runtime")]

mod lane;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{event, micros};
use crate::memory;
use lane::{Acked, Lane};

/// Different events; they come again, with other numbers.
const EVENTS: usize = 8_192;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Whom to send to
    #[arg(long)]
    to: SocketAddr,
    /// Connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Seconds that are not measured, and those that are
    #[arg(long, default_value_t = 0.5)]
    warm: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Events of a window
    #[arg(long, default_value_t = 2_048)]
    window: u32,
    /// zlib's level
    #[arg(long, default_value_t = 3)]
    level: u32,
    /// Windows in flight on a connection
    #[arg(long, default_value_t = 2)]
    in_flight: usize,
    /// Events a second, of all connections together; without it as fast as they are acked
    #[arg(long)]
    rate: Option<u64>,
    /// Instead of events of Filebeat: random text of so many bytes, in one window that is made once
    #[arg(long)]
    random: Option<usize>,
    /// Ends earlier when so many windows were acked
    #[arg(long)]
    windows: Option<u64>,
    /// Processes whose processor time is measured with it
    #[arg(long)]
    pid: Vec<u32>,
    /// Where to write a line for each acked window: microseconds when it was sent first, when it was acked, and its
    /// first number
    #[arg(long)]
    log: Option<PathBuf>,
}

/// What all connections share.
struct Shared {
    args: Args,
    pool: Vec<Vec<u8>>,
    began: u64,
    next: AtomicU64,
    acked: AtomicU64,
    is_over: AtomicBool,
}

impl Shared {
    /// The first number of the next window, once it is due; `None`: it is over.
    fn take(&self) -> Option<u64> {
        let window = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(rate) = self.args.rate {
            let due = self.began + window * u64::from(self.args.window) * 1_000_000 / rate.max(1);
            while micros() < due && !self.is_over() {
                sleep(Duration::from_micros((due.saturating_sub(micros())).clamp(1, 20_000)));
            }
        }
        let is_last = self.args.windows.is_some_and(|most| window >= most);
        (!is_last && !self.is_over()).then(|| window * u64::from(self.args.window))
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let mut random = fastrand::Rng::with_seed(3);
    let pool = match args.random {
        Some(bytes) => (0..args.window).map(|_| event::random_text(&mut random, bytes)).collect(),
        None => (0..EVENTS).map(|_| event::filebeat(&mut random)).collect(),
    };
    let (next, acked) = (AtomicU64::new(0), AtomicU64::new(0));
    let shared =
        Shared { args: args.clone(), pool, began: micros(), next, acked, is_over: AtomicBool::new(false) };
    let (windows, spent, from, to) = scope(|scope| {
        let lanes: Vec<_> = (0..args.connections).map(|_| scope.spawn(|| Lane::new(&shared).run())).collect();
        let wait = |until: u64| {
            while micros() < until && lanes.iter().any(|lane| !lane.is_finished()) {
                sleep(Duration::from_micros(until.saturating_sub(micros()).clamp(1, 5_000)));
            }
        };
        let seconds = |seconds: f64| Duration::from_secs_f64(seconds).as_micros() as u64;
        wait(shared.began + seconds(args.warm));
        let (from, before) = (micros(), cpu(args));
        wait(from + seconds(args.seconds));
        let (to, after) = (micros(), cpu(args));
        shared.is_over.store(true, Ordering::Relaxed);
        let mut windows = Vec::new();
        for lane in lanes {
            windows.extend(lane.join().unwrap_or_default());
        }
        let spent: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a.saturating_sub(*b)).collect();
        (windows, spent, from, to)
    });
    if windows.is_empty() {
        bail!("no window was acked by {}", args.to);
    }
    if let Some(path) = &args.log {
        let mut text = String::new();
        for Acked { sent, at, first } in &windows {
            let _infallible = writeln!(text, "{sent} {at} {first}");
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(summary(&shared, &windows, &spent, from, to))
}

/// Processor milliseconds of this process and of those named.
fn cpu(args: &Args) -> Vec<u64> {
    let own = std::process::id();
    [own].iter().chain(&args.pid).map(|pid| memory::cpu_ms(*pid).unwrap_or(0)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn summary(shared: &Shared, windows: &[Acked], spent: &[u64], from: u64, to: u64) -> Value {
    let size = u64::from(shared.args.window);
    let counted: Vec<&Acked> = windows.iter().filter(|w| (from..to).contains(&w.at)).collect();
    let mut waits: Vec<u64> = counted.iter().map(|w| w.at - w.sent).collect();
    waits.sort_unstable();
    let wait = |share: f64| {
        let last = waits.len().saturating_sub(1);
        waits.get((last as f64 * share).round() as usize).map(|us| *us as f64 / 1e3)
    };
    let seconds = (to - from) as f64 / 1e6;
    let bytes: usize = shared.pool.iter().map(Vec::len).sum();
    json!({
        "events": windows.len() as u64 * size,
        "events_per_second": (counted.len() as u64 * size) as f64 / seconds,
        "seconds": seconds,
        "event_bytes": bytes / shared.pool.len().max(1),
        "ack_ms": { "p50": wait(0.5), "p99": wait(0.99), "max": wait(1.0) },
        "cpu_seconds": spent.iter().map(|ms| *ms as f64 / 1e3).collect::<Vec<_>>(),
    })
}
