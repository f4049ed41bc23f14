//! The whole directory, from a configuration's text to an answer, on AWS as moto imitates it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::process::Command;
use std::time::Duration;

use pikepole_directory::assemble;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::Config;
use pikepole_testkit::process::Moto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

const LIST: &str = "/logstash-ip?dcid=some-dc&region=ap-south-1";
const UPDATE: &str = "/update-ip-list?region=ap-south-1&dcid=some-dc&as_name=collectors";
const PATIENCE: Duration = Duration::from_secs(60);
const CHILD: &str = "PIKEPOLE_TEST_CHILD";

/// The SDK's own chain looks into the environment, which only a process of its own can have as it
/// likes: so this test starts itself again.
#[test]
fn a_scaling_group_is_followed_from_launch_to_standby() {
    if std::env::var_os(CHILD).is_some() {
        return tokio::runtime::Runtime::new().unwrap().block_on(follow());
    }
    let this = "aws_moto::a_scaling_group_is_followed_from_launch_to_standby";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(CHILD, "1")
        .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env_remove("AWS_PROFILE")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

async fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Hints until the list is this one. moto is slow, so a hint may be answered before it has had effect.
async fn becomes(port: u16, moto: &Moto, ids: &[&String]) {
    let mut hosts: Vec<String> =
        ids.iter().map(|id| format!("'{}:5044'", moto.private_address(id))).collect();
    hosts.sort();
    let expected = format!("[{}]", hosts.join(", "));
    let changes = async {
        loop {
            let (status, word) = get(port, UPDATE).await;
            assert!(matches!((status, &word[..]), (200, "Success") | (202, "Accepted")), "{status} {word}");
            let list = get(port, LIST).await;
            if list == (200, expected.clone()) {
                return;
            }
            assert_eq!(status, 202, "{list:?} is served as confirmed, instead of {expected}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, changes).await.unwrap_or_else(|_| panic!("the list never became {expected}"));
}

async fn follow() {
    let moto = Moto::start();
    moto.prepare_groups();
    moto.create_group("collectors");
    let first = moto.launch("collectors");
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        r#"
        [store]
        path = "{}"
        [aws]
        endpoint_url = "{}"
        calls_per_second = 20
        reconcile = "5s"
        [[fleet]]
        name = "logstash-mumbai"
        dc = "some-dc"
        region = "ap-south-1"
        source = {{ kind = "aws", asg = "collectors" }}
        "#,
        dir.path().join("store").display(),
        moto.url()
    );
    let config = Config::parse(&text, |_| None).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(assemble::serve(config, listener, Clock::system(), async {
        drop(stopped.await);
    }));
    becomes(port, &moto, &[&first]).await;
    let second = moto.launch("collectors");
    let third = moto.launch("collectors");
    becomes(port, &moto, &[&first, &second, &third]).await;
    moto.terminate(&first);
    becomes(port, &moto, &[&second, &third]).await;
    moto.stand_by("collectors", &second);
    becomes(port, &moto, &[&third]).await;
    assert_eq!(get(port, "/readyz").await.0, 200);
    assert_eq!(get(port, &UPDATE.replace("collectors", "another")).await.0, 404);
    drop(stop);
    timeout(PATIENCE, server).await.expect("it does not stop").unwrap().unwrap();
}
