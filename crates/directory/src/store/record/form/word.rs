//! The words of a record. Each is written out here and never reused for something else; a domain
//! variant that is added needs a word here, and the compiler says so.

use pikepole_fleet::{Cause, Doubt, FactKind, HookEnd, Lifecycle, MemberState, Transition};
use serde::{Deserialize, Serialize};

/// Declares a record's word for each variant of a domain enum, with conversions both ways.
macro_rules! words {
    ($form:ident = $domain:ty { $($variant:ident = $word:literal = $value:pat => $back:expr),+ $(,)? }) => {
        #[derive(Clone, Copy, Serialize, Deserialize)]
        pub(super) enum $form {
            $(#[serde(rename = $word)] $variant),+
        }

        impl From<$domain> for $form {
            fn from(value: $domain) -> Self {
                match value { $($value => Self::$variant),+ }
            }
        }

        impl From<$form> for $domain {
            fn from(form: $form) -> Self {
                match form { $($form::$variant => $back),+ }
            }
        }
    };
}

words!(LifecycleWord = Lifecycle {
    Launching = "launching" = Lifecycle::Launching => Self::Launching,
    InService = "in_service" = Lifecycle::InService => Self::InService,
    Leaving = "leaving" = Lifecycle::Leaving => Self::Leaving,
    Away = "away" = Lifecycle::Away => Self::Away,
    Unknown = "unknown" = Lifecycle::Unknown => Self::Unknown,
});

words!(StateWord = MemberState {
    Active = "active" = MemberState::Active => Self::Active,
    LastResort = "last_resort" = MemberState::LastResort => Self::LastResort,
    Draining = "draining" = MemberState::Draining => Self::Draining,
});

words!(CauseWord = Cause {
    Source = "source" = Cause::Source => Self::Source,
    AfterHold = "source_after_hold" = Cause::SourceAfterHold => Self::SourceAfterHold,
    Launch = "launch" = Cause::Event(FactKind::Launching) => Self::Event(FactKind::Launching),
    Terminate = "terminate" = Cause::Event(FactKind::Terminating) => Self::Event(FactKind::Terminating),
    Spot = "spot" = Cause::Event(FactKind::SpotInterruption) => Self::Event(FactKind::SpotInterruption),
    Rebalance = "rebalance" = Cause::Event(FactKind::Rebalance) => Self::Event(FactKind::Rebalance),
    Probe = "probe" = Cause::Probe => Self::Probe,
});

words!(TransitionWord = Transition {
    Launching = "launching" = Transition::Launching => Self::Launching,
    Terminating = "terminating" = Transition::Terminating => Self::Terminating,
});

words!(EndWord = HookEnd {
    Converged = "converged" = HookEnd::Converged => Self::Converged,
    Deadline = "deadline" = HookEnd::Deadline => Self::Deadline,
    Ready = "ready" = HookEnd::Ready => Self::Ready,
    GaveUp = "gave_up" = HookEnd::GaveUp => Self::GaveUp,
    NoSuchAction = "no_such_action" = HookEnd::NoSuchAction => Self::NoSuchAction,
    Gone = "gone" = HookEnd::Gone => Self::Gone,
});

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
pub(super) enum DoubtForm {
    #[serde(rename = "empty_despite_desired")]
    EmptyDespiteDesired { desired: u32 },
    #[serde(rename = "no_address")]
    NoAddress { in_service: usize },
    #[serde(rename = "none_left")]
    NoneLeft { unproven: usize },
    #[serde(rename = "empty_on_purpose")]
    EmptyOnPurpose {},
    #[serde(rename = "shrink")]
    Shrink { from: usize, to: usize, unproven: usize },
}

impl From<Doubt> for DoubtForm {
    fn from(doubt: Doubt) -> Self {
        match doubt {
            Doubt::EmptyDespiteDesired { desired } => Self::EmptyDespiteDesired { desired },
            Doubt::NoAddress { in_service } => Self::NoAddress { in_service },
            Doubt::NoneLeft { unproven } => Self::NoneLeft { unproven },
            Doubt::EmptyOnPurpose => Self::EmptyOnPurpose {},
            Doubt::Shrink { from, to, unproven } => Self::Shrink { from, to, unproven },
        }
    }
}

impl From<DoubtForm> for Doubt {
    fn from(form: DoubtForm) -> Self {
        match form {
            DoubtForm::EmptyDespiteDesired { desired } => Self::EmptyDespiteDesired { desired },
            DoubtForm::NoAddress { in_service } => Self::NoAddress { in_service },
            DoubtForm::NoneLeft { unproven } => Self::NoneLeft { unproven },
            DoubtForm::EmptyOnPurpose {} => Self::EmptyOnPurpose,
            DoubtForm::Shrink { from, to, unproven } => Self::Shrink { from, to, unproven },
        }
    }
}
