//! Our client and our server over real sockets: plain, TLS, mTLS, and when something is wrong with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pikepole_lumberjack::client::{self, ConnectError, Connector};
use pikepole_lumberjack::encode::{EncodedWindow, WindowEncoder};
use pikepole_lumberjack::server::collect::{Acks, Collector};
use pikepole_lumberjack::server::{self, Options, Tls, serve};
use pikepole_lumberjack::{Acked, Sender};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::certs::Certs;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A collector that listens.
pub(crate) struct Listening {
    pub(crate) collector: Arc<Collector>,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Listening {
    pub(crate) async fn start(collector: Arc<Collector>, tls: Option<&server::TlsConfig>) -> Self {
        let tls = tls.map(|files| Tls::load(files).unwrap());
        Self::with(collector, Options { tls, ..Options::default() }).await
    }

    async fn with(collector: Arc<Collector>, options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let handler = Arc::new(Arc::clone(&collector));
        let server = tokio::spawn(serve(listener, options, handler, async {
            drop(stopped.await);
        }));
        Self { collector, address, stop: Some(stop), server }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        timeout(PATIENCE, self.server).await.unwrap().unwrap();
    }
}

fn window(events: u32, level: u32) -> EncodedWindow {
    let mut encoder = WindowEncoder::new();
    encoder.begin(level);
    for i in 0..events {
        assert!(encoder.push(format!("{{\"message\":\"line {i}\"}}").as_bytes()));
    }
    encoder.finish()
}

/// Sends windows, three in flight, until all are acked.
async fn deliver(connector: &Connector, address: SocketAddr, windows: &[EncodedWindow]) {
    let (mut writer, mut reader) = connector.connect(address).await.unwrap();
    let mut sender = Sender::new(Duration::ZERO);
    let mut acked = Vec::new();
    let mut next = 0;
    while acked.len() < windows.len() {
        while next < windows.len() && sender.in_flight() < 3 {
            sender.sent(next as u64, windows[next].events, Duration::ZERO);
            writer.write(&windows[next]).await.unwrap();
            next += 1;
        }
        let bytes = timeout(PATIENCE, reader.read()).await.unwrap().unwrap();
        assert!(!bytes.is_empty(), "the server closed");
        sender
            .input(bytes, Duration::ZERO, &mut |ack| {
                if let Acked::Window { number } = ack {
                    acked.push(number);
                }
            })
            .unwrap();
    }
    assert_eq!(acked, (0..windows.len() as u64).collect::<Vec<_>>());
    writer.shutdown().await.unwrap();
    let end = timeout(PATIENCE, reader.read()).await.unwrap();
    assert!(end.is_ok_and(|rest| rest.is_empty()), "the server answers our FIN with its own");
}

fn connector(tls: Option<&client::TlsConfig>) -> Connector {
    let second = Duration::from_secs(20);
    let options =
        client::Options { connect_timeout: second, handshake_timeout: second, ..client::Options::default() };
    Connector::new(options, tls).unwrap()
}

#[tokio::test]
async fn windows_go_through_plain_and_with_tls() {
    let certs = Certs::new();
    let large: Vec<EncodedWindow> = (0..20).map(|i| window(2_048, i % 10)).collect();
    for tls in [false, true] {
        let (server, client) = (certs.server(), certs.client());
        let listening = Listening::start(Collector::new(Acks::AtOnce), tls.then_some(&server)).await;
        deliver(&connector(tls.then_some(&client)), listening.address, &large).await;
        let totals = listening.collector.totals();
        assert_eq!((totals.windows, totals.events, totals.refused), (20, 40_960, 0));
        listening.stop().await;
    }
}

#[tokio::test]
async fn a_stop_acks_what_came_and_the_client_sees_the_end() {
    let listening = Listening::start(Collector::new(Acks::After(Duration::from_millis(100))), None).await;
    let (mut writer, mut reader) = connector(None).connect(listening.address).await.unwrap();
    writer.write(&window(7, 3)).await.unwrap();
    while listening.collector.totals().windows == 0 {
        tokio::task::yield_now().await;
    }
    let address = listening.address;
    let stopped = tokio::spawn(listening.stop());
    let mut acks = Vec::new();
    loop {
        let bytes = timeout(PATIENCE, reader.read()).await.unwrap().unwrap();
        if bytes.is_empty() {
            break;
        }
        acks.extend_from_slice(bytes);
    }
    assert_eq!(acks, b"2A\0\0\0\x07");
    drop((writer, reader));
    stopped.await.unwrap();
    let refused = connector(None).connect(address).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Io(_)), "{refused}");
}

#[tokio::test]
async fn clients_without_a_certificate_of_the_authority_are_not_let_in() {
    let (certs, others) = (Certs::new(), Certs::new());
    certs.issue("agent", "any-name");
    others.issue("agent", "any-name");
    let server = server::TlsConfig { client_ca: Some(certs.path("ca.pem")), ..certs.server() };
    let listening = Listening::start(Collector::new(Acks::AtOnce), Some(&server)).await;
    let with = |of: &Certs| client::TlsConfig {
        cert: Some(of.path("agent.pem")),
        key: Some(of.path("agent.key")),
        ..certs.client()
    };
    deliver(&connector(Some(&with(&certs))), listening.address, &[window(3, 3)]).await;
    for refused in [certs.client(), with(&others)] {
        // With TLS 1.3 a client learns after the handshake that the server did not like its certificate.
        if let Ok((mut writer, mut reader)) = connector(Some(&refused)).connect(listening.address).await {
            // It may be cut while it writes, or when it reads.
            drop(writer.write(&window(3, 3)).await);
            assert!(timeout(PATIENCE, reader.read()).await.unwrap().map_or(true, <[u8]>::is_empty));
        }
    }
    assert_eq!(listening.collector.totals().windows, 1);
}

