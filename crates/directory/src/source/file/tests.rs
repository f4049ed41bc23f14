//! What a members file may say, what is refused, and which changes are noticed.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

fn at(millis: u64) -> Clock {
    Clock::from_fn(move || Timestamp::from_millis(millis))
}

fn target() -> Target {
    Target { group: "any".parse().unwrap(), port: 1 }
}

struct World {
    source: FileSource,
    path: PathBuf,
    _dir: TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("members.json");
    World { source: FileSource::new(&path, at(7)), path, _dir: dir }
}

impl World {
    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    fn replace(&self, text: &str) {
        let next = self.path.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, &self.path).unwrap();
    }

    async fn describe(&self) -> Result<Describe, SourceError> {
        match self.source.describe(&[target()]).await.remove(0)? {
            Answer::Group(describe) => Ok(describe),
            Answer::DoesNotExist => panic!("a file never says that"),
        }
    }

    async fn refusal(&self, text: &str) -> String {
        self.write(text);
        match self.describe().await {
            Err(SourceError::Malformed(why)) => why,
            other => panic!("{text} gave {other:?}"),
        }
    }
}

fn one(id: &str, address: &str) -> String {
    format!(r#"{{"instance_id":"{id}","address":"{address}"}}"#)
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_whole_with_both_kinds_of_address() {
    let w = world();
    w.write(
        r#"{"members":[{"instance_id":"c1","address":"10.0.0.1:5044","zone":"a"},
                       {"instance_id":"c2","address":"[::1]:5044"}],"desired":2}"#,
    );
    let describe = w.describe().await.unwrap();
    assert_eq!(describe.made_at, Timestamp::from_millis(7));
    assert_eq!(describe.desired, Some(2));
    assert_eq!(describe.routable().count(), 2);
    assert_eq!(describe.instances[0].zone, Some("a".parse().unwrap()));
    assert_eq!(describe.instances[1].address, Some("[::1]:5044".parse().unwrap()));
    assert_eq!(describe.instances[1].zone, None);

    w.write(r#"{"members":[]}"#);
    let describe = w.describe().await.unwrap();
    assert_eq!((describe.desired, describe.instances.len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_with_its_place() {
    let w = world();
    for (text, part) in [
        ("{\"members\":[\n  {\"instance_id\":\"a\" \"x\"}]}", "line 2 column"),
        ("", "line 1 column 0"),
        ("{}", "missing field `members`"),
        (r#"{"members":[],"memberz":[]}"#, "unknown field `memberz`"),
        (r#"{"members":[{"instance_id":"a","address":"10.0.0.1:1","port":1}]}"#, "unknown field `port`"),
        (r#"{"members":[{"instance_id":"a b","address":"10.0.0.1:1"}]}"#, "\"a b\" has the character ' '"),
        (r#"{"members":[{"instance_id":"a","address":"10.0.0.1"}]}"#, "\"10.0.0.1\" is not ip:port"),
        (r#"{"members":[{"instance_id":"a","address":"host:5044"}]}"#, "is not ip:port"),
        (r#"{"members":[{"instance_id":"a","address":"10.0.0.1:0"}]}"#, "no place to send to"),
        (r#"{"members":[{"instance_id":"a","address":"10.0.0.1:1","zone":"ä"}]}"#, "the zone \"ä\""),
        (r#"{"members":[],"desired":-1}"#, "line 1 column"),
        (r#"{"members":[]} x"#, "trailing characters"),
    ] {
        let why = w.refusal(text).await;
        assert!(why.contains(part), "{text} gave {why}");
        assert!(why.contains("members.json"), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_double_id_or_address_is_refused_with_both_named() {
    let w = world();
    let why =
        w.refusal(&format!("{{\"members\":[{},{}]}}", one("a", "10.0.0.1:1"), one("a", "10.0.0.2:1"))).await;
    assert!(why.contains("a stands twice, at 10.0.0.1:1 and 10.0.0.2:1"), "{why}");
    let why =
        w.refusal(&format!("{{\"members\":[{},{}]}}", one("a", "10.0.0.1:1"), one("b", "10.0.0.1:1"))).await;
    assert!(why.contains("10.0.0.1:1 stands twice, for a and b"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_long_message_keeps_its_place_and_a_long_file_is_refused() {
    let w = world();
    let why = w.refusal(&format!("{{\"members\":[{}]}}", one("a", &"x".repeat(9_000)))).await;
    assert!(why.len() < 500 && why.contains("at line 1 column"), "{why}");
    fs::File::create(&w.path).unwrap().set_len(MAX_FILE + 1).unwrap();
    assert!(matches!(w.describe().await, Err(SourceError::Malformed(why)) if why.contains("is longer")));
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_no_answer_and_never_a_definite_one() {
    let w = world();
    assert!(matches!(w.describe().await, Err(SourceError::Unreachable(_))));
    fs::create_dir(&w.path).unwrap();
    assert!(
        matches!(w.describe().await, Err(SourceError::Malformed(why)) if why.contains("not a regular file"))
    );
}

#[tokio::test(start_paused = true)]
async fn every_way_to_replace_the_file_is_noticed_once() {
    let w = world();
    let link = w.path.with_extension("link");
    std::os::unix::fs::symlink(&w.path, &link).unwrap();
    let source = FileSource::new(&link, at(7));
    let quiet = || timeout(Duration::from_secs(5), source.changed());
    let read = async || source.describe(&[target()]).await.remove(0);

    assert!(read().await.is_err());
    assert!(quiet().await.is_err(), "still missing");
    w.write(r#"{"members":[]}"#);
    assert!(quiet().await.is_ok(), "it came");
    assert!(quiet().await.is_err(), "told once");
    assert!(read().await.is_ok());
    assert!(quiet().await.is_err(), "nothing new");

    w.replace(r#"{"members":[]}"#);
    assert!(quiet().await.is_ok(), "another inode behind the same link");
    read().await.unwrap();
    w.write(r#"{"members":[ ]}"#);
    assert!(quiet().await.is_ok(), "written in place");
    read().await.unwrap();
    fs::remove_file(&w.path).unwrap();
    assert!(quiet().await.is_ok(), "it went");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_loses_no_change() {
    let w = world();
    w.write(r#"{"members":[]}"#);
    w.describe().await.unwrap();
    assert!(timeout(Duration::from_millis(600), w.source.changed()).await.is_err());
    w.write(r#"{"members": []}"#);
    for _ in 0..3 {
        drop(w.source.changed());
    }
    assert!(timeout(Duration::from_secs(1), w.source.changed()).await.is_ok());
}
