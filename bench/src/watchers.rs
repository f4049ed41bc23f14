//! Ten thousand long polls from one thread: what a change costs until the last watcher has it, and what
//! a watcher costs the directory in memory.
//!
//! A change is an event that is posted, or a members file that is replaced by rename, and at once a `POST …/refresh`, so that the
//! 250 ms between two looks at the file are not part of the figure. The time runs from just before the
//! POST is written to when a watcher has read the last byte of the new roster. Each watcher polls again
//! at once with its new revision, so that load is part of the figure.

mod crowd;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{memory, spread};
use crowd::Crowd;

/// No step may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two changes, plus up to as much again: they must not fall in step with the directory's timers.
const PAUSE: Duration = Duration::from_millis(300);
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the directory
    #[arg(long)]
    directory: SocketAddr,
    /// Its process id
    #[arg(long)]
    pid: u32,
    /// The fleet to watch; its source is a file
    #[arg(long)]
    fleet: String,
    /// The members file of that fleet; this command writes it
    #[arg(long)]
    file: PathBuf,
    /// Members in the file
    #[arg(long, default_value_t = 100)]
    members: usize,
    /// Long polls to hold open
    #[arg(long)]
    watchers: usize,
    /// Changes to make
    #[arg(long, default_value_t = 0)]
    changes: usize,
    /// A change is an event that is posted, instead of another file
    #[arg(long)]
    by_event: bool,
    /// Then go on holding until stdin ends
    #[arg(long)]
    hold: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Value> {
    raise_file_limit(args.watchers)?;
    let mut control = Control::connect(args)?;
    let mut generation = 0;
    write_members(args, generation)?;
    control.refresh(Some(PATIENCE))?;
    let before = memory::resident_kib(args.pid)?;

    let began = Instant::now();
    let mut crowd = Crowd::open(args.directory, &args.fleet, args.watchers, began + PATIENCE)?;
    crowd.settle(Instant::now() + PATIENCE)?;
    control.wait_for_watchers(args.watchers)?;
    let opened = began.elapsed();
    crowd.idle_until(Instant::now() + SETTLE)?;
    let idle = memory::resident_kib(args.pid)?;

    let cpu_before = memory::cpu_ms(args.pid)?;
    let (mut all, mut lasts) = (Vec::new(), Vec::new());
    for _ in 0..args.changes {
        crowd.idle_until(Instant::now() + PAUSE.mul_f64(1.0 + fastrand::f64()))?;
        generation += 1;
        if !args.by_event {
            write_members(args, generation)?;
        }
        let changed_at = Instant::now();
        if args.by_event {
            control.send_event(generation)?;
        } else {
            control.send_refresh(None)?;
        }
        let mut times = crowd.collect_change(changed_at, changed_at + PATIENCE)?;
        lasts.extend(times.iter().max().copied());
        all.append(&mut times);
        control.read_answer(202)?;
    }
    if args.changes > 0 {
        control.wait_for_watchers(args.watchers)?;
        crowd.idle_until(Instant::now() + SETTLE)?;
    }
    let after = memory::resident_kib(args.pid)?;
    let cpu = memory::cpu_ms(args.pid)? - cpu_before;
    let each = |now: u64| now.saturating_sub(before) as f64 / args.watchers.max(1) as f64;
    let measured = json!({
        "watchers": args.watchers,
        "changes": args.changes,
        "roster_bytes": crowd.answer_bytes(),
        "open_s": opened.as_secs_f64(),
        "every_watcher": spread::of(&mut all),
        "last_watcher": spread::of(&mut lasts),
        "cpu_us_per_answer": cpu as f64 * 1e3 / all.len().max(1) as f64,
        "rss_before_kib": before,
        "rss_idle_kib": idle,
        "rss_after_kib": after,
        "kib_per_idle_watcher": each(idle),
        "kib_per_watcher_after": each(after),
    });
    if args.hold {
        hold(&measured, &mut crowd)?;
    }
    Ok(measured)
}

/// Says that everything is measured, and keeps the watchers until stdin ends.
fn hold(measured: &Value, crowd: &mut Crowd) -> anyhow::Result<()> {
    let (ended, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        // Whatever stdin brings, its end or an error is the word to go: `ended` is dropped with it.
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        drop(ended);
    });
    writeln!(io::stdout(), "{measured}")?;
    while wait.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
        crowd.idle_until(Instant::now() + Duration::from_millis(100))?;
    }
    Ok(())
}

