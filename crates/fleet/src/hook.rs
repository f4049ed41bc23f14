//! A lifecycle action of Auto Scaling: an instance that waits, at launch or at its end, until somebody
//! completes the hook or its time is up.

use crate::name::{HookName, HookToken};

/// Which way the instance goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    /// `autoscaling:EC2_INSTANCE_LAUNCHING`.
    Launching,
    /// `autoscaling:EC2_INSTANCE_TERMINATING`.
    Terminating,
}

/// One lifecycle action that waits to be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The hook's name.
    pub name: HookName,
    /// The action's token; AWS also takes the instance's id alone.
    pub token: Option<HookToken>,
    /// Which way the instance goes.
    pub transition: Transition,
}
