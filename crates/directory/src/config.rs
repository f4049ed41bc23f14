//! What the operator wrote, made into what is meant. [`Config`] cannot be invalid: everything that can
//! be wrong is found here, all of it at once, before any port is bound.

mod events;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use pikepole_config::{ConfigError, Secret};
use pikepole_config::{Mistakes, Section};
use pikepole_fleet::{Dc, FleetName, GroupName, GuardPolicy, Region};

pub use events::{DrainConfig, EventsConfig, ProbeConfig, SnsSignature};

/// The whole configuration of a directory.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`.
    pub server: ServerConfig,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[[fleet]]`, in the order of the file.
    pub fleets: Vec<FleetConfig>,
    /// `[aws]`.
    pub aws: AwsConfig,
    /// `[guard]`.
    pub guard: GuardPolicy,
    /// `[alerts]`.
    pub alerts: AlertsConfig,
    /// `[probe]`.
    pub probe: ProbeConfig,
    /// `[drain]`.
    pub drain: DrainConfig,
    /// `[events]`.
    pub events: EventsConfig,
}

/// Where and to whom the directory answers.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// TLS, if any.
    pub tls: Option<TlsConfig>,
    /// Tokens, if any.
    pub tokens: Option<Tokens>,
    /// The seed's two routes need no token.
    pub compat_anonymous: bool,
}

/// Certificate files, read again when they change.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
    /// The authority whose clients may connect: mTLS.
    pub client_ca: Option<PathBuf>,
}

/// The tokens that open the API. `write` may also read.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// For reading.
    pub read: Secret,
    /// For refreshes and events.
    pub write: Secret,
}

/// Where state is kept.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The folder with the last rosters; kept in Redis mode too.
    pub path: PathBuf,
    /// Redis, shared by all replicas.
    pub redis: Option<RedisConfig>,
}

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://` or `rediss://`; may hold a password.
    pub url: Secret,
    /// Also write the seed's keys.
    pub mirror_keys: bool,
}

/// One fleet.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Its name.
    pub name: FleetName,
    /// Its data centre.
    pub dc: Dc,
    /// Its region.
    pub region: Region,
    /// The port its collectors listen on.
    pub port: u16,
    /// Where its truth comes from.
    pub source: SourceConfig,
}

/// Where a fleet's truth comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceConfig {
    /// An Auto Scaling group.
    Aws {
        /// Its name.
        asg: GroupName,
        /// The role to assume for it, if any.
        assume_role: Option<String>,
    },
    /// A JSON file that is watched.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// A simulation in this process: the demo's and the tests'; no file names it.
    Sim,
}

impl FleetConfig {
    /// The name the seed's `as_name` and mirrored keys use: the group's, or the fleet's.
    pub fn group(&self) -> GroupName {
        match &self.source {
            SourceConfig::Aws { asg, .. } => asg.clone(),
            SourceConfig::File { .. } | SourceConfig::Sim => group_of(&self.name),
        }
    }
}

/// A fleet's name as a group's.
pub(crate) fn group_of(fleet: &FleetName) -> GroupName {
    fleet.as_str().parse().expect("every fleet name is also a valid group name")
}

/// What differs from the AWS SDK's own environment and profiles.
#[derive(Debug, Clone)]
pub struct AwsConfig {
    /// Another endpoint than AWS's own.
    pub endpoint_url: Option<String>,
    /// Describes per second, per account and region.
    pub calls_per_second: f64,
    /// How often each source is asked, ±20 %.
    pub reconcile: Duration,
}

/// Whom to tell.
#[derive(Debug, Clone)]
pub struct AlertsConfig {
    /// Where to deliver alerts besides the log.
    pub webhook: Option<Webhook>,
    /// A roster that was not confirmed for this long is stale.
    pub stale_after: Duration,
}

/// A webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its URL; often a secret itself.
    pub url: Secret,
    /// The shape of the body.
    pub format: WebhookFormat,
    /// PagerDuty's integration key, unless the URL carries it.
    pub routing_key: Option<Secret>,
}

/// The shape of a webhook's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookFormat {
    /// Our own.
    Json,
    /// Slack's incoming webhooks.
    Slack,
    /// PagerDuty's Events API v2.
    PagerDuty,
}