/// Each watcher is a file descriptor.
pub(crate) fn raise_file_limit(watchers: usize) -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let needed = watchers as u64 + 64;
    ensure!(needed <= most, "{watchers} watchers need {needed} open files; this machine allows {most}");
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// Replaces the file by rename. Each generation moves one member to another address.
fn write_members(args: &Args, generation: usize) -> anyhow::Result<()> {
    let members = (0..args.members).map(|number| {
        let instance = if number == 0 { 1_000_000 + generation } else { number };
        let address = std::net::Ipv4Addr::from_bits(0x0A00_0000 + 256 + instance as u32);
        json!({
            "instance_id": format!("i-{instance:017x}"),
            "address": format!("{address}:5044"),
            "zone": format!("ap-south-1{}", ['a', 'b', 'c'][number % 3]),
        })
    });
    let text = json!({ "members": members.collect::<Vec<_>>() }).to_string();
    let next = args.file.with_extension("next");
    fs::write(&next, text).with_context(|| format!("cannot write {}", next.display()))?;
    fs::rename(&next, &args.file).with_context(|| format!("cannot replace {}", args.file.display()))
}

/// One more connection, for orders and questions.
struct Control<'a> {
    args: &'a Args,
    stream: TcpStream,
}

impl<'a> Control<'a> {
    fn connect(args: &'a Args) -> anyhow::Result<Self> {
        Ok(Self { args, stream: Self::dial(args)? })
    }

    fn dial(args: &Args) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&args.directory, Duration::from_secs(5))
            .with_context(|| format!("no directory at {}", args.directory))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn refresh(&mut self, wait: Option<Duration>) -> anyhow::Result<()> {
        self.send_refresh(wait)?;
        self.read_answer(if wait.is_some() { 200 } else { 202 }).map(drop)
    }

    fn send_refresh(&mut self, wait: Option<Duration>) -> anyhow::Result<()> {
        let wait = wait.map(|w| format!("?wait={}s", w.as_secs())).unwrap_or_default();
        self.send("POST", &format!("/v1/fleets/{}/refresh{wait}", self.args.fleet), "")
    }

    /// One instance dies and is launched anew, in turn. No time: it counts as of now.
    fn send_event(&mut self, generation: usize) -> anyhow::Result<()> {
        let (number, dies) =
            (1 + (generation - 1) / 2 % (self.args.members - 1), !generation.is_multiple_of(2));
        let word = if dies { "TERMINATE" } else { "LAUNCH" };
        let event = json!({
            "Event": format!("autoscaling:EC2_INSTANCE_{word}"),
            "AutoScalingGroupName": self.args.fleet,
            "EC2InstanceId": format!("i-{number:017x}"),
        });
        self.send("POST", "/v1/events", &event.to_string())
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<()> {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}");
        if self.stream.write_all(request.as_bytes()).is_ok() {
            return Ok(());
        }
        // The directory closes a connection that was idle for 15 seconds.
        self.stream = Self::dial(self.args)?;
        Ok(self.stream.write_all(request.as_bytes())?)
    }

    fn read_answer(&mut self, expected: u16) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            let head = crate::answer::head(&bytes).map_err(|_| anyhow::anyhow!("the answer is no HTTP"))?;
            if let Some(head) = head
                && bytes.len() >= head.size + head.body
            {
                let body = String::from_utf8_lossy(&bytes[head.size..]).into_owned();
                ensure!(head.status == expected, "the directory answered {}: {body}", head.status);
                return Ok(body);
            }
            match self.stream.read(&mut chunk)? {
                0 => bail!("the directory closed the connection"),
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// Waits until the directory itself counts all watchers: then every poll is parked.
    fn wait_for_watchers(&mut self, expected: usize) -> anyhow::Result<()> {
        let give_up = Instant::now() + PATIENCE;
        let line = format!("pikepole_fleet_watchers{{fleet=\"{}\"}} {expected}", self.args.fleet);
        loop {
            self.stream = Self::dial(self.args)?;
            self.send("GET", "/metrics", "")?;
            if self.read_answer(200)?.lines().any(|l| l == line) {
                return Ok(());
            }
            ensure!(Instant::now() < give_up, "the directory never counted {expected} watchers");
            pause();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measuring program without a runtime")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
