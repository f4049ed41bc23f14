//! What one message means: from the words of Auto Scaling and EC2 to an [`Event`].
//!
//! Invariant: what identifies the event (kind, instance, group) is there and sane, or there is no event.
//! What only helps (time, region, hook's token) is left out when it is not sane, and the event stands.

use std::borrow::Cow;

use pikepole_fleet::{Hook, InstanceId, Region, Timestamp, Transition};

use super::super::{Event, EventKind, WarmPool};
use super::shape::quote;
use super::wire::{self, Body, Message, Raw, is, optional, required};
use super::{Problem, RejectReason};

/// What a message turned out to be.
pub(super) enum Verdict {
    Event(Event),
    Test,
    Irrelevant,
}

/// A message of Auto Scaling as it puts it into SNS or SQS.
pub(super) fn notification(text: &str) -> Result<Verdict, Problem> {
    let message = Message::read(text)?;
    let at = time(message.time);
    let kind = if let Some(raw) = message.transition {
        let transition = wire::text("LifecycleTransition", raw)?;
        match transition_kind(&transition) {
            Some(kind) => kind,
            None if is_test(&transition) => return Ok(Verdict::Test),
            None => return Err(unknown("LifecycleTransition", &transition)),
        }
    } else {
        let event = message.event.map_or(Ok(Cow::Borrowed("")), |raw| wire::text("Event", raw))?;
        match event.strip_prefix("autoscaling:") {
            Some("EC2_INSTANCE_LAUNCH") => EventKind::Launched,
            Some("EC2_INSTANCE_LAUNCH_ERROR") => EventKind::LaunchFailed,
            Some("EC2_INSTANCE_TERMINATE") => EventKind::Terminated,
            Some("EC2_INSTANCE_TERMINATE_ERROR") => EventKind::TerminateFailed,
            _ if is_test(&event) => return Ok(Verdict::Test),
            // Sent when notifications of a bucket are set up.
            _ if event == "s3:TestEvent" => return Ok(Verdict::Irrelevant),
            Some(_) => return Err(unknown("Event", &event)),
            None => {
                let detail = format!("Event {} is not of Auto Scaling", quote(&event));
                return Err(Problem::new(RejectReason::UnknownShape, detail));
            }
        }
    };
    auto_scaling(kind, &message, at, region_of_arn(message.group_arn)).map(Verdict::Event)
}

/// An event of EventBridge: of Auto Scaling, of EC2, or of somebody else.
pub(super) fn event_bridge(body: &Body<'_>) -> Result<Verdict, Problem> {
    let field = |name, raw: Option<Raw<'_>>| match raw {
        Some(raw) => wire::text(name, raw).map(Cow::into_owned),
        None => Err(Problem::bad(format!("{name} is missing"))),
    };
    let detail_type = field("detail-type", body.detail_type)?;
    let source = field("source", body.source)?;
    let Some(kind) = event_bridge_kind(&source, &detail_type) else { return Ok(Verdict::Irrelevant) };

    let detail = body.detail.ok_or_else(|| Problem::bad("detail is missing"))?;
    if !detail.get().starts_with('{') {
        return Err(Problem::bad("detail is not an object"));
    }
    let message = Message::read(detail.get())?;
    let at = time(body.time);
    let region = optional(body.region);
    if source == "aws.ec2" {
        return ec2(kind, &message, at, region);
    }
    if let Some(raw) = message.transition
        && matches!(kind, EventKind::LaunchHook | EventKind::TerminateHook)
    {
        let transition = wire::text("LifecycleTransition", raw)?;
        if transition_kind(&transition) != Some(kind) {
            let detail = format!("LifecycleTransition {} contradicts detail-type", quote(&transition));
            return Err(Problem::bad(detail));
        }
    }
    let region = region.or_else(|| region_of_arn(message.group_arn));
    auto_scaling(kind, &message, at, region).map(Verdict::Event)
}

