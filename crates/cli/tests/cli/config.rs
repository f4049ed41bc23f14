//! Configuration mistakes, and what can be wrong at the start.

use super::harness::{Place, ended, exit_code, pikepole, run};

const MISTAKES: &str = r#"
[server]
listen = "nonsense"
tokens = { read = "${PIKEPOLE_TEST_SECRET}", write = "long-enough-token" }
lisen = "127.0.0.1:1"

[guard]
max_shrink = 7

[aws]
reconcile = "5"

[[fleet]]
name = "logstash mumbai"
dc = "some-dc"
source = { kind = "file", path = "members.json", asg = "x" }
"#;

#[tokio::test]
async fn every_mistake_is_named_at_once_and_no_secret_is_shown() {
    let place = Place::new("");
    place.write("directory.toml", MISTAKES);
    for check in [&["--check"][..], &[]] {
        let config = place.config();
        let mut command = pikepole(&[&["directory", "-c", &config], check].concat());
        command.env("PIKEPOLE_TEST_SECRET", "s3cr3t");
        let ended = ended(command).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert_eq!(ended.out, "");
        for key in [
            "server.listen: ",
            "server.lisen: unknown key",
            "server.tokens.read: ",
            "guard.max_shrink: ",
            "aws.reconcile: ",
            "fleet[0].name: ",
            "fleet[0].region: required",
            "fleet[0].source.asg: ",
        ] {
            assert!(
                ended.err.lines().any(|l| l.starts_with(&format!("pikepole: {key}"))),
                "{key}: {ended:?}"
            );
        }
        assert!(!ended.err.contains("s3cr3t"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_or_not_toml_is_named() {
    let place = Place::new("");
    let missing = place.path("nothing.toml");
    let ended = run(&["directory", "-c", missing.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("nothing.toml"), "{ended:?}");
    place.write("directory.toml", "[server]\nlisten = \"127.0.0.1:0\"\nsecret ==\n");
    let ended = run(&["directory", "-c", &place.config()]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("line 3"), "{ended:?}");
}

#[tokio::test]
async fn a_good_configuration_is_checked_without_touching_anything() {
    let place = Place::new("");
    let ended = run(&["directory", "--check", "-c", &place.config()]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("good, 1 fleet"), "{ended:?}");
    assert!(!place.path("store").exists());
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_sentence() {
    let directory = Place::new("").start().await;
    let place = Place::new("");
    let config = std::fs::read_to_string(place.config()).unwrap();
    let listen = directory.address.to_string();
    place.write("directory.toml", &config.replace("127.0.0.1:0", &listen));
    let ended = run(&["directory", "-c", &place.config()]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let last = ended.err.lines().last().unwrap();
    let sentence = format!("pikepole: cannot listen on {listen}: ");
    assert!(last.starts_with(&sentence) && last.contains("another process listens there"), "{last}");
}

#[tokio::test]
async fn a_second_directory_on_one_store_is_refused_and_the_first_goes_on() {
    let mut directory = Place::new("").start().await;
    let mut second = pikepole(&["directory", "-c", &directory.place.config()]).spawn().unwrap();
    assert_eq!(exit_code(&mut second).await, Some(1));
    let ended = run(&["directory", "-c", &directory.place.config()]).await;
    let store = directory.place.path("store").display().to_string();
    let last = ended.err.lines().last().unwrap();
    assert!(last.starts_with("pikepole: ") && last.contains(&store), "{last}");
    assert_eq!(directory.get("/readyz").await.unwrap().status, 200);
    assert_eq!(directory.child.try_wait().unwrap(), None);
}

#[tokio::test]
async fn wrong_use_is_told_with_what_would_be_right() {
    for args in [&[][..], &["directory"], &["nonsense"], &["roster"], &["refresh", "f1", "--wait", "5"]] {
        let ended = run(args).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{args:?}");
        assert!(ended.err.contains("Usage: pikepole") || ended.err.contains("--help"), "{ended:?}");
    }
    let ended = run(&["--version"]).await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.out.starts_with("pikepole "), "{ended:?}");
}