impl Config {
    /// Reads a file, with the process's environment.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(vec![format!("cannot read {}: {e}", path.display())]))?;
        let config = Self::parse(&text, |name| std::env::var(name).ok())?;
        config.check_files()?;
        Ok(config)
    }

    /// Reads a text; `env` answers `${NAME}`.
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let table = pikepole_config::parse(text)?;
        let mistakes = Mistakes::default();
        let mut root = Section::root(table, &mistakes, &env);
        let server = server(root.section("server"));
        let store = store(root.section("store"));
        let (aws, role) = aws(root.section("aws"));
        let fleets = fleets(&mut root, role.as_deref());
        let alerts = alerts(root.section("alerts"));
        let probe = events::probe(root.section("probe"));
        let guard = guard(root.section("guard"), probe.enabled);
        let drain = events::drain(root.section("drain"));
        let events = events::events(root.section("events"));
        root.finish();
        check_unique(&fleets, &mistakes);
        mistakes.into_result()?;
        Ok(Self { server, store, fleets, aws, guard, alerts, probe, drain, events })
    }

    /// Checks what only the disk can tell: that the certificates can be used.
    fn check_files(&self) -> Result<(), ConfigError> {
        let Some(tls) = &self.server.tls else { return Ok(()) };
        crate::http::tls::server_config(tls)
            .map(|_| ())
            .map_err(|e| ConfigError(vec![format!("server.tls: {e}")]))
    }
}

fn server(mut s: Section<'_>) -> ServerConfig {
    let listen = s.parsed("listen", "an address like 127.0.0.1:8044");
    let tls = s.optional_section("tls").map(|mut t| {
        let tls = TlsConfig {
            cert: t.required_text("cert").into(),
            key: t.required_text("key").into(),
            client_ca: t.text("client_ca").map(Into::into),
        };
        t.finish();
        tls
    });
    let tokens = s.optional_section("tokens").map(|mut t| {
        let tokens = Tokens { read: token(&mut t, "read"), write: token(&mut t, "write") };
        t.finish();
        tokens
    });
    let insecure = s.flag("insecure");
    let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8044)));
    let mtls = tls.as_ref().is_some_and(|t| t.client_ca.is_some());
    if tokens.is_none() && !mtls && !insecure && !listen.ip().is_loopback() {
        s.mistake(
            "tokens",
            &format!("required because {listen} is not a loopback address (or set insecure = true)"),
        );
    }
    let compat_anonymous = s.flag("compat_anonymous");
    s.finish();
    ServerConfig { listen, tls, tokens, compat_anonymous }
}

fn token(s: &mut Section<'_>, key: &str) -> Secret {
    let token = s.required_text(key);
    if !token.is_empty() && (token.len() < 8 || !token.chars().all(|c| c.is_ascii_graphic())) {
        s.mistake(key, "a token has at least 8 printable ASCII characters and no blanks");
    }
    Secret::new(token)
}

fn store(mut s: Section<'_>) -> StoreConfig {
    let kind = s.text("kind").unwrap_or_else(|| "file".into());
    let path = s.text("path").unwrap_or_else(|| "/var/lib/pikepole/directory".into()).into();
    let url = s.text("url");
    let mirror_keys = s.flag("mirror_keys");
    let redis = match (kind.as_str(), url) {
        ("file", None) => {
            if mirror_keys {
                s.mistake("mirror_keys", "needs kind = \"redis\"");
            }
            None
        }
        ("file", Some(_)) => {
            s.mistake("url", "needs kind = \"redis\"");
            None
        }
        ("redis", Some(url)) if url.starts_with("redis://") || url.starts_with("rediss://") => {
            if cfg!(not(feature = "redis")) {
                s.mistake("kind", "this build has no Redis support (feature `redis`)");
            }
            #[cfg(feature = "redis")]
            if let Err(error) = url.parse::<crate::store::redis::RedisUrl>() {
                s.mistake("url", &error.to_string());
            }
            Some(RedisConfig { url: Secret::new(url), mirror_keys })
        }
        ("redis", Some(_)) => {
            s.mistake("url", "must begin with redis:// or rediss://");
            None
        }
        ("redis", None) => {
            s.mistake("url", "required with kind = \"redis\", for example redis://127.0.0.1:6379");
            None
        }
        (_, _) => {
            s.not("kind", "\"file\" or \"redis\"");
            None
        }
    };
    s.finish();
    StoreConfig { path, redis }
}

fn fleets(root: &mut Section<'_>, role: Option<&str>) -> Vec<FleetConfig> {
    let sections = root.sections("fleet");
    if sections.is_empty() {
        root.mistake("fleet", "at least one [[fleet]] is required");
    }
    sections.into_iter().filter_map(|s| fleet(s, role)).collect()
}

