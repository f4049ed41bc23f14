//! A sender and a receiver with a network between them that cuts, delays and breaks, in virtual time.

use std::collections::VecDeque;
use std::time::Duration;

use pikepole_lumberjack::encode::{EncodedWindow, WindowEncoder, events, frames};
use pikepole_lumberjack::{Acked, Event, Limits, Payload, Receiver, Sender, Sink, WindowEnd};
use proptest::collection::vec;
use proptest::prelude::*;

/// What the server knows of one connection.
#[derive(Default)]
struct Server {
    open: Vec<Vec<u8>>,
    windows: Vec<(WindowEnd, Vec<Vec<u8>>)>,
}

impl Sink for Server {
    fn event(&mut self, event: Event<'_>) {
        let Payload::Json(json) = event.payload else { panic!("{event:?}") };
        self.open.push(json.to_vec());
    }
    fn window(&mut self, end: WindowEnd) {
        assert_eq!(end.events as usize, self.open.len());
        self.windows.push((end, std::mem::take(&mut self.open)));
    }
}

/// One connection, with what is on its way.
struct Link {
    sender: Sender,
    receiver: Receiver,
    server: Server,
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// Units that the server has and that are not safe yet.
    unsafe_units: Vec<u64>,
    /// Windows sent on this connection, by their index.
    sent: Vec<usize>,
    acked: usize,
}

struct Pair {
    limits: Limits,
    windows: Vec<EncodedWindow>,
    events: Vec<Vec<Vec<u8>>>,
    /// The first window that is not acked, ever: earlier ones are the server's.
    done: usize,
    now: Duration,
    link: Link,
}

impl Link {
    fn new(limits: &Limits, now: Duration) -> Self {
        Self {
            sender: Sender::new(now),
            receiver: Receiver::new(limits.clone(), now),
            server: Server::default(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            unsafe_units: Vec::new(),
            sent: Vec::new(),
            acked: 0,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send,
    ToServer(usize),
    ToClient(usize),
    /// The unit at that place becomes safe.
    Safe(usize),
    Wait(u64),
    Lose,
}

impl Pair {
    fn new(given: &[(u32, Vec<Vec<u8>>)], limits: Limits) -> Self {
        let mut encoder = WindowEncoder::new();
        let encode = |(level, events): &(u32, Vec<Vec<u8>>)| {
            encoder.begin(*level);
            for event in events {
                assert!(encoder.push(event));
            }
            encoder.finish()
        };
        let windows = given.iter().map(encode).collect();
        let events = given.iter().map(|(_, events)| events.clone()).collect();
        let link = Link::new(&limits, Duration::ZERO);
        Self { limits, windows, events, done: 0, now: Duration::ZERO, link }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Send => self.send(),
            Step::ToServer(count) => self.deliver(*count),
            Step::ToClient(count) => self.hear(*count),
            Step::Safe(place) => {
                let units = &mut self.link.unsafe_units;
                if !units.is_empty() {
                    let unit = units.remove(place % units.len());
                    self.link.receiver.accept(unit, self.now);
                }
            }
            Step::Wait(seconds) => {
                self.now += Duration::from_secs(*seconds);
                if self.link.receiver.timeout(self.now).is_err() {
                    self.lose();
                }
            }
            Step::Lose => self.lose(),
        }
        let acks = self.link.receiver.output().unwrap_or_default();
        assert_eq!(acks.len() % 6, 0);
        self.link.to_client.extend(acks);
    }

    fn send(&mut self) {
        let next = self.done + self.link.sender.in_flight();
        if self.link.sender.in_flight() == 3 || next == self.windows.len() {
            return;
        }
        let (header, body) = frames(&self.windows[next]);
        self.link.sender.sent(next as u64, self.windows[next].events, self.now);
        self.link.sent.push(next);
        self.link.to_server.extend(header.as_ref().iter().chain(&body[..]));
    }

    fn deliver(&mut self, count: usize) {
        let link = &mut self.link;
        let count = count.min(link.to_server.len());
        let bytes: Vec<u8> = link.to_server.drain(..count).collect();
        let before = link.server.windows.len();
        link.receiver.input(&bytes, self.now, &mut link.server).unwrap();
        link.unsafe_units.extend(link.server.windows[before..].iter().map(|(end, _)| end.number));
    }

    fn hear(&mut self, count: usize) {
        let link = &mut self.link;
        let count = count.min(link.to_client.len());
        let bytes: Vec<u8> = link.to_client.drain(..count).collect();
        let mut acked = Vec::new();
        link.sender.input(&bytes, self.now, &mut |ack| acked.push(ack)).unwrap();
        for ack in acked {
            if ack == Acked::KeepAlive {
                continue;
            }
            assert_eq!(ack, Acked::Window { number: self.done as u64 }, "the oldest, and whole");
            self.done += 1;
            link.acked += 1;
        }
    }

    /// The connection ends. What came must be what was sent, and what was acked must have been safe.
    fn lose(&mut self) {
        let link = std::mem::replace(&mut self.link, Link::new(&self.limits, self.now));
        let mut units = link.server.windows.iter();
        let mut whole = 0;
        for index in link.sent {
            let mut came = Vec::new();
            let mut is_whole = false;
            let mut is_safe = true;
            while !is_whole && let Some((end, part)) = units.next() {
                came.extend(part.iter().cloned());
                is_whole = end.last;
                is_safe &= !link.unsafe_units.contains(&end.number);
                self.check_verbatim(index, end);
            }
            assert!(self.events[index].starts_with(&came), "window {index} came changed");
            if is_whole {
                assert_eq!(came, self.events[index]);
            }
            assert!(whole >= link.acked || is_whole && is_safe, "window {index} was acked too early");
            whole += usize::from(is_whole);
        }
        assert!(units.next().is_none(), "something came that was not sent");
    }

    fn check_verbatim(&self, index: usize, end: &WindowEnd) {
        let window = &self.windows[index];
        if let Some(kept) = &end.verbatim {
            assert!(window.compressed && *kept == window.body);
            let mut again = Vec::new();
            events(kept, true, &self.limits, &mut |json| again.push(json.to_vec())).unwrap();
            assert_eq!(again, self.events[index]);
        } else {
            let parts = !end.last || end.events < window.events;
            assert!(!window.compressed || parts || window.body.len() > self.limits.verbatim);
        }
    }

    /// Nothing is lost any more: all must get through.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.done == self.windows.len() {
                self.lose();
                return;
            }
            for step in [Step::Send, Step::ToServer(997), Step::Safe(0), Step::ToClient(11)] {
                self.step(&step);
            }
        }
        panic!("{} of {} windows got through", self.done, self.windows.len());
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Send),
        8 => (0..3_000_usize).prop_map(Step::ToServer),
        2 => (0..20_usize).prop_map(Step::ToServer),
        8 => (0..20_usize).prop_map(Step::ToClient),
        6 => any::<usize>().prop_map(Step::Safe),
        2 => (0..4_u64).prop_map(Step::Wait),
        1 => Just(Step::Lose),
    ]
}

