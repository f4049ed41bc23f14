//! `[collectors]`: how the agent talks to collectors when it carries the logs itself.
//!
//! Not who they are: that is the roster's. No file is opened here.
//!
//! Invariant: the time limits keep their order: TCP before silence before progress.

use std::path::PathBuf;
use std::time::Duration;

use pikepole_config::Section;

use super::size;

/// Least of `max_in_flight`: a few windows.
const LEAST_IN_FLIGHT: u64 = 1 << 20;
/// Most of it: it is memory at worst.
const MOST_IN_FLIGHT: u64 = 1 << 30;
/// Most events of a window: what every collector takes.
const MOST_WINDOW: i64 = 10_000;

/// Which blocks go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The oldest.
    #[default]
    Oldest,
    /// What is new, while a backlog exists.
    Newest {
        /// Per cent of the blocks that are taken from the new end.
        live_share: u8,
    },
}

/// TLS towards collectors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CollectorsTls {
    /// An authority of one's own; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The certificate to show, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the collectors' certificates; `None`: their addresses.
    pub server_name: Option<String>,
}

/// `[collectors]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorsConfig {
    /// `None`: plain TCP.
    pub tls: Option<CollectorsTls>,
    /// zlib's level, 0 to 9.
    pub compression: u8,
    /// Events of a window.
    pub window: u32,
    /// Longest wait for a connection, TLS included.
    pub connect_timeout: Duration,
    /// A host that does not acknowledge TCP is left after this time.
    pub user_timeout: Duration,
    /// A collector that sends no ack frame is left after this time.
    pub silence: Duration,
    /// A collector that completes no window is left after this time.
    pub progress: Duration,
    /// Collectors of one's own zone come first.
    pub prefer_zone: bool,
    /// One's own zone.
    pub zone: Option<String>,
    /// Which blocks go first.
    pub order: Order,
    /// Bytes of blocks in flight, at all collectors together.
    pub max_in_flight: u64,
}

/// An absent section is the same as an empty one. `env_zone` is the zone if the section names none:
/// `AWS_AVAILABILITY_ZONE` of the environment.
pub(super) fn collectors(mut s: Section<'_>, env_zone: Option<String>) -> CollectorsConfig {
    let tls = s.optional_section("tls").map(tls);
    let compression = s.integer("compression", 0..=9).and_then(|n| u8::try_from(n).ok()).unwrap_or(3);
    let window = s.integer("window", 1..=MOST_WINDOW).and_then(|n| u32::try_from(n).ok()).unwrap_or(2048);
    let mut time = |key: &str, most: u64, default: u64| {
        s.duration(key, 1..=most).unwrap_or_else(|| Duration::from_secs(default))
    };
    let connect_timeout = time("connect_timeout", 60, 1);
    let user_timeout = time("user_timeout", 600, 2);
    let silence = time("silence", 3600, 10);
    let progress = time("progress", 86_400, 60);
    if user_timeout > silence {
        s.mistake("user_timeout", "must not be longer than silence");
    }
    if silence > progress {
        s.mistake("silence", "must not be longer than progress");
    }
    let prefer_zone = s.flag("prefer_zone");
    let zone = s.text("zone").or(env_zone).filter(|zone| !zone.is_empty());
    if prefer_zone && zone.is_none() {
        s.mistake("zone", "required with prefer_zone, or AWS_AVAILABILITY_ZONE in the environment");
    }
    let order = order(&mut s);
    let max_in_flight = max_in_flight(&mut s).unwrap_or(16 << 20);
    s.finish();
    CollectorsConfig {
        tls,
        compression,
        window,
        connect_timeout,
        user_timeout,
        silence,
        progress,
        prefer_zone,
        zone,
        order,
        max_in_flight,
    }
}

fn order(s: &mut Section<'_>) -> Order {
    let word = s.text("order");
    let has_share = s.has("live_share");
    let share = s.integer("live_share", 1..=100).and_then(|n| u8::try_from(n).ok());
    match word.as_deref() {
        Some("newest") => return Order::Newest { live_share: share.unwrap_or(75) },
        Some("oldest") | None => {}
        Some(_) => s.not("order", "\"oldest\" or \"newest\""),
    }
    if has_share {
        s.mistake("live_share", "belongs to order = \"newest\"");
    }
    Order::Oldest
}

