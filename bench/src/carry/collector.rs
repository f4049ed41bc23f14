//! A collector as a process, so that it can be killed: it inflates, reads every frame, acks, and writes down
//! which events it had before it acks them.
//!
//! Not a store. Invariant: a line of the log is written with one write before its window is acked, so a kill
//! takes no line of what was acked.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::future::pending;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use pikepole_lumberjack::server::{self, Connection, Handler, Options, Verdict};
use pikepole_lumberjack::{Event, Payload, Sink, WindowEnd};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};

use super::{event, micros};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where to write a line for each window: microseconds, connection, events, and their numbers as ranges
    #[arg(long)]
    log: PathBuf,
    /// Milliseconds that it takes to keep a window
    #[arg(long, default_value_t = 0)]
    delay: u64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let log = File::create(&args.log).with_context(|| format!("cannot write {}", args.log.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let delay = Duration::from_millis(args.delay);
    let handler = Arc::new(Collectors { log, delay, connections: AtomicU64::new(0), events: Arc::default() });
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let stopped = async move {
            stop.recv().await;
        };
        server::serve(listener, Options::default(), Arc::clone(&handler), stopped).await;
        anyhow::Ok(json!({ "events": handler.events.load(Ordering::Relaxed) }))
    })
}

struct Collectors {
    log: File,
    delay: Duration,
    connections: AtomicU64,
    events: Arc<AtomicU64>,
}

impl Handler for Collectors {
    type Connection = One;

    fn connection(&self, _: SocketAddr) -> One {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        // A descriptor of the same open file: lines of all connections are appended to it.
        let log = self.log.try_clone().ok();
        let (delay, events) = (self.delay, Arc::clone(&self.events));
        One { number, log, delay, runs: Vec::new(), held: VecDeque::new(), events }
    }

    fn ended(&self, _: SocketAddr, _: &server::End) {}
}

/// One connection.
struct One {
    number: u64,
    log: Option<File>,
    /// Numbers of the window that is not complete.
    runs: Vec<(u64, u64)>,
    delay: Duration,
    held: VecDeque<Held>,
    events: Arc<AtomicU64>,
}

/// A window that came, and is not kept yet.
struct Held {
    unit: u64,
    due: Instant,
    events: u32,
    runs: Vec<(u64, u64)>,
}

impl Sink for One {
    fn event(&mut self, event: Event<'_>) {
        let Payload::Json(json) = event.payload else { return };
        let Some(number) = event::number_of(json) else { return };
        match self.runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.runs.push((number, number)),
        }
    }

    fn window(&mut self, end: WindowEnd) {
        let (due, runs) = (Instant::now() + self.delay, std::mem::take(&mut self.runs));
        self.held.push_back(Held { unit: end.number, due, events: end.events, runs });
    }
}

impl One {
    /// Writes down the oldest window; whether that worked.
    fn keep(&mut self, held: &Held) -> bool {
        let mut line = format!("{} {} {}", micros(), self.number, held.events);
        for (first, last) in &held.runs {
            let _infallible = write!(line, " {first}-{last}");
        }
        line.push('\n');
        self.events.fetch_add(u64::from(held.events), Ordering::Relaxed);
        self.log.as_mut().is_some_and(|log| log.write_all(line.as_bytes()).is_ok())
    }
}

impl Connection for One {
    async fn verdict(&mut self) -> Verdict {
        let Some(due) = self.held.front().map(|held| held.due) else { return pending().await };
        if !self.delay.is_zero() {
            sleep_until(due).await;
        }
        // Nothing is waited for from here on: a verdict that is dropped has kept nothing.
        match self.held.pop_front() {
            Some(held) if self.keep(&held) => Verdict::Safe(held.unit),
            _ => Verdict::Close,
        }
    }
}
