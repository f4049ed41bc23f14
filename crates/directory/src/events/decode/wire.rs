//! The keys that are read, as AWS writes them. Not what they mean: that is `read`.
//!
//! Invariant: a key is taken raw and looked at only when it matters, so that a strange value in a key
//! that does not matter spoils nothing.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use pikepole_fleet::NameError;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAX_RECORDS, Problem, RejectReason, shape};

/// A value as it stands in the body. A key that is `null` is a key that is not there.
pub(super) type Raw<'a> = &'a RawValue;

/// What tells the shapes apart, and the keys of EventBridge's and SNS's envelopes.
#[derive(Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow, rename = "detail-type")]
    pub(super) detail_type: Option<Raw<'a>>,
    #[serde(borrow)]
    pub(super) source: Option<Raw<'a>>,
    #[serde(borrow)]
    pub(super) time: Option<Raw<'a>>,
    #[serde(borrow)]
    pub(super) region: Option<Raw<'a>>,
    #[serde(borrow)]
    pub(super) detail: Option<Raw<'a>>,
    #[serde(borrow, rename = "Type")]
    kind: Option<Raw<'a>>,
    #[serde(borrow, rename = "Message")]
    pub(super) message: Option<Raw<'a>>,
    #[serde(borrow, rename = "Records")]
    pub(super) records: Option<Raw<'a>>,
    #[serde(borrow, rename = "LifecycleTransition")]
    pub(super) transition: Option<Raw<'a>>,
    #[serde(borrow, rename = "Event")]
    pub(super) event: Option<Raw<'a>>,
}

impl<'a> Body<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Problem> {
        object(text)
    }

    /// One of the three messages of SNS.
    pub(super) fn is_sns(&self) -> bool {
        self.is_confirmation() || self.kind.is_some_and(|k| is(k, "Notification"))
    }

    /// SNS asks to confirm that a subscription begins, or ends.
    pub(super) fn is_confirmation(&self) -> bool {
        let kind = |name| self.kind.is_some_and(|k| is(k, name));
        kind("SubscriptionConfirmation") || kind("UnsubscribeConfirmation")
    }
}

/// One record of Lambda. SQS writes `eventSource`, SNS `EventSource`.
#[derive(Deserialize)]
pub(super) struct Record<'a> {
    #[serde(borrow, rename = "Sns")]
    pub(super) sns: Option<Raw<'a>>,
    #[serde(borrow)]
    pub(super) body: Option<Raw<'a>>,
    #[serde(borrow, rename = "eventSource")]
    source: Option<Raw<'a>>,
}

impl<'a> Record<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Problem> {
        object(text)
    }

    /// S3, Kinesis, DynamoDB: they have records too, and none is about an instance.
    pub(super) fn is_of_another_service(&self) -> bool {
        let source = self.source.and_then(|s| text("eventSource", s).ok());
        source.is_some_and(|s| s != "aws:sqs" && s.starts_with("aws:"))
    }
}

/// A hook's message, a notification, and the `detail` of an EventBridge event: they share their keys.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow, rename = "LifecycleTransition")]
    pub(super) transition: Option<Raw<'a>>,
    #[serde(borrow, rename = "Event")]
    pub(super) event: Option<Raw<'a>>,
    #[serde(borrow, rename = "EC2InstanceId")]
    pub(super) instance: Option<Raw<'a>>,
    #[serde(borrow, rename = "AutoScalingGroupName")]
    pub(super) group: Option<Raw<'a>>,
    #[serde(borrow, rename = "AutoScalingGroupARN")]
    pub(super) group_arn: Option<Raw<'a>>,
    #[serde(borrow, rename = "LifecycleHookName")]
    pub(super) hook: Option<Raw<'a>>,
    #[serde(borrow, rename = "LifecycleActionToken")]
    pub(super) token: Option<Raw<'a>>,
    #[serde(borrow, rename = "Origin")]
    pub(super) origin: Option<Raw<'a>>,
    #[serde(borrow, rename = "Destination")]
    pub(super) destination: Option<Raw<'a>>,
    #[serde(borrow, rename = "Time")]
    pub(super) time: Option<Raw<'a>>,
    /// EC2's own name for the instance.
    #[serde(borrow, rename = "instance-id")]
    pub(super) ec2_instance: Option<Raw<'a>>,
    #[serde(borrow)]
    pub(super) state: Option<Raw<'a>>,
}

impl<'a> Message<'a> {
    pub(super) fn read(text: &'a str) -> Result<Self, Problem> {
        object(text)
    }
}

/// An array, cut off at the limit.
pub(super) struct Elements<'a> {
    /// The first [`MAX_RECORDS`].
    pub(super) first: Vec<Raw<'a>>,
    /// How many came after them.
    pub(super) more: usize,
}

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cut;

        impl<'de> Visitor<'de> for Cut {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Elements { first: Vec::new(), more: 0 };
                while elements.first.len() < MAX_RECORDS {
                    match seq.next_element()? {
                        Some(element) => elements.first.push(element),
                        None => return Ok(elements),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    elements.more += 1;
                }
                Ok(elements)
            }
        }

        deserializer.deserialize_seq(Cut)
    }
}

/// The string that stands in `field`.
pub(super) fn text<'a>(field: &str, raw: Raw<'a>) -> Result<Cow<'a, str>, Problem> {
    /// Serde borrows a `Cow` only where it is told to.
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    let what = match raw.get().as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<Text<'a>>(raw.get()) {
            Ok(text) => return Ok(text.0),
            Err(_) => "has an escape that is no character",
        },
        Some(b'{') => "is an object, not a string",
        Some(b'[') => "is an array, not a string",
        Some(b't' | b'f') => "is a boolean, not a string",
        _ => "is a number, not a string",
    };
    Err(Problem::bad(format!("{field} {what}")))
}

/// The string that stands in `field`, if there is one and it is a name.
pub(super) fn optional<T: FromStr>(raw: Option<Raw<'_>>) -> Option<T> {
    text("", raw?).ok()?.parse().ok()
}

/// The name that must stand in `field`.
pub(super) fn required<T: FromStr<Err = NameError>>(field: &str, raw: Option<Raw<'_>>) -> Result<T, Problem> {
    let raw = raw.ok_or_else(|| Problem::bad(format!("{field} is missing")))?;
    let text = text(field, raw)?;
    text.parse().map_err(|e| Problem::bad(format!("{field} {e}: {}", shape::quote(&text))))
}

/// Whether a value is this string.
pub(super) fn is(raw: Raw<'_>, expected: &str) -> bool {
    text("", raw).is_ok_and(|text| text == expected)
}

/// Reads an object's keys. Serde would take an array for a struct too.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    if text.is_empty() {
        return Err(Problem::new(RejectReason::NotJson, "empty"));
    }
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|e| Problem::json(&e));
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Err(Problem::new(RejectReason::UnknownShape, "is not an object")),
        Err(e) => Err(Problem::json(&e)),
    }
}
