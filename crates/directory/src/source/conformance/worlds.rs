//! The places the suite runs in.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;

use super::*;
use crate::source::file::FileSource;
use crate::source::sim::{SimCloud, SimSource};

#[tokio::test(start_paused = true)]
async fn the_simulation_conforms() {
    let clock = ticking();
    let cloud = SimCloud::new(clock.clone());
    suite(&Sim { source: cloud.source(), cloud, clock }).await;
}

#[tokio::test(start_paused = true)]
async fn the_file_conforms() {
    let clock = ticking();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("members.json");
    let source = FileSource::new(&path, clock.clone());
    suite(&File { source, path, members: Mutex::default(), clock, _dir: dir }).await;
}

struct Sim {
    cloud: SimCloud,
    source: SimSource,
    clock: Clock,
}

#[async_trait]
impl World for Sim {
    fn source(&self) -> &dyn Source {
        &self.source
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn has_groups(&self) -> bool {
        true
    }

    async fn create_group(&self, group: &GroupName) {
        self.cloud.create_group(group, 1);
    }

    async fn launch(&self, group: &GroupName) -> (InstanceId, IpAddr) {
        let id = self.cloud.launch(group);
        self.cloud.set_lifecycle(group, &id, Lifecycle::InService);
        let ip = self.cloud.instances(group).iter().find(|i| i.id == id).unwrap().ip;
        (id, ip)
    }

    async fn stand_by(&self, group: &GroupName, id: &InstanceId) -> bool {
        self.cloud.set_lifecycle(group, id, Lifecycle::Away);
        true
    }

    async fn launch_without_address(&self, _: &GroupName) -> Option<InstanceId> {
        None
    }

    async fn remove(&self, group: &GroupName, id: &InstanceId) {
        self.cloud.remove(group, id);
    }

    async fn delete_group(&self, group: &GroupName) {
        self.cloud.delete_group(group);
    }
}

struct File {
    source: FileSource,
    path: PathBuf,
    members: Mutex<BTreeMap<InstanceId, IpAddr>>,
    clock: Clock,
    _dir: TempDir,
}

impl File {
    fn write(&self) {
        let entry = |(id, ip)| format!(r#"{{"instance_id":"{id}","address":"{ip}:{PORT}","zone":"a"}}"#);
        let entries: Vec<_> = self.members.lock().unwrap().iter().map(entry).collect();
        fs::write(&self.path, format!(r#"{{"members":[{}]}}"#, entries.join(","))).unwrap();
    }
}

#[async_trait]
impl World for File {
    fn source(&self) -> &dyn Source {
        &self.source
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn has_groups(&self) -> bool {
        false
    }

    async fn create_group(&self, _: &GroupName) {
        self.members.lock().unwrap().clear();
        self.write();
    }

    async fn launch(&self, _: &GroupName) -> (InstanceId, IpAddr) {
        let mut members = self.members.lock().unwrap();
        let number = members.len() as u8 + 1;
        let id: InstanceId = format!("c{number}").parse().unwrap();
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
        members.insert(id.clone(), ip);
        drop(members);
        self.write();
        (id, ip)
    }

    async fn stand_by(&self, _: &GroupName, _: &InstanceId) -> bool {
        false
    }

    async fn launch_without_address(&self, _: &GroupName) -> Option<InstanceId> {
        None
    }

    async fn remove(&self, _: &GroupName, id: &InstanceId) {
        self.members.lock().unwrap().remove(id);
        self.write();
    }

    async fn delete_group(&self, _: &GroupName) {
        fs::remove_file(&self.path).unwrap();
    }
}

#[cfg(feature = "aws")]
mod aws {
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::SharedCredentialsProvider;
    use pikepole_testkit::aws::{FakeAws, Launch};
    use pikepole_testkit::process::Moto;

    use super::*;
    use crate::source::aws::{AwsSettings, AwsSource};

    async fn source(url: String, role: Option<&str>, clock: &Clock) -> AwsSource {
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
        let settings = AwsSettings {
            endpoint_url: Some(url),
            assume_role: role.map(str::to_owned),
            calls_per_second: 10_000.0,
            credentials: Some(SharedCredentialsProvider::new(credentials)),
            // A Python program on a busy machine may take its time.
            call_timeout: std::time::Duration::from_secs(60),
            ..AwsSettings::new("ap-south-1".parse().unwrap(), clock.clone())
        };
        AwsSource::new(settings).await.unwrap()
    }

    #[tokio::test]
    async fn aws_as_we_fake_it_conforms() {
        let clock = ticking();
        let aws = FakeAws::start().await;
        suite(&Fake { source: source(aws.url(), None, &clock).await, aws, clock }).await;
    }

    #[tokio::test]
    async fn aws_as_moto_does_it_conforms() {
        let clock = ticking();
        let moto = Moto::start();
        moto.prepare_groups();
        let source = source(moto.url(), Some("arn:aws:iam::123456789012:role/reader"), &clock).await;
        suite(&Real { source, moto, clock }).await;
    }

    struct Fake {
        aws: FakeAws,
        source: AwsSource,
        clock: Clock,
    }

    #[async_trait]
    impl World for Fake {
        fn source(&self) -> &dyn Source {
            &self.source
        }

        fn clock(&self) -> &Clock {
            &self.clock
        }

        fn has_groups(&self) -> bool {
            true
        }

        async fn create_group(&self, group: &GroupName) {
            self.aws.create_group(group.as_str(), 1);
        }

        async fn launch(&self, group: &GroupName) -> (InstanceId, IpAddr) {
            let id = self.aws.launch(group.as_str(), Launch::default());
            (id.parse().unwrap(), self.aws.address(&id).unwrap())
        }

        async fn stand_by(&self, _: &GroupName, id: &InstanceId) -> bool {
            self.aws.set_state(id.as_str(), "Standby");
            true
        }

        async fn launch_without_address(&self, group: &GroupName) -> Option<InstanceId> {
            let how = Launch { visible_in_ec2: false, ..Launch::default() };
            self.aws.launch(group.as_str(), how).parse().ok()
        }

        async fn remove(&self, _: &GroupName, id: &InstanceId) {
            self.aws.remove(id.as_str());
        }

        async fn delete_group(&self, group: &GroupName) {
            self.aws.delete_group(group.as_str());
        }
    }

    struct Real {
        moto: Moto,
        source: AwsSource,
        clock: Clock,
    }

    #[async_trait]
    impl World for Real {
        fn source(&self) -> &dyn Source {
            &self.source
        }

        fn clock(&self) -> &Clock {
            &self.clock
        }

        fn has_groups(&self) -> bool {
            true
        }

        async fn create_group(&self, group: &GroupName) {
            self.moto.create_group(group.as_str());
        }

        async fn launch(&self, group: &GroupName) -> (InstanceId, IpAddr) {
            let id = self.moto.launch(group.as_str());
            (id.parse().unwrap(), self.moto.private_address(&id))
        }

        async fn stand_by(&self, group: &GroupName, id: &InstanceId) -> bool {
            self.moto.stand_by(group.as_str(), id.as_str());
            true
        }

        async fn launch_without_address(&self, _: &GroupName) -> Option<InstanceId> {
            None
        }

        async fn remove(&self, _: &GroupName, id: &InstanceId) {
            self.moto.terminate(id.as_str());
        }

        async fn delete_group(&self, group: &GroupName) {
            self.moto.delete_group(group.as_str());
        }
    }
}
