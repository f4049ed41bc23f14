//! The client's verbs against a running directory.

use rustix::process::Signal;
use serde_json::Value;

use super::harness::{Output, Place, ended, exit_code, pikepole, run, signal};
use super::page::Drain;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test]
async fn fleets_are_listed_for_people_and_for_scripts() {
    let directory = Place::new("").start().await;
    let ended = directory.run(&["fleets"]).await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = ended.out.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["FLEET", "DC", "REGION", "ACTIVE"]);
    assert_eq!(lines[1][..6], ["f1", "some-dc", "ap-south-1", "2", "0", "0"]);
    assert!(lines[1].contains(&"ok"), "{ended:?}");
    let ended = directory.run(&["fleets", "--format", "json"]).await;
    assert_eq!(json(&ended.out)["fleets"][0]["roster"]["members"][1]["address"], "10.0.0.2:5044");
}

#[tokio::test]
async fn a_roster_comes_as_table_json_or_hosts() {
    let directory = Place::new("").start().await;
    let ended = directory.run(&["roster", "f1", "--format", "hosts"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "10.0.0.1:5044\n10.0.0.2:5044\n"));
    let ended = directory.run(&["roster", "f1", "--format", "json"]).await;
    assert_eq!(ended.out.lines().count(), 1);
    assert_eq!(ended.out.trim_end(), directory.get("/v1/fleets/f1/roster").await.unwrap().body);
    let ended = directory.run(&["roster", "f1"]).await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.out.starts_with("f1 (some-dc ap-south-1), revision "), "{ended:?}");
    assert!(ended.out.contains("10.0.0.1:5044") && ended.out.contains("active"), "{ended:?}");
}

#[tokio::test]
async fn agents_are_told_with_what_they_use_and_what_waits_for_them() {
    let directory = Place::new("").start().await;
    let ended = directory.run(&["agents", "f1"]).await;
    let nobody = "No agent follows f1.\n\nNo collector is draining.\n";
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(0), nobody, ""));

    let roster = json(&directory.get("/v1/fleets/f1/roster").await.unwrap().body);
    let revision = roster["revision"].as_u64().unwrap();
    directory.get(&format!("/v1/fleets/f1/roster?agent=proxy-1&applied={revision}")).await.unwrap();
    directory.get("/v1/fleets/f1/roster?agent=proxy-2&applied=7").await.unwrap();
    directory.get("/v1/fleets/f1/roster?agent=proxy-3").await.unwrap();
    let ended = directory.run(&["agents", "f1"]).await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.out.starts_with(&format!("Revision {revision}: 1 of 3 live agents use it\n")), "{ended:?}");
    let rows: Vec<Vec<&str>> = ended.out.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["AGENT", "APPLIED", "LIVE", "SEEN", "ADDRESS"]);
    for (row, applied) in rows[2..5].iter().zip(["current", "7", "nothing"]) {
        assert_eq!((row[1], row[2], row[6]), (applied, "yes", "127.0.0.1"), "{ended:?}");
    }
    let ended = directory.run(&["agents", "f1", "--format", "json"]).await;
    assert_eq!(json(&ended.out)["agents"][1]["applied"], 7, "{ended:?}");
}

#[tokio::test]
async fn a_drain_is_told_with_its_hook_its_deadline_and_who_holds() {
    let drain = Drain::begin().await;
    let url = format!("http://{}", drain.address);
    let ended = run(&["agents", "f1", "--directory", &url]).await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.out.contains(": 0 of 1 live agents use it\n"), "{ended:?}");
    let line = ended.out.lines().find(|line| line.starts_with(drain.dying.as_str())).unwrap();
    for words in [" s ago", "  in 9m ", "proxy-7", "pikepole-terminate"] {
        assert!(line.contains(words), "{words}: {ended:?}");
    }
    let ended = run(&["agents", "f1", "--directory", &url, "--format", "json"]).await;
    assert_eq!(json(&ended.out)["drains"][0]["waiting_for"], serde_json::json!(["proxy-7"]), "{ended:?}");
}

