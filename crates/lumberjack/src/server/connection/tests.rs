use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::Limits;
use crate::encode::{WindowEncoder, frames};
use crate::refused::Refused;
use crate::server::budget::Budget;
use crate::server::collect::{Acks, Collector};
use crate::server::{Options, RarelyLogged};

/// Connections of one server, without sockets, so that time is virtual.
struct Server {
    collector: Arc<Collector>,
    shared: Arc<Shared<Arc<Collector>>>,
    stop: watch::Sender<bool>,
}

struct Client {
    stream: DuplexStream,
    end: JoinHandle<End>,
}

impl Server {
    fn new(acks: Acks, options: Options) -> Self {
        let collector = Collector::new(acks);
        let (shared, stop) = Self::of(Arc::clone(&collector), options);
        Self { collector, shared, stop }
    }

    fn of<H: Handler>(handler: H, options: Options) -> (Arc<Shared<H>>, watch::Sender<bool>) {
        let (stop, stopping) = watch::channel(false);
        let budget = Arc::new(Budget::new(options.total_bytes));
        let handler = Arc::new(handler);
        let shared = Shared { handler, options, budget, stopping, log: RarelyLogged::default() };
        (Arc::new(shared), stop)
    }

    fn connect(&self) -> Client {
        let (stream, theirs) = duplex(1 << 20);
        let peer = SocketAddr::from(([127, 0, 0, 1], 5044));
        let run = Run::new(theirs, peer, &self.shared);
        Client { stream, end: tokio::spawn(run.until_it_ends()) }
    }
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next ack.
    async fn ack(&mut self) -> u32 {
        let mut frame = [0; 6];
        let reading = self.stream.read_exact(&mut frame);
        timeout(Duration::from_secs(1_000), reading).await.expect("no ack comes").unwrap();
        assert_eq!(&frame[..2], b"2A");
        u32::from_be_bytes(frame[2..].try_into().unwrap())
    }

    /// Whether nothing comes for so long.
    async fn is_silent(&mut self, seconds: u64) -> bool {
        timeout(Duration::from_secs(seconds), self.stream.read_u8()).await.is_err()
    }

    /// What comes until FIN, and why the connection ended.
    async fn rest(mut self) -> (Vec<u8>, End) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        drop(self.stream);
        (rest, self.end.await.unwrap())
    }
}

fn window(events: u32, size: usize) -> Vec<u8> {
    let mut encoder = WindowEncoder::new();
    for _ in 0..events {
        encoder.push(&vec![b'x'; size]);
    }
    let window = encoder.finish();
    let (header, body) = frames(&window);
    [header.as_ref(), &body].concat()
}