/// A change of state is told apart later, by its `state`.
fn event_bridge_kind(source: &str, detail_type: &str) -> Option<EventKind> {
    Some(match (source, detail_type) {
        ("aws.autoscaling", "EC2 Instance-launch Lifecycle Action") => EventKind::LaunchHook,
        ("aws.autoscaling", "EC2 Instance-terminate Lifecycle Action") => EventKind::TerminateHook,
        ("aws.autoscaling", "EC2 Instance Launch Successful") => EventKind::Launched,
        ("aws.autoscaling", "EC2 Instance Launch Unsuccessful") => EventKind::LaunchFailed,
        ("aws.autoscaling", "EC2 Instance Terminate Successful") => EventKind::Terminated,
        ("aws.autoscaling", "EC2 Instance Terminate Unsuccessful") => EventKind::TerminateFailed,
        ("aws.ec2", "EC2 Spot Instance Interruption Warning") => EventKind::SpotInterruption,
        ("aws.ec2", "EC2 Instance Rebalance Recommendation") => EventKind::Rebalance,
        ("aws.ec2", "EC2 Instance State-change Notification") => EventKind::Stopped,
        _ => return None,
    })
}

/// Auto Scaling names the group, and the hook that waits.
fn auto_scaling(
    kind: EventKind,
    message: &Message<'_>,
    at: Option<Timestamp>,
    region: Option<Region>,
) -> Result<Event, Problem> {
    let transition = match kind {
        EventKind::LaunchHook => Some(Transition::Launching),
        EventKind::TerminateHook => Some(Transition::Terminating),
        _ => None,
    };
    // Without its name the hook cannot be completed, yet the instance goes all the same.
    let hook = transition.and_then(|transition| {
        Some(Hook { name: optional(message.hook)?, token: optional(message.token), transition })
    });
    Ok(Event {
        kind,
        instance: required("EC2InstanceId", message.instance)?,
        group: Some(required("AutoScalingGroupName", message.group)?),
        region,
        at,
        hook,
        warm_pool: warm_pool(message),
    })
}

/// EC2 knows of no group.
fn ec2(
    kind: EventKind,
    message: &Message<'_>,
    at: Option<Timestamp>,
    region: Option<Region>,
) -> Result<Verdict, Problem> {
    let instance: InstanceId = required("instance-id", message.ec2_instance)?;
    let kind = if kind == EventKind::Stopped {
        let raw = message.state.ok_or_else(|| Problem::bad("state is missing"))?;
        match &*wire::text("state", raw)? {
            "shutting-down" | "stopping" | "stopped" | "terminated" => EventKind::Stopped,
            "pending" | "running" => EventKind::Running,
            // AWS may invent more states; this one proves nothing.
            _ => return Ok(Verdict::Irrelevant),
        }
    } else {
        kind
    };
    let event = Event { kind, instance, group: None, region, at, hook: None, warm_pool: WarmPool::No };
    Ok(Verdict::Event(event))
}

fn transition_kind(transition: &str) -> Option<EventKind> {
    match transition {
        "autoscaling:EC2_INSTANCE_LAUNCHING" => Some(EventKind::LaunchHook),
        "autoscaling:EC2_INSTANCE_TERMINATING" => Some(EventKind::TerminateHook),
        _ => None,
    }
}

fn is_test(word: &str) -> bool {
    word.strip_prefix("autoscaling:").unwrap_or(word) == "TEST_NOTIFICATION"
}

fn unknown(field: &str, value: &str) -> Problem {
    Problem::bad(format!("{field} is unknown: {}", quote(value)))
}

fn warm_pool(message: &Message<'_>) -> WarmPool {
    let names_it = |raw: Option<Raw<'_>>| raw.is_some_and(|raw| is(raw, "WarmPool"));
    if names_it(message.destination) {
        WarmPool::To
    } else if names_it(message.origin) {
        WarmPool::From
    } else {
        WarmPool::No
    }
}

fn time(raw: Option<Raw<'_>>) -> Option<Timestamp> {
    pikepole_api::time::parse(&wire::text("", raw?).ok()?)
}

/// `arn:aws:autoscaling:REGION:ACCOUNT:autoScalingGroup:ID:autoScalingGroupName/NAME`.
fn region_of_arn(raw: Option<Raw<'_>>) -> Option<Region> {
    let arn = wire::text("", raw?).ok()?;
    let mut parts = arn.split(':');
    let is_group = parts.next() == Some("arn") && parts.nth(1) == Some("autoscaling");
    if is_group { parts.next()?.parse().ok() } else { None }
}
