//! The simulated collectors of one group: real listeners that speak Lumberjack, and count every line they get.
//!
//! A machine runs before its collector does: a newcomer's port answers only after a while, and once in a
//! while long after everyone has given up. One that hangs keeps its connections, and reads and acks nothing.
//!
//! Invariant: a line counts as received when its window is complete, just before that is acked, as a collector
//! that keeps what it acks would do.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{GroupName, InstanceId, Lifecycle};
use pikepole_lumberjack::{Event, Limits, Payload, Receiver, Sink, WindowEnd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::Pace;
use super::flows::Flow;
use super::proxies;

/// Between two looks at who there is.
const LOOK: Duration = Duration::from_millis(100);
/// Between two tries to listen, should somebody have taken the port in the meantime.
const AGAIN: Duration = Duration::from_secs(1);
/// Read at once; there are some hundred connections.
const READ: usize = 8 * 1024;
/// Bytes of one event: the demo's lines are short.
const EVENT: usize = 64 * 1024;
/// As long as nothing is due by the protocol.
const LONG: Duration = Duration::from_secs(3_600);

/// One that is there.
struct Collector {
    task: Option<AbortHandle>,
    hangs: watch::Sender<bool>,
}

/// Listens for every instance of the group as long as it is there.
pub(super) async fn run(cloud: SimCloud, group: GroupName, port: u16, flow: Flow, mut pace: Pace) {
    let mut tasks = JoinSet::new();
    let mut collectors: BTreeMap<InstanceId, Collector> = BTreeMap::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let instances = cloud.instances(&group);
        let is_stopped = flow.is_stopped();
        collectors.retain(|id, collector| {
            let stays = instances.iter().any(|i| i.id == *id);
            if (!stays || is_stopped)
                && let Some(task) = collector.task.take()
            {
                task.abort();
            }
            stays
        });
        let leaves = |lifecycle| matches!(lifecycle, Lifecycle::Leaving);
        let all = instances.iter().map(|i| (&i.id, SocketAddr::new(i.ip, port), leaves(i.lifecycle)));
        flow.collectors(all);
        for instance in instances {
            let boot = match instance.lifecycle {
                _ if collectors.contains_key(&instance.id) => Duration::ZERO,
                Lifecycle::Launching if pace.once_in(15) => pace.some_time(40.0, 50.0),
                Lifecycle::Launching => pace.some_time(1.5, 6.0),
                _ => Duration::ZERO,
            };
            let collector = collectors
                .entry(instance.id.clone())
                .or_insert_with(|| Collector { task: None, hangs: watch::Sender::new(false) });
            let hangs = flow.hangs(&instance.id);
            collector.hangs.send_if_modified(|was| std::mem::replace(was, hangs) != hangs);
            if collector.task.is_none() && !is_stopped {
                let (at, flow) = (SocketAddr::new(instance.ip, port), flow.clone());
                let listening = listen(at, boot, flow, instance.id, collector.hangs.subscribe());
                collector.task = Some(tasks.spawn(listening));
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Aborted, it closes its port and all its connections.
async fn listen(
    address: SocketAddr,
    boot: Duration,
    flow: Flow,
    id: InstanceId,
    mut hangs: watch::Receiver<bool>,
) {
    sleep(boot).await;
    loop {
        if let Ok(listener) = TcpListener::bind(address).await {
            flow.listens(&id);
            let mut connections = JoinSet::new();
            loop {
                awake(&mut hangs).await;
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => {
                            let taking = take(stream, flow.clone(), id.clone(), hangs.clone());
                            connections.spawn(async move { drop(taking.await) }); // the agent sends again
                        }
                        Err(_) => break,
                    },
                    Some(_) = connections.join_next() => {}
                    Ok(()) = hangs.changed() => {}
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Waits as long as the collector hangs. If nobody can say so any more, the demo ends.
async fn awake(hangs: &mut watch::Receiver<bool>) {
    drop(hangs.wait_for(|hangs| !hangs).await);
}

/// The lines of one connection.
struct Lines {
    flow: Flow,
    id: InstanceId,
    /// Those of the window that is not complete.
    open: Vec<(String, u64)>,
    /// Units that are complete.
    complete: Vec<u64>,
}

impl Sink for Lines {
    fn event(&mut self, event: Event<'_>) {
        if let Payload::Json(json) = event.payload {
            self.open.push(proxies::read(json).unwrap_or_default()); // nobody's line, which is counted as such
        }
    }

    fn window(&mut self, end: WindowEnd) {
        self.flow.arrive(&self.id, self.open.drain(..));
        self.complete.push(end.number);
    }
}

/// One connection, until its agent closes it.
async fn take(
    mut stream: TcpStream,
    flow: Flow,
    id: InstanceId,
    mut hangs: watch::Receiver<bool>,
) -> io::Result<()> {
    let began = Instant::now();
    let limits = Limits { event: EVENT, verbatim: 0, ..Limits::default() };
    let mut receiver = Receiver::new(limits, Duration::ZERO);
    let mut lines = Lines { flow, id, open: Vec::new(), complete: Vec::new() };
    let mut buffer = vec![0; READ];
    loop {
        if *hangs.borrow() {
            receiver.pause(&[], began.elapsed());
            awake(&mut hangs).await;
            receiver.resume(began.elapsed());
        }
        let due = began + receiver.next_timeout().unwrap_or_else(|| began.elapsed() + LONG);
        let read = tokio::select! {
            read = timeout_at(due, stream.read(&mut buffer)) => read,
            Ok(()) = hangs.changed() => continue,
        };
        let now = began.elapsed();
        let fed = match read {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(count)) => receiver.input(&buffer[..count], now, &mut lines),
            Ok(Err(error)) => return Err(error),
            Err(_) => receiver.timeout(now),
        };
        fed.map_err(io::Error::other)?;
        for number in lines.complete.drain(..) {
            receiver.accept(number, now);
        }
        while let Some(acks) = receiver.output() {
            stream.write_all(&acks).await?;
        }
    }
}
