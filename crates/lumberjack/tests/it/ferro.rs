//! A second implementation of the protocol, as client and as server, plain and with TLS.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferro_lumberjack::client::ClientBuilder;
use ferro_lumberjack::server::Server;
use ferro_lumberjack::tls::{ServerTlsConfig, TlsConfig};
use pikepole_lumberjack::client::Connector;
use pikepole_lumberjack::encode::WindowEncoder;
use pikepole_lumberjack::server::collect::{Acks, Collector};
use pikepole_lumberjack::{Acked, Payload, Sender, client};
use tokio::time::timeout;

use super::certs::Certs;
use super::sockets::Listening;

const PATIENCE: Duration = Duration::from_secs(60);

fn events(round: usize) -> Vec<Vec<u8>> {
    (0..500).map(|i| format!("{{\"message\":\"line {i} of {round}\"}}").into_bytes()).collect()
}

/// It counts on across windows.
#[tokio::test]
async fn it_sends_to_us() {
    let certs = Certs::new();
    // Its TLS takes what the process has agreed on; `Err`: another test was first.
    drop(rustls_provider());
    for (tls, level) in [(false, 0), (false, 3), (true, 3)] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let collector = {
            let seen = Arc::clone(&seen);
            Collector::watching(Acks::AtOnce, move |_, event| {
                let Payload::Json(json) = event.payload else { panic!("{event:?}") };
                seen.lock().unwrap().push((event.seq, json.to_vec()));
            })
        };
        let files = certs.server();
        let listening = Listening::start(collector, tls.then_some(&files)).await;
        let builder = ClientBuilder::new().add_host(listening.address.to_string());
        let mut builder = builder.compression_level(level).timeout(PATIENCE);
        if tls {
            let trust = TlsConfig::builder().add_ca_pem_file(certs.path("ca.pem")).unwrap().build().unwrap();
            builder = builder.tls(trust);
        }
        let mut client = builder.connect().await.unwrap();
        for round in 0..4 {
            assert_eq!(client.send_json(events(round)).await.unwrap(), 500);
        }
        let expected: Vec<(u32, Vec<u8>)> = (1..).zip((0..4).flat_map(events)).collect();
        assert_eq!(*seen.lock().unwrap(), expected);
        let totals = listening.collector.totals();
        assert_eq!((totals.windows, totals.connections), (4, 1), "four windows on one connection");
    }
}

#[tokio::test]
async fn we_send_to_it() {
    let certs = Certs::new();
    drop(rustls_provider());
    for (tls, level) in [(false, 0), (false, 3), (true, 9)] {
        let mut server = Server::builder();
        if tls {
            let files = ServerTlsConfig::builder().cert_pem_file(certs.path("server.pem")).unwrap();
            server = server.tls(files.key_pem_file(certs.path("server.key")).unwrap().build().unwrap());
        }
        let listener = server.bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = tokio::spawn(async move {
            let mut connection = listener.accept().await.unwrap();
            let mut windows = Vec::new();
            while let Some(window) = connection.read_and_ack().await.unwrap() {
                windows.push(window);
            }
            windows
        });
        let trust = certs.client();
        let options =
            client::Options { connect_timeout: PATIENCE, handshake_timeout: PATIENCE, ..Default::default() };
        let connector = Connector::new(options, tls.then_some(&trust)).unwrap();
        let (mut writer, mut reader) = connector.connect(address).await.unwrap();
        let (mut encoder, mut sender) = (WindowEncoder::new(), Sender::new(Duration::ZERO));
        for round in 0..3 {
            encoder.begin(level);
            for event in events(round) {
                assert!(encoder.push(&event));
            }
            let window = encoder.finish();
            sender.sent(round as u64, window.events, Duration::ZERO);
            writer.write(&window).await.unwrap();
        }
        let mut acked = Vec::new();
        while sender.in_flight() > 0 {
            let bytes = timeout(PATIENCE, reader.read()).await.unwrap().unwrap();
            assert!(!bytes.is_empty(), "it closed the connection");
            sender.input(bytes, Duration::ZERO, &mut |ack| acked.push(ack)).unwrap();
        }
        assert_eq!(acked, [0, 1, 2].map(|number| Acked::Window { number }));
        writer.shutdown().await.unwrap();
        let windows = timeout(PATIENCE, received).await.unwrap().unwrap();
        for (round, window) in windows.iter().enumerate() {
            let payloads: Vec<Vec<u8>> = window.events.iter().map(|e| e.payload.clone()).collect();
            assert_eq!((payloads, window.last_seq), (events(round), 500));
        }
        assert_eq!(windows.len(), 3);
    }
}

fn rustls_provider() -> Result<(), Arc<rustls::crypto::CryptoProvider>> {
    rustls::crypto::ring::default_provider().install_default()
}
