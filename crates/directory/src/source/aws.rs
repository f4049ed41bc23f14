//! Auto Scaling groups of one account and region as a source.
//!
//! Auto Scaling tells which instances a group has and how they are; EC2 tells their addresses, once per
//! instance. Not a poller and not a retrier: it is asked, and it answers or says why not.
//!
//! Invariant: an answer is whole. Groups are asked for in batches, and whatever fails in a batch, a page
//! or an address look-up, fails that batch. "Does not exist" is said only after every page was read.

mod addresses;
mod calls;
pub(crate) mod credentials;
pub(crate) mod errors;
mod groups;
mod hooks;
mod hosts;
mod pace;
pub(crate) mod setup;
mod skew;
mod transport;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use pikepole_fleet::{
    Describe, GroupName, HookName, Instance, InstanceId, Lifecycle, Proof, Region, Timestamp,
};

use self::addresses::Addresses;
pub use self::calls::AwsCalls;
use self::credentials::Kept;
use self::errors::Api;
use self::groups::{Group, Groups, Listed};
use self::hooks::Hooks;
use self::hosts::Hosts;
use self::pace::Pace;
use self::skew::Skew;
use self::xml::Host;
use super::{Answer, HookAnswer, HookCall, Source, SourceError, Target};
use crate::clock::Clock;

/// How long a describe waits for addresses that only launching instances need: their port is probed a
/// little later without them.
const LAUNCHING_PATIENCE: Duration = Duration::from_secs(1);

/// What an [`AwsSource`] needs to know.
#[derive(Debug, Clone)]
pub struct AwsSettings {
    /// The region, as AWS calls it.
    pub region: Region,
    /// The ARN of a role to assume, for groups of another account.
    pub assume_role: Option<String>,
    /// Where to call instead of AWS's own endpoints, for both APIs: `http://127.0.0.1:5555`.
    pub endpoint_url: Option<String>,
    /// Calls per second to each of the two APIs.
    pub calls_per_second: f64,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long one call may take, from the credentials to the last byte of the answer.
    pub call_timeout: Duration,
    /// Credentials other than those of the SDK's default chain.
    pub credentials: Option<SharedCredentialsProvider>,
    /// The wall clock.
    pub clock: Clock,
}

/// Why an [`AwsSource`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AwsSetupError {
    /// The endpoint is no URL.
    #[error("{0:?} is not an endpoint URL like http://127.0.0.1:5555")]
    Endpoint(String),
    /// The system has no certificates of authorities, without which the SDK's client does not start.
    #[error("this machine has no certificates of authorities to trust; install them (ca-certificates)")]
    NoAuthorities,
}

/// Whether the SDK's client can be built: it panics on a machine without any authority.
pub fn check_authorities() -> Result<(), AwsSetupError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() { Err(AwsSetupError::NoAuthorities) } else { Ok(()) }
}

/// The groups of one account and region.
#[derive(Debug)]
pub struct AwsSource {
    clock: Clock,
    groups: Groups,
    hosts: Hosts,
    hooks: Hooks,
    skew: Arc<Skew>,
    addresses: Addresses,
    credentials: Kept,
    calls: Arc<AwsCalls>,
}

/// One batch of groups, whole.
type Batch = BTreeMap<GroupName, Group>;

/// What an address is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// An answer without it would be wrong.
    Must,
    /// It is good to have, and neither worth an error nor a wait.
    Helps,
    /// For nothing.
    No,
}

/// An instance whose address is not known yet.
#[derive(Debug)]
struct Wanted {
    batch: usize,
    group: GroupName,
    id: InstanceId,
    need: Need,
}

impl AwsSettings {
    /// The default chain of credentials, AWS's own endpoints, one call a second to each API.
    pub fn new(region: Region, clock: Clock) -> Self {
        Self {
            region,
            assume_role: None,
            endpoint_url: None,
            calls_per_second: 1.0,
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(10),
            credentials: None,
            clock,
        }
    }
}

