//! From events back to bodies, for tests: the fuzz target takes this file in too, so it names its types
//! through its parent.
//!
//! Invariant: what this writes has the keys that AWS writes, and decodes to the event it came from.

use serde_json::{Map, Value, json};

use super::{Event, EventKind, WarmPool};

/// As EventBridge sends it: every kind has such a form.
pub(super) fn event_bridge(event: &Event) -> Value {
    let (source, detail_type) = detail_type(event.kind);
    let detail = if source == "aws.ec2" { ec2_detail(event) } else { Value::Object(message(event)) };
    let mut body = Map::new();
    body.insert("version".into(), json!("0"));
    body.insert("id".into(), json!("468fe059-0000-0000-0000-d3c28b8c32d9"));
    body.insert("detail-type".into(), json!(detail_type));
    body.insert("source".into(), json!(source));
    body.insert("account".into(), json!("123456789012"));
    if let Some(at) = event.at {
        body.insert("time".into(), json!(pikepole_api::time::format(at)));
    }
    if let Some(region) = &event.region {
        body.insert("region".into(), json!(region.as_str()));
    }
    body.insert("resources".into(), json!([]));
    body.insert("detail".into(), detail);
    Value::Object(body)
}

/// As Auto Scaling puts it into SNS or SQS by itself; EC2's own events have no such form.
pub(super) fn bare(event: &Event) -> Option<Value> {
    let mut body = message(event);
    if let Some(at) = event.at {
        body.insert("Time".into(), json!(pikepole_api::time::format(at)));
    }
    if let Some(region) = &event.region {
        let arn =
            format!("arn:aws:autoscaling:{region}:123456789012:autoScalingGroup:1:autoScalingGroupName/g");
        body.insert("AutoScalingGroupARN".into(), json!(arn));
    }
    let word = match event.kind {
        EventKind::LaunchHook | EventKind::TerminateHook => return Some(Value::Object(body)),
        EventKind::Launched => "autoscaling:EC2_INSTANCE_LAUNCH",
        EventKind::LaunchFailed => "autoscaling:EC2_INSTANCE_LAUNCH_ERROR",
        EventKind::Terminated => "autoscaling:EC2_INSTANCE_TERMINATE",
        EventKind::TerminateFailed => "autoscaling:EC2_INSTANCE_TERMINATE_ERROR",
        EventKind::SpotInterruption | EventKind::Rebalance | EventKind::Stopped | EventKind::Running => {
            return None;
        }
    };
    body.insert("Event".into(), json!(word));
    Some(Value::Object(body))
}

/// In SNS's envelope.
pub(super) fn in_sns(body: &str) -> String {
    let envelope = json!({
        "Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:ap-south-1:123456789012:pikepole", "Subject": null, "Message": body,
        "Timestamp": "2024-03-23T03:26:44.000Z", "SignatureVersion": "1", "Signature": "c2lnbmF0dXJl",
    });
    envelope.to_string()
}

/// As Lambda hands over what came by SNS.
pub(super) fn in_lambda_sns(bodies: &[String]) -> String {
    let record = |body: &String| {
        json!({"EventVersion": "1.0", "EventSource": "aws:sns", "EventSubscriptionArn": "arn:aws:sns:::s",
            "Sns": {"Type": "Notification", "Subject": null, "Message": body, "SigningCertUrl": "https://x"}})
    };
    json!({"Records": bodies.iter().map(record).collect::<Vec<_>>()}).to_string()
}

/// As Lambda hands over what came by SQS.
pub(super) fn in_lambda_sqs(bodies: &[String]) -> String {
    let record = |body: &String| {
        json!({"messageId": "1", "receiptHandle": "AQEB", "body": body, "attributes": {},
            "eventSource": "aws:sqs", "awsRegion": "ap-south-1"})
    };
    json!({"Records": bodies.iter().map(record).collect::<Vec<_>>()}).to_string()
}

/// Whether events of this kind name a group.
pub(super) fn is_of_auto_scaling(kind: EventKind) -> bool {
    detail_type(kind).0 == "aws.autoscaling"
}

/// What notifications, hook messages and details of EventBridge share.
fn message(event: &Event) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("Service".into(), json!("AWS Auto Scaling"));
    message.insert("EC2InstanceId".into(), json!(event.instance.as_str()));
    if let Some(group) = &event.group {
        message.insert("AutoScalingGroupName".into(), json!(group.as_str()));
    }
    match event.kind {
        EventKind::LaunchHook => {
            message.insert("LifecycleTransition".into(), json!("autoscaling:EC2_INSTANCE_LAUNCHING"));
        }
        EventKind::TerminateHook => {
            message.insert("LifecycleTransition".into(), json!("autoscaling:EC2_INSTANCE_TERMINATING"));
        }
        _ => {}
    }
    if let Some(hook) = &event.hook {
        message.insert("LifecycleHookName".into(), json!(hook.name.as_str()));
        if let Some(token) = &hook.token {
            message.insert("LifecycleActionToken".into(), json!(token.expose()));
        }
    }
    let (origin, destination) = match event.warm_pool {
        WarmPool::No => ("EC2", "AutoScalingGroup"),
        WarmPool::From => ("WarmPool", "AutoScalingGroup"),
        WarmPool::To => ("EC2", "WarmPool"),
    };
    message.insert("Origin".into(), json!(origin));
    message.insert("Destination".into(), json!(destination));
    message
}

fn ec2_detail(event: &Event) -> Value {
    let id = event.instance.as_str();
    match event.kind {
        EventKind::SpotInterruption => json!({"instance-id": id, "instance-action": "terminate"}),
        EventKind::Stopped => json!({"instance-id": id, "state": "shutting-down"}),
        EventKind::Running => json!({"instance-id": id, "state": "running"}),
        _ => json!({"instance-id": id}),
    }
}

fn detail_type(kind: EventKind) -> (&'static str, &'static str) {
    match kind {
        EventKind::LaunchHook => ("aws.autoscaling", "EC2 Instance-launch Lifecycle Action"),
        EventKind::TerminateHook => ("aws.autoscaling", "EC2 Instance-terminate Lifecycle Action"),
        EventKind::Launched => ("aws.autoscaling", "EC2 Instance Launch Successful"),
        EventKind::LaunchFailed => ("aws.autoscaling", "EC2 Instance Launch Unsuccessful"),
        EventKind::Terminated => ("aws.autoscaling", "EC2 Instance Terminate Successful"),
        EventKind::TerminateFailed => ("aws.autoscaling", "EC2 Instance Terminate Unsuccessful"),
        EventKind::SpotInterruption => ("aws.ec2", "EC2 Spot Instance Interruption Warning"),
        EventKind::Rebalance => ("aws.ec2", "EC2 Instance Rebalance Recommendation"),
        EventKind::Stopped | EventKind::Running => ("aws.ec2", "EC2 Instance State-change Notification"),
    }
}
