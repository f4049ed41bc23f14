//! Real servers for tests, each a child process on a port of its own.
//!
//! Not a supervisor: a server that dies stays dead, unless the test restarts it.
//!
//! Invariant: a child never outlives its value, and two tests never share one. Everything here blocks
//! the calling thread for the moment a server takes to answer, so that it works with or without a
//! runtime and under paused time.

mod moto;
mod redis;

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub use moto::Moto;
pub use redis::RedisServer;

/// How often a start is tried on another port when someone else took the first one.
const START_TRIES: u32 = 5;

/// How long one look at a starting server may take.
const PROBE: Duration = Duration::from_secs(2);

/// Pause between two looks at a starting server.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be bound");
    listener.local_addr().expect("a bound socket has an address").port()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A running child. Killed on drop, also while it is stopped.
#[derive(Debug)]
struct Server {
    child: Child,
}

impl Server {
    /// Starts `command` and waits until `answers` says that the process of that id does. `None`: it ended by itself, as after a lost race
    /// for the port. Panics when the program is missing or never answers.
    fn start(mut command: Command, looks: u32, answers: impl Fn(u32) -> bool) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(e) => panic!("{}", missing(command.get_program(), &e)),
        };
        let mut server = Self { child };
        for _ in 0..looks {
            let ended = server.child.try_wait().expect("a child of ours can be waited for");
            if ended.is_some() {
                return None;
            }
            if answers(server.child.id()) {
                return Some(server);
            }
            pause();
        }
        panic!("{:?} was started but never answered", command.get_program());
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a child of ours can be signalled");
    }

    fn kill(&mut self) {
        // Either fails only when the child has already ended, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a child process answers in real time, whatever tokio's clock says"
)]
fn pause() {
    thread::sleep(PROBE_PAUSE);
}

fn missing(program: &OsStr, error: &io::Error) -> String {
    format!(
        "cannot start {program:?} ({error}); run the tests as ./scripts/test, which installs what they need"
    )
}

/// Sends `request` and reads until the peer closes, or until what came satisfies `enough`.
fn exchange(port: u16, request: &[u8], patience: Duration, enough: fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&loopback(port), PROBE)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !enough(&answer) {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..n]);
    }
    Ok(answer)
}