fn window() -> impl Strategy<Value = (u32, Vec<Vec<u8>>)> {
    let event = prop_oneof![
        4 => vec(any::<u8>(), 0..60),
        1 => vec(Just(b'x'), 0..5_000),
    ];
    (0..10_u32, vec(event, 1..40))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn every_window_arrives_once_a_connection_and_is_acked_in_order(
        windows in vec(window(), 1..12),
        steps in vec(step(), 0..200),
        part in prop_oneof![Just(10_000_u32), 1..20_u32],
        verbatim in prop_oneof![Just(1_usize << 20), 0..200_usize],
    ) {
        let limits = Limits { window: part, verbatim, ..Limits::default() };
        let mut pair = Pair::new(&windows, limits);
        for step in &steps {
            pair.step(step);
        }
        pair.finish();
    }

    #[test]
    fn no_bytes_of_a_client_panic_and_all_cuts_read_the_same(
        bytes in vec(prop_oneof![any::<u8>(), prop::sample::select(b"12WJDC\0\0\0\0\x01\x02".to_vec())], 0..300),
        cut in 1..40_usize,
    ) {
        let read = |size: usize| {
            let mut receiver = Receiver::new(Limits::default(), Duration::ZERO);
            let mut count = Count::default();
            let refused = bytes
                .chunks(size.max(1))
                .find_map(|piece| receiver.input(piece, Duration::ZERO, &mut count).err());
            (refused, count)
        };
        let ((refused, told), (whole_refused, whole)) = (read(cut), read(bytes.len()));
        prop_assert_eq!(refused.is_some(), whole_refused.is_some());
        // Before a stream is found to be damaged more may come out of it, if it comes in pieces.
        if refused.is_some() {
            prop_assert!(told.windows.starts_with(&whole.windows) && told.events.starts_with(&whole.events));
        } else {
            prop_assert_eq!(told, whole);
        }
    }

    #[test]
    fn no_bytes_of_a_server_panic_or_ack_what_was_not_sent(
        bytes in vec(prop_oneof![any::<u8>(), prop::sample::select(b"22AA\0\0\0\0\0\x01\x02\x03".to_vec())], 0..100),
        sent in vec(1..5_u32, 0..5),
    ) {
        let mut sender = Sender::new(Duration::ZERO);
        for (number, events) in (0..).zip(&sent) {
            sender.sent(number, *events, Duration::ZERO);
        }
        let mut next = 0;
        let result = sender.input(&bytes, Duration::ZERO, &mut |acked| match acked {
            Acked::Window { number } => {
                assert_eq!(number, next);
                next += 1;
            }
            Acked::Partial { number, events } => assert!(number == next && events < sent[number as usize]),
            Acked::KeepAlive => {}
        });
        if let Err(refused) = result {
            let again = sender.input(b"2A\0\0\0\0", Duration::ZERO, &mut |_| {});
            prop_assert_eq!(again, Err(refused), "a dead connection came back");
        }
        prop_assert_eq!(sender.in_flight() as u64 + next, sent.len() as u64);
    }
}

#[derive(Debug, Default, PartialEq)]
struct Count {
    events: Vec<u32>,
    windows: Vec<u64>,
}

impl Sink for Count {
    fn event(&mut self, event: Event<'_>) {
        self.events.push(event.seq);
    }
    fn window(&mut self, end: WindowEnd) {
        self.windows.push(end.number);
    }
}
