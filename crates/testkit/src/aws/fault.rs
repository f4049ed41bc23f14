//! Faults that a test switches on: which call fails, and how.
//!
//! Not the faulty data (empty answers, missing addresses): those are part of the model.
//!
//! Invariant: every call is counted, also the one that fails.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::query::{self, Reply};

/// What the fake can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Auto Scaling's `DescribeAutoScalingGroups`.
    DescribeGroups,
    /// EC2's `DescribeInstances`.
    DescribeInstances,
    /// Auto Scaling's `CompleteLifecycleAction`.
    CompleteHook,
    /// Auto Scaling's `RecordLifecycleActionHeartbeat`.
    Heartbeat,
    /// Auto Scaling's `DescribeLifecycleHooks`.
    DescribeHooks,
}

impl Action {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        match word {
            "DescribeAutoScalingGroups" => Some(Self::DescribeGroups),
            "DescribeInstances" => Some(Self::DescribeInstances),
            "CompleteLifecycleAction" => Some(Self::CompleteHook),
            "RecordLifecycleActionHeartbeat" => Some(Self::Heartbeat),
            "DescribeLifecycleHooks" => Some(Self::DescribeHooks),
            _ => None,
        }
    }

    /// The name a signature is scoped to.
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::DescribeInstances => "ec2",
            _ => "autoscaling",
        }
    }
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Auto Scaling's way to ask for fewer calls: HTTP 400 `Throttling`.
    Throttling400,
    /// EC2's way: HTTP 503 `RequestLimitExceeded`.
    RequestLimit503,
    /// HTTP 429 without a word.
    TooMany429,
    /// HTTP 500 `InternalFailure`.
    Internal500,
    /// HTTP 503 `Unavailable`: broken, not throttled.
    Unavailable503,
    /// HTTP 403 `AccessDenied`, or `UnauthorizedOperation` from EC2.
    Denied403,
    /// HTTP 400 `ExpiredToken`.
    ExpiredToken400,
    /// HTTP 200 and a page of HTML, as a captive proxy gives.
    Html200,
    /// HTTP 502 and a page of HTML.
    Html502,
    /// HTTP 200 and the first half of the truth, in a complete HTTP message.
    Truncated,
    /// HTTP 200 and 17 MiB of white space.
    TooLong,
    /// The connection is closed without an answer.
    Drop,
    /// The connection stays open, and nothing comes.
    Silence,
    /// The call has its effect, and then nothing comes.
    LostAnswer,
}

/// Which calls of an action fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// All of them.
    Always,
    /// The next so many.
    Next(u32),
    /// Page so many of every walk, counted from 1.
    Page(usize),
}

/// What becomes of one request.
#[derive(Debug)]
pub(super) enum Verdict {
    Answer(Reply),
    Drop,
    Silence,
}

/// The faults that are on, and the calls so far.
#[derive(Debug, Default)]
pub(super) struct Faults {
    on: Vec<(Action, Fault, When)>,
    calls: BTreeMap<Action, u64>,
}

impl Faults {
    pub(super) fn add(&mut self, action: Action, fault: Fault, when: When) {
        self.on.push((action, fault, when));
    }

    pub(super) fn clear(&mut self) {
        self.on.clear();
    }

    /// Counts the call and picks its fault.
    pub(super) fn next(&mut self, action: Action, page: usize) -> Option<Fault> {
        *self.calls.entry(action).or_default() += 1;
        let matches = |when: &When| match when {
            When::Always => true,
            When::Next(left) => *left > 0,
            When::Page(wanted) => *wanted == page,
        };
        let (_, fault, when) = self.on.iter_mut().find(|(of, _, when)| *of == action && matches(when))?;
        if let When::Next(left) = when {
            *left -= 1;
        }
        Some(*fault)
    }

    pub(super) fn calls(&self, action: Action) -> u64 {
        self.calls.get(&action).copied().unwrap_or(0)
    }
}

impl Fault {
    pub(super) fn verdict(self, action: Action, truth: impl FnOnce() -> Reply) -> Verdict {
        let html = Bytes::from_static(b"<!DOCTYPE html><html><body><h1>Hello<br></h1></body></html>");
        let reply = match self {
            Self::Throttling400 => query::error(400, "Throttling", "Rate exceeded"),
            Self::RequestLimit503 => query::error(503, "RequestLimitExceeded", "Request limit exceeded."),
            Self::TooMany429 => Reply { status: 429, body: Bytes::new() },
            Self::Internal500 => query::error(500, "InternalFailure", "An internal error has occurred"),
            Self::Unavailable503 => query::error(503, "Unavailable", "The server is overloaded"),
            Self::Denied403 => match action {
                Action::DescribeInstances => query::error(403, "UnauthorizedOperation", "Not authorized."),
                _ => query::error(403, "AccessDenied", "User is not authorized"),
            },
            Self::ExpiredToken400 => query::error(400, "ExpiredToken", "The security token is expired"),
            Self::Html200 => Reply { status: 200, body: html },
            Self::Html502 => Reply { status: 502, body: html },
            Self::Truncated => truth().first_half(),
            Self::TooLong => Reply { status: 200, body: vec![b' '; 17 * 1024 * 1024].into() },
            Self::Drop => return Verdict::Drop,
            Self::Silence => return Verdict::Silence,
            Self::LostAnswer => {
                truth();
                return Verdict::Silence;
            }
        };
        Verdict::Answer(reply)
    }
}
