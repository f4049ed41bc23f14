//! Starts the real binary, and a directory over a members file for its verbs to talk to.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

/// No wait in a test is longer: what has not happened by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// The binary, with nothing of ours in its environment.
pub(crate) fn pikepole(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pikepole"));
    for name in ["PIKEPOLE_DIRECTORY", "PIKEPOLE_TOKEN", "PIKEPOLE_LOG"] {
        command.env_remove(name);
    }
    command.args(args).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) async fn ended(mut command: Command) -> Ended {
    let child = command.spawn().unwrap();
    let output = within("the end of a command", child.wait_with_output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

pub(crate) async fn run(args: &[&str]) -> Ended {
    ended(pikepole(args)).await
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(crate) async fn exit_code(child: &mut Child) -> Option<i32> {
    within("the end of a process", child.wait()).await.unwrap().code()
}

/// The lines of a child's standard output.
pub(crate) struct Output(Lines<BufReader<ChildStdout>>);

impl Output {
    pub(crate) fn of(child: &mut Child) -> Self {
        Self(BufReader::new(child.stdout.take().unwrap()).lines())
    }

    pub(crate) async fn line(&mut self) -> Option<String> {
        within("a line of output", self.0.next_line()).await.unwrap()
    }

    pub(crate) async fn line_with(&mut self, words: &str) -> String {
        loop {
            let line = self.line().await.unwrap_or_else(|| panic!("no line has {words:?}"));
            if line.contains(words) {
                return line;
            }
        }
    }
}

/// A folder with a configuration, a store and the members of the one fleet, `f1`.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new(server: &str) -> Self {
        let place = Self { folder: TempDir::new().unwrap() };
        place.members(&["10.0.0.1:5044", "10.0.0.2:5044"]);
        place.write(
            "directory.toml",
            &format!(
                "[server]\nlisten = \"127.0.0.1:0\"\n{server}\n[store]\npath = {:?}\n\n\
                 [[fleet]]\nname = \"f1\"\ndc = \"some-dc\"\nregion = \"ap-south-1\"\n\
                 source = {{ kind = \"file\", path = {:?} }}\n",
                place.path("store"),
                place.path("members.json")
            ),
        );
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> String {
        self.path("directory.toml").to_str().unwrap().into()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let aside = self.path(&format!("{name}.new"));
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(aside, self.path(name)).unwrap();
    }

    /// Puts these collectors into the fleet: `c0`, `c1`, ….
    pub(crate) fn members(&self, addresses: &[&str]) {
        let member = |(n, address): (usize, &&str)| serde_json::json!({ "instance_id": format!("c{n}"), "address": address, "zone": "a" });
        let members: Vec<_> = addresses.iter().enumerate().map(member).collect();
        self.write("members.json", &serde_json::json!({ "members": members }).to_string());
    }

    pub(crate) async fn start(self) -> Directory {
        let command = pikepole(&["directory", "-c", &self.config()]);
        self.start_by(command).await
    }

    /// By a command of one's own.
    pub(crate) async fn start_by(self, mut command: Command) -> Directory {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let address = loop {
            let Some(line) = within("the directory's log", lines.next_line()).await.unwrap() else {
                panic!("the directory did not start: {log:#?}");
            };
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
            log.push(line);
            if entry["message"] == "directory listens" {
                break entry["listen"].as_str().unwrap().parse().unwrap();
            }
        };
        let log = Arc::new(Mutex::new(log));
        let kept = Arc::clone(&log);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        let directory = Directory { place: self, address, child, log, reader };
        let ready = async { while directory.get("/readyz").await.is_none_or(|a| a.status != 200) {} };
        within("a ready directory", ready).await;
        directory
    }
}

/// A running directory. It is killed when the test is over.
pub(crate) struct Directory {
    pub(crate) place: Place,
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Directory {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs a verb of the client against this directory.
    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        let mut command = pikepole(args);
        command.env("PIKEPOLE_DIRECTORY", self.url());
        ended(command).await
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        pikepole(args).env("PIKEPOLE_DIRECTORY", self.url()).spawn().unwrap()
    }

    /// `None`: there was no connection, or it ended without an answer.
    pub(crate) async fn get(&self, path: &str) -> Option<Answer> {
        get(self.address, path, || ()).await.unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits for its end, with its last words in the log.
    pub(crate) async fn ends(&mut self) -> Option<i32> {
        let code = exit_code(&mut self.child).await;
        within("the end of the log", &mut self.reader).await.unwrap();
        code
    }
}

/// One request on a connection of its own; `sent` is called when it is on its way. `Ok(None)`: no answer at
/// all. `Err`: half of one.
pub(crate) async fn get(
    address: SocketAddr,
    path: &str,
    sent: impl FnOnce(),
) -> Result<Option<Answer>, String> {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Ok(None) };
    let request = format!("GET {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return Ok(None);
    }
    sent();
    let mut bytes = Vec::new();
    // How it ended does not matter if what came is whole.
    drop(within("an answer", stream.read_to_end(&mut bytes)).await);
    if bytes.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("half a head: {text}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no status")?;
    let length: Option<usize> =
        head.lines().find_map(|l| l.strip_prefix("content-length: ")).and_then(|l| l.parse().ok());
    let whole = match length {
        Some(length) => body.len() == length,
        None => body.ends_with("0\r\n\r\n") || status == 304,
    };
    if whole { Ok(Some(Answer { status, body: body.into() })) } else { Err(format!("half a body: {text}")) }
}
