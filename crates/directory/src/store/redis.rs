//! The store that replicas share: Redis 7 or Valkey 8, one server (or one address that leads to it).
//!
//! ```text
//! PREFIX:1:fleet:NAME               hash: v = the version, decimal; body = the record
//! PREFIX:1:fleet:NAME:quarantined   what stood there and was no record; the last one
//! PREFIX:1:lease:NAME               string with a time to live: the holder's token
//! PREFIX:1:agents:NAME              hash: the agents of a fleet, by replica, id and start
//! PREFIX:1:replica:ID               string with a time to live: this replica is there
//! PREFIX:1:notices                  channel: what replicas tell each other (`redis/notice.rs`)
//! GROUP                             string: the seed's list of a group, see `mirror`
//! ```
//!
//! Not a cluster client, and not a queue: a notice that is missed is made up for by reading again.
//!
//! Invariant: nothing here waits for Redis longer than its limits, nor fails for ever because of it. An
//! operation that failed may still have been done: who saves again gets a conflict and reads what stands.

mod agents;
mod lease;
mod link;
mod listener;
mod notice;
mod script;
#[cfg(test)]
mod tests;
mod url;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pikepole_fleet::{FleetName, FleetState, GroupName};

use super::{SaveError, Store, StoreError, Stored, Version, record};
pub use agents::SharedAgent;
pub use lease::LeaseState;
use link::Link;
use listener::Listener;
pub use notice::{Heard, Notice, Notices, ReplicaId};
pub use url::{RedisUrl, RedisUrlError};

/// How often a record that changes while it is put aside is looked at again.
const LOOKS: u32 = 3;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct RedisLimits {
    /// To connect, with TLS and login.
    pub connect: Duration,
    /// To answer one operation.
    pub response: Duration,
    /// Between two looks at whether the server behind a silent subscription is still there.
    pub ping_every: Duration,
    /// The longest pause between two tries to connect.
    pub back_off: Duration,
}

impl Default for RedisLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            response: Duration::from_secs(1),
            ping_every: Duration::from_secs(5),
            back_off: Duration::from_secs(2),
        }
    }
}

/// What a [`RedisStore`] needs to know.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Where Redis is.
    pub url: RedisUrl,
    /// Who we are among the replicas.
    pub replica: ReplicaId,
    /// The first part of all keys but the mirrored ones.
    pub prefix: String,
    /// PEM of the authority that signed the server's certificate; `None`: those the system trusts.
    pub ca: Option<Vec<u8>>,
    /// How long things may take.
    pub limits: RedisLimits,
}

impl RedisOptions {
    /// With the system's authorities and the default limits.
    pub fn new(url: RedisUrl, replica: ReplicaId, prefix: &str) -> Self {
        Self { url, replica, prefix: prefix.to_owned(), ca: None, limits: RedisLimits::default() }
    }
}

/// Records in a Redis that replicas share.
#[derive(Debug)]
pub struct RedisStore {
    link: Arc<Link>,
    listener: Listener,
    replica: ReplicaId,
    prefix: String,
    /// The token of each lease that was tried, by name.
    tokens: Mutex<HashMap<String, String>>,
}

impl RedisStore {
    /// Starts to connect in the background, and does not wait for it: a Redis that is down is no reason
    /// to fail. Fails if the options can never lead to a connection. Needs a runtime.
    pub fn connect(options: RedisOptions) -> Result<Self, StoreError> {
        let link = Arc::new(Link::new(&options)?);
        let channel = format!("{}:1:notices", options.prefix);
        let listener = Listener::start(Arc::clone(&link), channel);
        Ok(Self {
            link,
            listener,
            replica: options.replica,
            prefix: options.prefix,
            tokens: Mutex::default(),
        })
    }

    /// Reads many records in one round trip, in the order asked for.
    pub async fn load_all(
        &self,
        fleets: &[FleetName],
    ) -> Result<Vec<Result<Option<Stored>, StoreError>>, StoreError> {
        let entries = self.look(fleets).await?;
        let mut found = Vec::with_capacity(entries.len());
        for (fleet, entry) in fleets.iter().zip(entries) {
            found.push(match judge(entry, fleet) {
                Judged::Absent => Ok(None),
                Judged::Record(stored) => Ok(Some(*stored)),
                // Rare, and each needs a trip of its own.
                Judged::Foreign { .. } => self.load(fleet).await,
            });
        }
        Ok(found)
    }

    /// Writes the list that the seed's readers expect under the name of an Auto Scaling group:
    /// `SET <group> "['10.0.0.1:5044', …]"`. Whatever stood there is replaced, unless the fleet's record
    /// is no longer of this version: then whoever wrote the newer one writes the newer list.
    pub async fn mirror(
        &self,
        fleet: &FleetName,
        version: Version,
        group: &GroupName,
        value: &str,
    ) -> Result<(), StoreError> {
        let mut set = script::MIRROR.key(self.fleet_key(fleet));
        set.key(group.as_str()).arg(version.0.to_string()).arg(value);
        self.link.script::<bool>(&set).await.map(drop)
    }

