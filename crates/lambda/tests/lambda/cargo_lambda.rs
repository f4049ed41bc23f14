//! The binary behind `cargo lambda`, which imitates Lambda's front end: somebody else's reading of the
//! runtime API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::live::{Directory, TERMINATING, WRITE, terminating_now};
use super::rig::{Part, function, takes, within};

fn cargo_lambda() -> Command {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.test-env/venv/bin/cargo-lambda");
    let program = if installed.exists() { installed } else { PathBuf::from("cargo-lambda") };
    let mut command = Command::new(program);
    command.arg("lambda").kill_on_drop(true).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `None`: it ended by itself, as after a lost race for the port.
async fn watch() -> Option<(Child, SocketAddr)> {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let port = address.port().to_string();
    let mut watch = cargo_lambda();
    watch.args(["watch", "--only-lambda-apis", "--invoke-address", "127.0.0.1", "--invoke-port", &port]);
    watch.stdout(Stdio::null()).stderr(Stdio::null()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let mut watch = watch.spawn().expect("./scripts/test installs cargo-lambda");
    while TcpStream::connect(address).await.is_err() {
        if watch.try_wait().unwrap().is_some() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some((watch, address))
}

/// `cargo lambda watch` with the function behind it. Both are killed when the test is over.
struct Emulator {
    port: String,
    _children: [Child; 2],
}

/// How often a start is tried on another port when someone else took the first one.
const START_TRIES: u32 = 5;

impl Emulator {
    async fn start(directory: &str) -> Self {
        for _ in 0..START_TRIES {
            let Some((watch, address)) = within("cargo lambda watch", watch()).await else { continue };
            let api = format!("http://{address}/.rt");
            let mut function =
                function(&api, &[("PIKEPOLE_DIRECTORY", directory), ("PIKEPOLE_TOKEN", WRITE)]);
            let function = function.stderr(Stdio::null()).spawn().unwrap();
            return Self { port: address.port().to_string(), _children: [watch, function] };
        }
        panic!("cargo lambda watch did not start in {START_TRIES} tries; ./scripts/test installs it")
    }

    /// `cargo lambda invoke`: what the function returned.
    async fn invoke(&self, payload: &str) -> Value {
        let mut invoke = cargo_lambda();
        invoke.args(["invoke", "--invoke-address", "127.0.0.1"]);
        invoke.args(["--invoke-port", &self.port, "--data-ascii", payload, "--skip-cache"]);
        let output = within("cargo lambda invoke", invoke.output()).await.unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{complaint}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }
}

#[tokio::test]
async fn it_is_invoked_as_by_lambda() {
    let directory = Part::start(&[takes()]).await;
    let emulator = Emulator::start(&directory.url()).await;
    let returned = emulator.invoke(TERMINATING).await;
    assert_eq!(returned["status"], 202);
    let seen = directory.seen();
    assert_eq!((&seen[0].line[..], &seen[0].body[..]), ("POST /v1/events", TERMINATING.as_bytes()));
}

#[tokio::test]
// Until the directory takes `POST /v1/events` it answers 404. Remove this line with that route's arrival.
async fn an_event_reaches_a_live_directory() {
    let directory = Directory::start().await;
    assert_eq!(directory.state_of_the_first().await, "active");
    let emulator = Emulator::start(&directory.url()).await;
    let returned = emulator.invoke(&terminating_now()).await;
    assert_eq!((&returned["status"], &returned["answer"]["ours"]), (&202.into(), &1.into()), "{returned}");
    within("the member to be no longer active", async {
        while directory.state_of_the_first().await == "active" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
