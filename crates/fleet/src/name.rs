//! Names and ids as validated newtypes: what is inside one of these is safe to log, to print in a
//! table, to put in a URL path or a Redis key. Only [`FromStr`] builds them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::{MAX_GROUP_NAME, MAX_HOOK_NAME, MAX_HOOK_TOKEN, MAX_NAME};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// Longer than the limit, in bytes.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// A character that this kind of name cannot have.
    #[error("has the character {0:?}, which is not allowed here")]
    BadCharacter(char),
}

fn check(text: &str, limit: usize, allowed: fn(char) -> bool) -> Result<Arc<str>, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong(limit));
    }
    match text.chars().find(|&c| !allowed(c)) {
        Some(c) => Err(NameError::BadCharacter(c)),
        None => Ok(Arc::from(text)),
    }
}

/// Letters, digits, `-`, `_` and `.`: safe in a path, a key and a label.
fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// What AWS allows in the name of an Auto Scaling group, less the characters no one can type.
fn printable(c: char) -> bool {
    !c.is_control()
}

/// `[A-Za-z0-9\-_\/]+` (AWS, `LifecycleHookName`).
fn hook(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $limit:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text, $limit, $allowed).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The name of a fleet, as the operator chose it: `logstash-mumbai`.
    FleetName, MAX_NAME, plain
);
name!(
    /// A data centre, the seed's `dcid`.
    Dc, MAX_NAME, plain
);
name!(
    /// An AWS region, or any word that plays its part for a `file` fleet.
    Region, MAX_NAME, plain
);
name!(
    /// An availability zone: `ap-south-1a`.
    Zone, MAX_NAME, plain
);
name!(
    /// The id of one collector instance: `i-0abc…`. EC2 never gives one out twice.
    InstanceId, MAX_NAME, plain
);
name!(
    /// The name of an Auto Scaling group, 1 to 255 characters (AWS, `AutoScalingGroupName`).
    GroupName, MAX_GROUP_NAME, printable
);
name!(
    /// The name of a lifecycle hook, 1 to 255 characters (AWS, `LifecycleHookName`).
    HookName, MAX_HOOK_NAME, hook
);
/// The token of one lifecycle action, a UUID (AWS, `LifecycleActionToken`). Whoever has it may complete the
/// action, so it does not show itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookToken(Arc<str>);

impl HookToken {
    /// The token, for AWS and the store.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for HookToken {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text, MAX_HOOK_TOKEN, plain).map(Self)
    }
}

impl fmt::Debug for HookToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_in_a_path_and_a_key() {
        assert_eq!("logstash-mumbai".parse::<FleetName>().unwrap().as_str(), "logstash-mumbai");
        assert_eq!("".parse::<FleetName>(), Err(NameError::Empty));
        assert_eq!("a/b".parse::<FleetName>(), Err(NameError::BadCharacter('/')));
        assert_eq!("a b".parse::<Dc>(), Err(NameError::BadCharacter(' ')));
        assert_eq!("x".repeat(129).parse::<Zone>(), Err(NameError::TooLong(128)));
    }

    #[test]
    fn a_group_may_be_called_anything_printable() {
        assert!("web tier / blue".parse::<GroupName>().is_ok());
        assert_eq!("a\nb".parse::<GroupName>(), Err(NameError::BadCharacter('\n')));
    }
}
