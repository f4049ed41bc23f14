//! The log path as a whole: that it notices when a part of it is gone.

use super::*;
use crate::config::Config;

/// One that listens and tails, below this folder.
async fn start(folder: &std::path::Path) -> LogPath {
    let text = format!(
        "[directory]\nurls = [\"http://127.0.0.1:1\"]\nfleet = \"f\"\n[agent]\nid = \"a\"\nstate = {:?}\n\
         [relay]\nlisten = \"127.0.0.1:0\"\n[[tail]]\npaths = [{:?}]\n[spool]\nmin_free = \"0B\"\n",
        folder.join("state"),
        folder.join("logs/*.log"),
    );
    let config = Config::parse(&text, |_| None).unwrap().log_path.unwrap();
    let (_, rosters) = watch::channel(None);
    LogPath::start(&config, "a", Clock::system(), rosters, watch::Sender::default()).await.unwrap()
}

#[tokio::test]
async fn a_part_that_panics_breaks_the_log_path_and_the_rest_still_stops() {
    let folder = tempfile::tempdir().unwrap();
    let mut path = start(folder.path()).await;
    let is_whole = tokio::time::timeout(Duration::ZERO, path.broken()).await.is_err();
    assert!(is_whole, "nothing happened yet");
    path.carriers.spawn(async { panic!("a test's") });
    let what = path.broken().await;
    assert!(
        what.starts_with("relay or balancer ended unexpectedly: ") && what.contains("a test's"),
        "{what}"
    );
    path.stop().await;
}

#[tokio::test]
async fn a_spool_whose_thread_is_gone_breaks_the_log_path() {
    let folder = tempfile::tempdir().unwrap();
    let mut path = start(folder.path()).await;
    path.queue.close().await.unwrap();
    assert_eq!(path.broken().await, "the spool's thread ended by itself");
    path.stop().await;
}