impl AwsSource {
    /// Reads the SDK's environment and profiles. Calls nothing yet, and needs no credentials yet.
    pub async fn new(settings: AwsSettings) -> Result<Self, AwsSetupError> {
        check_authorities()?;
        let (config, credentials) = setup::sdk(&settings).await;
        let endpoint = setup::ec2_endpoint(&settings.region, config.endpoint_url())?;
        let client = aws_sdk_autoscaling::Client::new(&config);
        let calls = Arc::new(AwsCalls::default());
        let skew = Arc::new(Skew::default());
        Ok(Self {
            hooks: Hooks::new(client.clone(), settings.call_timeout, Arc::clone(&calls)),
            groups: Groups {
                client,
                pace: Pace::per_second(settings.calls_per_second),
                limit: settings.call_timeout,
                calls: Arc::clone(&calls),
                clock: settings.clock.clone(),
                skew: Arc::clone(&skew),
            },
            hosts: Hosts {
                connector: transport::connector(settings.connect_timeout),
                endpoint,
                region: settings.region.as_str().to_owned(),
                credentials: credentials.clone(),
                clock: settings.clock.clone(),
                pace: Pace::per_second(settings.calls_per_second),
                limit: settings.call_timeout,
                calls: Arc::clone(&calls),
            },
            addresses: Addresses::default(),
            skew,
            clock: settings.clock,
            credentials,
            calls,
        })
    }

    /// The counters of calls, shared: keep them for the metrics page.
    pub fn calls(&self) -> Arc<AwsCalls> {
        Arc::clone(&self.calls)
    }

    /// Describes every batch. After AWS throttled or refused us, the rest of the sweep is not tried.
    async fn describe_batches(&self, names: &[GroupName]) -> Vec<Result<Batch, SourceError>> {
        let mut batches = Vec::new();
        let mut stop = None;
        for names in names.chunks(groups::BATCH) {
            let batch = match &stop {
                Some(error) => Err(SourceError::clone(error)),
                None => self.noted(self.groups.describe(names).await).await,
            };
            stop = stop.or_else(|| ends_sweep(&batch));
            batches.push(batch);
        }
        batches
    }

    /// Forgets instances that their group no longer lists, and returns those whose address is not known
    /// yet, those that must have one first.
    fn without_address(&self, names: &[GroupName], batches: &[Result<Batch, SourceError>]) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (number, (names, batch)) in names.chunks(groups::BATCH).zip(batches).enumerate() {
            let Ok(batch) = batch else { continue };
            for name in names {
                let instances = batch.get(name).map(|g| g.instances.as_slice()).unwrap_or_default();
                self.addresses.keep_only(name, &instances.iter().map(|i| &i.id).collect());
                let unknown = |i: &&Listed| match need(i) {
                    Need::Must => self.addresses.get(name, &i.id).is_none(),
                    Need::Helps => self.addresses.may_ask(name, &i.id),
                    Need::No => false,
                };
                wanted.extend(instances.iter().filter(unknown).map(|i| Wanted {
                    batch: number,
                    group: name.clone(),
                    id: i.id.clone(),
                    need: need(i),
                }));
            }
        }
        // So that those who may wait share the calls of those who may not.
        wanted.sort_by_key(|w| w.need);
        wanted
    }

    /// Looks up the addresses that are not known yet. A failure takes the batches along that cannot do
    /// without.
    async fn find_addresses(&self, names: &[GroupName], batches: &mut [Result<Batch, SourceError>]) {
        let wanted = self.without_address(names, batches);
        let mut stop = None;
        for part in wanted.chunks(hosts::BATCH) {
            let found = match &stop {
                Some(error) => Err(SourceError::clone(error)),
                None => self.look_up(part).await,
            };
            stop = stop.or_else(|| ends_sweep(&found));
            match found {
                Ok(hosts) => {
                    let group_of: BTreeMap<_, _> = part.iter().map(|w| (&w.id, &w.group)).collect();
                    for host in hosts {
                        if let (Some(name), Some(ip)) = (group_of.get(&host.id), host.ip) {
                            self.addresses.learn(name, &host.id, ip);
                        }
                    }
                }
                Err(error) => {
                    let must = part.iter().filter(|w| w.need == Need::Must);
                    must.for_each(|w| batches[w.batch] = Err(error.clone()));
                }
            }
        }
    }

    /// One look-up. Nobody waits long for one that only launching instances need.
    async fn look_up(&self, part: &[Wanted]) -> Result<Vec<Host>, SourceError> {
        let ids: Vec<_> = part.iter().map(|w| w.id.clone()).collect();
        let launching = part.iter().filter(|w| w.need == Need::Helps);
        launching.for_each(|w| self.addresses.asked(&w.group, &w.id));
        let call = self.hosts.describe(&ids);
        let found = if part.iter().any(|w| w.need == Need::Must) {
            call.await
        } else {
            let patience = LAUNCHING_PATIENCE;
            let late = |_| Err(errors::timed_out(Api::Instances, patience));
            tokio::time::timeout(patience, call).await.unwrap_or_else(late)
        };
        if let Err(error) = &found {
            tracing::debug!(%error, "addresses are not known yet");
        }
        self.noted(found).await
    }

    /// Counts what AWS throttled, and drops credentials it refused.
    async fn noted<T>(&self, result: Result<T, SourceError>) -> Result<T, SourceError> {
        match &result {
            Err(SourceError::Throttled(_)) => self.calls.count_throttled(),
            Err(SourceError::Denied(_)) => self.credentials.forget().await,
            _ => {}
        }
        result
    }

    fn answer(&self, made_at: Timestamp, target: &Target, group: Option<&Group>) -> Answer {
        let Some(group) = group else { return Answer::DoesNotExist };
        let instances = group.instances.iter().map(|i| Instance {
            id: i.id.clone(),
            lifecycle: i.lifecycle,
            address: self.addresses.get(&target.group, &i.id).map(|ip| SocketAddr::new(ip, target.port)),
            zone: i.zone.clone(),
        });
        Answer::Group(Describe { made_at, desired: group.desired, instances: instances.collect() })
    }
}