#[tokio::test]
async fn a_refresh_waits_for_what_the_source_says_now() {
    let directory = Place::new("").start().await;
    directory.place.members(&["10.0.0.1:5044", "10.0.0.2:5044", "10.0.0.3:5044"]);
    let ended = directory.run(&["refresh", "f1"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.starts_with("f1: confirmed, 3 members, revision "), "{ended:?}");
    let ended = directory.run(&["refresh", "f1", "--format", "json"]).await;
    assert_eq!(json(&ended.out)["status"], "confirmed");
    directory.place.write("members.json", "{");
    let ended = directory.run(&["refresh", "f1"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains("members.json"), "{ended:?}");
    let ended = directory.run(&["roster", "f1", "--format", "hosts"]).await;
    assert_eq!(ended.out.lines().count(), 3, "the last good roster is served");
}

#[tokio::test]
async fn a_watch_prints_each_change_and_ends_well_on_ctrl_c() {
    let directory = Place::new("").start().await;
    let mut watch = directory.spawn(&["roster", "f1", "--watch", "--format", "json"]);
    let mut lines = Output::of(&mut watch);
    assert_eq!(json(&lines.line().await.unwrap())["members"].as_array().unwrap().len(), 2);
    for count in 3..6 {
        let addresses: Vec<String> = (1..=count).map(|n| format!("10.0.0.{n}:5044")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        directory.place.members(&addresses);
        let roster = json(&lines.line().await.unwrap());
        assert_eq!(roster["members"].as_array().unwrap().len(), count);
    }
    signal(&watch, Signal::INT);
    assert_eq!(exit_code(&mut watch).await, Some(0));
    assert_eq!(lines.line().await, None);
}

#[tokio::test]
async fn a_watch_outlives_a_restart_of_the_directory_and_gives_up_on_an_unknown_fleet() {
    let mut directory = Place::new("").start().await;
    let mut watch = directory.spawn(&["roster", "f1", "--watch", "--format", "hosts"]);
    let mut lines = Output::of(&mut watch);
    lines.line_with("10.0.0.2:5044").await;
    let address = directory.address.to_string();
    signal(&directory.child, Signal::TERM);
    assert_eq!(directory.ends().await, Some(0));
    let place = directory.place;
    let config = std::fs::read_to_string(place.config()).unwrap();
    place.write("directory.toml", &config.replace("127.0.0.1:0", &address));
    place.members(&["10.0.0.7:5044", "10.0.0.2:5044"]);
    let again = place.start().await;
    lines.line_with("10.0.0.7:5044").await;
    let ended = again.run(&["roster", "f9", "--watch"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("no fleet called \"f9\""), "{ended:?}");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let directory = Place::new("").start().await;
    let mut watch = directory.spawn(&["roster", "f1", "--watch", "--format", "hosts"]);
    let mut lines = Output::of(&mut watch);
    lines.line().await.unwrap();
    drop(lines);
    directory.place.members(&["10.0.0.1:5044", "10.0.0.3:5044"]);
    assert_eq!(exit_code(&mut watch).await, Some(0));
    let mut completions = pikepole(&["completions", "bash"]).spawn().unwrap();
    drop(completions.stdout.take());
    assert_eq!(exit_code(&mut completions).await, Some(0));
}

#[tokio::test]
async fn an_unknown_fleet_is_named_with_what_to_do() {
    let directory = Place::new("").start().await;
    for args in
        [&["roster", "f9"][..], &["agents", "f9"], &["refresh", "f9"], &["roster", "../f1"], &["roster", ""]]
    {
        let ended = directory.run(args).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{args:?} {ended:?}");
        assert!(ended.err.starts_with("pikepole: "), "{args:?} {ended:?}");
    }
    let ended = directory.run(&["roster", "f9"]).await;
    assert!(ended.err.contains("no fleet called \"f9\""), "{ended:?}");
}

#[tokio::test]
async fn a_directory_that_does_not_answer_is_named_with_a_hint() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for verb in [&["fleets"][..], &["roster", "f1"], &["agents", "f1"], &["refresh", "f1"]] {
        let ended = run(&[verb, &["--directory", &url]].concat()).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.err.contains(&url) && ended.err.contains("PIKEPOLE_DIRECTORY"), "{ended:?}");
        assert!(ended.err.contains("Connection refused"), "{ended:?}");
    }
    for url in ["127.0.0.1:8044", "ftp://x", "http://", "http://user:s3cr3t@host"] {
        let ended = run(&["fleets", "--directory", url]).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{url} {ended:?}");
        assert!(!ended.err.contains("s3cr3t"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_with_a_hint_and_never_shown() {
    let place = Place::new("tokens = { read = \"read-token-1\", write = \"write-token-1\" }");
    let directory = place.start().await;
    let ended = directory.run(&["fleets"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--token") && ended.err.contains("PIKEPOLE_TOKEN"), "{ended:?}");
    let ended = directory.run(&["fleets", "--token", "wr0ng-token"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--token") && !ended.err.contains("wr0ng"), "{ended:?}");
    assert_eq!(directory.run(&["fleets", "--token", "read-token-1"]).await.code, Some(0));
    let ended = directory.run(&["refresh", "f1", "--token", "read-token-1"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("write token"), "{ended:?}");
    let ended = with_token(&directory.url(), "write-token-1").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!directory.log().contains("-token"), "{}", directory.log());
}

async fn with_token(url: &str, token: &str) -> super::harness::Ended {
    let mut command = pikepole(&["refresh", "f1"]);
    command.env("PIKEPOLE_DIRECTORY", url).env("PIKEPOLE_TOKEN", token);
    ended(command).await
}

#[tokio::test]
async fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(&["completions", shell]).await;
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{shell}");
        for command in ["directory", "demo", "fleets", "roster", "agents", "refresh"] {
            assert!(ended.out.contains(command), "{shell} {command}");
        }
    }
}
