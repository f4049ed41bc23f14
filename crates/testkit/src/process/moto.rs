//! A real `moto_server`, the AWS imitation that the fake is compared with.
//!
//! Not fast and not faulty: for scale and for faults there is the fake.
//!
//! Invariant: one empty account per value.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{START_TRIES, Server, exchange, free_port};

/// 60 s at one look every 20 ms: it is a Python program on a busy machine.
const LOOKS: u32 = 3_000;

/// A running `moto_server` on 127.0.0.1, killed on drop.
#[derive(Debug)]
pub struct Moto {
    _server: Server,
    port: u16,
}

impl Moto {
    /// Starts it on a free port and waits until it answers. Panics when that is impossible.
    pub fn start() -> Self {
        for _ in 0..START_TRIES {
            let port = free_port();
            let mut command = Command::new(program());
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            if let Some(server) = Server::start(command, LOOKS, |_| answers(port)) {
                return Self { _server: server, port };
            }
        }
        panic!(
            "moto_server did not start in {START_TRIES} tries; ./scripts/test installs the one the tests need"
        );
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address as an AWS endpoint: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// `$PIKEPOLE_MOTO`, else the one `./scripts/test` installs, else whatever is on the path.
fn program() -> PathBuf {
    if let Some(named) = env::var_os("PIKEPOLE_MOTO") {
        return named.into();
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.test-env/venv/bin/moto_server");
    if installed.exists() { installed } else { "moto_server".into() }
}

fn answers(port: u16) -> bool {
    let request = b"GET /moto-api/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n";
    match exchange(port, request, |_| false) {
        Ok(answer) => answer.starts_with(b"HTTP/1.") && String::from_utf8_lossy(&answer).contains("Moto"),
        Err(_) => false,
    }
}