#[async_trait]
impl Source for AwsSource {
    fn api_calls(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("DescribeAutoScalingGroups", self.calls.describe_groups()),
            ("DescribeInstances", self.calls.describe_instances()),
            ("CompleteLifecycleAction", self.calls.complete_hook()),
            ("RecordLifecycleActionHeartbeat", self.calls.heartbeat()),
            ("DescribeLifecycleHooks", self.calls.describe_hooks()),
            ("throttled", self.calls.throttled()),
        ]
    }

    async fn complete_hook(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        self.noted(self.hooks.complete(call).await).await
    }

    async fn heartbeat(&self, call: &HookCall) -> Result<HookAnswer, SourceError> {
        self.noted(self.hooks.heartbeat(call).await).await
    }

    async fn hook_timeouts(&self, group: &GroupName) -> Result<BTreeMap<HookName, Duration>, SourceError> {
        self.noted(self.hooks.timeouts(group).await).await
    }

    fn clock_ahead(&self) -> Option<i64> {
        self.skew.ahead()
    }

    async fn describe(&self, targets: &[Target]) -> Vec<Result<Answer, SourceError>> {
        let made_at = self.clock.now();
        // Two fleets may share one group, with another port each.
        let names: BTreeSet<_> = targets.iter().map(|t| t.group.clone()).collect();
        let names: Vec<_> = names.into_iter().collect();
        let mut batches = self.describe_batches(&names).await;
        self.find_addresses(&names, &mut batches).await;
        let batch_of = |name| names.binary_search(name).ok().and_then(|at| batches.get(at / groups::BATCH));
        let answers = targets.iter().map(|target| match batch_of(&target.group) {
            Some(Ok(batch)) => Ok(self.answer(made_at, target, batch.get(&target.group))),
            Some(Err(error)) => Err(error.clone()),
            None => Err(SourceError::Malformed("the group was not asked for".to_owned())),
        });
        answers.collect()
    }

    async fn prove_gone(&self, ids: &[InstanceId]) -> Result<Proof, SourceError> {
        let mut proof = Proof::default();
        for part in ids.chunks(hosts::BATCH) {
            let hosts = self.noted(self.hosts.describe(part).await).await?;
            let states: BTreeMap<_, _> = hosts.into_iter().map(|h| (h.id, h.state)).collect();
            for id in part {
                match states.get(id).map(String::as_str) {
                    Some("shutting-down" | "terminated") => drop(proof.gone.insert(id.clone())),
                    Some(_) => {}
                    None => drop(proof.not_found.insert(id.clone())),
                }
            }
        }
        Ok(proof)
    }
}

fn need(instance: &Listed) -> Need {
    match instance.lifecycle {
        // What may be sent to, or was until now.
        Lifecycle::InService | Lifecycle::Leaving => Need::Must,
        // So that its port can be probed before it is in service.
        Lifecycle::Launching => Need::Helps,
        Lifecycle::Away | Lifecycle::Unknown => Need::No,
    }
}

/// More calls would make throttling worse, and would be refused like the first one.
fn ends_sweep<T>(result: &Result<T, SourceError>) -> Option<SourceError> {
    match result {
        Err(error @ (SourceError::Throttled(_) | SourceError::Denied(_))) => Some(error.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
