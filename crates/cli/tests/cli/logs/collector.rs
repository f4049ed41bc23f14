//! Collectors: in the test's process, where their acks can be changed, or processes of their own, which can be
//! killed and stopped.
//!
//! An event counts as received when its whole window is there, before it is acked.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pikepole_lumberjack::server::collect::{Acks, Collected, Collector};
use pikepole_lumberjack::server::{self, Connection, End, Handler, Options, Tls, TlsConfig, Verdict};
use pikepole_lumberjack::{Event, Payload, Sink, WindowEnd};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ledger::{Ledger, identify};
use super::world::own_id;
use crate::harness::{self, within};

/// An address of loopback that no other test has, on which nobody connects from.
pub(super) fn address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = own_id();
    let byte = |shift: u32| (pid >> shift) as u8;
    let port = 5044 + NEXT.fetch_add(1, Ordering::Relaxed) as u16;
    SocketAddr::from(([127, 100 + (byte(16) & 0x3f), byte(8), byte(0)], port))
}

/// What is done with the events of whole windows.
type Take = dyn Fn(&[(u64, Option<String>)]) + Send + Sync;

/// Counts the events of whole windows, and closes on windows with a poisonous one.
struct Watching {
    collector: Arc<Collector>,
    take: Box<Take>,
    /// Acks every window twice.
    twice: bool,
}

struct Watched {
    shared: Arc<Watching>,
    inner: Collected,
    open: Vec<(u64, Option<String>)>,
    last: VecOf,
    poisoned: bool,
    again: Option<u32>,
}

/// Sequence numbers of windows that were not acked.
type VecOf = std::collections::VecDeque<(u64, u32)>;

/// What poisonous events have in them.
pub(super) const POISON: &str = "poison-for-collectors";

struct Door(Arc<Watching>);

impl Handler for Door {
    type Connection = Watched;

    fn connection(&self, peer: SocketAddr) -> Watched {
        let inner = self.0.collector.connection(peer);
        let shared = Arc::clone(&self.0);
        Watched { shared, inner, open: Vec::new(), last: VecOf::new(), poisoned: false, again: None }
    }

    fn ended(&self, peer: SocketAddr, end: &End) {
        self.0.collector.ended(peer, end);
    }
}

impl Sink for Watched {
    fn event(&mut self, event: Event<'_>) {
        if let Payload::Json(json) = event.payload {
            self.poisoned |= json.windows(POISON.len()).any(|part| part == POISON.as_bytes());
            self.open.push(identify(json));
        }
        self.inner.event(event);
    }

    fn window(&mut self, end: WindowEnd) {
        if self.poisoned {
            return;
        }
        (self.shared.take)(&self.open);
        self.open.clear();
        self.last.push_back((end.number, end.last_seq));
        self.inner.window(end);
    }
}

impl Connection for Watched {
    async fn verdict(&mut self) -> Verdict {
        if self.poisoned {
            return Verdict::Close;
        }
        if let Some(seq) = self.again.take() {
            let ack = [b"2A".as_slice(), &seq.to_be_bytes()].concat();
            return Verdict::Raw(ack.into());
        }
        let verdict = self.inner.verdict().await;
        if let Verdict::Safe(number) = verdict
            && let Some((_, seq)) = self.last.pop_front_if(|(first, _)| *first == number)
        {
            self.again = self.shared.twice.then_some(seq);
        }
        verdict
    }
}

