//! The real directory, really killed at several points of a drain: the lifecycle hook is completed in
//! the end, once, and not while a proxy still sends.

use std::net::SocketAddr;
use std::time::Duration;

use pikepole_testkit::aws::{Action, FakeAws, Fault, HookKind, HookOutcome, Launch, When};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::harness::{Place, get, pikepole, within};

/// When it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    EventTaken,
    OneMovedOff,
    AllMovedOff,
    Completing,
    Completed,
}

struct Running {
    child: Child,
    address: SocketAddr,
    log: JoinHandle<()>,
}

impl Running {
    async fn start(place: &Place) -> Self {
        let mut command = pikepole(&["directory", "-c", &place.config()]);
        command.env("AWS_ACCESS_KEY_ID", "AKID").env("AWS_SECRET_ACCESS_KEY", "secret");
        command.env("AWS_EC2_METADATA_DISABLED", "true").env_remove("AWS_PROFILE");
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listens = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("the directory starts");
                let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
                if entry["message"] == "directory listens" {
                    return entry["listen"].as_str().unwrap().parse().unwrap();
                }
            }
        };
        let address = within("a directory that listens", listens).await;
        let log = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let running = Self { child, address, log };
        within("a roster", async { while running.revision().await.is_none() {} }).await;
        running
    }

    /// SIGKILL.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
        self.log.await.unwrap();
    }

    async fn json(&self, path: &str) -> Option<serde_json::Value> {
        let answer = get(self.address, path, || ()).await.ok()??;
        (answer.status == 200).then(|| serde_json::from_str(&answer.body).unwrap())
    }

    async fn revision(&self) -> Option<u64> {
        self.json("/v1/fleets/f1/roster").await?["revision"].as_u64()
    }

    /// A proxy's poll, which stays open as long as the handle is kept.
    async fn poll(&self, id: &str, applied: u64) -> TcpStream {
        let after = self.revision().await.unwrap();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let path = format!(
            "/v1/fleets/f1/roster?after={after}&wait=55s&agent={id}&start=5f0c2b52-6f8e-4a53-9d8f-0c7a3f1d2e4b&applied={applied}"
        );
        let request = format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let known = async {
            loop {
                let agents = self.json("/v1/agents").await.unwrap();
                let is_it = |a: &serde_json::Value| a["id"] == id && a["applied"] == applied;
                if agents["agents"].as_array().unwrap().iter().any(is_it) {
                    break;
                }
            }
        };
        within("an agent that is known", known).await;
        stream
    }

    async fn tell(&self, message: &str) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = message.len();
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{message}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 202") && answer.contains("\"ours\":1"), "{answer}");
    }
}

fn place(aws: &FakeAws) -> Place {
    let place = Place::new("");
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n\n[store]\npath = {:?}\n\n[aws]\nendpoint_url = {:?}\n\
         calls_per_second = 20\nreconcile = \"5s\"\n\n[probe]\nenabled = false\n\n[drain]\nsettle = \"1s\"\n\
         deadline = \"60s\"\n\n[[fleet]]\nname = \"f1\"\ndc = \"some-dc\"\nregion = \"ap-south-1\"\n\
         source = {{ kind = \"aws\", asg = \"g\" }}\n",
        place.path("store"),
        aws.url()
    );
    place.write("directory.toml", &config);
    place
}

fn completions(aws: &FakeAws) -> usize {
    let all = aws.hook_calls();
    all.iter().filter(|c| c.action == Action::CompleteHook && c.outcome == HookOutcome::Done).count()
}

async fn completed(aws: &FakeAws, id: &str) {
    within("the end of the hook", async {
        while aws.state(id).is_some() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn killed_at(point: Point) {
    let aws = FakeAws::start().await;
    aws.create_group("g", 3);
    aws.put_hook("g", "drain", HookKind::Terminate, Duration::from_secs(120));
    let ids: Vec<String> = (0..3).map(|_| aws.launch("g", Launch::default())).collect();
    let id = &ids[2];
    let place = place(&aws);
    let directory = Running::start(&place).await;
    let before = directory.revision().await.unwrap();
    let polls = [directory.poll("a", before).await, directory.poll("b", before).await];
    aws.begin_terminate(id);
    let now = pikepole_api::time::format(pikepole_directory::clock::Clock::system().now());
    directory.tell(&aws.hook_message(id).replace("2026-11-22T10:00:00.000Z", &now)).await;
    drop(polls);
    let after = directory.revision().await.unwrap();
    assert!(after > before);
    let mut a = directory.poll("a", before).await;
    let mut b = directory.poll("b", before).await;
    if matches!(point, Point::Completing | Point::Completed) {
        let lost = if point == Point::Completing { Fault::Silence } else { Fault::LostAnswer };
        aws.fault(Action::CompleteHook, lost, When::Next(1));
    }
    if point != Point::EventTaken {
        a = directory.poll("a", after).await;
    }
    if !matches!(point, Point::EventTaken | Point::OneMovedOff) {
        b = directory.poll("b", after).await;
    }
    if matches!(point, Point::Completing | Point::Completed) {
        let called = async {
            while aws.calls(Action::CompleteHook) == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        within("the call", called).await;
    }
    assert_eq!(completions(&aws), usize::from(point == Point::Completed));
    directory.kill().await;
    drop((a, b));

    let directory = Running::start(&place).await;
    let revision = directory.revision().await.unwrap();
    let began = Instant::now();
    // Both come back; what they said before the crash is remembered until then.
    let _a = directory.poll("a", revision).await;
    if matches!(point, Point::EventTaken | Point::OneMovedOff) {
        sleep(Duration::from_secs(3)).await;
        assert_eq!(completions(&aws), 0, "{point:?}: b still sends");
    }
    let _b = directory.poll("b", revision).await;
    completed(&aws, id).await;
    assert_eq!(completions(&aws), 1);
    assert!(began.elapsed() < Duration::from_secs(30), "{point:?}: not by the deadline");
    let done = async {
        loop {
            let drains = &directory.json("/v1/agents").await.unwrap()["drains"];
            let open = drains.as_array().unwrap().iter().filter(|d| d["hook"].is_string()).count();
            if open == 0 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("no hook that waits", done).await;
}

#[tokio::test]
async fn a_directory_killed_right_after_an_event_still_completes_its_hook() {
    killed_at(Point::EventTaken).await;
}

#[tokio::test]
async fn a_directory_killed_while_one_proxy_still_sends_waits_for_it_again() {
    killed_at(Point::OneMovedOff).await;
}

#[tokio::test]
async fn a_directory_killed_in_the_settle_delay_begins_it_anew() {
    killed_at(Point::AllMovedOff).await;
}

#[tokio::test]
async fn a_directory_killed_before_or_after_the_completion_had_its_effect_completes_once() {
    killed_at(Point::Completing).await;
    killed_at(Point::Completed).await;
}
