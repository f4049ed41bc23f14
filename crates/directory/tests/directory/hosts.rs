//! `GET /logstash-ip`, as the seed's crons call it.

use std::time::Duration;

use pikepole_directory::http::Limits;
use pikepole_fleet::{Fact, FactKind, Input};

use super::harness::{Plan, Rig, within};

const HOSTS: &str = "/logstash-ip?dcid=some-dc&region=ap-south-1";

#[tokio::test]
async fn the_bytes_are_the_seeds_sorted_as_texts() {
    let rig = Plan::new().start().await;
    rig.describe("f1", &["[2001:db8::1]:5044", "10.0.0.9:5044", "10.0.0.10:5044"]).await;
    let answer = rig.get(HOSTS).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.text(), "['10.0.0.10:5044', '10.0.0.9:5044', '[2001:db8::1]:5044']");
    assert_eq!(answer.header("warning"), None);
    assert_eq!(answer.header("pikepole-revision").unwrap(), rig.revision("f1").to_string());
}

#[tokio::test]
async fn who_accepts_json_gets_an_array() {
    let rig = Plan::new().start().await;
    rig.describe("f1", &["10.0.0.9:5044", "10.0.0.10:5044"]).await;
    for accept in ["application/json", "text/html;q=0.5, application/json", "Application/JSON; charset=utf-8"]
    {
        let answer = rig.ask("GET", HOSTS, &[("Accept", accept)]).await;
        assert_eq!(answer.json(), serde_json::json!(["10.0.0.10:5044", "10.0.0.9:5044"]), "{accept}");
    }
    for accept in ["*/*", "text/plain", "text/html,application/xhtml+xml,*/*;q=0.8", "application/jsonp"] {
        let answer = rig.ask("GET", HOSTS, &[("Accept", accept)]).await;
        assert_eq!(answer.text(), "['10.0.0.10:5044', '10.0.0.9:5044']", "{accept}");
    }
}

#[tokio::test]
async fn only_sendable_members_are_listed_and_an_empty_fleet_is_an_empty_list() {
    let rig = Rig::with_two().await;
    let fact = |instance: &str| {
        let at = rig.engine.clock().now();
        Input::Learned(Fact { instance: instance.parse().unwrap(), kind: FactKind::SpotInterruption, at })
    };
    rig.engine.apply(rig.fleet("f1"), fact("i-0")).await;
    assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.2:5044']");
    // With none left to prefer, the draining ones are better than nothing.
    rig.engine.apply(rig.fleet("f1"), fact("i-1")).await;
    assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.1:5044', '10.0.0.2:5044']");

    let empty = Plan::new().start().await;
    empty.describe("f1", &[]).await;
    assert_eq!(empty.get(HOSTS).await.text(), "[]");
    assert_eq!(empty.ask("GET", HOSTS, &[("Accept", "application/json")]).await.text(), "[]");
}

#[tokio::test]
async fn a_wrong_region_is_forgiven_and_counted_if_the_data_centre_has_one_fleet() {
    let rig = Rig::with_two().await;
    let answer = rig.get("/logstash-ip?dcid=some-dc&region=mars").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), "['10.0.0.1:5044', '10.0.0.2:5044']");
    let warning = answer.header("warning").unwrap();
    assert!(warning.starts_with("299 pikepole \"") && warning.contains("ap-south-1"), "{warning}");
    assert_eq!(rig.metric("pikepole_seed_region_ignored_total").await, 1.0);
    rig.get(HOSTS).await;
    assert_eq!(rig.metric("pikepole_seed_region_ignored_total").await, 1.0);
}

#[tokio::test]
async fn the_region_decides_between_two_fleets_of_one_data_centre() {
    let rig = Plan::new().fleet("f2", "some-dc", "us-east-1").start().await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    rig.describe("f2", &["10.0.0.2:5044"]).await;
    assert_eq!(rig.get(HOSTS).await.text(), "['10.0.0.1:5044']");
    assert_eq!(rig.get("/logstash-ip?dcid=some-dc&region=us-east-1").await.text(), "['10.0.0.2:5044']");
    assert_eq!(rig.get("/logstash-ip?dcid=some-dc&region=mars").await.status, 404);
}

#[tokio::test]
async fn what_is_unknown_or_missing_is_named() {
    let rig = Rig::with_two().await;
    for (query, status, word) in [
        ("?dcid=other&region=ap-south-1", 404, "\"other\""),
        ("?region=ap-south-1", 400, "dcid"),
        ("?dcid=some-dc", 400, "region"),
        ("?dcid=&region=ap-south-1", 400, "dcid"),
        ("?dcid=some-dc&region=", 400, "region"),
        ("?dcid&region", 400, "dcid"),
        ("?DCID=some-dc&region=ap-south-1", 400, "dcid"),
        ("?", 400, "dcid"),
        ("", 400, "dcid"),
    ] {
        let answer = rig.get(&format!("/logstash-ip{query}")).await;
        assert_eq!(answer.status, status, "{query}");
        assert!(answer.text().contains(word), "{query}: {}", answer.text());
        assert!(!answer.text().contains("10.0.0."), "{query}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_first_of_a_doubled_parameter_counts_and_unknown_ones_are_ignored() {
    let rig = Rig::with_two().await;
    for query in [
        "?dcid=some-dc&region=ap-south-1&dcid=other",
        "?x=1&dcid=some-dc&y&region=ap-south-1&=&&",
        "?dcid=some%2Ddc&region=ap%2dsouth-1",
    ] {
        assert_eq!(rig.get(&format!("/logstash-ip{query}")).await.status, 200, "{query}");
    }
    let other_first = rig.get("/logstash-ip?dcid=other&dcid=some-dc&region=ap-south-1").await;
    assert_eq!(other_first.status, 404);
}

#[tokio::test]
async fn with_nothing_known_the_answer_is_a_failure_after_a_wait_and_never_a_list() {
    assert_eq!(Limits::default().first_answer, Duration::from_secs(2));
    let rig = Plan::new().limits(|l| l.first_answer = Duration::from_millis(50)).start().await;
    let answer = rig.get(HOSTS).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.text(), "Failure");
    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    // A group that does not exist is not an empty one.
    rig.engine.apply(rig.fleet("f1"), Input::DoesNotExist).await;
    assert_eq!(rig.get(HOSTS).await.text(), "Failure");
}

#[tokio::test]
async fn whoever_waits_for_the_first_answer_gets_it_as_soon_as_it_comes() {
    let rig = Plan::new().limits(|l| l.first_answer = Duration::from_secs(300)).start().await;
    let mut waiting = rig.begin("GET", HOSTS).await;
    let mut wrong_region = rig.begin("GET", "/logstash-ip?dcid=some-dc&region=mars").await;
    rig.watched_by("f1", 2).await;
    rig.describe("f1", &["10.0.0.1:5044"]).await;
    assert_eq!(within("the answer", waiting.answer()).await.text(), "['10.0.0.1:5044']");
    assert!(within("the answer", wrong_region.answer()).await.header("warning").is_some());
}
