//! The agents of each fleet in Redis, so that whoever completes hooks knows those of all replicas.
//!
//! Each replica writes the ones that poll it, and says every few seconds that it is there itself: the
//! agents of a replica that died are not live for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pikepole_fleet::{FleetName, Timestamp};

use super::{RedisStore, ReplicaId, StoreError};
use crate::store::agent::AgentForm;
use crate::store::{AgentKey, KnownAgent};

/// Between the parts of a field's name.
const SEPARATOR: char = '\u{1f}';

/// An agent, and the replica that it polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedAgent {
    /// The replica, by its name.
    pub replica: String,
    /// The agent.
    pub agent: KnownAgent,
}

impl RedisStore {
    /// Writes agents of this replica, and takes others of it away.
    pub async fn put_agents(
        &self,
        fleet: &FleetName,
        put: &[KnownAgent],
        remove: &[AgentKey],
    ) -> Result<(), StoreError> {
        let key = self.agents_key(fleet);
        let replica = self.replica.to_string();
        if !put.is_empty() {
            let mut set = redis::cmd("HSET");
            set.arg(&key);
            for agent in put {
                let body = serde_json::to_string(&AgentForm::from(agent))
                    .map_err(|e| self.link.unavailable(&format!("an agent cannot be written down: {e}")))?;
                set.arg(field(&replica, &agent.key)).arg(body);
            }
            self.link.command::<()>(&set).await?;
        }
        let fields: Vec<String> = remove.iter().map(|key| field(&replica, key)).collect();
        self.remove_fields(&key, &fields).await
    }

    /// Takes the agents of a replica that is gone away.
    pub async fn forget_replica(&self, fleet: &FleetName, agents: &[SharedAgent]) -> Result<(), StoreError> {
        let fields: Vec<String> = agents.iter().map(|a| field(&a.replica, &a.agent.key)).collect();
        self.remove_fields(&self.agents_key(fleet), &fields).await
    }

    async fn remove_fields(&self, key: &str, fields: &[String]) -> Result<(), StoreError> {
        if fields.is_empty() {
            return Ok(());
        }
        let mut remove = redis::cmd("HDEL");
        remove.arg(key).arg(fields);
        self.link.command::<()>(&remove).await
    }

    /// The agents of all replicas, this one too, and which of those replicas are there.
    pub async fn agents(
        &self,
        fleet: &FleetName,
    ) -> Result<(Vec<SharedAgent>, BTreeSet<String>), StoreError> {
        let mut all = redis::cmd("HGETALL");
        all.arg(self.agents_key(fleet));
        let fields: BTreeMap<String, String> = self.link.command(&all).await?;
        // What somebody else wrote there is nobody we know.
        let read = |(field, body): (String, String)| {
            let replica = field.split(SEPARATOR).next()?.parse::<ReplicaId>().ok()?.to_string();
            let form: AgentForm = serde_json::from_str(&body).ok()?;
            Some(SharedAgent { replica, agent: form.into() })
        };
        let agents: Vec<SharedAgent> = fields.into_iter().filter_map(read).collect();
        let replicas: BTreeSet<&str> = agents.iter().map(|a| a.replica.as_str()).collect();
        if replicas.is_empty() {
            return Ok((agents, BTreeSet::new()));
        }
        let mut there = redis::cmd("MGET");
        for replica in &replicas {
            there.arg(self.replica_key(replica));
        }
        let there: Vec<Option<String>> = self.link.command(&there).await?;
        let there = replicas.iter().zip(there).filter(|(_, mark)| mark.is_some());
        let there = there.map(|(replica, _)| (*replica).to_owned()).collect();
        Ok((agents, there))
    }

    /// Says that this replica is there, for so long.
    pub async fn say_alive(&self, ttl: Duration) -> Result<(), StoreError> {
        let mut set = redis::cmd("SET");
        set.arg(self.replica_key(&self.replica.to_string())).arg(1).arg("PX");
        set.arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        self.link.command::<()>(&set).await
    }

    /// The time by the server's clock, which all replicas share.
    pub async fn time(&self) -> Result<Timestamp, StoreError> {
        let (seconds, micros): (u64, u64) = self.link.command(&redis::cmd("TIME")).await?;
        Ok(Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(micros / 1000)))
    }

    fn agents_key(&self, fleet: &FleetName) -> String {
        format!("{}:1:agents:{fleet}", self.prefix)
    }

    fn replica_key(&self, replica: &str) -> String {
        format!("{}:1:replica:{replica}", self.prefix)
    }
}

fn field(replica: &str, key: &AgentKey) -> String {
    format!("{replica}{SEPARATOR}{}{SEPARATOR}{}", key.id, key.start)
}
