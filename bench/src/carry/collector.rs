//! A collector as a process, so that it can be killed: it inflates, reads every frame, acks, and writes down
//! which events it had before it acks them.
//!
//! Not a store. Invariant: a line of the log is written with one write before its window is acked, so a kill
//! takes no line of what was acked.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::future::{pending, ready};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use pikepole_lumberjack::server::{self, Connection, Handler, Options, Verdict};
use pikepole_lumberjack::{Event, Payload, Sink, WindowEnd};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{event, micros};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where to write a line for each window: microseconds, connection, events, and their numbers as ranges
    #[arg(long)]
    log: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Value> {
    let log = File::create(&args.log).with_context(|| format!("cannot write {}", args.log.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let handler = Arc::new(Collectors { log, connections: AtomicU64::new(0), events: Arc::default() });
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
    connections: AtomicU64,
    events: Arc<AtomicU64>,
}

impl Handler for Collectors {
    type Connection = One;

    fn connection(&self, _: SocketAddr) -> One {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        // A descriptor of the same open file: lines of all connections are appended to it.
        let log = self.log.try_clone().ok();
        One { number, log, runs: Vec::new(), safe: VecDeque::new(), events: Arc::clone(&self.events) }
    }

    fn ended(&self, _: SocketAddr, _: &server::End) {}
}

/// One connection.
struct One {
    number: u64,
    log: Option<File>,
    /// Numbers of the window that is not complete.
    runs: Vec<(u64, u64)>,
    safe: VecDeque<u64>,
    events: Arc<AtomicU64>,
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
        let mut line = format!("{} {} {}", micros(), self.number, end.events);
        for (first, last) in self.runs.drain(..) {
            let _infallible = write!(line, " {first}-{last}");
        }
        line.push('\n');
        self.events.fetch_add(u64::from(end.events), Ordering::Relaxed);
        let is_written = self.log.as_mut().is_some_and(|log| log.write_all(line.as_bytes()).is_ok());
        if is_written {
            self.safe.push_back(end.number);
        }
    }
}

impl Connection for One {
    async fn verdict(&mut self) -> Verdict {
        match self.safe.pop_front() {
            Some(number) => ready(Verdict::Safe(number)).await,
            None => pending().await,
        }
    }
}