/// A collector in this process.
pub(super) struct Near {
    pub(super) address: SocketAddr,
    pub(super) collector: Arc<Collector>,
    door: Arc<Door>,
    tls: Option<TlsConfig>,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Near {
    pub(super) async fn start(ledger: &Ledger, acks: Acks) -> Self {
        Self::with(ledger, acks, false, None).await
    }

    /// Acks every window twice.
    pub(super) async fn twice(ledger: &Ledger) -> Self {
        Self::with(ledger, Acks::AtOnce, true, None).await
    }

    pub(super) async fn with(ledger: &Ledger, acks: Acks, twice: bool, tls: Option<TlsConfig>) -> Self {
        let (collector, ledger) = (Collector::new(acks), ledger.clone());
        let take = Box::new(move |events: &[(u64, Option<String>)]| ledger.received(events));
        let door = Arc::new(Door(Arc::new(Watching { collector: collector.clone(), take, twice })));
        let mut near = Self { address: address(), collector, door, tls, running: None };
        near.listen().await;
        near
    }

    pub(super) async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let tls = self.tls.as_ref().map(|files| Tls::load(files).unwrap());
        let (stop, mut stopping) = watch::channel(false);
        let until = async move { drop(stopping.wait_for(|stop| *stop).await) };
        let options = Options { tls, grace: Duration::from_secs(2), ..Options::default() };
        let task = tokio::spawn(server::serve(listener, options, Arc::clone(&self.door), until));
        self.running = Some((stop, task));
    }

    /// Ends in order: what is complete is acked.
    pub(super) async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.send_replace(true);
            within("the end of a collector", task).await.unwrap();
        }
    }

    pub(super) fn events(&self) -> u64 {
        self.collector.totals().events
    }
}

/// What tells the test's binary to be a collector.
const ROLE: &str = "PIKEPOLE_TEST_COLLECTOR";

/// A collector in a process of its own.
pub(super) struct Far {
    pub(super) address: SocketAddr,
    ledger: Ledger,
    child: Option<(Child, JoinHandle<()>)>,
}

impl Far {
    pub(super) async fn start(ledger: &Ledger) -> Self {
        let mut far = Self { address: address(), ledger: ledger.clone(), child: None };
        far.run(&[]).await;
        far
    }

    /// In a network of its own, where somebody has to give it this address.
    pub(super) async fn beyond(ledger: &Ledger, address: SocketAddr) -> Self {
        let mut far = Self { address, ledger: ledger.clone(), child: None };
        far.run(&["unshare", "-n"]).await;
        far
    }

    /// Starts the process, through another program if one is given.
    pub(super) async fn run(&mut self, through: &[&str]) {
        let own = std::env::current_exe().unwrap();
        let mut words = through.iter().map(std::ffi::OsStr::new).chain([own.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["--exact", "logs::collector::a_process_of_its_own", "--nocapture"]);
        // Where the address is not there yet it must do with the port.
        let listen = if through.is_empty() { self.address } else { ([0; 4], self.address.port()).into() };
        command.env(ROLE, listen.to_string()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listens =
            async { while lines.next_line().await.unwrap().expect("the collector starts") != "listens" {} };
        within("a collector that listens", listens).await;
        let ledger = self.ledger.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(ids) = line.strip_prefix("received ").and_then(|ids| ids.strip_suffix('.')) else {
                    continue;
                };
                let ids: Vec<_> = ids.split(',').map(|id| (id.parse().unwrap(), None)).collect();
                ledger.received(&ids);
            }
        });
        self.child = Some((child, reader));
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().0.id().unwrap()
    }

    pub(super) fn signal(&self, signal: Signal) {
        harness::signal(&self.child.as_ref().unwrap().0, signal);
    }

    /// SIGKILL; what it had told before counts.
    pub(super) async fn kill(&mut self) {
        let (mut child, reader) = self.child.take().unwrap();
        child.kill().await.unwrap();
        within("the last words of a collector", reader).await.unwrap();
    }
}

/// The process: not a test of anything, unless it is told to be a collector.
#[tokio::test]
async fn a_process_of_its_own() {
    use std::io::Write as _;
    let Ok(address) = std::env::var(ROLE) else { return };
    let listener = TcpListener::bind(address).await.unwrap();
    let say = |text: String| std::io::stdout().lock().write_all(text.as_bytes()).unwrap();
    let take = Box::new(move |events: &[(u64, Option<String>)]| {
        let ids: Vec<_> = events.iter().map(|(id, _)| id.to_string()).collect();
        if !ids.is_empty() {
            say(format!("received {}.\n", ids.join(",")));
        }
    });
    let collector = Collector::new(Acks::AtOnce);
    let door = Arc::new(Door(Arc::new(Watching { collector, take, twice: false })));
    say("\nlistens\n".into());
    server::serve(listener, Options::default(), door, std::future::pending()).await;
}
