//! Every fault of AWS that we know of, against the fake over real HTTP.
//!
//! Real sockets and tokio's paused clock do not go together, so time limits are short here where a
//! server stays silent, and generous everywhere else.

use std::time::Duration;

use aws_credential_types::Credentials;
use pikepole_testkit::aws::{Action, FakeAws, Fault, Launch, When};

use super::*;

const GROUPS: Action = Action::DescribeGroups;
const INSTANCES: Action = Action::DescribeInstances;

struct World {
    aws: FakeAws,
    source: AwsSource,
}

/// A source with dummy credentials, no pauses between calls, and a clock that stands still.
fn settings(url: &str) -> AwsSettings {
    let clock = Clock::from_fn(|| Timestamp::from_millis(1_795_341_600_000));
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
    AwsSettings {
        endpoint_url: Some(url.to_owned()),
        calls_per_second: 10_000.0,
        credentials: Some(SharedCredentialsProvider::new(credentials)),
        ..AwsSettings::new("ap-south-1".parse().unwrap(), clock)
    }
}

async fn world() -> World {
    let aws = FakeAws::start().await;
    let source = AwsSource::new(settings(&aws.url())).await.unwrap();
    World { aws, source }
}

/// A world with one group `g` of so many instances in service.
async fn world_of(instances: u32) -> World {
    let w = world().await;
    w.aws.create_group("g", instances);
    for _ in 0..instances {
        w.aws.launch("g", Launch::default());
    }
    w
}

fn target(group: &str) -> Target {
    Target { group: group.parse().unwrap(), port: 5044 }
}

impl World {
    async fn describe(&self) -> Result<Describe, SourceError> {
        match self.source.describe(&[target("g")]).await.remove(0)? {
            Answer::Group(describe) => Ok(describe),
            Answer::DoesNotExist => panic!("the group exists"),
        }
    }

    async fn error(&self) -> SourceError {
        self.describe().await.expect_err("the fault shows")
    }

    async fn routable(&self) -> usize {
        self.describe().await.unwrap().routable().count()
    }
}

#[tokio::test]
async fn throttling_in_every_form_from_both_apis_is_known_and_counted() {
    let w = world_of(1).await;
    for (n, fault) in (1..).zip([Fault::Throttling400, Fault::RequestLimit503, Fault::TooMany429]) {
        w.aws.fault(GROUPS, fault, When::Next(1));
        assert!(matches!(w.error().await, SourceError::Throttled(_)), "{fault:?} by Auto Scaling");
        assert_eq!(w.source.calls().throttled(), 2 * n - 1);
        w.aws.fault(INSTANCES, fault, When::Next(1));
        assert!(matches!(w.error().await, SourceError::Throttled(_)), "{fault:?} by EC2");
        assert_eq!(w.source.calls().throttled(), 2 * n);
    }
    assert_eq!(w.routable().await, 1, "and then all is well");
    assert_eq!(w.source.calls().describe_groups(), w.aws.calls(GROUPS), "no call is repeated unseen");
    assert_eq!(w.source.calls().describe_instances(), w.aws.calls(INSTANCES));
}

#[tokio::test]
async fn a_page_of_groups_that_fails_half_way_fails_the_whole_batch() {
    let w = world().await;
    let targets: Vec<_> = (0..7).map(|n| target(&format!("g{n}"))).collect();
    for target in &targets {
        w.aws.create_group(target.group.as_str(), 1);
        w.aws.launch(target.group.as_str(), Launch::default());
    }
    w.aws.max_page(2);
    assert!(w.source.describe(&targets).await.iter().all(Result::is_ok));
    assert_eq!(w.aws.calls(GROUPS), 4, "four pages");
    for page in 1..=4 {
        for fault in [Fault::Internal500, Fault::Drop, Fault::Truncated, Fault::Throttling400, Fault::Html200]
        {
            w.aws.fault(GROUPS, fault, When::Page(page));
            let answers = w.source.describe(&targets).await;
            assert!(answers.iter().all(Result::is_err), "{fault:?} on page {page} gave {answers:?}");
            w.aws.clear_faults();
        }
    }
}

