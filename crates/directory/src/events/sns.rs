//! SNS over HTTP(S): whether a message that was posted here is genuine, and the handshake of a subscription.
//!
//! Not the route, which is in `http/events.rs`, and not the meaning of a message, which `decode` finds. What can be
//! said without asking anyone is said first, so that a forged message costs a look at its fields.
//!
//! Invariant: nothing that a message says has an effect before its signature, its topic and its time were checked. What
//! must never come again is refused; whatever may be our own trouble is "not now", so that SNS sends it again.

mod keys;
mod message;
mod outside;
mod place;
mod seen;
mod verify;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use pikepole_fleet::Timestamp;

use crate::clock::Clock;
use crate::config::{EventsConfig, SnsSignature};
use keys::Keys;
pub use keys::NoKey;
pub use message::{Envelope, Kind};
pub use outside::{Outside, OutsideError};
pub use place::{CertUrl, NotATopic, TopicArn};
use seen::Seen;
pub use verify::{CertError, Chain, SignatureError, SigningKey, check_version, verify};

/// A message may be this old; younger ones are found among those that were seen.
pub const MAX_AGE: Duration = Duration::from_secs(3_600);
/// Bytes of an id; AWS's have 36.
const MAX_ID: usize = 128;
/// Unsubscriptions that are remembered.
const MAX_UNSUBSCRIBED: usize = 16;
/// For one request to AWS; a certificate may need two of them.
const ASK_TIME: Duration = Duration::from_secs(3);

/// Why a message is refused for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no message of SNS.
    #[error("{0}")]
    Malformed(String),
    /// Raw delivery carries no signature.
    #[error("raw message delivery carries no signature: switch RawMessageDelivery off for this subscription")]
    Raw,
    /// A header that is missing, or says something else than the body.
    #[error("the header {0} is missing or differs from the body")]
    Header(&'static str),
    /// Not one of ours.
    #[error("this topic is not listed in events.sns_topics")]
    Topic,
    /// Longer ago than [`MAX_AGE`].
    #[error("the message is more than an hour old")]
    Expired,
    /// A trick with the certificate's address.
    #[error("SigningCertURL is not an address of SNS in the region of the topic")]
    CertUrl,
    /// The signature.
    #[error("{0}")]
    Signature(#[from] SignatureError),
}

impl Refusal {
    /// Whether the sender made a mistake, rather than may not.
    pub const fn is_mistake(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_) | Self::Raw | Self::Header(_) | Self::Signature(SignatureError::Malformed)
        )
    }
}

/// Why a message cannot be taken now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// Its certificate.
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// The call that confirms a subscription failed.
    #[error("the subscription could not be confirmed: {0}")]
    Confirm(OutsideError),
    /// The message comes from the future: a clock is wrong, and perhaps it is ours.
    #[error("the message is dated more than an hour ahead of this clock")]
    Future,
}

/// What a genuine message is.
#[derive(Debug)]
pub enum Admitted {
    /// Something was published. [`Sns::remember`] it once its effect is kept.
    Notification {
        /// The message's id.
        id: String,
        /// What was published.
        message: String,
    },
    /// It was taken before; there is nothing left to do.
    Replay,
    /// A subscription, confirmed by now.
    Confirmed,
    /// The end of a subscription.
    Unsubscribed,
}

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// For good.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// For now.
    #[error(transparent)]
    NotNow(#[from] NotNow),
}

/// A topic that stopped being sent here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribed {
    /// Which.
    pub topic: TopicArn,
    /// When we heard.
    pub at: Timestamp,
}

/// Takes in messages of SNS.
pub struct Sns {
    topics: HashSet<TopicArn>,
    signature: SnsSignature,
    clock: Clock,
    outside: Outside,
    keys: Arc<Keys>,
    ask_time: Duration,
    seen: Mutex<Seen>,
    unsubscribed: Mutex<VecDeque<Unsubscribed>>,
}