#[tokio::test]
async fn a_server_with_another_name_or_authority_is_not_talked_to() {
    let (certs, others) = (Certs::new(), Certs::new());
    certs.issue("server", "collector.example");
    let listening = Listening::start(Collector::new(Acks::AtOnce), Some(&certs.server())).await;
    let named = |name: &str| client::TlsConfig { server_name: Some(name.into()), ..certs.client() };
    deliver(&connector(Some(&named("collector.example"))), listening.address, &[window(3, 3)]).await;
    let stranger = client::TlsConfig { ca: Some(others.path("ca.pem")), ..named("collector.example") };
    for files in [certs.client(), named("other.example"), stranger] {
        let error = connector(Some(&files)).connect(listening.address).await.unwrap_err();
        assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
    }
}

#[tokio::test]
async fn renewed_certificates_are_used_and_broken_ones_are_not() {
    let (certs, renewed) = (Certs::new(), Certs::new());
    let connector = connector(Some(&certs.client()));
    let listening = Listening::start(Collector::new(Acks::AtOnce), Some(&certs.server())).await;
    let one = [window(1, 3)];
    std::fs::write(certs.path("server.pem"), "half of a certificate").unwrap();
    deliver(&connector, listening.address, &one).await;
    for name in ["server.pem", "server.key"] {
        std::fs::copy(renewed.path(name), certs.path(name)).unwrap();
    }
    assert!(connector.connect(listening.address).await.is_err(), "the server shows another authority's now");
    std::fs::copy(renewed.path("ca.pem"), certs.path("ca.pem")).unwrap();
    // The size alone may be the same, and the time too coarse to differ.
    let ca = std::fs::read(certs.path("ca.pem")).unwrap();
    std::fs::write(certs.path("ca.pem"), [&ca[..], b"\n"].concat()).unwrap();
    deliver(&connector, listening.address, &one).await;
}

#[tokio::test]
async fn what_is_wrong_with_files_is_said_without_their_content() {
    let certs = Certs::new();
    std::fs::write(
        certs.path("secret"),
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    let broken = server::TlsConfig { key: certs.path("secret"), ..certs.server() };
    let missing = server::TlsConfig { cert: certs.path("missing"), ..certs.server() };
    for (files, name) in [(broken, "secret"), (missing, "missing")] {
        let error = Tls::load(&files).unwrap_err().to_string();
        assert!(error.contains(name) && !error.contains("c2Vjc"), "{error}");
    }
    let half = client::TlsConfig { cert: Some(certs.path("server.pem")), ..certs.client() };
    assert!(Connector::new(client::Options::default(), Some(&half)).is_err());
}

#[tokio::test]
async fn clients_above_the_limit_wait_until_a_place_is_free() {
    let options = Options { max_connections: 1, ..Options::default() };
    let listening = Listening::with(Collector::new(Acks::AtOnce), options).await;
    let (mut first, mut acks) = connector(None).connect(listening.address).await.unwrap();
    let (mut second, mut waiting) = connector(None).connect(listening.address).await.unwrap();
    second.write(&window(7, 3)).await.unwrap();
    // As many answers as it would take to see that the second one is served too.
    for _ in 0..50 {
        first.write(&window(1, 3)).await.unwrap();
        assert_eq!(timeout(PATIENCE, acks.read()).await.unwrap().unwrap(), b"2A\0\0\0\x01");
    }
    assert_eq!(listening.collector.totals().windows, 50, "nothing of the second one was read");
    drop((first, acks));
    assert_eq!(timeout(PATIENCE, waiting.read()).await.unwrap().unwrap(), b"2A\0\0\0\x07");
}

#[tokio::test]
async fn a_client_that_never_begins_its_handshake_loses_its_place() {
    let certs = Certs::new();
    let tls = Some(Tls::load(&certs.server()).unwrap());
    let handshake_timeout = Duration::from_millis(50);
    let options = Options { max_connections: 1, handshake_timeout, tls, ..Options::default() };
    let listening = Listening::with(Collector::new(Acks::AtOnce), options).await;
    // The second one's turn comes only when the place of the first is free again.
    for _ in 0..2 {
        let mut silent = TcpStream::connect(listening.address).await.unwrap();
        let end = timeout(PATIENCE, silent.read(&mut [0; 8])).await.unwrap();
        assert!(end.is_err() || end.is_ok_and(|read| read == 0), "it is closed");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let short =
        client::Options { handshake_timeout: Duration::from_millis(50), ..client::Options::default() };
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let connector = Connector::new(short, Some(&Certs::new().client())).unwrap();
    let error = connector.connect(silent.local_addr().unwrap()).await.unwrap_err();
    assert!(matches!(error, ConnectError::HandshakeTimeout(_)), "{error}");
}