#[tokio::test]
async fn a_page_of_addresses_that_fails_half_way_fails_the_whole_batch() {
    for fault in [Fault::Internal500, Fault::Drop, Fault::Truncated, Fault::RequestLimit503, Fault::Html200] {
        for page in 1..=3 {
            let w = world_of(8).await;
            w.aws.create_group("without instances", 0);
            w.aws.max_page(3);
            w.aws.fault(INSTANCES, fault, When::Page(page));
            let answers = w.source.describe(&[target("g"), target("without instances")]).await;
            assert!(answers.iter().all(Result::is_err), "{fault:?} on page {page} gave {answers:?}");
            w.aws.clear_faults();
            assert_eq!(w.routable().await, 8);
        }
    }
}

#[tokio::test]
async fn one_batch_may_fail_alone_but_throttling_ends_the_sweep() {
    let w = world().await;
    let targets: Vec<_> = (0..250).map(|n| target(&format!("g{n:03}"))).collect();
    targets.iter().for_each(|t| w.aws.create_group(t.group.as_str(), 0));
    assert!(w.source.describe(&targets).await.iter().all(Result::is_ok));
    assert_eq!(w.aws.calls(GROUPS), 3, "250 groups are three calls");
    assert_eq!(w.aws.calls(INSTANCES), 0);

    w.aws.fault(GROUPS, Fault::Internal500, When::Next(1));
    let answers = w.source.describe(&targets).await;
    assert_eq!(answers.iter().filter(|a| a.is_err()).count(), 100, "the first batch");
    assert_eq!(w.aws.calls(GROUPS), 6);

    w.aws.fault(GROUPS, Fault::Throttling400, When::Next(1));
    assert!(w.source.describe(&targets).await.iter().all(|a| matches!(a, Err(SourceError::Throttled(_)))));
    assert_eq!(w.aws.calls(GROUPS), 7, "not asked again in this sweep");
}

#[tokio::test]
async fn two_thousand_instances_are_asked_for_once() {
    let w = world_of(2_000).await;
    assert_eq!(w.routable().await, 2_000);
    assert_eq!((w.aws.calls(GROUPS), w.aws.calls(INSTANCES)), (1, 10));
    assert_eq!(w.routable().await, 2_000);
    assert_eq!((w.aws.calls(GROUPS), w.aws.calls(INSTANCES)), (2, 10));
}

#[tokio::test]
async fn known_addresses_are_kept_while_listed_and_then_forgotten() {
    let w = world_of(3).await;
    let ids = w.aws.instances("g");
    w.describe().await.unwrap();
    w.aws.set_state(&ids[0], "Terminating:Wait");
    w.aws.set_address(&ids[0], None);
    let describe = w.describe().await.unwrap();
    assert!(describe.instances.iter().all(|i| i.address.is_some()), "{describe:?}");
    assert_eq!((w.aws.calls(INSTANCES), w.source.addresses.len()), (1, 3));

    w.aws.remove(&ids[0]);
    let new = w.aws.launch("g", Launch::default());
    let describe = w.describe().await.unwrap();
    assert!(describe.get(&new.parse().unwrap()).unwrap().is_routable());
    assert_eq!((w.aws.calls(INSTANCES), w.source.addresses.len()), (2, 3));
    w.aws.delete_group("g");
    assert_eq!(w.source.describe(&[target("g")]).await, [Ok(Answer::DoesNotExist)]);
    assert_eq!(w.source.addresses.len(), 0);
}

#[tokio::test]
async fn a_fleet_of_another_describe_keeps_its_addresses() {
    let w = world_of(2).await;
    w.aws.create_group("other", 0);
    w.describe().await.unwrap();
    w.source.describe(&[target("other")]).await.remove(0).unwrap();
    w.describe().await.unwrap();
    assert_eq!(w.aws.calls(INSTANCES), 1);
}

