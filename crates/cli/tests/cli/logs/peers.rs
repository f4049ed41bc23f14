//! Other implementations of the protocol around the real agent, plain and with TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ferro_lumberjack::client::ClientBuilder;
use ferro_lumberjack::server::Server;
use ferro_lumberjack::tls::{ServerTlsConfig, TlsConfig};
use pikepole_lumberjack::client::{self, Connector, Options};
use pikepole_lumberjack::server;
use pikepole_lumberjack::server::collect::Acks;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::certs::Certs;
use super::collector::Near;
use super::ledger::{Ledger, identify};
use super::shipper::{Load, Shipper, window};
use super::world::{SPOOL, World};
use crate::harness::within;

const PATIENCE: Duration = Duration::from_secs(60);

/// Windows of several sizes over one connection.
const PYLOGBEAT: &str = r#"
import sys, pylogbeat
host, port, tls, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "tls", sys.argv[4]
first = int(sys.argv[5])
with pylogbeat.PyLogBeatClient(host, port, timeout=20, ssl_enable=tls, ca_certs=ca if tls else None) as client:
    for size in (3, 1, 89, 7):
        client.send([{"id": first + i} for i in range(size)])
        first += size
"#;

const LOGSTASH_ASYNC: &str = r#"
import sys
from logstash_async.transport import BeatsTransport
host, port, tls, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "tls", sys.argv[4]
first = int(sys.argv[5])
transport = BeatsTransport(host, port, ssl_enable=tls, ssl_verify=True, ssl_verify_flags=None,
                           keyfile=None, certfile=None, ca_certs=ca if tls else None, timeout=20)
transport.send([('{"id": %d}' % (first + i)).encode() for i in range(100)])
"#;

