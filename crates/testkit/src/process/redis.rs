//! A real Redis for one test.
//!
//! Not persistent: it starts empty, and `restart_empty` loses everything, like a cache that was replaced.
//!
//! Invariant: the port stays the same across stop and restart.

use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{PROBE, START_TRIES, Server, exchange, free_port};

/// 10 s at one look every 20 ms.
const LOOKS: u32 = 500;

/// A running `redis-server` on 127.0.0.1, killed on drop.
#[derive(Debug)]
pub struct RedisServer {
    server: Option<Server>,
    port: u16,
    dir: TempDir,
}

impl RedisServer {
    /// Starts an empty server on a free port and waits until it answers. Panics when that is impossible.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        for _ in 0..START_TRIES {
            let port = free_port();
            if let Some(server) = spawn(port, &dir) {
                return Self { server: Some(server), port, dir };
            }
        }
        panic!("redis-server found no free port in {START_TRIES} tries");
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address as clients write it: `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it. Connections are reset, new ones refused, the data is lost.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Kills it if it runs, and starts it empty on the same port.
    pub fn restart_empty(&mut self) {
        self.stop();
        self.server = spawn(self.port, &self.dir);
        assert!(self.server.is_some(), "redis-server did not come back on port {}", self.port);
    }

    /// Freezes it (SIGSTOP): connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.running().signal(Signal::STOP);
    }

    /// Lets it go on after [`pause`](Self::pause) (SIGCONT).
    pub fn resume(&self) {
        self.running().signal(Signal::CONT);
    }

    fn running(&self) -> &Server {
        self.server.as_ref().expect("the server is stopped, so it can be neither paused nor resumed")
    }
}

fn spawn(port: u16, dir: &TempDir) -> Option<Server> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir.path());
    Server::start(command, LOOKS, |pid| answers(port, pid))
}

/// Whether it is this process that answers: after a lost race for the port it is another one.
fn answers(port: u16, pid: u32) -> bool {
    let own = format!("process_id:{pid}\r\n");
    match exchange(port, b"INFO server\r\nQUIT\r\n", PROBE, |_| false) {
        Ok(answer) => String::from_utf8_lossy(&answer).contains(&own),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ask(redis: &RedisServer, command: &str) -> Option<String> {
        let ends = |answer: &[u8]| answer.ends_with(b"\r\n");
        let answer =
            exchange(redis.port(), format!("{command}\r\n").as_bytes(), Duration::from_millis(500), ends)
                .ok()?;
        String::from_utf8(answer).ok()
    }

    #[test]
    fn redis_runs_stops_and_comes_back_empty_on_its_port() {
        let mut redis = RedisServer::start();
        assert_eq!(ask(&redis, "SET a b").as_deref(), Some("+OK\r\n"));
        let port = redis.port();
        redis.stop();
        assert_eq!(ask(&redis, "PING"), None);
        redis.restart_empty();
        assert_eq!(redis.port(), port);
        assert_eq!(ask(&redis, "EXISTS a").as_deref(), Some(":0\r\n"));
    }

    #[test]
    fn a_paused_redis_is_silent_and_a_dropped_one_is_gone() {
        let redis = RedisServer::start();
        redis.pause();
        assert_eq!(ask(&redis, "PING"), None, "a stopped process answers nothing");
        redis.resume();
        assert_eq!(ask(&redis, "PING").as_deref(), Some("+PONG\r\n"));
        redis.pause();
        let port = redis.port();
        drop(redis);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}