impl fmt::Debug for Sns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sns").field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl Sns {
    /// For the topics of a configuration; `None` if it lists none.
    pub fn new(config: &EventsConfig, clock: Clock, outside: Outside) -> Result<Option<Self>, String> {
        Self::with_time(config, clock, outside, ASK_TIME)
    }

    /// The same with another time for one request to AWS: for tests.
    pub fn with_time(
        config: &EventsConfig,
        clock: Clock,
        outside: Outside,
        ask_time: Duration,
    ) -> Result<Option<Self>, String> {
        let parse =
            |arn: &String| arn.parse().map_err(|e: NotATopic| format!("events.sns_topics: {arn:?} is {e}"));
        let topics = config.sns_topics.iter().map(parse).collect::<Result<HashSet<TopicArn>, _>>()?;
        if topics.is_empty() {
            return Ok(None);
        }
        let keys = Keys::new(outside.clone(), clock.clone(), ask_time);
        Ok(Some(Self {
            topics,
            signature: config.sns_signature,
            clock,
            outside,
            keys,
            ask_time,
            seen: Mutex::default(),
            unsubscribed: Mutex::default(),
        }))
    }

    /// Judges a message, and answers the handshake. At most three requests to AWS long.
    pub async fn admit(&self, headers: &HeaderMap, body: &[u8]) -> Result<Admitted, NotAdmitted> {
        let envelope = read(headers, body)?;
        let topic = self.topic(&envelope)?;
        check_version(&envelope, self.signature).map_err(Refusal::from)?;
        verify::signature(&envelope).map_err(Refusal::from)?;
        self.check_time(&envelope)?;
        let url = CertUrl::parse(&envelope.signing_cert_url, topic).ok_or(Refusal::CertUrl)?;
        let key = self.keys.get(&url, topic).await.map_err(NotNow::from)?;
        verify(&envelope, &key, self.signature).map_err(Refusal::from)?;
        if lock(&self.seen).contains(&envelope.message_id) {
            return Ok(Admitted::Replay);
        }
        match envelope.kind {
            Kind::Notification => {
                Ok(Admitted::Notification { id: envelope.message_id, message: envelope.message })
            }
            Kind::SubscriptionConfirmation => {
                let url = topic.confirm_url(envelope.token());
                self.outside.get(&url, self.ask_time).await.map_err(NotNow::Confirm)?;
                self.remember(&envelope.message_id);
                tracing::info!(%topic, "confirmed a subscription of SNS");
                Ok(Admitted::Confirmed)
            }
            Kind::UnsubscribeConfirmation => {
                self.remember(&envelope.message_id);
                self.note_end(topic);
                Ok(Admitted::Unsubscribed)
            }
        }
    }

    /// Remembers a message whose effect is kept, so that the same one has none again.
    pub fn remember(&self, id: &str) {
        lock(&self.seen).insert(id);
    }

    /// The subscriptions that ended, the last one last.
    pub fn unsubscribed(&self) -> Vec<Unsubscribed> {
        lock(&self.unsubscribed).iter().cloned().collect()
    }

    fn topic(&self, envelope: &Envelope) -> Result<&TopicArn, Refusal> {
        let topic: TopicArn = envelope.topic_arn.parse().map_err(|_| Refusal::Topic)?;
        self.topics.get(&topic).ok_or(Refusal::Topic)
    }

    fn check_time(&self, envelope: &Envelope) -> Result<(), NotAdmitted> {
        let at = envelope.at().ok_or_else(|| Refusal::Malformed("Timestamp is not a time in UTC".into()))?;
        let now = self.clock.now();
        if now.since(at) > MAX_AGE {
            return Err(Refusal::Expired.into());
        }
        if at.since(now) > MAX_AGE {
            return Err(NotNow::Future.into());
        }
        Ok(())
    }

    fn note_end(&self, topic: &TopicArn) {
        tracing::warn!(%topic, "SNS was told to stop sending events here: subscribe again, or take it off events.sns_topics");
        let mut list = lock(&self.unsubscribed);
        if list.len() == MAX_UNSUBSCRIBED {
            list.pop_front();
        }
        list.push_back(Unsubscribed { topic: topic.clone(), at: self.clock.now() });
    }
}

/// Reads the envelope, and compares the headers with it.
fn read(headers: &HeaderMap, body: &[u8]) -> Result<Envelope, Refusal> {
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if header("x-amz-sns-rawdelivery").is_some_and(|value| !value.eq_ignore_ascii_case("false")) {
        return Err(Refusal::Raw);
    }
    let envelope = Envelope::parse(body).map_err(Refusal::Malformed)?;
    if envelope.message_id.is_empty() || envelope.message_id.len() > MAX_ID {
        return Err(Refusal::Malformed(format!("MessageId must have 1 to {MAX_ID} bytes")));
    }
    for (name, value) in [
        ("x-amz-sns-message-type", envelope.kind.as_str()),
        ("x-amz-sns-topic-arn", &envelope.topic_arn),
        ("x-amz-sns-message-id", &envelope.message_id),
    ] {
        if header(name) != Some(value) {
            return Err(Refusal::Header(name));
        }
    }
    Ok(envelope)
}

/// What is behind these locks is never left half-done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