#[tokio::test(start_paused = true)]
async fn windows_are_acked_and_a_silent_client_is_left_after_a_minute() {
    let server = Server::new(Acks::AtOnce, Options::default());
    let mut client = server.connect();
    client.send(&window(3, 10)).await;
    assert_eq!(client.ack().await, 3);
    let before = Instant::now();
    let (rest, end) = client.rest().await;
    assert!(matches!(end, End::Idle) && rest.is_empty(), "{end:?}, {rest:?}");
    assert_eq!(before.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_us_is_kept_alive_and_not_left() {
    let inactivity = Duration::from_secs(2); // less than between two signs of life
    let server = Server::new(Acks::Never, Options { inactivity, ..Options::default() });
    let mut client = server.connect();
    client.send(&window(3, 10)).await;
    let before = Instant::now();
    for _ in 0..40 {
        assert_eq!(client.ack().await, 0);
    }
    assert_eq!(before.elapsed().as_secs(), 120);
    server.collector.set_acks(Acks::AtOnce);
    assert_eq!(client.ack().await, 3);
}

#[tokio::test(start_paused = true)]
async fn more_windows_than_may_be_in_flight_are_not_read() {
    let server = Server::new(Acks::Never, Options { in_flight: 3, ..Options::default() });
    let mut client = server.connect();
    for _ in 0..5 {
        client.send(&window(1, 30_000)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(server.collector.totals().windows, 3);
    server.collector.set_acks(Acks::AtOnce);
    for _ in 0..5 {
        assert_eq!(client.ack().await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn acks_go_out_while_more_windows_come() {
    let server = Server::new(Acks::AtOnce, Options::default());
    let mut client = server.connect();
    let second = window(2, 40_000);
    client.send(&window(1, 10)).await;
    client.send(&second[..50_000]).await;
    assert_eq!(client.ack().await, 1, "the second window has begun");
    client.send(&second[50_000..]).await;
    assert_eq!(client.ack().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_was_begun_acks_it_and_discards_the_next() {
    let server = Server::new(Acks::After(Duration::from_secs(2)), Options::default());
    let mut client = server.connect();
    let (first, second) = (window(2, 100), window(3, 100));
    client.send(&first[..150]).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    server.stop.send_replace(true);
    assert!(client.is_silent(1).await);
    client.send(&[&first[150..], &second[..20]].concat()).await;
    assert_eq!(client.ack().await, 2);
    let end = client.stream.read_u8().await.unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    // It is read and thrown away: a reset would take acks along that are on their way.
    client.send(&second[20..]).await;
    let (_, end) = client.rest().await;
    assert!(matches!(end, End::Stopped), "{end:?}");
    assert_eq!(server.collector.totals().windows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_closes_what_is_at_a_boundary_after_its_acks() {
    let server = Server::new(Acks::After(Duration::from_secs(2)), Options::default());
    let mut client = server.connect();
    client.send(&[window(1, 10), window(4, 10)].concat()).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    server.stop.send_replace(true);
    tokio::time::sleep(Duration::from_millis(1)).await;
    client.send(&window(5, 10)).await;
    let (rest, end) = client.rest().await;
    assert!(matches!(end, End::Stopped), "{end:?}");
    assert_eq!(rest, b"2A\0\0\0\x012A\0\0\0\x04", "a window that began after the stop is another server's");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_half_closes_still_gets_its_acks() {
    let server = Server::new(Acks::After(Duration::from_secs(2)), Options::default());
    let mut client = server.connect();
    client.send(&[&window(1, 10)[..], b"2W"].concat()).await;
    client.stream.shutdown().await.unwrap();
    let (rest, end) = client.rest().await;
    assert!(matches!(end, End::Closed), "{end:?}");
    assert_eq!(rest, b"2A\0\0\0\x01");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_breaks_the_protocol_or_is_abandoned_is_left() {
    let server = Server::new(Acks::Close, Options::default());
    let mut client = server.connect();
    client.send(b"2W\0\0\0\x01").await;
    let before = Instant::now();
    let (_, end) = client.rest().await;
    assert!(matches!(end, End::Refused(Refused::Stalled { .. })), "{end:?}");
    assert_eq!((before.elapsed().as_secs(), end.word()), (5, "stalled"));

    let mut client = server.connect();
    client.send(b"GET / HTTP/1.1\r\n\r\n").await;
    let (_, end) = client.rest().await;
    assert_eq!(end.word(), "unknown_version");

    let mut client = server.connect();
    client.send(&window(1, 10)).await;
    let (rest, end) = client.rest().await;
    assert!(matches!(end, End::Abandoned) && rest.is_empty(), "{end:?}, {rest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_no_acks_is_left() {
    let server = Server::new(Acks::AtOnce, Options::default());
    let mut client = server.connect();
    let many = window(1, 0).repeat(400_000);
    let sent = timeout(Duration::from_secs(100), client.stream.write_all(&many)).await;
    assert!(matches!(sent, Ok(Err(_))), "it was not left");
    assert!(matches!(client.end.await.unwrap(), End::Io(_)));
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_a_connection_is_bounded_by_reading_no_further() {
    let limits = Limits { unit: 10_000, ..Limits::default() };
    let options = Options { connection_bytes: 20_000, in_flight: 100, limits, ..Options::default() };
    let server = Server::new(Acks::Never, options);
    let mut client = server.connect();
    client.send(&window(100, 5_000)).await;
    assert!(client.is_silent(2).await);
    for _ in 0..40 {
        assert_eq!(client.ack().await, 0, "it waits for us, and is not held against it");
    }
    assert!(server.shared.budget.used() < 60_000, "{} bytes", server.shared.budget.used());
    server.collector.set_acks(Acks::AtOnce);
    assert_eq!(client.ack().await, 100);
}

#[tokio::test(start_paused = true)]
async fn when_memory_is_short_all_clients_wait_and_all_get_through() {
    let options = Options { total_bytes: 100_000, ..Options::default() };
    let server = Server::new(Acks::After(Duration::from_secs(20)), options);
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(&window(20, 10_000)).await;
    }
    for client in &mut clients {
        while client.ack().await != 20 {}
        client.send(&window(1, 10)).await;
    }
    assert!(server.collector.totals().windows >= 8);
}

/// Beats leave who is silent for 30 s, and send everything again over a new connection.
#[tokio::test(start_paused = true)]
async fn when_memory_is_short_whoever_waits_is_told_and_whoever_sent_nothing_is_not() {
    let options = Options { total_bytes: 100_000, ..Options::default() };
    let server = Server::new(Acks::Never, options);
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(&window(20, 10_000)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let idle = server.connect();
    for _ in 0..40 {
        for client in &mut clients {
            assert_eq!(client.ack().await, 0);
        }
    }
    assert!(server.collector.totals().windows < 8);
    let (told, end) = idle.rest().await;
    assert!(matches!(end, End::Idle) && told.is_empty(), "{end:?}, {told:?}");
    server.collector.set_acks(Acks::AtOnce);
    for client in &mut clients {
        while client.ack().await != 20 {}
    }
}

/// Else one shipper that tries again and again takes all places, and all that it sent comes as often.
#[tokio::test(start_paused = true)]
async fn a_client_that_went_away_while_it_waited_leaves_its_place() {
    let options = Options { total_bytes: 100_000, ..Options::default() };
    let server = Server::new(Acks::Never, options);
    let mut holder = server.connect();
    holder.send(&window(20, 10_000)).await;
    assert_eq!(holder.ack().await, 0);
    for events in [20, 1] {
        let mut client = server.connect();
        client.send(&window(events, 10_000)).await;
        assert_eq!(client.ack().await, 0);
        drop(client.stream);
        let end = timeout(Duration::from_secs(4), client.end).await.expect("it is still there").unwrap();
        assert!(matches!(end, End::Io(_)), "{end:?}");
    }
    assert_eq!(server.collector.totals().windows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_half_closed_is_kept_alive_while_its_window_is_held() {
    let server = Server::new(Acks::Never, Options::default());
    let mut client = server.connect();
    client.send(&[&window(1, 10)[..], b"2W"].concat()).await;
    client.stream.shutdown().await.unwrap();
    for _ in 0..40 {
        assert_eq!(client.ack().await, 0);
    }
    server.collector.set_acks(Acks::AtOnce);
    assert_eq!(client.ack().await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_has_come_in_part_takes_of_the_memory_too() {
    let options = Options { total_bytes: 400_000, ..Options::default() };
    let server = Server::new(Acks::AtOnce, options);
    let event = window(1, 600_000);
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(&event[..100_000]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let used = server.shared.budget.used();
    assert!((400_000..510_000).contains(&used), "{used} bytes: only one goes on when there is no room");
    for client in &mut clients {
        client.send(&event[100_000..]).await;
    }
    for client in &mut clients {
        while client.ack().await != 1 {}
    }
    assert_eq!(server.shared.budget.used(), 0);
}

/// A handler that keeps its units longer than their connection lives.
#[derive(Default)]
struct Hoarder(std::sync::Mutex<Vec<Room>>);

struct Hoarded(Arc<Hoarder>);

impl Handler for Arc<Hoarder> {
    type Connection = Hoarded;
    fn connection(&self, _: SocketAddr) -> Hoarded {
        Hoarded(Arc::clone(self))
    }
}

impl Sink for Hoarded {
    fn event(&mut self, _: Event<'_>) {}
    fn window(&mut self, _: WindowEnd) {}
}

impl Connection for Hoarded {
    async fn verdict(&mut self) -> Verdict {
        std::future::pending().await
    }
    fn room(&mut self, room: Room) {
        self.0.0.lock().unwrap().push(room);
    }
}

#[tokio::test(start_paused = true)]
async fn memory_that_outlives_its_connection_is_still_taken() {
    let hoarder = Arc::new(Hoarder::default());
    let (server, _stop) = Server::of(Arc::clone(&hoarder), Options::default());
    for count in 1..=3 {
        let (mut stream, theirs) = duplex(1 << 20);
        let run = Run::new(theirs, SocketAddr::from(([127, 0, 0, 1], 5044)), &server);
        let end = tokio::spawn(run.until_it_ends());
        stream.write_all(&window(2, 1_000)).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'2', "the window is held");
        drop(stream);
        assert!(matches!(end.await.unwrap(), End::Io(_)));
        assert_eq!(server.budget.used(), count * 2_000);
    }
    hoarder.0.lock().unwrap().clear();
    assert_eq!(server.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_memory_is_short_busy_clients_take_turns() {
    let options = Options { total_bytes: 100_000, in_flight: 1, ..Options::default() };
    let server = Server::new(Acks::Never, options);
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    // The next window has begun when one ends.
    let windows = window(20, 10_000).repeat(2);
    for client in &mut clients {
        client.send(&windows[..10]).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await; // who has begun nothing waits for room alone
    for client in &mut clients {
        client.send(&windows[10..]).await;
    }
    for client in &mut clients {
        assert_eq!(client.ack().await, 0, "its first window is complete");
    }
    assert_eq!(server.collector.totals().windows, 8);
}

#[tokio::test(start_paused = true)]
async fn a_collector_acks_in_part_and_wrongly_when_told_to() {
    let server = Server::new(Acks::Partly(Duration::from_secs(2)), Options::default());
    let mut client = server.connect();
    client.send(&window(10, 10)).await;
    assert_eq!((client.ack().await, client.ack().await), (5, 10));
    server.collector.set_acks(Acks::Wrong);
    client.send(&window(10, 10)).await;
    assert_eq!(client.ack().await, 11);
}
