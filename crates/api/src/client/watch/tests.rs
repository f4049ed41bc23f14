use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::client::TlsFiles;

const WAIT: Duration = Duration::from_secs(55);
const PATIENCE: Duration = Duration::from_secs(600);

fn roster(revision: u64) -> String {
    format!(
        "{{\"fleet\":\"f\",\"dc\":\"d\",\"region\":\"r\",\"revision\":{revision},\
         \"published_at\":\"2026-11-22T10:00:00.123Z\",\"members\":[{{\"instance_id\":\"i-1\",\
         \"address\":\"10.0.0.1:5044\",\"zone\":null,\"state\":\"active\"}}]}}"
    )
}

fn ok(body: &str) -> Vec<u8> {
    let revision = body.split("\"revision\":").nth(1).and_then(|rest| rest.split(',').next());
    let revision = revision.map(|r| format!("Pikepole-Revision: {r}\r\n")).unwrap_or_default();
    let head = format!("HTTP/1.1 200 OK\r\n{revision}Pikepole-Confirmed-At: 2026-11-22T10:00:01.000Z\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Reads one request's head; `None` at the end of the connection.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A server that gives the n-th request the n-th answer, and says which requests came. After the last
/// answer it is silent.
async fn script(answers: Vec<Vec<u8>>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = mpsc::unbounded_channel();
    let answers = Arc::new(std::sync::Mutex::new(answers.into_iter()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, seen.clone(), Arc::clone(&answers)));
        }
    });
    (address, requests)
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: mpsc::UnboundedSender<String>,
    answers: Arc<std::sync::Mutex<std::vec::IntoIter<Vec<u8>>>>,
) {
    while let Some(head) = head(&mut stream).await {
        if seen.send(head).is_err() {
            return;
        }
        let answer = answers.lock().unwrap().next();
        let Some(answer) = answer else { break };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
    // Hold the connection until the client lets go.
    drop(stream.read_u8().await);
}

fn client(address: SocketAddr) -> Client {
    Client::new(&format!("http://{address}"), Some("s3cret-token")).unwrap()
}

async fn next(watch: &mut Watch) -> Event {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("nothing happened")
}

#[tokio::test]
async fn whatever_is_no_roster_is_trouble_and_the_next_directory_is_asked() {
    let cases: Vec<Vec<u8>> = vec![
        ok("<html><body>Bad gateway</body></html>"),
        ok(&roster(5)[..40]),
        ok(&roster(5).replace("\"f\"", "\"other\"")),
        ok(&roster(5).replace("10.0.0.1:5044", "10.0.0.1")),
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"fleet\"".to_vec(),
        b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(),
        b"HTTP/1.1 304 Not Modified\r\nPikepole-Revision: 5\r\n\r\n".to_vec(),
        String::from_utf8(ok(&roster(5))).unwrap().replace("Revision: 5", "Revision: 6").into_bytes(),
        ok(&format!("{}{}", roster(5), " ".repeat(10 * 1024 * 1024))),
        b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(),
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops".to_vec(),
    ];
    for (n, case) in cases.into_iter().enumerate() {
        let (listener, _bad) = if n == 4 { half_an_answer(case).await } else { script(vec![case]).await };
        let (good, _requests) = script(vec![ok(&roster(7))]).await;
        let mut watch = Watch::at(vec![client(listener), client(good)], Target::Fleet("f".into()), WAIT);
        match next(&mut watch).await {
            Event::Trouble(error) => assert!(!error.to_string().contains("s3cret"), "{error}"),
            other => panic!("case {n} is taken as {other:?}"),
        }
        assert!(matches!(next(&mut watch).await, Event::Roster(r, _) if r.revision == 7), "case {n}");
    }
}

#[tokio::test]
async fn not_modified_confirms_only_the_revision_that_it_names() {
    let bare = b"HTTP/1.1 304 Not Modified\r\nPikepole-Confirmed-At: 2027-01-01T00:00:00.000Z\r\n\r\n";
    let other = b"HTTP/1.1 304 Not Modified\r\nPikepole-Revision: 6\r\n\r\n";
    let same = b"HTTP/1.1 304 Not Modified\r\nPikepole-Revision: 7\r\nPikepole-Confirmed-At: \
                 2027-01-01T00:00:00.000Z\r\n\r\n";
    for (answer, confirms) in
        [(bare.to_vec(), Some(false)), (other.to_vec(), None), (same.to_vec(), Some(true))]
    {
        let (address, _requests) = script(vec![ok(&roster(7)), answer]).await;
        let mut watch = Watch::new(client(address), "f", WAIT);
        assert!(matches!(next(&mut watch).await, Event::Roster(..)));
        match next(&mut watch).await {
            Event::Unchanged(freshness) => assert_eq!(Some(freshness.confirmed_at.is_some()), confirms),
            Event::Trouble(ClientError::Garbage { .. }) => assert_eq!(None, confirms),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_roster_whose_heads_a_proxy_took_out_was_confirmed_when_it_was_published() {
    let body = roster(5);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (address, _requests) = script(vec![answer.into_bytes()]).await;
    let Event::Roster(roster, freshness) = next(&mut Watch::new(client(address), "f", WAIT)).await else {
        panic!("no roster")
    };
    assert_eq!((roster.revision, freshness.confirmed_at), (5, Some(roster.published_at.0)));
}

/// A server that answers the first request with a roster, those that do not wait with "the same", and does to a
/// long poll what something on the way does, after some time.
async fn impatient(after: Duration, last_words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Some(head) = head(&mut stream).await {
                    let answer = if !head.contains("after=") {
                        ok(&roster(7))
                    } else if head.contains("wait=0ms") {
                        b"HTTP/1.1 304 Not Modified\r\nPikepole-Revision: 7\r\n\r\n".to_vec()
                    } else {
                        tokio::time::sleep(after).await;
                        drop(stream.write_all(last_words).await);
                        return;
                    };
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test(start_paused = true)]
async fn a_proxy_on_the_way_that_cuts_twice_or_says_504_makes_polls_shorter() {
    const HTML: &[u8] = b"HTTP/1.1 504 Gateway Time-out\r\nContent-Type: text/html\r\nContent-Length: 17\r\n\r\n<h1>time-out</h1>";
    for last_words in [&b""[..], HTML] {
        let address = impatient(Duration::from_secs(8), last_words).await;
        let mut watch = Watch::new(client(address), "f", WAIT);
        assert!(matches!(next(&mut watch).await, Event::Roster(..)));
        assert!(matches!(next(&mut watch).await, Event::Trouble(_)), "once is no habit");
        assert!(matches!(next(&mut watch).await, Event::Unchanged(_)));
        match next(&mut watch).await {
            Event::Shortened(wait) => assert!(wait < Duration::from_secs(8), "{wait:?}"),
            other => panic!("{other:?}"),
        }
    }
}

/// Answers and hangs up.
async fn half_an_answer(answer: Vec<u8>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            head(&mut stream).await;
            drop(stream.write_all(&answer).await);
        }
    });
    (address, mpsc::unbounded_channel().1)
}

#[tokio::test(start_paused = true)]
async fn a_byte_a_second_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        let answer = ok(&roster(5));
        let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        stream.write_all(&answer[..body]).await.unwrap();
        for byte in &answer[body..] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    let mut watch = Watch::new(client(address), "f", WAIT);
    assert!(matches!(next(&mut watch).await, Event::Trouble(ClientError::TimedOut { .. })));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_poll_is_sent_again_as_soon_as_applied_rises() {
    let (address, mut requests) = script(vec![ok(&roster(7))]).await;
    let mut watch =
        Watch::new(client(address), "f", WAIT).as_agent("h 1", "0b0c1f52-8f0e-4a37-9f4b-a4b1c7a60f10");
    assert!(matches!(next(&mut watch).await, Event::Roster(..)));
    let first = requests.recv().await.unwrap();
    assert!(first.starts_with("GET /v1/fleets/f/roster?agent=h+1&start=0b0c1f52-"), "{first}");
    tokio::select! {
        event = watch.next() => panic!("{event:?}"),
        second = requests.recv() => {
            let second = second.unwrap();
            assert!(second.contains("after=7&wait=55000ms") && !second.contains("applied"), "{second}");
        }
    }
    watch.set_applied(Some(7));
    tokio::select! {
        event = watch.next() => panic!("{event:?}"),
        third = requests.recv() => assert!(third.unwrap().contains("applied=7"), "it is not told"),
    }
}

#[tokio::test]
async fn a_fleet_is_found_by_its_place_and_a_kept_roster_is_not_asked_for_again() {
    let fleets = ok(r#"{"fleets":[{"fleet":"f","dc":"d","region":"r","port":5044,"source":{"kind":"file",
        "group":"f","state":"ok","last_attempt_at":null,"last_success_at":null,"last_error":null,
        "consecutive_failures":0},"roster":null,"confirmed_at":null,"age_seconds":null,"stale":false,
        "guard":{"state":"ok","reason":null,"since":null,"reads":0},"alerts":[],"watchers":0,
        "convergence":{"live":0,"applied":0}}]}"#);
    let (address, mut requests) = script(vec![fleets, ok(&roster(9))]).await;
    let place = Target::Place { dc: "d".into(), region: "r".into() };
    let mut watch = Watch::at(vec![client(address)], place, WAIT);
    watch.resume(7, None);
    assert!(matches!(next(&mut watch).await, Event::Roster(r, _) if r.revision == 9));
    assert!(requests.recv().await.unwrap().starts_with("GET /v1/fleets HTTP"));
    assert!(requests.recv().await.unwrap().starts_with("GET /v1/fleets/f/roster?after=7&wait="));
}

