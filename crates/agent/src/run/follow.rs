//! Between the watch and the agent: what is seen goes on, what is applied is told.
//!
//! Not where anything is decided.

use std::time::Duration;

use pikepole_api::client::{Client, Event, Watch};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::config::Config;

/// So long the next poll waits for the job that the last event led to. Told with that poll, `applied` costs no
/// connection; told later, the poll has to be dropped for it.
const HOLD: Duration = Duration::from_millis(250);

/// How far the agent is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Events that were taken in.
    pub(super) seen: u64,
    /// Whether something is on its way that may raise `applied`.
    pub(super) is_busy: bool,
    /// The revision that is really used.
    pub(super) applied: Option<u64>,
}

/// Hands on what the watch sees; tells the directory at once when more is applied.
pub(super) async fn follow(
    mut watch: Watch,
    mut files: Certificates,
    news: mpsc::Sender<Event>,
    mut progress: watch::Receiver<Progress>,
) {
    let (mut events, mut told) = (0, None);
    loop {
        let event = tokio::select! {
            event = watch.next() => Some(event),
            changed = progress.wait_for(|p| p.applied != told) => if changed.is_ok() { None } else { return },
        };
        if let Some(event) = event {
            if matches!(event, Event::Trouble(_))
                && let Some(clients) = files.renewed()
            {
                watch.replace_clients(clients);
            }
            events += 1;
            if news.send(event).await.is_err() {
                return;
            }
            let is_done = progress.wait_for(|p| p.seen >= events && !p.is_busy);
            if let Ok(Err(_)) = timeout(HOLD, is_done).await {
                return;
            }
        }
        told = progress.borrow().applied;
        watch.set_applied(told);
    }
}

/// The files of TLS, which somebody renews: after a failure they are read again if they have changed.
pub(super) struct Certificates {
    config: Config,
    seen: Vec<Option<(std::time::SystemTime, u64)>>,
}

impl Certificates {
    pub(super) fn new(config: Config) -> Self {
        let mut files = Self { config, seen: Vec::new() };
        files.seen = files.stamps();
        files
    }

    /// Three small files at most: read in place.
    fn renewed(&mut self) -> Option<Vec<Client>> {
        let now = self.stamps();
        if now == self.seen {
            return None;
        }
        match self.config.clients() {
            Ok(clients) => {
                self.seen = now;
                tracing::info!("changed certificates are used");
                Some(clients)
            }
            Err(error) => {
                tracing::warn!(%error, "changed certificates are not used, the last good ones stay");
                None
            }
        }
    }

    fn stamps(&self) -> Vec<Option<(std::time::SystemTime, u64)>> {
        let tls = &self.config.directory.tls;
        let identity = tls.identity.iter().flat_map(|(cert, key)| [cert, key]);
        let stamp = |path| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
        tls.ca.iter().chain(identity).map(stamp).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn certificates_that_were_renewed_are_read_again_and_damaged_ones_are_not_used() {
        let folder = tempfile::TempDir::new().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, "").unwrap();
        let text = format!(
            "[directory]\nurls = [\"https://localhost:1\"]\nfleet = \"f\"\nca = {ca:?}\n\
             [[render]]\ntemplate = \"builtin:hosts-json\"\noutput = \"/tmp/x\"\n"
        );
        let mut files = Certificates::new(Config::parse(&text, |_| None).unwrap());
        assert!(files.renewed().is_none(), "nothing changed");
        std::fs::write(&ca, "half of a certificate").unwrap();
        assert!(files.renewed().is_none());
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["ca".into()]).unwrap();
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        assert!(files.renewed().is_some());
        assert!(files.renewed().is_none(), "nothing changed since");
    }

    fn parsed(url: &str) -> Config {
        let text = format!(
            "[directory]\nurls = [{url:?}]\nfleet = \"f\"\n\
             [[render]]\ntemplate = \"builtin:hosts-json\"\noutput = \"/tmp/x\"\n"
        );
        Config::parse(&text, |_| None).unwrap()
    }

    async fn head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_applied_soon_is_told_with_the_next_poll_on_the_same_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = parsed(&format!("http://{}", listener.local_addr().unwrap()));
        let clients = config.clients().unwrap();
        let watch = Watch::at(clients, config.directory.target.clone(), config.directory.wait);
        let (news, mut events) = mpsc::channel(4);
        let (progress, told) = watch::channel(Progress::default());
        let watch = watch.as_agent("a", "0b0c1f52-8f0e-4a37-9f4b-a4b1c7a60f10");
        let following = tokio::spawn(follow(watch, Certificates::new(config), news, told));
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        let body = "{\"fleet\":\"f\",\"dc\":\"d\",\"region\":\"r\",\"revision\":7,\"published_at\":\
                    \"2026-11-22T10:00:00.123Z\",\"members\":[]}";
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nPikepole-Revision: 7\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        assert!(matches!(events.recv().await, Some(Event::Roster(..))));
        progress.send_replace(Progress { seen: 1, is_busy: true, applied: None });
        tokio::time::sleep(HOLD / 2).await;
        progress.send_replace(Progress { seen: 1, is_busy: false, applied: Some(7) });
        let second = head(&mut stream).await;
        assert!(second.contains("after=7") && second.contains("applied=7"), "{second}");
        following.abort();
    }
}
