use std::net::SocketAddr;
use std::time::Duration;

use pikepole_lumberjack::client::{self, Connector};
use pikepole_lumberjack::encode::{EncodedWindow, WindowEncoder, events, frames};
use pikepole_lumberjack::{Acked, Sender, server};
use pikepole_spool::{Block, NewBlock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::queue::{self, Take};

/// Nothing here takes long; this only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    queue: Queue,
    relay: Arc<Relay>,
    dead: DeadLetters,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(window: u32) -> Self {
        Self::with(window, |_| ()).await
    }

    /// With a spool that takes a few windows and no more.
    async fn full(window: u32) -> Self {
        let small = |options: &mut queue::Options| {
            options.spool.max_bytes = 256 << 10;
            options.spool.segment_bytes = 16 << 10;
            options.spool.reserve_bytes = 8 << 10;
            options.under_way_bytes = 1;
        };
        let world = Self::with(window, small).await;
        let mut stats = world.queue.stats();
        let filling = async {
            loop {
                world.queue.send(filler(1), Hurry::Soon).await.unwrap();
            }
        };
        tokio::select! {
            () = filling => {}
            full = stats.wait_for(|stats| stats.full.is_some()) => drop(full.unwrap()),
        }
        world
    }

    async fn with(window: u32, change: impl FnOnce(&mut queue::Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = queue::Options::new(folder.path().join("spool"));
        options.spool.min_free = 0;
        change(&mut options);
        let (queue, _) = Queue::open(options, Clock::system()).unwrap();
        let dead = DeadLetters::new(folder.path());
        let relay = Relay::new(queue.clone(), dead.clone(), Clock::system(), 3);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = RelayConfig { listen: address, tls: None, max_connections: 8 };
        let (stop, stopped) = oneshot::channel::<()>();
        let handler = Arc::new(Shippers(Arc::clone(&relay)));
        let serving = server::serve(listener, options_of(&config, window), handler, async {
            stopped.await.ok();
        });
        let serving = tokio::spawn(serving);
        Self { queue, relay, dead, address, stop, serving, _folder: folder }
    }

    async fn shipper(&self) -> Client {
        let connector = Connector::new(client::Options::default(), None).unwrap();
        let (writer, reader) = connector.connect(self.address).await.unwrap();
        Client { writer, reader, sender: Sender::new(Duration::ZERO), sent: 0 }
    }

    /// What the spool has, oldest first.
    async fn take(&self, blocks: usize) -> Vec<Arc<Block>> {
        take(&self.queue, blocks).await
    }
}

/// Not a window of anybody.
fn filler(event_bytes: u64) -> NewBlock {
    NewBlock {
        kind: crate::wire::WINDOW,
        events: 1,
        event_bytes,
        at: 0,
        encoding: pikepole_spool::Encoding::Stored,
        body: vec![0_u8; 4 << 10].into(),
        marks: Vec::new(),
    }
}

async fn take(queue: &Queue, blocks: usize) -> Vec<Arc<Block>> {
    let mut taken = Vec::new();
    for _ in 0..blocks {
        taken.push(timeout(PATIENCE, queue.take(Take::Oldest)).await.unwrap().unwrap());
    }
    taken
}

fn options_of(config: &RelayConfig, window: u32) -> Options {
    Options { grace: Duration::from_secs(1), ..options(config, window).unwrap() }
}

struct Client {
    writer: client::Writer,
    reader: client::Reader,
    sender: Sender,
    sent: u64,
}

impl Client {
    async fn send(&mut self, window: &EncodedWindow) -> u64 {
        self.sent += 1;
        self.sender.sent(self.sent, window.events, Duration::ZERO);
        self.writer.write(window).await.unwrap();
        self.sent
    }

    /// The numbers of windows that are acked, until `count` are; fewer if the relay closes.
    async fn acks(&mut self, count: usize) -> Vec<u64> {
        let mut acked = Vec::new();
        while acked.len() < count {
            let bytes = timeout(PATIENCE, self.reader.read()).await.unwrap().unwrap_or(&[]);
            if bytes.is_empty() {
                break;
            }
            let mut take = |ack| {
                if let Acked::Window { number } = ack {
                    acked.push(number);
                }
            };
            self.sender.input(bytes, Duration::ZERO, &mut take).unwrap();
        }
        acked
    }
}

fn window(level: u32, payloads: &[String]) -> EncodedWindow {
    let mut encoder = WindowEncoder::new();
    encoder.begin(level);
    for payload in payloads {
        assert!(encoder.push(payload.as_bytes()));
    }
    encoder.finish()
}

fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("{{\"n\":{n}}}")).collect()
}

