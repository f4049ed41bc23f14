//! Lifecycle hooks: instances that wait, the calls that let them go, and the messages AWS sends.
//!
//! Not a sender: a test takes the messages and feeds them in where it wants.
//!
//! Invariant: an action ends once, by completion or by its time, and its instance moves on with the last
//! one; whoever comes later is told that there is no such action.

use std::time::Duration;

use tokio::time::Instant;

use super::fault::Action;
use super::model::{Launch, Model};
use super::query::{Params, Reply, element, error};

/// When a test's messages were written, by AWS's clock.
const TIME: &str = "2026-11-22T10:00:00.000Z";

/// Which way a hook's instances go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// `autoscaling:EC2_INSTANCE_LAUNCHING`.
    Launch,
    /// `autoscaling:EC2_INSTANCE_TERMINATING`.
    Terminate,
}

impl HookKind {
    /// AWS's `LifecycleTransition`.
    pub fn transition(self) -> &'static str {
        match self {
            Self::Launch => "autoscaling:EC2_INSTANCE_LAUNCHING",
            Self::Terminate => "autoscaling:EC2_INSTANCE_TERMINATING",
        }
    }

    fn waiting(self) -> &'static str {
        match self {
            Self::Launch => "Pending:Wait",
            Self::Terminate => "Terminating:Wait",
        }
    }

    fn ends(self) -> (&'static str, &'static str) {
        match self {
            Self::Launch => ("EC2", "AutoScalingGroup"),
            Self::Terminate => ("AutoScalingGroup", "EC2"),
        }
    }
}

/// What became of a call about a lifecycle action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookOutcome {
    /// It was done.
    Done,
    /// AWS refused it: there is no such action.
    Refused,
    /// A fault came before it was looked at.
    Failed,
}

/// One call of `CompleteLifecycleAction` or `RecordLifecycleActionHeartbeat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRecord {
    /// Which of the two.
    pub action: Action,
    /// `AutoScalingGroupName`.
    pub group: String,
    /// `LifecycleHookName`.
    pub hook: String,
    /// `InstanceId`.
    pub instance: Option<String>,
    /// `LifecycleActionToken`.
    pub token: Option<String>,
    /// `LifecycleActionResult`; a heartbeat has none.
    pub result: Option<String>,
    /// When, by tokio's clock.
    pub at: Instant,
    /// What became of it.
    pub outcome: HookOutcome,
}

/// A hook of a group.
#[derive(Debug, Clone)]
pub(super) struct HookSpec {
    pub(super) name: String,
    pub(super) kind: HookKind,
    pub(super) timeout: Duration,
    pub(super) default_result: &'static str,
}

/// An instance that waits for one hook.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    hook: String,
    kind: HookKind,
    instance: String,
    token: String,
    timeout: Duration,
    deadline: Instant,
    default_result: &'static str,
}

impl Waiting {
    pub(super) fn is_of(&self, id: &str) -> bool {
        self.instance == id
    }
}

impl Model {
    /// Adds an instance that waits for the group's launch hooks, and is in service if there are none.
    pub(super) fn launch_waiting(&mut self, group: &str, how: Launch) -> String {
        let id = self.launch(group, how);
        self.wait_for_hooks(group, &id, HookKind::Launch);
        id
    }

    /// Makes the instance wait for its group's terminate hooks; it is gone if there are none.
    pub(super) fn begin_terminate(&mut self, id: &str) {
        let group = self.group_of(id);
        // An instance that still waited for its launch does so no more.
        self.group_mut(&group).waiting.retain(|w| w.instance != id);
        self.wait_for_hooks(&group, id, HookKind::Terminate);
    }

    fn wait_for_hooks(&mut self, group: &str, id: &str, kind: HookKind) {
        let hooks: Vec<_> = self.group_mut(group).hooks.iter().filter(|h| h.kind == kind).cloned().collect();
        let none = hooks.is_empty();
        for hook in hooks {
            self.tokens += 1;
            let token = format!("465e0162-e6af-4786-b4e8-{:012x}", self.tokens);
            let deadline = Instant::now() + hook.timeout;
            let (timeout, default_result) = (hook.timeout, hook.default_result);
            let instance = id.to_owned();
            let waiting =
                Waiting { hook: hook.name, kind, instance, token, timeout, deadline, default_result };
            self.group_mut(group).waiting.push(waiting);
        }
        if none {
            self.move_on(id, kind, "CONTINUE");
        } else {
            self.member_mut(id).state = kind.waiting().to_owned();
        }
    }

