//! `GET /update-ip-list`, as the seed's Lambdas call it.

use std::time::Duration;

use pikepole_directory::http::Limits;
use pikepole_directory::source::SourceError;

use super::harness::{Plan, Rig};

const HINT: &str = "/update-ip-list?region=ap-south-1&dcid=some-dc&as_name=f1";
const HOSTS: &str = "/logstash-ip?dcid=some-dc&region=ap-south-1";

/// Two collectors in service, known to the engine, and a source that says nothing by itself.
async fn settled(plan: Plan) -> Rig {
    let rig = plan.reconciling().start().await;
    rig.cloud.create_group(&"f1".parse().unwrap(), 2);
    rig.launch("f1");
    rig.launch("f1");
    assert_eq!(rig.get(HINT).await.text(), "Success");
    assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.1:5044', '10.0.0.2:5044']");
    rig
}

#[tokio::test]
async fn success_means_that_what_changed_before_the_hint_is_served_now() {
    let rig = settled(Plan::new()).await;
    for count in 3..10 {
        rig.launch("f1");
        let describes = rig.cloud.describes();
        let answer = rig.get(HINT).await;
        assert_eq!((answer.status, answer.text()), (200, "Success"));
        assert!(rig.cloud.describes() > describes);
        assert!(rig.get(HOSTS).await.text().contains(&format!("'10.0.0.{count}:5044'")), "{count}");
    }
}

#[tokio::test]
async fn a_describe_that_began_before_the_hint_is_not_its_answer() {
    let rig = settled(Plan::new().limits(|l| l.update_answer = Duration::from_secs(300))).await;
    rig.cloud.delay(Duration::from_millis(200));
    let describes = rig.cloud.describes();
    let mut first = rig.begin("GET", HINT).await;
    super::harness::eventually("a describe", || rig.cloud.describes() > describes).await;
    rig.launch("f1");
    assert_eq!(rig.get(HINT).await.text(), "Success");
    assert!(rig.get(HOSTS).await.text().contains("'10.0.0.3:5044'"));
    assert_eq!(first.answer().await.text(), "Success");
}

#[tokio::test]
async fn failure_when_the_source_fails_and_the_last_good_list_stays() {
    let rig = settled(Plan::new()).await;
    for error in [SourceError::Unreachable("gone".into()), SourceError::Denied("expired".into())] {
        rig.cloud.fail_with(Some(error));
        let answer = rig.get(HINT).await;
        assert_eq!((answer.status, answer.text()), (502, "Failure"));
        assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.1:5044', '10.0.0.2:5044']");
    }
    rig.cloud.fail_with(None);
    assert_eq!(rig.get(HINT).await.text(), "Success");
}

#[tokio::test]
async fn failure_while_the_guard_holds_and_the_last_good_list_stays() {
    let rig = settled(Plan::new()).await;
    rig.cloud.answer_empty(true);
    let answer = rig.get(HINT).await;
    assert_eq!((answer.status, answer.text()), (502, "Failure"));
    assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.1:5044', '10.0.0.2:5044']");
}

#[tokio::test]
async fn failure_when_the_group_is_gone() {
    let rig = settled(Plan::new()).await;
    rig.cloud.delete_group(&"f1".parse().unwrap());
    let answer = rig.get(HINT).await;
    assert_eq!((answer.status, answer.text()), (502, "Failure"));
    assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.1:5044', '10.0.0.2:5044']");
}

#[tokio::test]
async fn accepted_when_the_source_is_slower_than_a_lambda_is_patient() {
    assert!(Limits::default().update_answer < Duration::from_millis(2_500));
    let rig = settled(Plan::new().limits(|l| l.update_answer = Duration::from_millis(50))).await;
    rig.cloud.delay(Duration::from_secs(300));
    let answer = rig.get(HINT).await;
    assert_eq!((answer.status, answer.text()), (202, "Accepted"));
    assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.1:5044', '10.0.0.2:5044']");
}

#[tokio::test]
async fn a_hint_for_another_group_is_refused_and_costs_no_describe() {
    let rig = settled(Plan::new()).await;
    let describes = rig.cloud.describes();
    for (query, status) in [
        ("region=ap-south-1&dcid=some-dc&as_name=f2", 404),
        ("region=ap-south-1&dcid=some-dc&as_name=F1", 404),
        ("region=ap-south-1&dcid=other&as_name=f1", 404),
        ("region=ap-south-1&dcid=some-dc&as_name=", 400),
        ("region=ap-south-1&dcid=some-dc", 400),
        ("dcid=some-dc&as_name=f1", 400),
        ("region=ap-south-1&as_name=f1", 400),
    ] {
        assert_eq!(rig.get(&format!("/update-ip-list?{query}")).await.status, status, "{query}");
    }
    assert_eq!(rig.cloud.describes(), describes);
}
