//! Parts for a balancer in memory: a queue, collectors behind duplex pipes, dead letters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pikepole_spool::{Block, Seq};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::balance::{
    Ack, Connection, DeadLetters, Dial, Encode, Key, Letter, LinkError, Part, Read, Source, Why, Write,
};
use crate::config::Order;

/// An event is a byte; this one is poison.
pub(super) const BAD: u8 = 0xff;
/// A block that begins so is not made of events.
pub(super) const GARBAGE: u8 = 0xfe;

#[derive(Default)]
pub(super) struct Queue {
    pub(super) blocks: Mutex<BTreeMap<Seq, Arc<Block>>>,
    waiting: Mutex<VecDeque<Seq>>,
    news: Notify,
    pub(super) done: Mutex<Vec<Seq>>,
    pub(super) given_back: Mutex<BTreeSet<Seq>>,
}

impl Queue {
    pub(super) fn push(&self, seq: u64, body: &[u8]) {
        let body = Bytes::copy_from_slice(body);
        let (events, event_bytes) = (body.len() as u32, body.len() as u64);
        let block = Block { seq: Seq(seq), kind: 1, events, event_bytes, at: 5, body };
        self.blocks.lock().unwrap().insert(Seq(seq), Arc::new(block));
        self.waiting.lock().unwrap().push_back(Seq(seq));
        self.news.notify_one();
    }

    pub(super) fn done(&self) -> BTreeSet<Seq> {
        let done = self.done.lock().unwrap();
        let set: BTreeSet<Seq> = done.iter().copied().collect();
        assert_eq!(set.len(), done.len(), "one is done twice");
        set
    }
}

impl Source for Queue {
    async fn next(&self, _: Order) -> Arc<Block> {
        loop {
            let news = self.news.notified();
            if let Some(seq) = self.waiting.lock().unwrap().pop_front() {
                return self.blocks.lock().unwrap()[&seq].clone();
            }
            news.await;
        }
    }

    async fn read(&self, seq: Seq) -> Option<Arc<Block>> {
        self.blocks.lock().unwrap().get(&seq).cloned()
    }

    fn done(&self, seq: Seq) {
        self.done.lock().unwrap().push(seq);
    }

    fn give_back(&self, seq: Seq) {
        self.given_back.lock().unwrap().insert(seq);
    }
}

pub(super) struct Bytewise;

impl Encode for Bytewise {
    type Window = Bytes;

    fn encode(&mut self, parts: &[Part]) -> Result<Bytes, (Seq, String)> {
        let mut window = Vec::new();
        for Part { block, events } in parts {
            if block.body.first() == Some(&GARBAGE) {
                return Err((block.seq, "garbage".into()));
            }
            window.extend_from_slice(&block.body[events.start as usize..events.end as usize]);
        }
        Ok(window.into())
    }

    fn event(&mut self, block: &Block, index: u32) -> Result<Bytes, String> {
        Ok(block.body.slice(index as usize..index as usize + 1))
    }
}

/// How a collector takes a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Acks after this time; closes on poison.
    Acks(Duration),
    /// Never answers a connection attempt.
    NoAnswer,
    /// Refuses.
    Refuses,
    /// Accepts and does not read.
    Stuck,
    /// Reads and says nothing.
    Silent,
}

/// The network: what becomes of a connection to each address.
pub(super) struct Net {
    pub(super) manners: Mutex<BTreeMap<u16, Manner>>,
    /// Events each collector took.
    pub(super) taken: Arc<Mutex<BTreeMap<u16, u64>>>,
    /// Breaks connections off.
    pub(super) cut: Arc<Notify>,
}

impl Net {
    pub(super) fn new(manners: &[(u16, Manner)]) -> Arc<Self> {
        let manners = Mutex::new(manners.iter().copied().collect());
        Arc::new(Self { manners, taken: Arc::default(), cut: Arc::default() })
    }
}

pub(super) struct PipeWriter(WriteHalf<DuplexStream>);
pub(super) struct PipeReader(ReadHalf<DuplexStream>);

impl Dial for Net {
    type Window = Bytes;
    type Writer = PipeWriter;
    type Reader = PipeReader;

    async fn connect(&self, to: &Key) -> Result<Connection<PipeWriter, PipeReader>, LinkError> {
        let port = to.address.port();
        let manner = self.manners.lock().unwrap().get(&port).copied().unwrap_or(Manner::Refuses);
        match manner {
            Manner::NoAnswer => pending().await,
            Manner::Refuses => return Err(LinkError { why: Why::Refused, detail: "refused".into() }),
            _ => {}
        }
        let (ours, theirs) = duplex(256);
        let (taken, cut) = (self.taken.clone(), self.cut.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = collect(theirs, port, manner, taken) => {}
                () = cut.notified() => {}
            }
        });
        let (reader, writer) = split(ours);
        Ok(Connection { writer: PipeWriter(writer), reader: PipeReader(reader), probe: None })
    }
}

async fn collect(pipe: DuplexStream, port: u16, manner: Manner, taken: Arc<Mutex<BTreeMap<u16, u64>>>) {
    if manner == Manner::Stuck {
        return pending().await;
    }
    let (mut reader, mut writer) = split(pipe);
    loop {
        let Ok(number) = reader.read_u64().await else { return };
        let Ok(length) = reader.read_u32().await else { return };
        let mut body = vec![0; length as usize];
        if reader.read_exact(&mut body).await.is_err() || body.contains(&BAD) {
            return;
        }
        let Manner::Acks(latency) = manner else { continue };
        sleep(latency).await;
        *taken.lock().unwrap().entry(port).or_default() += u64::from(length);
        if writer.write_u64(number).await.is_err() {
            return;
        }
    }
}

impl Write<Bytes> for PipeWriter {
    async fn write(&mut self, number: u64, events: u32, window: Bytes) -> Result<(), LinkError> {
        assert_eq!(events as usize, window.len());
        self.0.write_u64(number).await?;
        self.0.write_u32(events).await?;
        Ok(self.0.write_all(&window).await?)
    }
}

impl Read for PipeReader {
    async fn read(&mut self) -> Result<Ack, LinkError> {
        Ok(Ack::Window(self.0.read_u64().await?))
    }
}

#[derive(Default)]
pub(super) struct Letters(pub(super) Mutex<Vec<Letter>>, pub(super) AtomicBool);

impl DeadLetters for Letters {
    async fn keep(&self, letter: Letter) -> Result<(), String> {
        assert!(!self.1.swap(false, Ordering::Relaxed), "a panic that was asked for");
        self.0.lock().unwrap().push(letter);
        Ok(())
    }
}