    /// Ends the actions whose time is up.
    pub(super) fn expire_due(&mut self) {
        let now = Instant::now();
        let due = |w: &&Waiting| w.deadline <= now;
        let all = self.groups.values().flat_map(|g| &g.waiting);
        let due: Vec<_> = all.filter(due).cloned().collect();
        due.iter().for_each(|w| self.end(w, w.default_result));
    }

    /// Ends all actions of an instance as if their time were up.
    pub(super) fn expire(&mut self, id: &str) {
        let all = self.groups.values().flat_map(|g| &g.waiting);
        let due: Vec<_> = all.filter(|w| w.instance == id).cloned().collect();
        due.iter().for_each(|w| self.end(w, w.default_result));
    }

    fn end(&mut self, ended: &Waiting, result: &str) {
        let Some(group) = self.groups.values_mut().find(|g| g.waiting.iter().any(|w| w.token == ended.token))
        else {
            return;
        };
        group.waiting.retain(|w| w.token != ended.token);
        // ABANDON does not wait for the other hooks.
        if result == "ABANDON" {
            group.waiting.retain(|w| w.instance != ended.instance);
        }
        if !group.waiting.iter().any(|w| w.instance == ended.instance) {
            self.move_on(&ended.instance, ended.kind, result);
        }
    }

    fn move_on(&mut self, id: &str, kind: HookKind, result: &str) {
        match kind {
            HookKind::Launch if result != "ABANDON" => self.member_mut(id).state = "InService".to_owned(),
            HookKind::Launch | HookKind::Terminate => self.remove(id),
        }
    }

    /// The action that waits, as AWS tells of it: the bare message to SNS or SQS.
    pub(super) fn hook_message(&mut self, id: &str) -> String {
        let (group, w) = self.waiting(id);
        let (origin, destination) = w.kind.ends();
        let Waiting { hook, token, kind, .. } = &w;
        let transition = kind.transition();
        format!(
            r#"{{"Origin":"{origin}","LifecycleHookName":"{hook}","Destination":"{destination}","AccountId":"123456789012","RequestId":"f02639a5-0000-0000-0000-000000000000","LifecycleTransition":"{transition}","AutoScalingGroupName":"{group}","Service":"AWS Auto Scaling","Time":"{TIME}","EC2InstanceId":"{id}","LifecycleActionToken":"{token}"}}"#
        )
    }

    /// The same as EventBridge tells it.
    pub(super) fn hook_event(&mut self, id: &str) -> String {
        let (group, w) = self.waiting(id);
        let (origin, destination) = w.kind.ends();
        let Waiting { hook, token, kind, .. } = &w;
        let (transition, way) =
            (kind.transition(), if *kind == HookKind::Launch { "launch" } else { "terminate" });
        format!(
            r#"{{"version":"0","id":"12345678-1234-1234-1234-{:012x}","detail-type":"EC2 Instance-{way} Lifecycle Action","source":"aws.autoscaling","account":"123456789012","time":"{TIME}","region":"ap-south-1","resources":["arn:aws:autoscaling:ap-south-1:123456789012:autoScalingGroup:u:autoScalingGroupName/{group}"],"detail":{{"LifecycleActionToken":"{token}","AutoScalingGroupName":"{group}","LifecycleHookName":"{hook}","EC2InstanceId":"{id}","LifecycleTransition":"{transition}","Origin":"{origin}","Destination":"{destination}"}}}}"#,
            self.tokens
        )
    }

    pub(super) fn hook_token(&self, id: &str) -> Option<String> {
        let mut all = self.groups.values().flat_map(|g| &g.waiting);
        all.find(|w| w.instance == id).map(|w| w.token.clone())
    }

    fn waiting(&self, id: &str) -> (String, Waiting) {
        let in_group = |(name, g): (&String, &super::model::Group)| {
            g.waiting.iter().find(|w| w.instance == id).map(|w| (name.clone(), w.clone()))
        };
        self.groups.iter().find_map(in_group).expect("the test made this instance wait for a hook")
    }

    fn group_of(&self, id: &str) -> String {
        let holds = |(_, g): &(&String, &super::model::Group)| g.members.iter().any(|m| m.id == id);
        let (name, _) = self.groups.iter().find(holds).expect("the test launched this instance into a group");
        name.clone()
    }
}