#[tokio::test]
async fn ec2_may_learn_of_an_instance_or_its_address_later() {
    let w = world_of(1).await;
    let late = w.aws.launch("g", Launch { visible_in_ec2: false, ..Launch::default() });
    let describe = w.describe().await.unwrap();
    assert_eq!((describe.instances.len(), describe.routable().count()), (2, 1));
    w.aws.set_visible_in_ec2(&late, true);
    w.aws.hide_addresses(true);
    assert_eq!(w.routable().await, 1, "known now, but without an address");
    w.aws.hide_addresses(false);
    assert_eq!(w.routable().await, 2);
    assert_eq!(w.aws.calls(INSTANCES), 3);
}

#[tokio::test]
async fn only_exact_in_service_is_routable_and_the_rest_costs_no_look_up() {
    let w = world().await;
    w.aws.create_group("g", 1);
    for state in
        ["Quarantined", "Standby", "Warmed:Running", "Terminating:Retained", "Quux:New", "inservice", ""]
    {
        w.aws.launch("g", Launch::in_state(state));
    }
    let describe = w.describe().await.unwrap();
    assert_eq!((describe.instances.len(), describe.routable().count()), (7, 0));
    assert_eq!(w.aws.calls(INSTANCES), 0);
    w.aws.launch("g", Launch::default());
    assert_eq!(w.routable().await, 1);
}

#[tokio::test]
async fn a_launching_instance_gets_its_address_for_no_call_of_its_own() {
    let w = world_of(1).await;
    let new = w.aws.launch("g", Launch::in_state("Pending:Wait"));
    let describe = w.describe().await.unwrap();
    let it = describe.get(&new.parse().unwrap()).unwrap();
    assert_eq!((it.lifecycle, it.address.map(|a| a.port())), (Lifecycle::Launching, Some(5044)));
    assert!(!it.is_routable());
    w.describe().await.unwrap();
    assert_eq!(w.aws.calls(INSTANCES), 1, "asked together with the other, once");
}

#[tokio::test]
async fn a_launching_instance_that_ec2_does_not_know_costs_one_call_in_ten_seconds() {
    let w = world_of(1).await;
    w.describe().await.unwrap();
    let how = Launch { visible_in_ec2: false, ..Launch::in_state("Pending") };
    let late = w.aws.launch("g", how);
    for _ in 0..5 {
        assert_eq!(w.routable().await, 1);
    }
    assert_eq!(w.aws.calls(INSTANCES), 2);
    w.aws.set_visible_in_ec2(&late, true);
    w.aws.set_state(&late, "InService");
    assert_eq!(w.routable().await, 2, "in service it is asked for at once");
    assert_eq!(w.aws.calls(INSTANCES), 3);
}

#[tokio::test]
async fn a_look_up_for_launching_instances_neither_fails_nor_delays_a_describe() {
    for fault in
        [Fault::Internal500, Fault::RequestLimit503, Fault::Denied403, Fault::Html200, Fault::Silence]
    {
        let w = world_of(1).await;
        w.describe().await.unwrap();
        w.aws.launch("g", Launch::in_state("Pending:Wait"));
        w.aws.fault(INSTANCES, fault, When::Always);
        let began = tokio::time::Instant::now();
        let describe = w.describe().await;
        assert_eq!(describe.map(|d| d.routable().count()), Ok(1), "{fault:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{fault:?} took {:?}", began.elapsed());
        w.describe().await.unwrap();
        assert_eq!(w.aws.calls(INSTANCES), 2, "{fault:?} is not met again at once");
        w.aws.launch("g", Launch::default());
        assert!(
            fault == Fault::Silence || w.describe().await.is_err(),
            "one in service must have its address"
        );
    }
}