fn max_in_flight(s: &mut Section<'_>) -> Option<u64> {
    let text = s.text("max_in_flight")?;
    let bytes = size::parse(&text).filter(|bytes| (LEAST_IN_FLIGHT..=MOST_IN_FLIGHT).contains(bytes));
    if bytes.is_none() {
        s.not("max_in_flight", "a size from 1MiB to 1GiB, like \"16MiB\"");
    }
    bytes
}

fn tls(mut s: Section<'_>) -> CollectorsTls {
    let ca = s.text("ca").map(Into::into);
    let identity = super::identity(&mut s);
    let server_name = s.text("server_name");
    if server_name
        .as_deref()
        .is_some_and(|name| name.is_empty() || name.len() > 253 || name.contains(['/', ' ']))
    {
        s.not("server_name", "a host name like logs.example.com");
    }
    s.finish();
    CollectorsTls { ca, identity, server_name }
}

#[cfg(test)]
mod tests {
    use pikepole_config::{ConfigError, Mistakes};

    use super::*;

    fn read(text: &str, zone: Option<&str>) -> Result<CollectorsConfig, ConfigError> {
        let env = |name: &str| (name == "SECRET").then(|| "s3cret".to_string());
        let mistakes = Mistakes::default();
        let mut root = Section::root(pikepole_config::parse(text)?, &mistakes, &env);
        let config = collectors(root.section("collectors"), zone.map(Into::into));
        root.finish();
        mistakes.into_result().map(|()| config)
    }

    fn mistakes(text: &str) -> String {
        read(text, None).expect_err("this configuration is wrong").0.join("\n")
    }

    #[test]
    fn an_absent_section_has_the_defaults_of_the_contract() {
        let config = read("", Some("a")).unwrap();
        let seconds = [config.connect_timeout, config.user_timeout, config.silence, config.progress];
        assert_eq!(seconds.map(|d| d.as_secs()), [1, 2, 10, 60]);
        assert_eq!((config.compression, config.window, config.max_in_flight), (3, 2048, 16 << 20));
        assert_eq!((config.order, config.prefer_zone, config.tls), (Order::Oldest, false, None));
    }

    #[test]
    fn every_key_is_read() {
        let config = read(
            r#"
[collectors]
tls = { ca = "ca.pem", cert = "c.pem", key = "k.pem", server_name = "logs" }
compression = 0
window = 512
connect_timeout = "3s"
user_timeout = "4s"
silence = "20s"
progress = "2m"
prefer_zone = true
zone = "ap-south-1a"
order = "newest"
live_share = 60
max_in_flight = "8MiB"
"#,
            Some("other"),
        )
        .unwrap();
        let identity = Some(("c.pem".into(), "k.pem".into()));
        let tls = CollectorsTls { ca: Some("ca.pem".into()), identity, server_name: Some("logs".into()) };
        assert_eq!(
            config,
            CollectorsConfig {
                tls: Some(tls),
                compression: 0,
                window: 512,
                connect_timeout: Duration::from_secs(3),
                user_timeout: Duration::from_secs(4),
                silence: Duration::from_secs(20),
                progress: Duration::from_secs(120),
                prefer_zone: true,
                zone: Some("ap-south-1a".into()),
                order: Order::Newest { live_share: 60 },
                max_in_flight: 8 << 20,
            }
        );
    }

    #[test]
    fn the_zone_may_come_from_the_environment() {
        assert_eq!(read("[collectors]\nprefer_zone = true", Some("b")).unwrap().zone.as_deref(), Some("b"));
        assert!(mistakes("[collectors]\nprefer_zone = true").starts_with("collectors.zone: required"));
    }

    #[test]
    fn every_mistake_is_reported_at_once_without_a_secret() {
        let found = mistakes(
            r#"
[collectors]
tls = { cert = "c.pem", nam = "x", server_name = "a b" }
compression = 10
window = 0
connect_timeout = "2h"
user_timeout = "30s"
silence = "20s"
progress = "10s"
prefer_zone = true
order = "${SECRET}"
live_share = 0
max_in_flight = "10"
windo = 1
"#,
        );
        for key in [
            "tls.cert",
            "tls.nam",
            "tls.server_name",
            "compression",
            "window",
            "connect_timeout",
            "user_timeout",
            "silence",
            "zone",
            "order",
            "live_share",
            "max_in_flight",
            "windo",
        ] {
            assert!(found.contains(&format!("collectors.{key}: ")), "{key} is not in\n{found}");
        }
        assert!(!found.contains("s3cret"));
    }

    #[test]
    fn a_live_share_needs_its_order() {
        assert!(mistakes("[collectors]\nlive_share = 50").starts_with("collectors.live_share: belongs to"));
    }
}