    /// Who we are among the replicas.
    pub fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// Hears what replicas tell each other, from now on. The first thing heard is
    /// [`Notice::Reconnected`], as soon as the subscription stands.
    pub fn subscribe(&self) -> Notices {
        self.listener.subscribe()
    }

    /// Tells all replicas, this one too. [`Notice::Reconnected`] is nothing to tell, and is not sent.
    pub async fn publish(&self, notice: &Notice) -> Result<(), StoreError> {
        let Some(message) = notice::encode(&self.replica, notice) else { return Ok(()) };
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.listener.channel()).arg(message);
        self.link.command(&publish).await
    }

    fn fleet_key(&self, fleet: &FleetName) -> String {
        format!("{}:1:fleet:{fleet}", self.prefix)
    }

    /// What stands at the keys of these fleets.
    async fn look(&self, fleets: &[FleetName]) -> Result<Vec<script::Entry>, StoreError> {
        if fleets.is_empty() {
            return Ok(Vec::new());
        }
        let mut look = script::LOOK.arg(record::MAX_RECORD);
        for fleet in fleets {
            look.key(self.fleet_key(fleet));
        }
        let entries: Vec<script::Entry> = self.link.script(&look).await?;
        if entries.len() != fleets.len() {
            return Err(self.link.unavailable("it answered for other keys than it was asked for"));
        }
        Ok(entries)
    }

    /// Moves what is no record out of the way. `None`: it is no longer what it was.
    async fn put_aside(
        &self,
        fleet: &FleetName,
        seen: [&[u8]; 2],
        why: String,
    ) -> Result<Option<StoreError>, StoreError> {
        let key = self.fleet_key(fleet);
        let kept_at = format!("{key}:quarantined");
        let mut aside = script::PUT_ASIDE.key(&key);
        aside.key(&kept_at).arg(record::MAX_RECORD).arg(seen[0]).arg(seen[1]);
        let moved: bool = self.link.script(&aside).await?;
        let what = format!("the key {key} of {}", self.link.url());
        Ok(moved.then_some(StoreError::Damaged { what, why, kept_at }))
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn load(&self, fleet: &FleetName) -> Result<Option<Stored>, StoreError> {
        for _ in 0..LOOKS {
            let entry = self.look(std::slice::from_ref(fleet)).await?.pop().unwrap_or_default();
            match judge(entry, fleet) {
                Judged::Absent => return Ok(None),
                Judged::Record(stored) => return Ok(Some(*stored)),
                Judged::Foreign { why, version, body } => {
                    if let Some(damage) = self.put_aside(fleet, [&version, &body], why).await? {
                        return Err(damage);
                    }
                }
            }
        }
        Err(self.link.unavailable("the record is no record, and changes faster than it can be moved"))
    }

    async fn save(&self, state: &FleetState, expected: Option<Version>) -> Result<Version, SaveError> {
        let fleet = &state.fleet;
        let body = record::encode(state).map_err(|e| {
            StoreError::Unavailable(format!("the state of {fleet} cannot be written down: {e}"))
        })?;
        let notice = notice::encode(&self.replica, &Notice::Changed(fleet.clone()));
        let mut save = script::SAVE.key(self.fleet_key(fleet));
        save.arg(record::MAX_RECORD)
            .arg(expected.map(|v| v.0.to_string()).unwrap_or_default())
            .arg(expected.map(|v| v.0.saturating_add(1).to_string()).unwrap_or_default())
            .arg(body)
            .arg(self.listener.channel())
            .arg(notice);
        let (word, detail): (String, String) = self.link.script(&save).await?;
        match word.as_str() {
            "saved" => match detail.parse() {
                Ok(version) => Ok(Version(version)),
                Err(_) => Err(self.link.unavailable("it saved, but its version is no number").into()),
            },
            "foreign" => match self.put_aside(fleet, [b"", b""], detail).await? {
                Some(damage) => Err(damage.into()),
                None => Err(SaveError::Conflict),
            },
            _ => Err(SaveError::Conflict),
        }
    }
}

enum Judged {
    Absent,
    Record(Box<Stored>),
    /// With the version and body that were seen, so that nothing newer is put aside.
    Foreign {
        why: String,
        version: Vec<u8>,
        body: Vec<u8>,
    },
}

fn judge(entry: script::Entry, fleet: &FleetName) -> Judged {
    let mut parts = entry.into_iter();
    let word = parts.next().unwrap_or_default();
    let (first, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match &word[..] {
        b"none" => Judged::Absent,
        b"record" => match read(&first, &body, fleet) {
            Ok(stored) => Judged::Record(Box::new(stored)),
            Err(why) => Judged::Foreign { why, version: first, body },
        },
        _ => {
            let why = String::from_utf8_lossy(&first).into_owned();
            Judged::Foreign { why, version: Vec::new(), body: Vec::new() }
        }
    }
}

fn read(version: &[u8], body: &[u8], fleet: &FleetName) -> Result<Stored, String> {
    let number = str::from_utf8(version).ok().and_then(|v| v.parse().ok());
    let version = Version(number.ok_or("its version is no number")?);
    let state = record::decode(body, fleet).map_err(|e| e.to_string())?;
    Ok(Stored { version, state })
}
