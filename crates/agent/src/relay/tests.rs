use std::net::SocketAddr;
use std::time::Duration;

use pikepole_lumberjack::client::{self, Connector};
use pikepole_lumberjack::encode::{EncodedWindow, WindowEncoder, events};
use pikepole_lumberjack::{Acked, Sender, server};
use pikepole_spool::Block;
use tokio::net::TcpListener;
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
        let folder = tempfile::tempdir().unwrap();
        let mut options = queue::Options::new(folder.path().join("spool"));
        options.spool.min_free = 0;
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

#[tokio::test]
async fn connections_are_those_that_are_open() {
    let world = World::new(2048).await;
    let connections = || world.relay.status(world.address).connections;
    let mut shipper = world.shipper().await;
    shipper.send(&window(3, &numbered(0..1))).await;
    assert_eq!((shipper.acks(1).await, connections()), (vec![1], 1));
    // One with which TLS was never agreed on: it was none.
    let failed = End::Handshake(std::io::ErrorKind::TimedOut.into());
    Shippers(Arc::clone(&world.relay)).ended(world.address, &failed);
    assert_eq!(connections(), 1);
    drop(shipper);
    let all_gone = async {
        while connections() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all_gone).await.unwrap();
    assert_eq!(world.relay.status(world.address).ended["handshake"], 1);
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