#[tokio::test]
async fn an_empty_answer_and_an_omitted_group_are_told_as_they_are() {
    let w = world_of(2).await;
    w.aws.answer_empty(true);
    let describe = w.describe().await.unwrap();
    assert_eq!((describe.desired, describe.instances.len()), (Some(2), 0));
    w.aws.omit_group("g", true);
    assert_eq!(w.source.describe(&[target("g")]).await, [Ok(Answer::DoesNotExist)]);
}

#[tokio::test]
async fn two_fleets_on_one_group_get_their_own_ports_for_one_call() {
    let w = world_of(1).await;
    let other = Target { port: 5045, ..target("g") };
    let answers = w.source.describe(&[target("g"), target("missing"), other]).await;
    let port = |n: usize| match &answers[n] {
        Ok(Answer::Group(d)) => d.instances[0].address.map(|a| a.port()),
        _ => None,
    };
    assert_eq!((port(0), port(2)), (Some(5044), Some(5045)));
    assert_eq!(answers[1], Ok(Answer::DoesNotExist));
    assert_eq!((w.aws.calls(GROUPS), w.aws.calls(INSTANCES)), (1, 1));
}

#[tokio::test]
async fn an_instance_without_an_ipv4_address_is_reached_by_ipv6() {
    let w = world().await;
    w.aws.create_group("g", 1);
    w.aws.launch("g", Launch { address: Some("fd00::7".parse().unwrap()), ..Launch::default() });
    let describe = w.describe().await.unwrap();
    assert_eq!(describe.instances[0].address, Some("[fd00::7]:5044".parse().unwrap()));
}

#[tokio::test]
async fn silence_ends_at_the_time_limit() {
    let aws = FakeAws::start().await;
    aws.create_group("g", 1);
    aws.launch("g", Launch::default());
    let short = AwsSettings { call_timeout: Duration::from_millis(150), ..settings(&aws.url()) };
    let w = World { source: AwsSource::new(short).await.unwrap(), aws };
    for action in [GROUPS, INSTANCES] {
        w.aws.fault(action, Fault::Silence, When::Always);
        let error = w.error().await;
        assert!(matches!(&error, SourceError::Unreachable(_)), "{action:?}: {error}");
        w.aws.clear_faults();
    }
    w.aws.delay(Duration::from_secs(3_600));
    assert!(matches!(w.error().await, SourceError::Unreachable(_)));
}

#[tokio::test]
async fn nobody_there_is_no_answer() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let source = AwsSource::new(settings(&url)).await.unwrap();
    let error = source.describe(&[target("g")]).await.remove(0).expect_err("nobody is there");
    assert!(matches!(&error, SourceError::Unreachable(why) if why.contains("refused")), "{error}");
    assert!(matches!(source.prove_gone(&["i-1".parse().unwrap()]).await, Err(SourceError::Unreachable(_))));
}

#[tokio::test]
async fn each_refusal_and_each_nonsense_gets_its_kind() {
    type Kind = fn(&SourceError) -> bool;
    let denied: Kind = |e| matches!(e, SourceError::Denied(_));
    let unreachable: Kind = |e| matches!(e, SourceError::Unreachable(_));
    let malformed: Kind = |e| matches!(e, SourceError::Malformed(_));
    let w = world_of(1).await;
    for action in [GROUPS, INSTANCES] {
        for (fault, kind) in [
            (Fault::Denied403, denied),
            (Fault::ExpiredToken400, denied),
            (Fault::Internal500, unreachable),
            (Fault::Unavailable503, unreachable),
            (Fault::Html502, unreachable),
            (Fault::Drop, unreachable),
            (Fault::Html200, malformed),
            (Fault::Truncated, malformed),
            (Fault::TooLong, malformed),
        ] {
            w.aws.fault(action, fault, When::Always);
            let error = w.error().await;
            assert!(kind(&error), "{fault:?} of {action:?} is {error:?}");
            let told = error.to_string();
            assert!(told.contains("Describe") && told.len() < 250 && !told.contains('\n'), "{told}");
            assert_eq!(fault == Fault::TooLong, told.contains("longer than"), "{told}");
            w.aws.clear_faults();
        }
    }
    assert_eq!(w.routable().await, 1);
}

