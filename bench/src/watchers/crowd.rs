//! The watchers themselves: one epoll, one small record per connection, one shared read buffer.
//!
//! Lean on purpose: it shares the machine with the directory it measures.
//!
//! Invariant: a change counts only if every watcher got the whole of one and the same new revision.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use tokio::time::Instant;

use crate::answer;

/// Connections from one loopback address: an address has about 28,000 ports towards one server.
const PER_ADDRESS: usize = 5_000;
/// Watchers that may wait for their first answer: more of them at once could overflow the directory's
/// queue of connections, and a lost SYN costs a second.
const OPENING: usize = 64;
/// Events taken from the kernel at a time.
const EVENTS: usize = 512;
/// Larger than a whole answer, so that one read takes it.
const BUFFER: usize = 64 * 1024;

pub(super) struct Crowd {
    epoll: OwnedFd,
    watchers: Vec<Watcher>,
    buffer: Vec<u8>,
    path: String,
    /// The poll that waits for the next revision, the same bytes for everyone.
    request: Vec<u8>,
    revision: u64,
    answer_bytes: usize,
}

struct Watcher {
    stream: TcpStream,
    /// The revision it has.
    revision: u64,
    /// An answer that came in part. Most come whole.
    part: Vec<u8>,
    /// Bytes of the body that are still to come, once the head was read.
    missing: usize,
    /// What the head said.
    coming: u64,
}

/// What a readable watcher turned out to have.
enum Got {
    Nothing,
    /// A whole roster.
    Roster(u64),
    /// "Nothing new within the wait": it polls again.
    Unchanged,
}

impl Crowd {
    /// Connects them all, each with a first poll under way.
    pub(super) fn open(
        directory: SocketAddr,
        fleet: &str,
        count: usize,
        give_up: Instant,
    ) -> anyhow::Result<Self> {
        let mut crowd = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            watchers: Vec::with_capacity(count),
            buffer: vec![0; BUFFER],
            path: format!("/v1/fleets/{fleet}/roster"),
            request: Vec::new(),
            revision: 0,
            answer_bytes: 0,
        };
        crowd.set_revision(0);
        let first = crowd.request.clone();
        let mut waiting = 0;
        for number in 0..count {
            let mut stream = connect(directory, number).with_context(|| format!("watcher {number}"))?;
            stream.write_all(&first)?;
            let data = EventData::new_u64(number as u64);
            epoll::add(&crowd.epoll, &stream, data, EventFlags::IN)?;
            let part = Vec::new();
            crowd.watchers.push(Watcher { stream, revision: 0, part, missing: 0, coming: 0 });
            waiting += 1;
            while waiting >= OPENING {
                ensure!(Instant::now() < give_up, "the directory does not answer watcher {number}");
                crowd.turn(give_up, &mut |_| waiting -= 1)?;
            }
        }
        Ok(crowd)
    }

    /// Bytes of the last roster's answer, head and body.
    pub(super) fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Waits until every watcher has its first roster and polls for the next.
    pub(super) fn settle(&mut self, give_up: Instant) -> anyhow::Result<()> {
        while self.watchers.iter().any(|w| w.revision == 0) {
            ensure!(Instant::now() < give_up, "some watchers have no roster");
            self.turn(give_up, &mut |_| ())?;
        }
        Ok(())
    }

    /// Takes the answers to one change: for each watcher the time since `changed_at`.
    pub(super) fn collect_change(
        &mut self,
        changed_at: Instant,
        give_up: Instant,
    ) -> anyhow::Result<Vec<Duration>> {
        let old = self.revision;
        let mut times = Vec::with_capacity(self.watchers.len());
        while times.len() < self.watchers.len() {
            let missing = self.watchers.len() - times.len();
            ensure!(Instant::now() < give_up, "{missing} watchers did not get the change in time");
            self.turn(give_up, &mut |_| times.push(changed_at.elapsed()))?;
        }
        ensure!(self.revision != old, "the revision did not change");
        let new = self.revision;
        ensure!(self.watchers.iter().all(|w| w.revision == new), "watchers have different revisions");
        Ok(times)
    }

    /// Holds the polls open. A roster in this time is an error: nobody changed anything.
    pub(super) fn idle_until(&mut self, end: Instant) -> anyhow::Result<()> {
        while Instant::now() < end {
            let mut news = 0;
            self.turn(end, &mut |_| news += 1)?;
            ensure!(news == 0, "{news} watchers got a roster although nothing changed");
        }
        Ok(())
    }

    fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
        let path = &self.path;
        self.request =
            format!("GET {path}?after={revision}&wait=300s HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes();
    }

    /// Waits for events once, and answers each roster with the next poll.
    fn turn(&mut self, until: Instant, on_roster: &mut impl FnMut(u64)) -> anyhow::Result<()> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let count = match epoll::wait(&self.epoll, &mut events, Some(&left)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            let number = event.data.u64() as usize;
            match self.read(number).with_context(|| format!("watcher {number}"))? {
                Got::Nothing => continue,
                Got::Roster(revision) => {
                    on_roster(revision);
                    if revision != self.revision {
                        self.set_revision(revision);
                    }
                }
                Got::Unchanged => {}
            }
            self.watchers[number].stream.write_all(&self.request)?;
        }
        Ok(())
    }

    fn read(&mut self, number: usize) -> anyhow::Result<Got> {
        let watcher = &mut self.watchers[number];
        let count = match watcher.stream.read(&mut self.buffer) {
            Ok(0) => bail!("the directory closed the connection"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Got::Nothing),
            Err(error) => return Err(error.into()),
        };
        let bytes = &self.buffer[..count];
        if watcher.missing > 0 {
            ensure!(count <= watcher.missing, "more bytes than the answer has");
            watcher.missing -= count;
            return Ok(watcher.complete());
        }
        if !watcher.part.is_empty() {
            watcher.part.extend_from_slice(bytes);
        }
        let bytes = if watcher.part.is_empty() { bytes } else { &watcher.part };
        let head = match answer::head(bytes) {
            Ok(Some(head)) => head,
            Ok(None) => {
                if watcher.part.is_empty() {
                    watcher.part = bytes.to_vec();
                }
                return Ok(Got::Nothing);
            }
            Err(_) => bail!("the answer is no HTTP"),
        };
        if head.status == 304 {
            watcher.part = Vec::new();
            return Ok(Got::Unchanged);
        }
        ensure!(head.status == 200, "the directory answered {}", head.status);
        let come = bytes.len() - head.size;
        ensure!(come <= head.body, "more bytes than the answer has");
        self.answer_bytes = head.size + head.body;
        watcher.part = Vec::new();
        watcher.missing = head.body - come;
        watcher.coming = head.revision.context("a roster without a revision")?;
        Ok(watcher.complete())
    }
}

impl Watcher {
    fn complete(&mut self) -> Got {
        if self.missing > 0 {
            return Got::Nothing;
        }
        self.revision = self.coming;
        Got::Roster(self.revision)
    }
}

/// Connections to a loopback address are spread over 127.0.0.2, 127.0.0.3, … as their own addresses.
fn connect(directory: SocketAddr, number: usize) -> anyhow::Result<TcpStream> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(directory), Type::STREAM, Some(Protocol::TCP))?;
    if let IpAddr::V4(ip) = directory.ip()
        && ip.is_loopback()
    {
        let last = 2 + u8::try_from(number / PER_ADDRESS).context("too many watchers")?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())?;
    }
    socket.connect_timeout(&directory.into(), Duration::from_secs(10))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