fn read(blocks: &[Arc<Block>]) -> Vec<String> {
    let mut found = Vec::new();
    for block in blocks {
        let before = found.len();
        let mut keep = |event: &[u8]| found.push(String::from_utf8(event.to_vec()).unwrap());
        events(&block.body, true, &Limits::default(), &mut keep).unwrap();
        assert_eq!(found.len() - before, block.events as usize);
    }
    found
}

#[tokio::test]
async fn what_is_acked_is_in_the_spool_and_a_compressed_window_is_kept_as_it_came() {
    let world = World::new(2048).await;
    let mut shipper = world.shipper().await;
    let (first, second) = (window(3, &numbered(0..50)), window(0, &numbered(50..60)));
    shipper.send(&first).await;
    shipper.send(&second).await;
    assert_eq!(shipper.acks(2).await, [1, 2]);
    let blocks = world.take(2).await;
    assert_eq!(read(&blocks), numbered(0..60));
    assert_eq!(blocks[0].body, first.body, "not compressed anew");
    let status = world.relay.status(world.address);
    assert_eq!((status.windows, status.events, status.acked_events, status.connections), (2, 60, 60, 1));
}

/// Waits for something that happens on the other side.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test]
async fn connections_are_those_that_are_open() {
    let world = World::new(2048).await;
    let connections = || world.relay.status(world.address).connections;
    let mut shippers = Vec::new();
    for count in 1..=3 {
        let mut shipper = world.shipper().await;
        shipper.send(&window(3, &numbered(0..1))).await;
        assert_eq!((shipper.acks(1).await, connections()), (vec![1], count));
        shippers.push(shipper);
    }
    // However it ends: by its own will, or thrown out.
    drop(shippers.pop());
    until("an end", || connections() == 2).await;
    shippers[0].writer.write(&EncodedWindow { events: 1, ..window(0, &numbered(0..2)) }).await.unwrap();
    until("a refusal", || connections() == 1).await;
    let ended = world.relay.status(world.address).ended;
    assert_eq!((ended["closed"], ended["outside_window"]), (1, 1));
}

/// A client that gives up, and everything with it: a reset.
async fn try_and_give_up(world: &World, window: &EncodedWindow) {
    let windows = world.relay.status(world.address).windows;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let (header, body) = frames(window);
    stream.write_all(&[header.as_ref(), &body].concat()).await.unwrap();
    until("a window", || world.relay.status(world.address).windows > windows).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    until("an end", || world.relay.status(world.address).connections == 0).await;
}

/// Else the memory of each of them is kept, and what they sent is stored as often as they tried.
#[tokio::test]
async fn a_shipper_that_comes_again_and_again_to_a_full_spool_leaves_nothing_behind() {
    for events in [vec![numbered(0..50).concat()], numbered(0..50)] {
        let world = World::full(2048).await;
        for level in [3, 0].repeat(10) {
            try_and_give_up(&world, &window(level, &events)).await;
        }
        let status = world.relay.status(world.address);
        assert_eq!((status.windows, status.acked_events, status.connections), (20, 0, 0));
        // Room comes. What waits for it goes in the order in which it came; this is the last.
        let last = tokio::spawn({
            let queue = world.queue.clone();
            async move { drop(queue.send(filler(2), Hurry::Soon).await.unwrap()) }
        });
        let mut copies = 0;
        loop {
            let block = timeout(PATIENCE, world.queue.take(Take::Oldest)).await.unwrap().unwrap();
            world.queue.done(block.seq);
            match block.event_bytes {
                1 => {}
                2 => break,
                _ => copies += 1,
            }
        }
        last.await.unwrap();
        assert!(copies <= 1, "{copies} copies");
    }
}

