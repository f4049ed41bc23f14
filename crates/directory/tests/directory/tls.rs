//! TLS: certificates from files, read again when they change, and clients that must show theirs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pikepole_directory::config::TlsConfig;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::harness::{Plan, Rig, Wire, within};

/// An authority that signs what a test needs.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, PEM both.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_string()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A client that trusts this authority, and shows a certificate if it has one.
    fn client(&self, identity: Option<(String, String)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        }
    }
}

/// The files of a server whose name in its certificate is `name`.
fn files(folder: &Path, authority: &Authority, name: &str) -> TlsConfig {
    let (cert, key) = authority.sign(name);
    replace(&folder.join("cert.pem"), &cert);
    replace(&folder.join("key.pem"), &key);
    TlsConfig { cert: folder.join("cert.pem"), key: folder.join("key.pem"), client_ca: None }
}

/// Puts a whole file in another's place, as rotation does.
fn replace(path: &Path, text: &str) {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, path).unwrap();
}

/// A connection to the server, which must have a certificate for `name`.
async fn connect(rig: &Rig, client: ClientConfig, name: &str) -> std::io::Result<Wire<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(rig.address).await?;
    let name = ServerName::try_from(name.to_string()).unwrap();
    let stream = within("a handshake", TlsConnector::from(Arc::new(client)).connect(name, stream)).await?;
    Ok(Wire::new(stream))
}

async fn started(tls: TlsConfig) -> Rig {
    let rig = Plan::new().tls(tls).limits(|l| l.look_every = Duration::from_millis(20)).start().await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    rig
}

/// Waits until the server shows a certificate for `name`.
async fn shows(rig: &Rig, authority: &Authority, name: &str) {
    within("another certificate", async {
        while connect(rig, authority.client(None), name).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_polls_and_streams_work_over_tls() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let rig = started(files(folder.path(), &authority, "localhost")).await;
    let mut wire = connect(&rig, authority.client(None), "localhost").await.unwrap();
    assert_eq!(wire.get("/healthz").await.text(), "alive\n");
    let path = format!("/v1/fleets/f1/roster?after={}&wait=5m", rig.revision("f1"));
    wire.request("GET", &path, &[]).await;
    rig.watched_by("f1", 1).await;
    rig.describe("f1", &["10.0.0.2:5044"]).await;
    assert_eq!(wire.answer().await.json()["members"][0]["address"], "10.0.0.2:5044");
    wire.request("GET", "/v1/watch", &[]).await;
    assert_eq!(wire.events().await.roster().await["fleet"], "f1");
}

#[tokio::test]
async fn a_changed_certificate_is_taken_up_and_open_connections_go_on() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let rig = started(files(folder.path(), &authority, "old.example")).await;
    let mut open = connect(&rig, authority.client(None), "old.example").await.unwrap();
    assert_eq!(open.get("/healthz").await.status, 200);
    files(folder.path(), &authority, "new.example");
    shows(&rig, &authority, "new.example").await;
    assert!(connect(&rig, authority.client(None), "old.example").await.is_err());
    assert_eq!(open.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_bad_new_file_leaves_the_last_good_certificate_in_place() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let tls = files(folder.path(), &authority, "old.example");
    let rig = started(tls.clone()).await;
    shows(&rig, &authority, "old.example").await;
    let (cert, key) = authority.sign("new.example");
    for bad in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &cert] {
        // The last one is good by itself, but is not the key's.
        replace(&tls.cert, bad);
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut wire = connect(&rig, authority.client(None), "old.example").await.unwrap();
            assert_eq!(wire.get("/healthz").await.status, 200);
        }
    }
    replace(&tls.key, &key);
    shows(&rig, &authority, "new.example").await;
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_authority_gets_no_answer() {
    let (folder, authority, clients) = (TempDir::new().unwrap(), Authority::new(), Authority::new());
    let mut tls = files(folder.path(), &authority, "localhost");
    replace(&folder.path().join("clients.pem"), &clients.pem);
    tls.client_ca = Some(folder.path().join("clients.pem"));
    let rig = started(tls).await;
    for identity in [None, Some(authority.sign("proxy-1")), Some(Authority::new().sign("proxy-1"))] {
        // In TLS 1.3 the client is done before the server has looked: the refusal comes with the answer.
        if let Ok(mut wire) = connect(&rig, authority.client(identity), "localhost").await {
            let sent = wire.try_send(b"GET /v1/fleets HTTP/1.1\r\nHost: d\r\n\r\n").await;
            assert!(sent.is_err() || wire.try_answer().await.is_err());
        }
    }
    let mut wire = connect(&rig, authority.client(Some(clients.sign("proxy-1"))), "localhost").await.unwrap();
    assert_eq!(wire.get("/v1/fleets").await.status, 200);
}

#[tokio::test]
async fn whoever_does_not_speak_tls_is_let_go_and_holds_nobody_up() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let tls = files(folder.path(), &authority, "localhost");
    let rig = Plan::new().tls(tls).limits(|l| l.handshake_time = Duration::from_millis(100)).start().await;
    let mut silent = rig.connect().await;
    let mut plain = rig.connect().await;
    plain.send("GET /healthz HTTP/1.1\r\nHost: d\r\n\r\n").await;
    let said = String::from_utf8_lossy(&plain.rest().await).into_owned();
    assert!(!said.contains("HTTP/1.1"), "{said}");
    let mut wire = connect(&rig, authority.client(None), "localhost").await.unwrap();
    assert_eq!(wire.get("/healthz").await.status, 200);
    assert!(silent.rest().await.is_empty());
    assert_eq!(wire.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_server_whose_files_cannot_be_used_does_not_start() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let tls = files(folder.path(), &authority, "localhost");
    replace(&tls.key, &KeyPair::generate().unwrap().serialize_pem());
    let rig = Plan::new().tls(tls).start().await;
    let error = rig.failed().await;
    assert!(error.contains("cert.pem") && error.contains("key.pem"), "{error}");
    assert!(!error.contains("BEGIN"), "{error}");
}
