//! What replicas tell each other, and its form on the channel.
//!
//! ```text
//! {"format":1,"from":REPLICA,"kind":"changed","fleet":NAME}
//! {"format":1,"from":REPLICA,"kind":"refresh","id":ID,"fleet":NAME}
//! {"format":1,"from":REPLICA,"kind":"refreshed","id":ID,"ok":BOOL}
//! ```
//!
//! Invariant: a notice is a hint. What is lost, doubled, malformed or of another format does no harm.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use pikepole_fleet::{FleetName, InstanceId, NameError};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

const FORMAT: u32 = 1;

/// Bytes of a notice, generously; what is longer is not ours.
const MAX_NOTICE: usize = 1024;

/// Bytes of the id of a refresh.
const MAX_ID: usize = 128;

/// The name of one replica among those that share a Redis: letters, digits, `-`, `_`, `.`, at most 128.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ReplicaId(Arc<str>);

impl FromStr for ReplicaId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // The same rules as for an instance's id.
        text.parse::<InstanceId>().map(|id| Self(Arc::from(id.as_str())))
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Something that replicas tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// This fleet's record was saved.
    Changed(FleetName),
    /// Whoever holds the lease shall ask this fleet's source again.
    Refresh {
        /// Comes back in [`Notice::Refreshed`]; at most 128 bytes.
        id: String,
        /// Which fleet.
        fleet: FleetName,
    },
    /// A refresh is over.
    Refreshed {
        /// Whose answer this is.
        id: String,
        /// Whether the source answered.
        ok: bool,
    },
    /// Notices may have been missed: read everything again. Never sent, only heard.
    Reconnected,
}

/// A notice and who sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The sender, which may be this replica; `None` for [`Notice::Reconnected`].
    pub from: Option<ReplicaId>,
    /// What it said.
    pub notice: Notice,
}

impl Heard {
    pub(super) const RECONNECTED: Self = Self { from: None, notice: Notice::Reconnected };
}

/// Notices as they come. What a slow reader misses becomes one [`Notice::Reconnected`].
#[derive(Debug)]
pub struct Notices {
    receiver: broadcast::Receiver<Heard>,
    /// The subscription stood already when this reader came.
    starts_connected: bool,
}

impl Notices {
    pub(super) fn new(receiver: broadcast::Receiver<Heard>, starts_connected: bool) -> Self {
        Self { receiver, starts_connected }
    }

    /// The next notice; `None` when the store is gone. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Heard> {
        if std::mem::take(&mut self.starts_connected) {
            return Some(Heard::RECONNECTED);
        }
        match self.receiver.recv().await {
            Ok(heard) => Some(heard),
            Err(RecvError::Lagged(_)) => Some(Heard::RECONNECTED),
            Err(RecvError::Closed) => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Message {
    format: u32,
    from: String,
    #[serde(flatten)]
    body: Body,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Body {
    #[serde(rename = "changed")]
    Changed { fleet: String },
    #[serde(rename = "refresh")]
    Refresh { id: String, fleet: String },
    #[serde(rename = "refreshed")]
    Refreshed { id: String, ok: bool },
}

/// `None` for what is not sent.
pub(super) fn encode(from: &ReplicaId, notice: &Notice) -> Option<String> {
    let body = match notice {
        Notice::Changed(fleet) => Body::Changed { fleet: fleet.to_string() },
        Notice::Refresh { id, fleet } => Body::Refresh { id: id.clone(), fleet: fleet.to_string() },
        Notice::Refreshed { id, ok } => Body::Refreshed { id: id.clone(), ok: *ok },
        Notice::Reconnected => return None,
    };
    let message = Message { format: FORMAT, from: from.to_string(), body };
    Some(serde_json::to_string(&message).expect("texts and numbers are always JSON"))
}

/// `None` for what is no notice.
pub(super) fn decode(payload: &[u8]) -> Option<Heard> {
    if payload.len() > MAX_NOTICE {
        return None;
    }
    let message: Message = serde_json::from_slice(payload).ok()?;
    if message.format != FORMAT {
        return None;
    }
    let notice = match message.body {
        Body::Changed { fleet } => Notice::Changed(fleet.parse().ok()?),
        Body::Refresh { id, fleet } => Notice::Refresh { id, fleet: fleet.parse().ok()? },
        Body::Refreshed { id, ok } => Notice::Refreshed { id, ok },
    };
    if let Notice::Refresh { id, .. } | Notice::Refreshed { id, .. } = &notice
        && id.len() > MAX_ID
    {
        return None;
    }
    Some(Heard { from: Some(message.from.parse().ok()?), notice })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_on_the_channel_never_change() {
        let from: ReplicaId = "r-1".parse().unwrap();
        let fleet: FleetName = "f".parse().unwrap();
        let id = || "x".to_owned();
        let cases = [
            (Notice::Changed(fleet.clone()), r#"{"format":1,"from":"r-1","kind":"changed","fleet":"f"}"#),
            (
                Notice::Refresh { id: id(), fleet },
                r#"{"format":1,"from":"r-1","kind":"refresh","id":"x","fleet":"f"}"#,
            ),
            (
                Notice::Refreshed { id: id(), ok: true },
                r#"{"format":1,"from":"r-1","kind":"refreshed","id":"x","ok":true}"#,
            ),
        ];
        for (notice, text) in cases {
            assert_eq!(encode(&from, &notice).unwrap(), text);
            assert_eq!(decode(text.as_bytes()), Some(Heard { from: Some(from.clone()), notice }));
        }
        assert_eq!(encode(&from, &Notice::Reconnected), None);
        for strange in [
            "",
            "hello",
            r#"{"format":2,"from":"r","kind":"changed","fleet":"f"}"#,
            r#"{"format":1,"from":"r","kind":"exploded"}"#,
            r#"{"format":1,"from":"","kind":"changed","fleet":"f"}"#,
            r#"{"format":1,"from":"r","kind":"changed","fleet":"a/b"}"#,
        ] {
            assert_eq!(decode(strange.as_bytes()), None, "{strange}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload: Vec<u8>) {
            prop_assert_eq!(decode(&payload), None);
        }
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_to_read_everything() {
        let (sender, receiver) = broadcast::channel(2);
        let mut notices = Notices::new(receiver, false);
        let heard = |n: u32| Heard { from: None, notice: Notice::Refreshed { id: n.to_string(), ok: true } };
        for n in 0..5 {
            sender.send(heard(n)).unwrap();
        }
        assert_eq!(notices.recv().await, Some(Heard::RECONNECTED));
        assert_eq!(notices.recv().await, Some(heard(3)));
        assert_eq!(notices.recv().await, Some(heard(4)));
        drop(sender);
        assert_eq!(notices.recv().await, None);
    }
}
