use std::collections::BTreeSet;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A directory with one answer for everybody: a roster of one member, or of none.
async fn directory(revision: u64, confirmed_at: &str, host: Option<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let member = |n| {
        format!(
            "{{\"instance_id\":\"i\",\"address\":\"10.0.0.{n}:5044\",\"zone\":null,\"state\":\"active\"}}"
        )
    };
    let body = format!(
        "{{\"fleet\":\"f\",\"dc\":\"d\",\"region\":\"r\",\"revision\":{revision},\"published_at\":\
         \"2026-11-22T10:00:00.123Z\",\"members\":[{}]}}",
        host.map(member).unwrap_or_default()
    );
    let head = format!("Pikepole-Revision: {revision}\r\nPikepole-Confirmed-At: {confirmed_at}\r\n");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                asked.push(byte);
            }
            let has_it = String::from_utf8_lossy(&asked).contains(&format!("after={revision}&"));
            let answer = match has_it {
                true => format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n"),
                false => format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len()),
            };
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    url
}

const NOBODY: &str = "http://127.0.0.1:1";

struct Rig(TempDir);

impl Rig {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn config(&self, url: &str, render: &str) -> Config {
        let path = |name: &str| self.0.path().join(name);
        let text = format!(
            "[directory]\nurls = [{url:?}]\nfleet = \"f\"\n[agent]\nstate = {:?}\n[[render]]\n\
             template = \"builtin:hosts-json\"\noutput = {:?}\n{render}",
            path("state"),
            path("hosts.json")
        );
        Config::parse(&text, |_| None).unwrap()
    }

    async fn pass(&self, url: &str) -> Passed {
        once(&self.config(url, "")).await.unwrap()
    }

    fn hosts(&self) -> String {
        std::fs::read_to_string(self.0.path().join("hosts.json")).unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pass_keeps_what_it_used_for_one_without_a_directory() {
    let rig = Rig::new();
    let url = directory(7, "2026-11-22T10:00:00.000Z", Some(7)).await;
    let first = rig.pass(&url).await;
    assert_eq!((first.revision, first.from_disk), (7, None));
    let dead = rig.pass(NOBODY).await;
    assert_eq!(dead.revision, 7);
    assert!(dead.from_disk.unwrap().contains("does not answer"));
    let again = rig.pass(&url).await;
    assert_eq!((again.revision, again.from_disk), (7, None), "the directory says that it is still the one");
}

#[tokio::test(start_paused = true)]
async fn a_pass_refuses_a_roster_that_is_older_than_what_was_kept() {
    let rig = Rig::new();
    rig.pass(&directory(7, "2026-11-22T10:00:00.000Z", Some(7)).await).await;
    let older = rig.pass(&directory(5, "2026-11-22T09:00:00.000Z", Some(5)).await).await;
    assert_eq!((older.revision, rig.hosts().as_str()), (7, "[\"10.0.0.7:5044\"]\n"));
    assert!(older.from_disk.unwrap().contains("offers revision 5, older than 7"));
    let confirmed = rig.pass(&directory(6, "2026-11-22T11:00:00.000Z", Some(6)).await).await;
    assert_eq!((confirmed.revision, confirmed.from_disk), (6, None), "a store was lost");
}

#[tokio::test] // programs run, for which paused time would not wait
async fn a_reload_that_is_owed_is_made_while_an_empty_roster_is_refused() {
    let rig = Rig::new();
    let url = directory(7, "2026-11-22T10:00:00.000Z", Some(7)).await;
    let owed = once(&rig.config(&url, "reload = [\"false\"]\n")).await.unwrap();
    assert_eq!(owed.units[0].result.failure.as_ref().unwrap().0, Kind::ReloadFailed);
    let url = directory(8, "2026-11-22T11:00:00.000Z", None).await;
    for is_owed in [true, false] {
        let empty = once(&rig.config(&url, "reload = [\"true\"]\n")).await.unwrap();
        let result = &empty.units[0].result;
        assert_eq!((result.written, result.reloaded), (false, is_owed));
        assert_eq!(result.failure.as_ref().unwrap().0, Kind::RosterEmpty);
    }
    assert_eq!(rig.hosts(), "[\"10.0.0.7:5044\"]\n");
}

#[test]
fn a_diff_shows_no_value_of_the_environment_neither_the_new_one_nor_the_old() {
    let used = BTreeSet::from(["new-passw0rd".to_string(), "two\nlines".to_string()]);
    let rendered = Rendered { text: "a: 1\npassword: new-passw0rd\nb: 3\nkey: two\nlines\n".into(), used };
    let shown = compare("f", "a: 1\npassword: old-passw0rd\nb: 2\nkey: one\nlines\n", &rendered);
    assert!(shown.contains("+password: ***") && shown.contains("+key: ***"), "{shown}");
    for secret in ["old-passw0rd", "new-passw0rd", "two", "one"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let shown = compare("f", "a: 1\npassword: new-passw0rd\nb: 2\nkey: two\nlines\n", &rendered);
    assert!(shown.contains("-b: 2\n+b: 3\n"), "what is no secret is shown: {shown}");
}

#[test]
fn a_value_of_the_environment_is_hidden_also_where_a_filter_spelled_it() {
    let folder = TempDir::new().unwrap();
    let template = folder.path().join("t.j2");
    let text = "a: {{ env.PW|yaml }}\nb: {{ env.PW|json }}\nc={{ env.PW|shell }}\nd: {{ env.PW }}\n";
    std::fs::write(&template, text).unwrap();
    let env: crate::template::Variables =
        Arc::new(|name| (name == "PW").then(|| "s3c'ret\"pass\\word😀".to_string()));
    let rendered = Template::load(&Source::File(template)).unwrap().render(&sample(), &env).unwrap();
    let shown = compare("f", "", &rendered);
    assert!(!shown.contains("s3c") && shown.matches("***").count() == 4, "{shown}");
}

#[tokio::test]
async fn a_template_that_names_the_second_member_is_good() {
    let rig = Rig::new();
    let template = rig.0.path().join("t.j2");
    std::fs::write(&template, "{{ hosts[1] }}\n").unwrap();
    let mut config = rig.config(NOBODY, "");
    config.renders[0].template = Source::File(template.clone());
    assert_eq!(check_templates(&config), Vec::<String>::new());
    // With the last good roster it is known whether it will be rendered.
    rig.pass(&directory(7, "2026-11-22T10:00:00.000Z", Some(7)).await).await;
    assert!(check_templates(&config)[0].contains("t.j2:1:4"));
    std::fs::write(&template, "{{ hosts[0] }}\n").unwrap();
    assert_eq!(check_templates(&config), Vec::<String>::new());
}
