//! The world of the simulated hour: groups that scale, proxies that ask, hooks that call the seed's
//! route, and one directory that runs on the same virtual clock.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use pikepole_directory::assemble;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::Config;
use pikepole_testkit::aws::{Action, FakeAws, Launch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::Instant;

use super::STEP_MS;

/// A disk needs real time, of which a virtual hour has none: without one the directory serves from memory.
const NO_DISK: &str = "/dev/null/none";
/// What an AWS call takes.
const LATENCY: Duration = Duration::from_millis(120);
/// From the launch hook to `InService`. No hook tells of it.
const LAUNCH_MS: u64 = 40_000;
/// From the terminate hook until the group no longer lists the instance.
const LEAVE_MS: u64 = 90_000;
/// A group never shrinks below this.
const LEAST: usize = 5;
/// Turns of the runtime in a step. An AWS call needs a handful, and what it misses comes a step later.
const TURNS: usize = 20;
/// Turns after which a reader's answer is lost.
const MAX_TURNS: usize = 1_000_000;

pub(super) struct World {
    aws: FakeAws,
    directory: SocketAddr,
    groups: Vec<Group>,
    /// What happens by itself later on.
    agenda: Vec<(u64, Later)>,
    readers: JoinSet<anyhow::Result<()>>,
    hints: JoinSet<anyhow::Result<()>>,
    server: JoinHandle<Result<(), assemble::RunError>>,
    began: Instant,
    grow_next: bool,
}

struct Group {
    in_service: BTreeSet<String>,
    desired: u32,
}

enum Later {
    InService { group: usize, id: String },
    Gone { id: String },
}

impl World {
    pub(super) async fn open(groups: usize, instances: usize) -> anyhow::Result<Self> {
        let aws = FakeAws::start().await;
        aws.delay(LATENCY);
        let mut world_groups = Vec::new();
        for number in 0..groups {
            let size = instances / groups + usize::from(number < instances % groups);
            let (name, desired) = (asg(number), u32::try_from(size)?);
            aws.create_group(&name, desired);
            let in_service = (0..size).map(|_| aws.launch(&name, Launch::default())).collect();
            world_groups.push(Group { in_service, desired });
        }
        let mut text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[store]\npath = {NO_DISK:?}\n[aws]\nendpoint_url = {:?}\n",
            aws.url()
        );
        for number in 0..groups {
            writeln!(text, "[[fleet]]\nname = \"fleet-{number}\"\ndc = \"dc-{number}\"")?;
            writeln!(
                text,
                "region = \"ap-south-1\"\nsource = {{ kind = \"aws\", asg = {:?} }}",
                asg(number)
            )?;
        }
        let config = Config::parse(&text, |_| None).map_err(|e| anyhow::anyhow!("{e}"))?;
        let listener = TcpListener::bind(config.server.listen).await?;
        let directory = listener.local_addr()?;
        let began = Instant::now();
        let clock = Clock::from_fn(move || {
            // Some day in 2026; only differences count.
            let since = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            pikepole_fleet::Timestamp::from_millis(1_795_000_000_000 + since)
        });
        let server = tokio::spawn(assemble::serve(config, listener, clock, std::future::pending()));
        Ok(Self {
            aws,
            directory,
            groups: world_groups,
            agenda: Vec::new(),
            readers: JoinSet::new(),
            hints: JoinSet::new(),
            server,
            began,
            grow_next: true,
        })
    }

    /// Virtual milliseconds since the start.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// All calls so far, as the fake counts them.
    pub(super) fn calls(&self) -> u64 {
        self.aws.calls(Action::DescribeGroups) + self.aws.calls(Action::DescribeInstances)
    }

    pub(super) async fn is_ready(&mut self) -> anyhow::Result<bool> {
        let directory = self.directory;
        let answer = tokio::spawn(async move { get(directory, "/readyz").await });
        for _ in 0..MAX_TURNS {
            if answer.is_finished() {
                return Ok(answer.await??.0 == 200);
            }
            yield_now().await;
        }
        anyhow::bail!("/readyz does not answer")
    }

    /// A proxy's cron asks for its group's list.
    pub(super) fn read(&mut self, group: usize) {
        let directory = self.directory;
        self.readers.spawn(async move {
            let (status, body) = get(directory, &list_path(group)).await?;
            ensure!(status == 200 && body.starts_with("['"), "a proxy got {status} {body:?}");
            Ok(())
        });
    }

    /// One group grows or shrinks by one instance, in turns, and the hook's Lambda tells the directory.
    pub(super) fn scale_event(&mut self) {
        let number = fastrand::usize(..self.groups.len());
        let (name, now) = (asg(number), self.now_ms());
        let group = &mut self.groups[number];
        let grows = self.grow_next || group.in_service.len() <= LEAST;
        self.grow_next = !grows;
        if grows {
            group.desired += 1;
            let id = self.aws.launch(&name, Launch::in_state("Pending:Wait"));
            self.agenda.push((now + LAUNCH_MS, Later::InService { group: number, id }));
        } else if let Some(id) = group.in_service.pop_first() {
            group.desired -= 1;
            self.aws.set_state(&id, "Terminating:Wait");
            self.agenda.push((now + LEAVE_MS, Later::Gone { id }));
        }
        self.aws.set_desired(&name, group.desired);
        let directory = self.directory;
        let path = format!("/update-ip-list?region=ap-south-1&dcid=dc-{number}&as_name={name}");
        self.hints.spawn(async move {
            let (status, body) = get(directory, &path).await?;
            ensure!(matches!(status, 200 | 202), "a hint was answered with {status} {body:?}");
            Ok(())
        });
    }

    /// Lets everything run that can, then moves the clock by one step.
    pub(super) async fn step(&mut self) -> anyhow::Result<()> {
        self.follow_agenda();
        self.settle().await?;
        tokio::time::advance(Duration::from_millis(STEP_MS)).await;
        ensure!(!self.server.is_finished(), "the directory ended");
        Ok(())
    }

    fn follow_agenda(&mut self) {
        let now = self.now_ms();
        for (_, later) in self.agenda.extract_if(.., |(at, _)| *at <= now) {
            match later {
                Later::InService { group, id } => {
                    self.aws.set_state(&id, "InService");
                    self.groups[group].in_service.insert(id);
                }
                Later::Gone { id } => self.aws.remove(&id),
            }
        }
    }

    /// Every turn looks for I/O. A reader's answer never needs the clock, so all of them are awaited; a
    /// hint's answer does, so it is only given its turn.
    async fn settle(&mut self) -> anyhow::Result<()> {
        for _ in 0..TURNS {
            yield_now().await;
        }
        let mut turns = 0;
        while !self.readers.is_empty() {
            while let Some(read) = self.readers.try_join_next() {
                read??;
            }
            turns += 1;
            ensure!(turns < MAX_TURNS, "a proxy gets no answer");
            yield_now().await;
        }
        while let Some(hint) = self.hints.try_join_next() {
            hint??;
        }
        Ok(())
    }

    /// Groups whose list is not what AWS would say now.
    pub(super) async fn wrong_lists(&mut self) -> anyhow::Result<usize> {
        let mut wrong = 0;
        for (number, group) in self.groups.iter().enumerate() {
            let (status, body) = get(self.directory, &list_path(number)).await?;
            let mut truth: Vec<String> = group
                .in_service
                .iter()
                .filter_map(|id| self.aws.address(id))
                .map(|ip| format!("'{ip}:5044'"))
                .collect();
            truth.sort_unstable();
            wrong += usize::from(status != 200 || body != format!("[{}]", truth.join(", ")));
        }
        Ok(wrong)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn asg(number: usize) -> String {
    format!("logstash-asg-{number}")
}

fn list_path(group: usize) -> String {
    format!("/logstash-ip?dcid=dc-{group}&region=ap-south-1")
}

/// One request on a connection of its own, as curl in a cron makes it.
async fn get(directory: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(directory).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let head = crate::answer::head(&bytes).ok().flatten().context("the answer is no HTTP")?;
    Ok((head.status, String::from_utf8_lossy(&bytes[head.size..]).into_owned()))
}
