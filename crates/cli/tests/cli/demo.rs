//! The demo: everything in one process, with nothing around it.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::harness::{Output, ended, exit_code, get, pikepole, run, signal, within};

#[tokio::test]
async fn the_demo_shows_changes_without_aws_or_redis_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["demo", "--duration", "3s", "--listen", "127.0.0.1:0", "--speed", "20", "--seed", "7"];
    let mut command = pikepole(&args);
    command.env_clear().env("TMPDIR", folder.path()).current_dir(folder.path());
    let ended = ended(command).await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    for words in ["http://127.0.0.1:", "logstash-mumbai", " + ", "active", "stopped"] {
        assert!(ended.out.contains(words), "{words}: {ended:?}");
    }
    let is_change = |line: &&str| line.contains("  logstash-") && !line.contains(" = ");
    let changes = ended.out.lines().filter(is_change).count();
    assert!(changes > 17, "more than the collectors it begins with: {ended:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The demo shows what agents, hooks and probes are for, each step on one line.
#[tokio::test]
async fn the_demo_shows_launches_and_drains_that_wait_for_ports_and_agents() {
    let mut demo =
        pikepole(&["demo", "--listen", "127.0.0.1:0", "--speed", "4", "--seed", "3"]).spawn().unwrap();
    let mut lines = Output::of(&mut demo);
    let mut missing = vec![
        "launching; listed once its port answers",
        "port answers after",
        "draining    127.",
        "of 12 agents still hold",
        "every agent has moved off after",
        "hook completed",
        "gone        127.",
        "12 of 12 agents rendered revision ",
    ];
    while !missing.is_empty() {
        let line = lines.line().await.unwrap_or_else(|| panic!("never told: {missing:?}"));
        assert!(line.chars().count() <= 110, "{line}");
        missing.retain(|words| !line.contains(words));
    }
    signal(&demo, Signal::INT);
    assert_eq!(exit_code(&mut demo).await, Some(0));
}

/// The agents are real: what they render is there to be looked at, and what breaks on a proxy breaks here.
#[tokio::test]
async fn the_agents_of_the_demo_render_files_that_can_be_looked_at_and_broken() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = pikepole(&["demo", "--listen", "127.0.0.1:0", "--seed", "3"]);
    let mut demo = command.env("TMPDIR", folder.path()).spawn().unwrap();
    let mut errors = BufReader::new(demo.stderr.take().unwrap()).lines();
    let mut lines = Output::of(&mut demo);
    let files = PathBuf::from(lines.line_with("files ").await.split_whitespace().last().unwrap());
    assert!(files.starts_with(folder.path()), "{files:?}");
    lines.line_with("logstash-mumbai    = 12 of 12 agents rendered").await;
    for (agent, file) in [
        ("proxy-01.mumbai", "haproxy.cfg"),
        ("proxy-02.mumbai", "vector.toml"),
        ("proxy-03.mumbai", "hosts.json"),
        ("proxy-12.mumbai", "filebeat.yml"),
    ] {
        let text = std::fs::read_to_string(files.join(agent).join(file)).unwrap();
        assert!(text.contains("127.1.0.1:50"), "{agent} {text}");
    }
    // The configuration is one that a user could have written.
    let toml = files.join("proxy-01.mumbai/agent.toml");
    let checked = run(&["agent", "-c", toml.to_str().unwrap(), "--check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    // One reload fails, the next hangs: both are told or waited for, and neither holds up Ctrl-C.
    std::fs::write(files.join("proxy-01.mumbai/reload"), "exit 7").unwrap();
    std::fs::write(files.join("proxy-02.mumbai/reload"), "exec sleep 500").unwrap();
    let error = within("an error", errors.next_line()).await.unwrap().unwrap();
    assert!(error.contains("reload_failed") && error.contains("proxy-01.mumbai"), "{error}");
    lines.line_with("logstash-mumbai    = 10 of 12 agents rendered").await;
    let asked = Instant::now();
    signal(&demo, Signal::INT);
    assert_eq!(exit_code(&mut demo).await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Presses a button as the page does; the status of the answer.
async fn press(address: std::net::SocketAddr, button: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /demo/{button} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

const BY_THE_PAGE: &str = "X-Pikepole-Demo: 1\r\n";

/// The number before which a word stands in a line: `missing 0`.
fn number(line: &str, word: &str) -> u64 {
    let rest = line.split(word).nth(1).unwrap_or_else(|| panic!("{word}: {line}"));
    rest.trim_start().split([' ', '\n']).next().unwrap().replace(',', "").parse().unwrap()
}

/// Collectors stop and come back, one is taken without a word, one hangs, one drains, an agent is dropped: every line
/// arrives.
#[tokio::test]
async fn no_line_is_lost_whatever_the_buttons_do() {
    let mut demo =
        pikepole(&["demo", "--listen", "127.0.0.1:0", "--speed", "10", "--seed", "5"]).spawn().unwrap();
    let mut lines = Output::of(&mut demo);
    let page = lines.line_with("page").await;
    let address = page.split("http://").nth(1).unwrap().trim_end_matches('/').parse().unwrap();
    // Something flows everywhere before it is disturbed.
    loop {
        let flows = get(address, "/demo/flows.json", || ()).await.unwrap().expect("the flows");
        let flows: Vec<Value> = serde_json::from_str(&flows.body).unwrap();
        if flows.len() == 3 && flows.iter().all(|flow| flow["received"].as_u64().unwrap() > 100) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(press(address, "logstash-mumbai/stop-all", "").await, 403);
    let foreign = format!("{BY_THE_PAGE}Origin: http://elsewhere.example\r\n");
    assert_eq!(press(address, "logstash-mumbai/stop-all", &foreign).await, 403);
    assert_eq!(press(address, "logstash-nowhere/stop-all", BY_THE_PAGE).await, 404);
    for button in [
        "logstash-mumbai/stop-all",
        "logstash-virginia/kill",
        "logstash-virginia/restart-agent",
        "logstash-virginia/hang",
        "logstash-frankfurt/scale-out",
        "logstash-frankfurt/scale-in",
        "logstash-frankfurt/spot-kill",
    ] {
        assert_eq!(press(address, button, BY_THE_PAGE).await, 202, "{button}");
    }
    let mut missing = vec![
        "logstash-mumbai    ! stopped all ",
        "logstash-mumbai    ! collectors are back; ",
        "logstash-mumbai    ! all ",
        "logstash-virginia  ! pressed: i-",
        "logstash-virginia  ! dropped the agent proxy-",
        " hangs for 15 s: it reads nothing, and acks nothing",
        "logstash-virginia  ! all ",
        " is terminated, and drains",
        "logstash-frankfurt ! pressed: spot warning for i-",
    ];
    while !missing.is_empty() {
        let line = lines.line().await.unwrap_or_else(|| panic!("never told: {missing:?}"));
        assert!(line.chars().count() <= 110, "{line}");
        missing.retain(|words| !line.contains(words));
        if line.contains("! all ") {
            assert_eq!(number(&line, "missing").to_string(), "0", "{line}");
        }
        if line.contains("! collectors are back") {
            assert!(number(&line, "back;") > 100, "they were stopped: {line}");
        }
    }
    signal(&demo, Signal::INT);
    let line = lines.line_with("sent ").await;
    let [sent, received, waiting] = ["sent", "= received", "+ waiting"].map(|word| number(&line, word));
    assert_eq!((sent, number(&line, "missing")), (received + waiting, 0), "{line}");
    assert!(received > 1_000, "{line}");
    assert_eq!(exit_code(&mut demo).await, Some(0));
}

#[tokio::test]
async fn collectors_listen_elsewhere_if_their_port_is_taken() {
    // Another test's demo may have it for a while.
    let taken = async {
        loop {
            if let Ok(taken) = std::net::TcpListener::bind("127.3.0.2:5044") {
                return taken;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let taken = within("the port", taken).await;
    let mut demo = pikepole(&["demo", "--listen", "127.0.0.1:0", "--seed", "3"]).spawn().unwrap();
    let mut lines = Output::of(&mut demo);
    let line = lines.line_with("Port 5044 is taken").await;
    let port: u16 = line.trim_end_matches('.').rsplit(' ').next().unwrap().parse().unwrap();
    let member = lines.line_with(" + ").await;
    assert!(member.contains(&format!(":{port} ")), "{member}");
    drop(taken);
    signal(&demo, Signal::INT);
    assert_eq!(exit_code(&mut demo).await, Some(0));
}

#[tokio::test]
async fn ctrl_c_ends_the_demo_with_0() {
    for stop in [Signal::INT, Signal::TERM] {
        let mut demo = pikepole(&["demo", "--listen", "127.0.0.1:0"]).spawn().unwrap();
        let mut lines = Output::of(&mut demo);
        let page = lines.line_with("page").await;
        let address = page.split("http://").nth(1).unwrap().trim_end_matches('/').parse().unwrap();
        let answer = get(address, "/", || ()).await.unwrap().expect("the page");
        assert_eq!(answer.status, 200);
        signal(&demo, stop);
        lines.line_with("stopped").await;
        assert_eq!(exit_code(&mut demo).await, Some(0));
    }
}

#[tokio::test]
async fn ctrl_c_right_after_the_welcome_is_heard() {
    let mut demo = pikepole(&["demo", "--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut lines = Output::of(&mut demo);
    lines.line().await.unwrap();
    signal(&demo, Signal::INT);
    assert_eq!(exit_code(&mut demo).await, Some(0));
}

#[tokio::test]
async fn a_demo_that_cannot_start_says_how_it_could() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let ended = run(&["demo", "--listen", &taken]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains(&taken) && ended.err.contains("--listen"), "{ended:?}");
    for speed in ["0", "-1", "NaN", "inf", "1e9"] {
        let ended = run(&["demo", &format!("--speed={speed}")]).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{speed} {ended:?}");
    }
}
