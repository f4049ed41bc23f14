//! What arrives at which directory, and what Lambda is told.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::rig::{Lambda, Part, Play, nobody, takes, unix_ms};

const TOKEN: &str = "s3cret-write-token";

/// The forms in which Lambda hands events over, spaced as no serializer would.
const PAYLOADS: [&str; 5] = [
    r#"{"Records": [ {"EventSource":"aws:sns","EventVersion":"1.0","Sns":{"Type":"Notification","Subject":null,"SigningCertUrl":"https://sns.ap-south-1.amazonaws.com/x.pem","Message":"{\"LifecycleTransition\":\"autoscaling:EC2_INSTANCE_LAUNCHING\"}"}} ]}"#,
    r#"{"Records":[{"messageId":"1","eventSource":"aws:sqs","body":"{\"a\":1.10}","attributes":{}}]}"#,
    r#"{"version":"0","id":"e1","detail-type":"EC2 Spot Instance Interruption Warning","source":"aws.ec2","detail":{"instance-id":"i-0abc","instance-action":"terminate"}}"#,
    r#"{"LifecycleTransition":"autoscaling:EC2_INSTANCE_TERMINATING",  "b":1, "a":2, "n":12345678901234567890.0}"#,
    r#""not an event, \u00e4nd none the less passed on""#,
];

async fn lambda(directories: &[String], more: &[(&str, &str)]) -> Lambda {
    let list = directories.join(",");
    let base = [("PIKEPOLE_DIRECTORY", list.as_str()), ("PIKEPOLE_TOKEN", TOKEN)];
    Lambda::start(&[&base, more].concat()).await
}

#[tokio::test]
async fn events_go_on_byte_for_byte_over_one_connection() {
    let directory = Part::start(&[takes()]).await;
    let lambda = lambda(&[directory.url()], &[]).await;
    for payload in PAYLOADS {
        let ended = lambda.invoke(payload).await.unwrap();
        assert_eq!(ended["status"], 202);
        assert_eq!(ended["directory"], directory.url());
        assert_eq!(ended["answer"]["events"], 1, "the directory's counts are what the function returns");
    }
    let seen = directory.seen();
    let bodies: Vec<&[u8]> = seen.iter().map(|s| &s.body[..]).collect();
    assert_eq!(bodies, PAYLOADS.map(str::as_bytes));
    for request in &seen {
        assert_eq!(request.line, "POST /v1/events");
        assert_eq!(request.header("authorization"), format!("Bearer {TOKEN}"));
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.connection, 0, "a warm function keeps its connection");
    }
}

#[tokio::test]
async fn the_next_directory_gets_what_one_does_not_take() {
    for play in [
        Play::Answer(503, String::new()),
        Play::Answer(429, String::new()),
        Play::Answer(401, String::new()),
        Play::Hang,
    ] {
        let (bad, good) = (Part::start(std::slice::from_ref(&play)).await, Part::start(&[takes()]).await);
        let lambda =
            lambda(&[bad.url(), good.url(), nobody().await], &[("PIKEPOLE_TIMEOUT", "1500ms")]).await;
        for _ in 0..3 {
            assert_eq!(lambda.invoke("{}").await.unwrap()["directory"], good.url(), "{play:?}");
        }
        assert!(bad.seen().len() <= 1, "the directory that took the last event is asked first");
        assert_eq!(good.seen().len(), 3);
    }
}

#[tokio::test]
async fn the_start_is_spread_over_the_directories() {
    let (a, b) = (Part::start(&[takes()]).await, Part::start(&[takes()]).await);
    let mut functions = 0;
    while a.seen().is_empty() || b.seen().is_empty() {
        functions += 1;
        assert!(functions < 64, "64 functions began with the same of two directories");
        lambda(&[a.url(), b.url()], &[]).await.invoke("{}").await.unwrap();
    }
}