/// The interpreter with the clients: `$PIKEPOLE_PYTHON`, else the one `./scripts/test` installs.
fn python() -> PathBuf {
    if let Some(named) = std::env::var_os("PIKEPOLE_PYTHON") {
        return named.into();
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.test-env/venv/bin/python");
    if installed.exists() { installed } else { "python3".into() }
}

/// A world whose relay and collectors speak TLS or do not.
async fn world(certs: &Certs, tls: bool, members: &[SocketAddr]) -> World {
    let world = World::new(members).await;
    if tls {
        let part =
            format!("tls = {{ cert = {:?}, key = {:?} }}", certs.path("relay.pem"), certs.path("relay.key"));
        let collectors = format!(
            "[collectors]\ntls = {{ ca = {:?}, server_name = \"localhost\" }}\n",
            certs.path("ca.pem")
        );
        world.configure_relay(&part, &format!("{SPOOL}{collectors}"));
    }
    world
}

/// Certificates of the relay, by its address, and of collectors, by a name.
fn certs(relay: SocketAddr) -> Certs {
    let certs = Certs::new();
    certs.issue("relay", &relay.ip().to_string());
    certs.issue("server", "localhost");
    certs
}

#[tokio::test]
async fn python_clients_ship_through_the_relay() {
    for tls in [false, true] {
        let ledger = Ledger::default();
        let certs = certs(super::collector::address());
        let files = certs.server();
        let near = Near::with(&ledger, Acks::AtOnce, false, tls.then_some(files)).await;
        let world = world(&certs, tls, &[near.address]).await;
        let agent = world.start().await;
        agent.until("a relay", |_| true).await;
        for script in [PYLOGBEAT, LOGSTASH_ASYNC] {
            let ids = ledger.issue(100);
            let mut command = Command::new(python());
            command.args(["-c", script, &world.relay.ip().to_string(), &world.relay.port().to_string()]);
            command
                .arg(if tls { "tls" } else { "plain" })
                .arg(certs.path("ca.pem"))
                .arg(ids.start.to_string());
            let output =
                within("a Python client", command.stdin(Stdio::null()).kill_on_drop(true).output()).await;
            let output = output.expect("Python; ./scripts/test installs what it needs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            ledger.promised(ids);
        }
        // Beside our own, which trusts the same authority.
        let trust = certs.client();
        let shipper = Shipper::with(world.relay, &ledger, Load::default(), tls.then_some(&trust));
        ledger.reached(400).await;
        shipper.finish().await;
        let counts = ledger.settled(&format!("Python clients, TLS {tls}")).await;
        assert_eq!((counts.sent, counts.duplicates), (counts.received, 0));
        agent.stop().await;
    }
}

#[tokio::test]
async fn another_client_and_another_server_around_the_agent() {
    // Its TLS takes what the process has agreed on; `Err`: another test was first.
    drop(rustls::crypto::ring::default_provider().install_default());
    for tls in [false, true] {
        let ledger = Ledger::default();
        let certs = certs(super::collector::address());
        let mut server = Server::builder();
        if tls {
            let files = ServerTlsConfig::builder().cert_pem_file(certs.path("server.pem")).unwrap();
            server = server.tls(files.key_pem_file(certs.path("server.key")).unwrap().build().unwrap());
        }
        let listener = server.bind(&super::collector::address().to_string()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut receivers = JoinSet::new();
        let received = ledger.clone();
        receivers.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok(mut connection) = listener.accept().await {
                let received = received.clone();
                connections.spawn(async move {
                    while let Ok(Some(window)) = connection.read_and_ack().await {
                        let ids: Vec<_> = window.events.iter().map(|e| identify(&e.payload)).collect();
                        received.received(&ids);
                    }
                });
            }
        });
        let world = world(&certs, tls, &[address]).await;
        let agent = world.start().await;
        agent.until("a relay", |_| true).await;
        let mut builder =
            ClientBuilder::new().add_host(world.relay.to_string()).compression_level(3).timeout(PATIENCE);
        if tls {
            let trust = TlsConfig::builder().add_ca_pem_file(certs.path("ca.pem")).unwrap().build().unwrap();
            builder = builder.tls(trust);
        }
        let mut client = builder.connect().await.unwrap();
        for _ in 0..5 {
            let ids = ledger.issue(200);
            let events: Vec<_> = ids.clone().map(|id| format!("{{\"id\":{id}}}").into_bytes()).collect();
            assert_eq!(within("an ack", client.send_json(events)).await.unwrap(), 200);
            ledger.promised(ids);
        }
        let counts = ledger.settled(&format!("another client and server, TLS {tls}")).await;
        assert_eq!((counts.received, counts.duplicates), (1_000, 0));
        agent.stop().await;
    }
}

#[tokio::test]
async fn with_an_authority_for_clients_everybody_shows_who_he_is() {
    let ledger = Ledger::default();
    let certs = certs(super::collector::address());
    for name in ["agent", "shipper"] {
        certs.issue(name, name);
    }
    let path = |name: &str| certs.path(name);
    let files = server::TlsConfig { client_ca: Some(path("ca.pem")), ..certs.server() };
    let near = Near::with(&ledger, Acks::AtOnce, false, Some(files)).await;
    let world = World::new(&[near.address]).await;
    let relay = format!(
        "tls = {{ cert = {:?}, key = {:?}, client_ca = {:?} }}",
        path("relay.pem"),
        path("relay.key"),
        path("ca.pem")
    );
    let shown = format!("cert = {:?}, key = {:?}, ", path("agent.pem"), path("agent.key"));
    let collectors = |shown: &str| {
        let ca = path("ca.pem");
        format!("{SPOOL}[collectors]\ntls = {{ {shown}ca = {ca:?}, server_name = \"localhost\" }}\n")
    };
    // An agent that shows nothing is let in by no collector.
    world.configure_relay(&relay, &collectors(""));
    let agent = world.start().await;
    agent.until("a relay", |_| true).await;
    let trust = certs.client();
    let known = client::TlsConfig {
        cert: Some(path("shipper.pem")),
        key: Some(path("shipper.key")),
        ..trust.clone()
    };
    let shipper = Shipper::with(world.relay, &ledger, Load::default(), Some(&known));
    agent.trouble("collector_failing").await;
    agent.until("acks", |s| s["log_path"]["relay"]["acked_events"].as_u64() > Some(200)).await;
    assert_eq!(ledger.counts().received, 0);
    agent.stop().await;
    world.configure_relay(&relay, &collectors(&shown));
    let agent = world.start().await;
    ledger.reached(400).await;
    shipper.finish().await;

    // Nor is a shipper by the relay, which says why.
    let connector = Connector::new(Options::default(), Some(&trust)).unwrap();
    // With TLS 1.3 a client learns after the handshake that its certificate was missed.
    if let Ok((mut writer, mut reader)) = connector.connect(world.relay).await {
        drop(writer.write(&window(ledger.issue(1), 3, 10)).await);
        assert!(within("the end", reader.read()).await.map_or(true, <[u8]>::is_empty));
    }
    agent.until("a line about it", |_| agent.log().contains("TLS handshake failed")).await;
    agent.until("a count of it", |s| s["log_path"]["relay"]["ended"]["handshake"] == 1).await;
    ledger.settled("certificates on all sides").await;
    agent.stop().await;
}
