//! One directory with one Auto Scaling group, to which events are posted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use pikepole_api::client::{Client, Polled};
use pikepole_api::{time, v1};
use pikepole_directory::assemble;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::Config;
use pikepole_testkit::aws::{FakeAws, Launch};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(super) const FLEET: &str = "fleet-0";
pub(super) const GROUP: &str = "asg-0";
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Site {
    pub(super) aws: FakeAws,
    address: SocketAddr,
    server: JoinHandle<Result<(), assemble::RunError>>,
    control: tokio::sync::Mutex<TcpStream>,
    _folder: TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Site {
    /// A directory that knows a group of so many instances. `settle`: its delay after a drain.
    pub(super) async fn open(members: usize, settle: &str) -> anyhow::Result<Self> {
        let aws = FakeAws::start().await;
        aws.create_group(GROUP, u32::try_from(members)?);
        for _ in 0..members {
            aws.launch(GROUP, Launch::default());
        }
        let folder = tempfile::tempdir()?;
        let text = format!(
            "[store]\npath = {:?}\n[aws]\nendpoint_url = {:?}\n[probe]\nenabled = false\n\
             [drain]\nsettle = {settle:?}\n[[fleet]]\nname = {FLEET:?}\ndc = \"dc\"\nregion = \"ap-south-1\"\n\
             source = {{ kind = \"aws\", asg = {GROUP:?} }}\n",
            folder.path().display().to_string(),
            aws.url()
        );
        let config = Config::parse(&text, |_| None)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let serving = assemble::serve(config, listener, Clock::system(), std::future::pending());
        let server = tokio::spawn(Box::pin(serving));
        let control = tokio::sync::Mutex::new(TcpStream::connect(address).await?);
        control.lock().await.set_nodelay(true)?;
        let site = Self { aws, address, server, control, _folder: folder };
        site.wait_until(|roster| roster.members.len() == members).await?;
        Ok(site)
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(&format!("http://{}", self.address), None)?)
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.aws.instances(GROUP)
    }

    pub(super) fn launch(&self) -> String {
        self.aws.launch(GROUP, Launch::default())
    }

    pub(super) async fn revision(&self) -> anyhow::Result<u64> {
        Ok(self.roster().await?.context("nothing is known")?.revision)
    }

    async fn roster(&self) -> anyhow::Result<Option<v1::Roster>> {
        match self.client()?.roster(FLEET).await {
            Ok(Polled::Roster(roster, _)) => Ok(Some(roster)),
            Ok(Polled::Unchanged(_)) | Err(_) => Ok(None),
        }
    }

    async fn wait_until(&self, is_so: impl Fn(&v1::Roster) -> bool) -> anyhow::Result<()> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if self.roster().await?.as_ref().is_some_and(&is_so) {
                return Ok(());
            }
            ensure!(Instant::now() < give_up, "the roster never became what it should");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many effects are missing: members that are gone and still sent to, or there and not sent to.
    /// Newcomers have a describe's time to be listed.
    pub(super) async fn lost(&self) -> anyhow::Result<usize> {
        let meant: BTreeSet<String> = self.ids().into_iter().collect();
        let wrong = |roster: &v1::Roster| {
            let active = roster.members.iter().filter(|m| m.state == v1::MemberState::Active);
            let active: BTreeSet<_> = active.map(|m| m.instance_id.clone()).collect();
            active.symmetric_difference(&meant).count()
        };
        match self.wait_until(|roster| wrong(roster) == 0).await {
            Ok(()) => Ok(0),
            Err(_) => Ok(self.roster().await?.map_or(meant.len(), |roster| wrong(&roster))),
        }
    }

    /// Posts an event and waits for the answer.
    pub(super) async fn post(&self, body: &str) -> anyhow::Result<()> {
        let mut stream = self.control.lock().await;
        if exchange(&mut stream, body).await.is_ok() {
            return Ok(());
        }
        // The directory closes a connection that was idle for 15 seconds. An event may come twice.
        *stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        exchange(&mut stream, body).await
    }
}

async fn exchange(stream: &mut TcpStream, body: &str) -> anyhow::Result<()> {
    let head = format!("POST /v1/events HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut bytes = Vec::new();
    loop {
        let head = crate::answer::head(&bytes).map_err(|_| anyhow::anyhow!("the answer is no HTTP"))?;
        if let Some(head) = head
            && bytes.len() >= head.size + head.body
        {
            ensure!(head.status == 202, "the directory answered {} to an event", head.status);
            return Ok(());
        }
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the directory closed the connection");
    }
}

/// What Auto Scaling says after a launch or a termination, as of now.
pub(super) fn notification(id: &str, terminated: bool) -> String {
    let event =
        if terminated { "autoscaling:EC2_INSTANCE_TERMINATE" } else { "autoscaling:EC2_INSTANCE_LAUNCH" };
    json!({
        "Event": event,
        "AutoScalingGroupName": GROUP,
        "EC2InstanceId": id,
        "Time": time::format(Clock::system().now()),
        "StatusCode": "InProgress",
    })
    .to_string()
}