#[tokio::test]
async fn an_event_that_nobody_takes_fails_the_invocation() {
    let (down, hangs) =
        (Part::start(&[Play::Answer(503, "x".into())]).await, Part::start(&[Play::Hang]).await);
    let refuses = nobody().await;
    let directories = [down.url(), hangs.url(), refuses.clone()];
    let lambda = lambda(&directories, &[("PIKEPOLE_TIMEOUT", "600ms")]).await;
    let error = lambda.invoke("{}").await.unwrap_err();
    assert_eq!(error["errorType"], "Pikepole.Unavailable");
    let message = error["errorMessage"].as_str().unwrap();
    assert!(message.contains(&format!("{}: answered 503", down.url())), "{message}");
    assert!(message.contains(&format!("{}: no answer within", hangs.url())), "{message}");
    assert!(message.contains(&format!("{refuses}: ")) && message.contains("refused"), "{message}");
}

#[tokio::test]
async fn a_wrong_set_up_is_called_so() {
    for (status, words) in
        [(401, "not one of its tokens"), (403, "write token"), (404, "no /v1/events"), (302, "redirect")]
    {
        let directory = Part::start(&[Play::Answer(status, "<html>".into())]).await;
        let lambda = lambda(&[directory.url()], &[]).await;
        let error = lambda.invoke("{}").await.unwrap_err();
        assert_eq!(error["errorType"], "Pikepole.SetUp");
        assert!(error["errorMessage"].as_str().unwrap().contains(words), "{error}");
        assert_eq!(directory.seen().len(), 1);
    }
}

#[tokio::test]
async fn what_no_directory_can_take_is_tried_at_one() {
    for status in [400, 413] {
        let parts = [status, status].map(|s| Play::Answer(s, String::new()));
        let (a, b) = (Part::start(&parts).await, Part::start(&parts).await);
        let lambda = lambda(&[a.url(), b.url()], &[]).await;
        assert_eq!(lambda.invoke("{}").await.unwrap_err()["errorType"], "Pikepole.SetUp");
        assert_eq!(a.seen().len() + b.seen().len(), 1);
    }
}

#[tokio::test]
async fn the_deadline_of_lambda_is_kept() {
    let hangs = Part::start(&[Play::Hang]).await;
    let lambda = lambda(&[hangs.url()], &[("PIKEPOLE_TIMEOUT", "15m")]).await;
    let deadline = unix_ms() + 700;
    let error = lambda.invoke_until("{}", deadline).await.unwrap_err();
    let message = error["errorMessage"].as_str().unwrap();
    let waited: u64 = message.split("within ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(waited <= 550, "it must leave time to report: {message}");
}

#[tokio::test]
async fn a_connection_that_ended_between_two_invocations_is_made_again() {
    let closing = Play::AnswerAndClose(202, "{}".into());
    let directory = Part::start(&[closing]).await;
    let lambda = lambda(&[directory.url()], &[]).await;
    for _ in 0..5 {
        lambda.invoke("{}").await.unwrap();
    }
    assert_eq!(directory.seen().iter().map(|s| s.connection).max(), Some(4));
}

#[tokio::test]
async fn no_log_and_no_error_shows_the_token() {
    for status in [200, 400, 401, 500] {
        let echo = Part::start(&[Play::Echo(status)]).await;
        let lambda = lambda(&[echo.url()], &[("PIKEPOLE_LOG", "trace")]).await;
        let ended = lambda.invoke(r#"{"a":1}"#).await;
        assert_eq!(ended.is_ok(), status == 200);
        assert_eq!(echo.seen()[0].header("authorization"), format!("Bearer {TOKEN}"));
        let log = lambda.into_log().await;
        assert!(!format!("{ended:?}{log}").contains("s3cret"), "{ended:?}\n{log}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_no_other() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_string()]).unwrap().signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = rustls::crypto::ring::default_provider();
    let tls = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let directory = Part::start_tls(&[takes()], Some(acceptor)).await;
    let url = format!("https://localhost:{}", directory.address.port());

    let trusting = lambda(std::slice::from_ref(&url), &[("PIKEPOLE_CA", &ca.pem())]).await;
    assert_eq!(trusting.invoke("{}").await.unwrap()["status"], 202);

    let other = rcgen::generate_simple_self_signed(["x".to_string()]).unwrap().cert.pem();
    let strict = lambda(&[url], &[("PIKEPOLE_CA", &other)]).await;
    let error = strict.invoke("{}").await.unwrap_err();
    assert!(error["errorMessage"].as_str().unwrap().contains("certificate"), "{error}");
    assert_eq!(directory.seen().len(), 1);
}