#[tokio::test]
async fn a_directory_with_its_own_authority_is_trusted_and_sees_who_comes() {
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = write("ca.pem", &params.self_signed(&key).unwrap().pem());
    let issuer = rcgen::Issuer::new(params, key);
    let sign = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_string()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap().pem();
        (write(&format!("{name}.pem"), &cert), write(&format!("{name}.key"), &key.serialize_pem()))
    };
    let server = mtls(&ca, &sign("localhost"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, _requests) = mpsc::unbounded_channel();
    let answers = Arc::new(std::sync::Mutex::new(vec![ok(&roster(7))].into_iter()));
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(server);
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream, seen.clone(), Arc::clone(&answers)));
            }
        }
    });
    let url = format!("https://localhost:{port}");
    let anonymous = TlsFiles { ca: Some(ca.clone()), identity: None };
    let mut watch = Watch::new(Client::with_tls(&url, None, &anonymous).unwrap(), "f", WAIT);
    assert!(matches!(next(&mut watch).await, Event::Trouble(_)), "the server wants a certificate");
    let (cert, key) = sign("agent");
    let known = TlsFiles { ca: Some(ca), identity: Some((cert.clone(), key)) };
    let mut watch = Watch::new(Client::with_tls(&url, None, &known).unwrap(), "f", WAIT);
    assert!(matches!(next(&mut watch).await, Event::Roster(..)));
    let wrong = TlsFiles { ca: None, identity: Some((cert.clone(), cert)) };
    let error = Client::with_tls(&url, None, &wrong).unwrap_err().to_string();
    assert!(error.contains("cannot read the key") && error.contains("agent.pem"), "{error}");
}

fn mtls(ca: &PathBuf, (cert, key): &(PathBuf, PathBuf)) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let server = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(cert).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        );
    Arc::new(server.unwrap())
}
