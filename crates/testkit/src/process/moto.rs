//! A real `moto_server`, the AWS imitation that the fake is compared with.
//!
//! Not fast and not faulty: for scale and for faults there is the fake.
//!
//! Invariant: one empty account per value.

use std::env;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{PROBE, START_TRIES, Server, exchange, free_port};

/// 60 s at one look every 20 ms: it is a Python program on a busy machine.
const LOOKS: u32 = 3_000;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Groups are made here.
const REGION: &str = "ap-south-1";
const SUBNET: &str = "10.0.0.0/20";
const TEMPLATE: &str = "collector";

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

    /// Makes what groups need: a network and the template [`create_group`](Self::create_group) uses.
    pub fn prepare_groups(&self) {
        let vpc = self.ec2("CreateVpc", &[("CidrBlock", "10.0.0.0/16")]);
        let vpc = first(&vpc, "vpcId");
        let subnet = [("VpcId", vpc.as_str()), ("CidrBlock", SUBNET), ("AvailabilityZone", "ap-south-1a")];
        self.ec2("CreateSubnet", &subnet);
        let template = [
            ("LaunchTemplateName", TEMPLATE),
            ("LaunchTemplateData.ImageId", "ami-12c6146b"),
            ("LaunchTemplateData.InstanceType", "t3.micro"),
        ];
        self.ec2("CreateLaunchTemplate", &template);
    }

    /// Makes a group that wants no instances yet.
    pub fn create_group(&self, group: &str) {
        let subnet =
            self.ec2("DescribeSubnets", &[("Filter.1.Name", "cidr-block"), ("Filter.1.Value.1", SUBNET)]);
        let subnet = first(&subnet, "subnetId");
        let group = [
            ("AutoScalingGroupName", group),
            ("LaunchTemplate.LaunchTemplateName", TEMPLATE),
            ("LaunchTemplate.Version", "$Latest"),
            ("MinSize", "0"),
            ("MaxSize", "100"),
            ("DesiredCapacity", "0"),
            ("VPCZoneIdentifier", subnet.as_str()),
        ];
        self.auto_scaling("CreateAutoScalingGroup", &group);
    }

    /// Makes the group want one more instance, which is in service at once, and returns its id.
    pub fn launch(&self, group: &str) -> String {
        let before = self.describe(group);
        let desired: u32 = first(&before, "DesiredCapacity").parse().expect("DesiredCapacity is a number");
        let desired = (desired + 1).to_string();
        let capacity = [("AutoScalingGroupName", group), ("DesiredCapacity", desired.as_str())];
        self.auto_scaling("SetDesiredCapacity", &capacity);
        let known = texts(&before, "InstanceId");
        let new = texts(&self.describe(group), "InstanceId").into_iter().find(|id| !known.contains(id));
        new.expect("a group that wants one more instance has a new one")
    }

    /// The instance's private address.
    pub fn private_address(&self, id: &str) -> IpAddr {
        let answer = self.ec2("DescribeInstances", &[("InstanceId.1", id)]);
        first(&answer, "privateIpAddress").parse().expect("privateIpAddress is an address")
    }

    /// Puts the instance into standby; the group wants one less.
    pub fn stand_by(&self, group: &str, id: &str) {
        let standby = [
            ("AutoScalingGroupName", group),
            ("InstanceIds.member.1", id),
            ("ShouldDecrementDesiredCapacity", "true"),
        ];
        self.auto_scaling("EnterStandby", &standby);
    }

    /// Ends the instance; its group wants one less.
    pub fn terminate(&self, id: &str) {
        let end = [("InstanceId", id), ("ShouldDecrementDesiredCapacity", "true")];
        self.auto_scaling("TerminateInstanceInAutoScalingGroup", &end);
    }

    /// Ends the group.
    pub fn delete_group(&self, group: &str) {
        self.auto_scaling(
            "DeleteAutoScalingGroup",
            &[("AutoScalingGroupName", group), ("ForceDelete", "true")],
        );
    }

    /// Makes a queue whose messages are hidden for so many seconds once received, and returns its URL.
    pub fn create_queue(&self, name: &str, visibility: u32) -> String {
        let visibility = visibility.to_string();
        let queue = [
            ("QueueName", name),
            ("Attribute.1.Name", "VisibilityTimeout"),
            ("Attribute.1.Value", visibility.as_str()),
        ];
        first(&self.sqs("CreateQueue", &queue), "QueueUrl")
    }

    /// Puts a message into the queue.
    pub fn send_message(&self, queue: &str, body: &str) {
        self.sqs("SendMessage", &[("QueueUrl", queue), ("MessageBody", body)]);
    }

    /// Messages that were not deleted yet, hidden ones too.
    pub fn messages_left(&self, queue: &str) -> usize {
        let all = [("QueueUrl", queue), ("AttributeName.1", "All")];
        let told = self.sqs("GetQueueAttributes", &all);
        let count = |name: &str| {
            let (_, rest) = told.split_once(&format!("<Name>{name}</Name>")).expect("moto tells its count");
            first(rest, "Value").parse::<usize>().expect("a count is a number")
        };
        count("ApproximateNumberOfMessages") + count("ApproximateNumberOfMessagesNotVisible")
    }

    /// Deletes the queue.
    pub fn delete_queue(&self, queue: &str) {
        self.sqs("DeleteQueue", &[("QueueUrl", queue)]);
    }

    fn describe(&self, group: &str) -> String {
        self.auto_scaling("DescribeAutoScalingGroups", &[("AutoScalingGroupNames.member.1", group)])
    }

    fn ec2(&self, action: &str, params: &[(&str, &str)]) -> String {
        self.query("ec2", "2016-11-15", action, params)
    }

    fn sqs(&self, action: &str, params: &[(&str, &str)]) -> String {
        self.query("sqs", "2012-11-05", action, params)
    }

    fn auto_scaling(&self, action: &str, params: &[(&str, &str)]) -> String {
        self.query("autoscaling", "2011-01-01", action, params)
    }

    /// One call of the Query protocol. moto looks at the scope of a signature, not at the signature.
    fn query(&self, service: &str, version: &str, action: &str, params: &[(&str, &str)]) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", version).extend_pairs(params);
        let form = form.finish();
        let request = format!(
            "POST / HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261122/{REGION}/{service}/\
             aws4_request, SignedHeaders=host, Signature=0\r\n\r\n{form}",
            form.len(),
        );
        let answer = exchange(self.port, request.as_bytes(), PATIENCE, |_| false);
        let answer = answer.unwrap_or_else(|e| panic!("moto_server did not answer {action}: {e}"));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1);
        assert_eq!(status, Some("200"), "moto_server refused {action}: {answer}");
        answer
    }
}

/// The texts of all elements of this name.
fn texts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let starts = xml.split(&open).skip(1);
    starts.filter_map(|rest| rest.split_once(&close)).map(|(text, _)| text.trim().to_owned()).collect()
}

fn first(xml: &str, name: &str) -> String {
    texts(xml, name).into_iter().next().unwrap_or_else(|| panic!("there is no {name} in {xml}"))
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
    match exchange(port, request, PROBE, |_| false) {
        Ok(answer) => answer.starts_with(b"HTTP/1.") && String::from_utf8_lossy(&answer).contains("Moto"),
        Err(_) => false,
    }
}
