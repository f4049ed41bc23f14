//! What SNS posts: an envelope of JSON, and the string that its signature is over. Pure.
//!
//! The fields are as they came. Nothing here says that the message is genuine; see `verify.rs`.

use pikepole_api::time;
use pikepole_fleet::Timestamp;
use serde::Deserialize;

/// An envelope, unverified.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Envelope {
    /// What it is.
    #[serde(rename = "Type")]
    pub kind: Kind,
    /// The same on a retry.
    pub message_id: String,
    /// The topic it claims to be of.
    pub topic_arn: String,
    /// `null` is the same as absent.
    #[serde(default)]
    subject: Option<String>,
    /// What was published, or a sentence for people.
    pub message: String,
    timestamp: String,
    /// `1` or `2`.
    pub signature_version: String,
    pub(super) signature: String,
    #[serde(rename = "SigningCertURL", alias = "SigningCertUrl")]
    pub(super) signing_cert_url: String,
    /// Of confirmations only. It confirms a subscription, so it is not shown.
    #[serde(default)]
    token: Option<Token>,
    /// Signed, and never followed.
    #[serde(default, rename = "SubscribeURL", alias = "SubscribeUrl")]
    subscribe_url: Option<Token>,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Kind {
    /// Something was published.
    Notification,
    /// Somebody wants a topic to be sent here.
    SubscriptionConfirmation,
    /// A topic is not sent here any more.
    UnsubscribeConfirmation,
}

impl Kind {
    /// The word of the body and of the header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notification => "Notification",
            Self::SubscriptionConfirmation => "SubscriptionConfirmation",
            Self::UnsubscribeConfirmation => "UnsubscribeConfirmation",
        }
    }
}

/// A text that must not be shown.
#[derive(Clone, Deserialize)]
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Envelope {
    /// Reads a body. What is wrong with it is said without repeating any of it.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let envelope: Self = serde_json::from_slice(body).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => {
                format!("not a message of SNS (line {}, column {})", e.line(), e.column())
            }
            _ => format!("not JSON (line {}, column {})", e.line(), e.column()),
        })?;
        let confirms = envelope.kind != Kind::Notification;
        if confirms && (envelope.token.is_none() || envelope.subscribe_url.is_none()) {
            return Err("a confirmation without Token and SubscribeURL".into());
        }
        Ok(envelope)
    }

    /// When SNS signed it, by its own word.
    pub fn at(&self) -> Option<Timestamp> {
        time::parse(&self.timestamp)
    }

    /// The token of a confirmation.
    pub(super) fn token(&self) -> &str {
        self.token.as_ref().map_or("", |token| &token.0)
    }

    /// What the signature is over: each signed field that is there, in the order of AWS's documentation, as
    /// `name`, newline, value, newline.
    pub fn canonical(&self) -> String {
        let confirms = self.kind != Kind::Notification;
        let subscribe_url = self.subscribe_url.as_ref().map(|url| url.0.as_str());
        let token = self.token.as_ref().map(|token| token.0.as_str());
        let fields = [
            ("Message", Some(self.message.as_str())),
            ("MessageId", Some(&self.message_id)),
            ("Subject", self.subject.as_deref().filter(|_| !confirms)),
            ("SubscribeURL", subscribe_url.filter(|_| confirms)),
            ("Timestamp", Some(&self.timestamp)),
            ("Token", token.filter(|_| confirms)),
            ("TopicArn", Some(&self.topic_arn)),
            ("Type", Some(self.kind.as_str())),
        ];
        let mut text = String::with_capacity(self.message.len() + 1024);
        for (name, value) in fields {
            if let Some(value) = value {
                for part in [name, "\n", value, "\n"] {
                    text.push_str(part);
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &serde_json::Value) -> Result<Envelope, String> {
        Envelope::parse(value.to_string().as_bytes())
    }

    fn notification() -> serde_json::Value {
        json!({
            "Type": "Notification", "MessageId": "m-1", "TopicArn": "arn:t", "Message": "a\n\"b\" \u{fc}",
            "Timestamp": "2025-11-22T08:26:40.123Z", "SignatureVersion": "1", "Signature": "AA==",
            "SigningCertURL": "https://x", "UnsubscribeURL": "https://y",
        })
    }

    #[test]
    fn the_string_to_sign_is_that_of_the_documentation() {
        let without = "Message\na\n\"b\" \u{fc}\nMessageId\nm-1\nTimestamp\n2025-11-22T08:26:40.123Z\nTopicArn\narn:t\nType\nNotification\n";
        assert_eq!(parse(&notification()).unwrap().canonical(), without);
        let mut null = notification();
        null["Subject"] = serde_json::Value::Null;
        assert_eq!(parse(&null).unwrap().canonical(), without);

        // Two spaces in the subject, as Auto Scaling writes it, and an empty one, which is there.
        let mut with = notification();
        with["Subject"] = "Auto Scaling:  x".into();
        let text = parse(&with).unwrap().canonical();
        assert!(text.contains("m-1\nSubject\nAuto Scaling:  x\nTimestamp\n"), "{text}");
        with["Subject"] = "".into();
        assert!(parse(&with).unwrap().canonical().contains("m-1\nSubject\n\nTimestamp\n"));
    }

    #[test]
    fn both_confirmations_sign_their_token_and_their_address() {
        for kind in ["SubscriptionConfirmation", "UnsubscribeConfirmation"] {
            let mut value = notification();
            value["Type"] = kind.into();
            assert!(parse(&value).is_err(), "{kind} without a token");
            value["Token"] = "t0k".into();
            value["SubscribeURL"] = "https://s".into();
            let text = parse(&value).unwrap().canonical();
            let end = "MessageId\nm-1\nSubscribeURL\nhttps://s\nTimestamp\n2025-11-22T08:26:40.123Z\nToken\nt0k\nTopicArn\narn:t\nType\n";
            assert!(text.ends_with(&format!("{end}{kind}\n")), "{text}");
        }
    }

    #[test]
    fn what_is_no_envelope_is_said_without_repeating_it() {
        let twice = notification().to_string().replacen('{', "{\"Type\":\"Notification\",", 1);
        let mut typed = notification();
        typed["Type"] = "s3cret".into();
        for body in ["", "s3cret", "{}", "[]", "null", "{\"Type\":\"s3cret\"}", &twice, &typed.to_string()] {
            let error = Envelope::parse(body.as_bytes()).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert!(Envelope::parse(&[0xff, 0xfe]).is_err());
        assert!(Envelope::parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn a_token_is_in_no_debug_output() {
        let mut value = notification();
        value["Token"] = "s3cret".into();
        value["SubscribeURL"] = "https://x/?Token=s3cret".into();
        assert!(!format!("{:?}", parse(&value).unwrap()).contains("s3cret"));
    }
}
