//! The main faults of AWS once more, through the whole engine and over real HTTP: what readers see.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use pikepole_directory::config::{FleetConfig, SourceConfig};
use pikepole_directory::engine::{Refreshed, SourceSetup};
use pikepole_directory::source::aws::{AwsSettings, AwsSource};
use pikepole_directory::source::sim::SimCloud;
use pikepole_fleet::{AlertKind, Notice};
use pikepole_testkit::aws::{Action, FakeAws, Fault, Launch, When};

use crate::engine_rig::{PATIENCE, Rig, Wall, fleet_config, until};

const GROUPS: Action = Action::DescribeGroups;
const INSTANCES: Action = Action::DescribeInstances;

struct World {
    aws: FakeAws,
    rig: Rig,
}

/// Two groups, `f` and `g`, of three instances each, one fleet of the same name for each.
async fn world() -> World {
    let aws = FakeAws::start().await;
    for group in ["f", "g"] {
        aws.create_group(group, 3);
        (0..3).for_each(|_| drop(aws.launch(group, Launch::default())));
    }
    let wall = Wall::new();
    let settings = AwsSettings {
        endpoint_url: Some(aws.url()),
        calls_per_second: 10_000.0,
        call_timeout: Duration::from_secs(1),
        credentials: Some(SharedCredentialsProvider::new(Credentials::new(
            "AKID", "secret", None, None, "test",
        ))),
        ..AwsSettings::new("ap-south-1".parse().unwrap(), wall.clock())
    };
    let source = Arc::new(AwsSource::new(settings).await.unwrap());
    let fleet = |name: &str| FleetConfig {
        source: SourceConfig::Aws { asg: name.parse().unwrap(), assume_role: None },
        ..fleet_config(name)
    };
    let setup = SourceSetup {
        label: "aws".into(),
        kind: "aws",
        source,
        fleets: vec![fleet("f"), fleet("g")],
        gap: Duration::from_millis(10),
    };
    let cloud = SimCloud::new(wall.clock());
    let rig = Rig::start_on(cloud, wall, &[], |s| {
        s.sources = vec![setup];
        s.reconcile = Duration::from_secs(1);
    })
    .await;
    let world = World { aws, rig };
    until("both are known", || world.rig.engine.is_ready()).await;
    world.serves(3);
    world
}

impl World {
    fn count(&self) -> usize {
        self.rig.hosts("f").unwrap().len()
    }

    fn serves(&self, hosts: usize) {
        assert_eq!(self.count(), hosts);
        assert_eq!(self.rig.hosts("g").unwrap().len(), 3, "the other fleet is as it was");
    }

    async fn refresh(&self, patience: Duration) -> Refreshed {
        self.rig.engine.refresh(self.rig.fleet("f"), patience).await
    }

    /// The change that the fault is to hide; it is visible when the fault is over.
    fn change(&self) -> String {
        self.aws.set_desired("f", 4);
        self.aws.launch("f", Launch::default())
    }

    async fn fails(&self) {
        let refreshed = self.refresh(PATIENCE).await;
        assert!(matches!(refreshed, Refreshed::Failed(_)), "{refreshed:?}");
        self.serves(3);
    }

    async fn heals(&self) {
        self.aws.clear_faults();
        until("the change is seen", || self.count() == 4).await;
        self.serves(4);
    }
}

#[tokio::test]
async fn throttling_in_both_forms_changes_nothing_and_is_not_pushed_against() {
    let w = world().await;
    // Auto Scaling's form, then EC2's, which shows when a new instance's address is asked for.
    let forms = [(GROUPS, Fault::Throttling400), (INSTANCES, Fault::RequestLimit503)];
    for (before, (action, fault)) in (3..).zip(forms) {
        w.aws.fault(action, fault, When::Always);
        w.aws.set_desired("f", before + 1);
        w.aws.launch("f", Launch::default());
        until("it is throttled", || w.rig.fleet("f").health().failures > 0).await;
        let calls = w.aws.calls(action);
        let refreshed = w.refresh(Duration::from_millis(100)).await;
        assert!(matches!(refreshed, Refreshed::Pending), "{fault:?}: {refreshed:?}");
        assert_eq!(w.aws.calls(action), calls, "{fault:?}: a demand broke through");
        w.serves(before as usize);
        w.aws.clear_faults();
        until("the change is seen", || w.count() > before as usize).await;
        w.serves(before as usize + 1);
    }
}

#[tokio::test]
async fn half_a_page_and_a_lost_second_page_change_nothing() {
    let w = world().await;
    w.change();
    w.aws.fault(GROUPS, Fault::Truncated, When::Always);
    w.fails().await;
    w.aws.clear_faults();
    w.aws.fault(GROUPS, Fault::Internal500, When::Page(2));
    w.aws.max_page(1);
    w.fails().await;
    w.heals().await;
}

#[tokio::test]
async fn an_empty_answer_is_held_and_told_of() {
    let mut w = world().await;
    w.aws.answer_empty(true);
    let refreshed = w.refresh(PATIENCE).await;
    assert!(matches!(&refreshed, Refreshed::Failed(why) if why.contains("wants 3")), "{refreshed:?}");
    w.serves(3);
    let told = w.rig.told();
    assert_eq!(Rig::told_of(&told, AlertKind::GuardHolding, Notice::Raised), 2, "{told:?}");
    w.aws.answer_empty(false);
    w.change();
    let refreshed = w.refresh(PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    w.serves(4);
    assert!(!w.rig.is_open(AlertKind::GuardHolding));
}

#[tokio::test]
async fn what_has_no_address_yet_is_listed_as_soon_as_ec2_knows_it() {
    let w = world().await;
    w.aws.hide_addresses(true);
    w.change();
    let refreshed = w.refresh(PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    w.serves(3);
    w.aws.hide_addresses(false);
    until("the address is found", || w.count() == 4).await;
    // EC2 does not know the next one at all for a while.
    w.aws.set_desired("f", 5);
    let late = w.aws.launch("f", Launch { visible_in_ec2: false, ..Launch::default() });
    let refreshed = w.refresh(PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    w.serves(4);
    w.aws.set_visible_in_ec2(&late, true);
    until("the latecomer is listed", || w.count() == 5).await;
}

#[tokio::test]
async fn a_slow_aws_is_waited_for_and_a_silent_one_is_not() {
    let w = world().await;
    w.aws.delay(Duration::from_millis(200));
    w.change();
    let refreshed = w.refresh(PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    w.serves(4);
    w.aws.delay(Duration::ZERO);
    w.aws.fault(GROUPS, Fault::Silence, When::Always);
    let refreshed = w.refresh(PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Failed(_)), "{refreshed:?}");
    w.serves(4);
    w.rig.stop().await;
}

#[tokio::test]
async fn an_instance_that_ec2_proves_gone_leaves_at_once() {
    let w = world().await;
    let ids = w.aws.instances("f");
    ids[..2].iter().for_each(|id| w.aws.remove(id));
    let refreshed = w.refresh(PATIENCE).await;
    assert!(matches!(refreshed, Refreshed::Confirmed(_)), "{refreshed:?}");
    w.serves(1);
}
