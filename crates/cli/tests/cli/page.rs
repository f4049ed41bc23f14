//! The page in a real browser: it runs under its own strict policy, and shows the fleets.

use tokio::process::Command;

use super::harness::{Output, ended, exit_code, pikepole, signal};

/// Chromium without what would reach out to the network.
fn browser(profile: &std::path::Path, url: &str, more: &[&str]) -> Command {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.display())).args(more).arg(url);
    command.kill_on_drop(true).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

#[tokio::test]
async fn the_page_shows_every_fleet_on_a_desk_and_on_a_phone() {
    assert!(
        Command::new("chromium").arg("--version").output().await.is_ok(),
        "chromium is missing; ./scripts/test installs it"
    );
    let mut demo = pikepole(&["demo", "--listen", "127.0.0.1:0", "--seed", "3"]).spawn().unwrap();
    let mut lines = Output::of(&mut demo);
    let line = lines.line_with("page").await;
    let url = line.split_whitespace().last().unwrap().to_string();
    lines.line_with("logstash-frankfurt").await;
    for size in ["--window-size=1280,900", "--window-size=360,740"] {
        let folder = tempfile::tempdir().unwrap();
        let seen = ended(browser(folder.path(), &url, &[size])).await;
        assert_eq!(seen.code, Some(0), "{}", seen.err);
        for words in ["logstash-mumbai", "logstash-virginia", "logstash-frankfurt", "active", "watchers"] {
            assert!(seen.out.contains(words), "{size}: {words} is not on the page:\n{}", seen.out);
        }
        let complaints: Vec<&str> = seen
            .err
            .lines()
            .filter(|l| l.contains(":CONSOLE") || l.contains("Content Security Policy"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
    signal(&demo, rustix::process::Signal::TERM);
    assert_eq!(exit_code(&mut demo).await, Some(0));
}
