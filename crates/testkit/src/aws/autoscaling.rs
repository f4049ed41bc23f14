//! The Auto Scaling side of the fake: groups. Lifecycle hooks are beside it.
//!
//! Invariant: limits are those of the API: 50 groups a page unless asked for up to 100.

use super::model::{Group, Model};
use super::query::{Params, Reply, element, error, page};

const DEFAULT_RECORDS: usize = 50;
const MAX_RECORDS: usize = 100;

pub(super) fn describe_groups(model: &Model, params: &Params) -> Reply {
    let names = params.list("AutoScalingGroupNames.member.");
    let size = params.number("MaxRecords").unwrap_or(DEFAULT_RECORDS);
    if size == 0 || size > MAX_RECORDS || names.len() > size {
        return error(400, "ValidationError", "MaxRecords or AutoScalingGroupNames is out of range");
    }
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let found: Vec<_> = model.groups.iter().filter(|(name, g)| wanted(name) && !g.omitted).collect();
    let (range, next) = page(params, found.len(), size.min(model.max_page));

    let mut xml = String::from(
        "<DescribeAutoScalingGroupsResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
         <DescribeAutoScalingGroupsResult><AutoScalingGroups>",
    );
    for (name, group) in &found[range] {
        write_group(&mut xml, name, group, model.answer_empty);
    }
    xml.push_str("</AutoScalingGroups>");
    if let Some(token) = next {
        element(&mut xml, "NextToken", &token);
    }
    xml.push_str(
        "</DescribeAutoScalingGroupsResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>\
         </DescribeAutoScalingGroupsResponse>",
    );
    Reply::xml(xml)
}

fn write_group(xml: &mut String, name: &str, group: &Group, empty: bool) {
    xml.push_str("<member>");
    element(xml, "AutoScalingGroupName", name);
    element(xml, "MinSize", "0");
    element(xml, "MaxSize", "1000");
    element(xml, "DesiredCapacity", &group.desired.to_string());
    element(xml, "DefaultCooldown", "300");
    element(xml, "HealthCheckType", "EC2");
    element(xml, "CreatedTime", "2026-11-22T10:00:00.000Z");
    xml.push_str("<Instances>");
    for member in group.members.iter().filter(|_| !empty) {
        xml.push_str("<member>");
        element(xml, "InstanceId", &member.id);
        element(xml, "AvailabilityZone", member.zone);
        element(xml, "LifecycleState", &member.state);
        element(xml, "HealthStatus", "Healthy");
        element(xml, "ProtectedFromScaleIn", "false");
        xml.push_str("</member>");
    }
    xml.push_str("</Instances></member>");
}