/// Notes a call and what became of it.
pub(super) fn record(model: &mut Model, action: Action, params: &Params, outcome: HookOutcome) {
    let text = |name: &str| params.get(name).map(str::to_owned);
    model.hook_calls.push(HookRecord {
        action,
        group: text("AutoScalingGroupName").unwrap_or_default(),
        hook: text("LifecycleHookName").unwrap_or_default(),
        instance: text("InstanceId"),
        token: text("LifecycleActionToken"),
        result: text("LifecycleActionResult"),
        at: Instant::now(),
        outcome,
    });
}

pub(super) fn complete(model: &mut Model, params: &Params) -> (HookOutcome, Reply) {
    let result = match params.get("LifecycleActionResult") {
        Some(result @ ("CONTINUE" | "ABANDON")) => result.to_owned(),
        _ => return refused("LifecycleActionResult must be CONTINUE or ABANDON"),
    };
    match find(model, params) {
        Ok(waiting) => {
            model.end(&waiting, &result);
            done("CompleteLifecycleAction")
        }
        Err(words) => refused(&words),
    }
}

pub(super) fn heartbeat(model: &mut Model, params: &Params) -> (HookOutcome, Reply) {
    match find(model, params) {
        Ok(found) => {
            let all = model.groups.values_mut().flat_map(|g| &mut g.waiting);
            for waiting in all.filter(|w| w.token == found.token) {
                waiting.deadline = Instant::now() + waiting.timeout;
            }
            done("RecordLifecycleActionHeartbeat")
        }
        Err(words) => refused(&words),
    }
}

pub(super) fn describe_hooks(model: &Model, params: &Params) -> Reply {
    let name = params.get("AutoScalingGroupName").unwrap_or_default();
    let Some(group) = model.groups.get(name) else {
        return error(400, "ValidationError", "AutoScalingGroup name not found - null");
    };
    let mut xml = String::from(
        "<DescribeLifecycleHooksResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\">\
         <DescribeLifecycleHooksResult><LifecycleHooks>",
    );
    for hook in &group.hooks {
        xml.push_str("<member>");
        element(&mut xml, "AutoScalingGroupName", name);
        element(&mut xml, "LifecycleHookName", &hook.name);
        element(&mut xml, "LifecycleTransition", hook.kind.transition());
        element(&mut xml, "GlobalTimeout", &(hook.timeout.as_secs() * 100).to_string());
        element(&mut xml, "HeartbeatTimeout", &hook.timeout.as_secs().to_string());
        element(&mut xml, "DefaultResult", hook.default_result);
        xml.push_str("</member>");
    }
    xml.push_str(
        "</LifecycleHooks></DescribeLifecycleHooksResult><ResponseMetadata><RequestId>r</RequestId>\
         </ResponseMetadata></DescribeLifecycleHooksResponse>",
    );
    Reply::xml(xml)
}

/// By its token, else by its instance; both must fit if both are given.
fn find(model: &Model, params: &Params) -> Result<Waiting, String> {
    let group = params.get("AutoScalingGroupName").unwrap_or_default();
    let hook = params.get("LifecycleHookName").unwrap_or_default();
    let (token, instance) = (params.get("LifecycleActionToken"), params.get("InstanceId"));
    let words = match (token, instance) {
        (Some(token), _) => format!("No active Lifecycle Action found with token {token}"),
        (None, Some(instance)) => format!("No active Lifecycle Action found with instance ID {instance}"),
        (None, None) => return Err("Either an instance ID or a token must be given".to_owned()),
    };
    let fits = |w: &&Waiting| {
        w.hook == hook && token.is_none_or(|t| t == w.token) && instance.is_none_or(|i| i == w.instance)
    };
    let waiting = model.groups.get(group).map(|g| g.waiting.as_slice()).unwrap_or_default();
    waiting.iter().find(fits).cloned().ok_or(words)
}

fn refused(words: &str) -> (HookOutcome, Reply) {
    (HookOutcome::Refused, error(400, "ValidationError", words))
}

fn done(action: &str) -> (HookOutcome, Reply) {
    let xml = format!(
        "<{action}Response xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><{action}Result/>\
         <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>"
    );
    (HookOutcome::Done, Reply::xml(xml))
}