fn fleet(mut s: Section<'_>, role: Option<&str>) -> Option<FleetConfig> {
    let name = s.required_name("name");
    let dc = s.required_name("dc");
    let region = s.required_name("region");
    let port = s.integer("port", 1..=65_535).unwrap_or(5044);
    let source = s.required_section("source").and_then(|s| source(s, role));
    s.finish();
    Some(FleetConfig {
        name: name?,
        dc: dc?,
        region: region?,
        port: u16::try_from(port).ok()?,
        source: source?,
    })
}

fn source(mut s: Section<'_>, role: Option<&str>) -> Option<SourceConfig> {
    let kind = s.required_text("kind");
    let source = match kind.as_str() {
        "aws" => {
            if cfg!(not(feature = "aws")) {
                s.mistake("kind", "this build has no AWS support (feature `aws`)");
            }
            let asg = s.required_name("asg");
            let assume_role = role_arn(&mut s).or_else(|| role.map(Into::into));
            asg.map(|asg| SourceConfig::Aws { asg, assume_role })
        }
        "file" => {
            let path = s.required_text("path");
            (!path.is_empty()).then(|| SourceConfig::File { path: path.into() })
        }
        "" => None,
        _ => {
            s.not("kind", "\"aws\" or \"file\"");
            return None; // the other keys belong to a kind we do not know
        }
    };
    s.finish();
    source
}

fn role_arn(s: &mut Section<'_>) -> Option<String> {
    let arn = s.text("assume_role")?;
    if !(arn.starts_with("arn:") && arn.contains(":role/")) {
        s.not("assume_role", "a role's ARN like arn:aws:iam::123456789012:role/name");
    }
    Some(arn)
}

fn aws(mut s: Section<'_>) -> (AwsConfig, Option<String>) {
    let endpoint_url = s.text("endpoint_url");
    if let Some(url) = &endpoint_url
        && !(url.starts_with("http://") || url.starts_with("https://"))
    {
        s.not("endpoint_url", "a URL that begins with http:// or https://");
    }
    let role = role_arn(&mut s);
    let calls_per_second = s.number("calls_per_second", 0.01..=20.0).unwrap_or(1.0);
    let reconcile = s.duration("reconcile", 1..=3600).unwrap_or(Duration::from_secs(30));
    s.finish();
    (AwsConfig { endpoint_url, calls_per_second, reconcile }, role)
}

fn guard(mut s: Section<'_>, probe: bool) -> GuardPolicy {
    let default = GuardPolicy::default();
    let max_shrink = s.number("max_shrink", 0.0..=1.0).unwrap_or(default.max_shrink);
    let observe_only = s.flag("observe_only");
    s.finish();
    GuardPolicy { max_shrink, observe_only, probe, ..default }
}

fn alerts(mut s: Section<'_>) -> AlertsConfig {
    let webhook = s.optional_section("webhook").map(|mut w| {
        let url = w.required_text("url");
        if !(url.is_empty() || url.starts_with("https://") || url.starts_with("http://")) {
            w.mistake("url", "must begin with https:// or http://");
        }
        let format = match w.text("format").as_deref() {
            None | Some("json") => WebhookFormat::Json,
            Some("slack") => WebhookFormat::Slack,
            Some("pagerduty") => WebhookFormat::PagerDuty,
            Some(_) => {
                w.not("format", "\"json\", \"slack\" or \"pagerduty\"");
                WebhookFormat::Json
            }
        };
        let routing_key = w.text("routing_key").map(Secret::new);
        w.finish();
        Webhook { url: Secret::new(url), format, routing_key }
    });
    let stale_after = s.duration("stale_after", 5..=86_400).unwrap_or(Duration::from_secs(180));
    s.finish();
    AlertsConfig { webhook, stale_after }
}

fn check_unique(fleets: &[FleetConfig], mistakes: &Mistakes) {
    let mut names = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (index, fleet) in fleets.iter().enumerate() {
        if names.insert(&fleet.name, index).is_some() {
            mistakes.add("fleet.name", &format!("two fleets are called {:?}", fleet.name));
        }
        if let Some(other) = places.insert((&fleet.dc, &fleet.region), &fleet.name) {
            mistakes.add(
                "fleet.dc",
                &format!(
                    "the fleets {other:?} and {:?} share dc {:?} and region {:?}; /logstash-ip could not tell \
                     them apart",
                    fleet.name, fleet.dc, fleet.region
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests;