#[tokio::test]
async fn a_refusal_names_the_permission() {
    let w = world_of(1).await;
    w.aws.fault(GROUPS, Fault::Denied403, When::Next(1));
    let error = w.error().await.to_string();
    assert!(error.contains("autoscaling:DescribeAutoScalingGroups"), "{error}");
    w.aws.fault(INSTANCES, Fault::Denied403, When::Next(1));
    let error = w.error().await.to_string();
    assert!(error.contains("ec2:DescribeInstances"), "{error}");
}

#[tokio::test]
async fn without_credentials_nothing_is_called() {
    #[derive(Debug)]
    struct Nobody;
    impl aws_credential_types::provider::ProvideCredentials for Nobody {
        fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            use aws_credential_types::provider::error::CredentialsError;
            let error = CredentialsError::not_loaded("no provider");
            aws_credential_types::provider::future::ProvideCredentials::ready(Err(error))
        }
    }
    let aws = FakeAws::start().await;
    let nobody = Some(SharedCredentialsProvider::new(Nobody));
    let source = AwsSource::new(AwsSettings { credentials: nobody, ..settings(&aws.url()) }).await.unwrap();
    let error = source.describe(&[target("g")]).await.remove(0).expect_err("there are no credentials");
    assert!(
        matches!(&error, SourceError::Denied(why) if why.contains("no AWS credentials found")),
        "{error}"
    );
    let error = source.prove_gone(&["i-1".parse().unwrap()]).await.expect_err("there are no credentials");
    assert!(
        matches!(&error, SourceError::Denied(why) if why.contains("no AWS credentials found")),
        "{error}"
    );
    assert_eq!((aws.calls(GROUPS), aws.calls(INSTANCES)), (0, 0));
}

#[tokio::test]
async fn proof_tells_gone_from_not_found_and_pages_through_many() {
    let w = world_of(450).await;
    w.aws.max_page(50);
    let ids: Vec<InstanceId> = w.aws.instances("g").iter().map(|id| id.parse().unwrap()).collect();
    w.aws.remove(ids[0].as_str());
    w.aws.set_ec2_state(ids[1].as_str(), "shutting-down");
    w.aws.set_ec2_state(ids[2].as_str(), "stopping");
    w.aws.set_visible_in_ec2(ids[449].as_str(), false);
    let proof = w.source.prove_gone(&ids).await.unwrap();
    assert_eq!(proof.gone, [ids[0].clone(), ids[1].clone()].into());
    assert_eq!(proof.not_found, [ids[449].clone()].into());
    assert_eq!(w.aws.calls(INSTANCES), 4 + 4 + 1);
    assert_eq!(w.source.prove_gone(&[]).await, Ok(Proof::default()));
    w.aws.fault(INSTANCES, Fault::RequestLimit503, When::Page(3));
    assert!(matches!(w.source.prove_gone(&ids).await, Err(SourceError::Throttled(_))));
}

#[test]
fn the_endpoint_follows_the_region_unless_it_is_given() {
    let endpoint =
        |region: &str, given| setup::ec2_endpoint(&region.parse().unwrap(), given).map(|u| u.to_string());
    assert_eq!(endpoint("ap-south-1", None).unwrap(), "https://ec2.ap-south-1.amazonaws.com/");
    assert_eq!(endpoint("cn-north-1", None).unwrap(), "https://ec2.cn-north-1.amazonaws.com.cn/");
    assert_eq!(endpoint("x", Some("http://127.0.0.1:5555")).unwrap(), "http://127.0.0.1:5555/");
    for wrong in ["127.0.0.1:5555", "ftp://x", "", "http://"] {
        assert!(endpoint("x", Some(wrong)).is_err(), "{wrong:?}");
    }
}
