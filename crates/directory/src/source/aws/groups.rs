//! Asks Auto Scaling for whole groups: one call for up to a hundred of them.
//!
//! Not a cache, and no addresses: those are EC2's.
//!
//! Invariant: a walk over pages ends with every page or with an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_autoscaling::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_autoscaling::operation::describe_auto_scaling_groups::DescribeAutoScalingGroupsOutput;
use aws_sdk_autoscaling::types::AutoScalingGroup;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use pikepole_fleet::{GroupName, InstanceId, Lifecycle, Zone};

use super::calls::AwsCalls;
use super::errors::{self, Api};
use super::pace::Pace;
use super::skew::{DateSeen, Skew};
use super::xml::{self, XmlError};
use crate::clock::Clock;
use crate::source::SourceError;

/// Groups in one call (AWS, `MaxRecords`).
pub(super) const BATCH: usize = 100;

/// Pages of one walk. A hundred groups are one page unless AWS chooses to split them.
const MAX_PAGES: usize = 100;

/// One group as Auto Scaling tells of it.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) desired: Option<u32>,
    pub(super) instances: Vec<Listed>,
}

/// One instance of a group.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) id: InstanceId,
    pub(super) lifecycle: Lifecycle,
    pub(super) zone: Option<Zone>,
}

/// `DescribeAutoScalingGroups`, within its budget.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) client: Client,
    pub(super) pace: Pace,
    pub(super) limit: Duration,
    pub(super) calls: Arc<AwsCalls>,
    pub(super) clock: Clock,
    pub(super) skew: Arc<Skew>,
}

impl Groups {
    /// The groups of these names that exist.
    pub(super) async fn describe(
        &self,
        names: &[GroupName],
    ) -> Result<BTreeMap<GroupName, Group>, SourceError> {
        let mut found = BTreeMap::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(names, token).await?;
            for group in page.auto_scaling_groups() {
                let Some(name) = names.iter().find(|n| group.auto_scaling_group_name() == Some(n.as_str()))
                else {
                    continue;
                };
                if found.insert(name.clone(), read_group(name, group)?).is_some() {
                    return Err(errors::malformed(
                        Api::Groups,
                        &format!("{name:?} stands twice in the answer"),
                    ));
                }
            }
            match page.next_token.filter(|t| !t.is_empty()) {
                Some(next) => token = Some(next),
                None => return Ok(found),
            }
        }
        Err(errors::malformed(Api::Groups, &format!("the answer has more than {MAX_PAGES} pages")))
    }

    async fn page(
        &self,
        names: &[GroupName],
        token: Option<String>,
    ) -> Result<DescribeAutoScalingGroupsOutput, SourceError> {
        self.pace.turn().await;
        self.calls.count(Api::Groups);
        let names = names.iter().map(|n| n.as_str().to_owned()).collect();
        let call = self.client.describe_auto_scaling_groups().set_auto_scaling_group_names(Some(names));
        let call = call.max_records(BATCH as i32).set_next_token(token).customize();
        let call = call.interceptor(WholeAnswer(xml::check_groups));
        let call = call.interceptor(DateSeen::new(&self.clock, &self.skew)).send();
        match tokio::time::timeout(self.limit, call).await {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(e)) => Err(errors::from_sdk(Api::Groups, &e)),
            Err(_) => Err(errors::timed_out(Api::Groups, self.limit)),
        }
    }
}

fn read_group(name: &GroupName, group: &AutoScalingGroup) -> Result<Group, SourceError> {
    let mut instances = Vec::with_capacity(group.instances().len());
    for instance in group.instances() {
        let id = instance.instance_id().unwrap_or_default().parse().map_err(|e| {
            errors::malformed(Api::Groups, &format!("{name:?} lists an instance whose id {e}"))
        })?;
        let state = instance.lifecycle_state().map_or("", |s| s.as_str());
        let zone = instance.availability_zone().and_then(|z| z.parse().ok());
        instances.push(Listed { id, lifecycle: Lifecycle::from_aws(state), zone });
    }
    let desired = group.desired_capacity().and_then(|n| u32::try_from(n).ok());
    Ok(Group { desired, instances })
}

/// Refuses an answer that ends too early: the SDK's own reader takes the end of the text for the end
/// of the list.
#[derive(Debug)]
pub(super) struct WholeAnswer(pub(super) fn(&[u8]) -> Result<(), XmlError>);

#[dyn_dispatch_hint]
impl Intercept for WholeAnswer {
    fn name(&self) -> &'static str {
        "WholeAnswer"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        if response.status().is_success() {
            let body = response.body().bytes().ok_or("the answer was not read")?;
            (self.0)(body)?;
        }
        Ok(())
    }
}