/// A Beat that hears nothing leaves, and sends all again.
#[tokio::test(start_paused = true)]
async fn a_full_spool_tells_shippers_of_large_windows_that_it_is_alive() {
    let world = World::full(10).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    // More parts than may be under way, and more bytes than are read at once.
    let events: Vec<String> = (0..1_000).map(|n| format!("{{\"n\":\"{n:0>300}\"}}")).collect();
    let (header, body) = frames(&window(0, &events));
    stream.write_all(&[header.as_ref(), &body].concat()).await.unwrap();
    for _ in 0..20 {
        let mut ack = [0; 6];
        timeout(Duration::from_secs(3_600), stream.read_exact(&mut ack)).await.unwrap().unwrap();
        assert_eq!(&ack, b"2A\0\0\0\0");
    }
    let status = world.relay.status(world.address);
    assert_eq!((status.events, status.windows), (0, 0), "no window is whole");
}

#[tokio::test]
async fn events_that_are_no_json_are_dead_letters_and_block_nobody() {
    let world = World::new(2048).await;
    let mut shipper = world.shipper().await;
    let mut payloads = numbered(0..4);
    payloads[1] = "{\"n\":".into();
    shipper.send(&window(3, &payloads)).await;
    shipper.send(&window(3, &["nothing but poison".to_string()])).await;
    shipper.send(&window(3, &numbered(4..5))).await;
    assert_eq!(shipper.acks(3).await, [1, 2, 3]);
    let expected: Vec<String> = [0, 2, 3, 4].map(|n| format!("{{\"n\":{n}}}")).to_vec();
    assert_eq!(read(&world.take(2).await), expected);
    assert_eq!((world.dead.kept(), world.relay.status(world.address).dead_lettered), (2, 2));
    let text = std::fs::read_to_string(world.dead.path()).unwrap();
    assert!(text.contains("nothing but poison") && text.contains("relay 127.0.0.1:"), "{text}");
}

#[tokio::test]
async fn a_window_that_is_larger_than_ours_becomes_several_blocks_and_one_ack() {
    let world = World::new(100).await;
    let mut shipper = world.shipper().await;
    shipper.send(&window(3, &numbered(0..250))).await;
    assert_eq!(shipper.acks(1).await, [1]);
    let status = world.relay.status(world.address);
    assert_eq!((status.events, status.acked_events, status.windows), (250, 250, 1));
    let blocks = world.take(3).await;
    assert!(blocks.iter().all(|block| block.events <= 100));
    assert_eq!(read(&blocks), numbered(0..250));
}

#[tokio::test]
async fn a_spool_that_is_closed_acks_nothing_and_lets_the_shipper_go() {
    let world = World::new(2048).await;
    let mut shipper = world.shipper().await;
    world.queue.close().await.unwrap();
    shipper.send(&window(3, &numbered(0..5))).await;
    assert!(shipper.acks(1).await.is_empty(), "closed without an ack");
}

#[tokio::test]
async fn a_stop_acks_what_is_whole() {
    let world = World::new(2048).await;
    let mut shipper = world.shipper().await;
    shipper.send(&window(3, &numbered(0..5))).await;
    assert_eq!(shipper.acks(1).await, [1]);
    world.stop.send(()).unwrap();
    timeout(PATIENCE, world.serving).await.unwrap().unwrap();
    assert!(shipper.acks(1).await.is_empty(), "the connection is closed");
    assert_eq!(read(&take(&world.queue, 1).await), numbered(0..5));
}
