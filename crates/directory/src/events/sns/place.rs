//! Where a topic is, and the only addresses that are asked because of it.
//!
//! Nothing of a message is ever followed: a signing certificate's URL is compared with a pattern and
//! then built anew, and so is the call that confirms a subscription. A forged message can therefore make us
//! ask AWS's own host in the topic's own region, and nothing else.
//!
//! Invariant: a [`CertUrl`] is `https://sns.REGION.DOMAIN/SimpleNotificationService-<32 hex digits>.pem` with the
//! region and the domain of the topic it was made for.

use std::fmt;
use std::str::FromStr;

/// Longest name of a topic, by AWS.
const MAX_TOPIC_NAME: usize = 256;
/// Longest name of a region; the longest today has 14 letters.
const MAX_REGION: usize = 32;

/// A topic's ARN, taken apart.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TopicArn {
    text: String,
    region: String,
    domain: &'static str,
}

/// A text that is no ARN of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the ARN of a topic, like arn:aws:sns:ap-south-1:123456789012:pikepole")]
pub struct NotATopic;

impl FromStr for TopicArn {
    type Err = NotATopic;

    fn from_str(text: &str) -> Result<Self, NotATopic> {
        let parts: Vec<&str> = text.splitn(7, ':').collect();
        let ["arn", partition, "sns", region, account, name] = parts[..] else { return Err(NotATopic) };
        // The isolated partitions have domains of their own and no public certificates.
        let domain = match partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return Err(NotATopic),
        };
        let name_ok = !name.is_empty()
            && name.len() <= MAX_TOPIC_NAME
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let account_ok =
            !account.is_empty() && account.len() <= 12 && account.bytes().all(|b| b.is_ascii_digit());
        if !(is_region(region) && account_ok && name_ok)
            || region.starts_with("cn-") != (partition == "aws-cn")
        {
            return Err(NotATopic);
        }
        Ok(Self { text: text.into(), region: region.into(), domain })
    }
}

/// Lower-case letters, digits and hyphens, and never the name of an S3 host: `sns.s3-us-west-2` is a bucket.
fn is_region(text: &str) -> bool {
    (3..=MAX_REGION).contains(&text.len())
        && !text.starts_with("s3")
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl TopicArn {
    /// As AWS writes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The host of SNS in its region.
    pub fn host(&self) -> String {
        format!("sns.{}.{}", self.region, self.domain)
    }

    /// Names of which a certificate that signs for this topic must carry one. The regions that were there
    /// first share `sns.amazonaws.com`; those that must be opted into, China and GovCloud have their own. This is the
    /// list of AWS's SDK for Java, with the region's own host, which newer certificates carry too.
    pub fn certificate_names(&self) -> Vec<String> {
        let (region, domain) = (&self.region, self.domain);
        if domain == "amazonaws.com.cn" {
            return vec![format!("sns-{region}.{domain}"), self.host()];
        }
        if region.starts_with("us-gov-") {
            return vec![format!("sns-us-gov-west-1.{domain}"), self.host()];
        }
        vec![format!("sns.{domain}"), self.host(), format!("sns-signing.{region}.{domain}")]
    }

    /// The call that confirms a subscription to it. Of the message only the token is used, as a value.
    pub fn confirm_url(&self, token: &str) -> String {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", "ConfirmSubscription")
            .append_pair("TopicArn", &self.text)
            .append_pair("Token", token)
            .finish();
        format!("https://{}/?{query}", self.host())
    }
}

impl fmt::Debug for TopicArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TopicArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The address of a signing certificate, which may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertUrl(String);

impl CertUrl {
    /// The URL, if it is one that SNS uses in the topic's region. It is compared byte by byte, never parsed: where
    /// two parsers could disagree about a URL, there is nothing to disagree about here.
    pub fn parse(text: &str, topic: &TopicArn) -> Option<Self> {
        let rest = text.strip_prefix("https://")?.strip_prefix(topic.host().as_str())?;
        let digits = rest.strip_prefix("/SimpleNotificationService-")?.strip_suffix(".pem")?;
        let hex = digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self(text.into()))
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where the issuer of a certificate can be had, as that certificate says: Amazon's own authority, or nothing. It is
/// fetched over plain HTTP, as all of them are; what comes back counts only if it leads to a public root.
pub(super) fn issuer_url(text: &str) -> Option<&str> {
    let (host, path) = text.strip_prefix("http://crt.")?.split_once(".amazontrust.com/")?;
    let name = path.strip_suffix(".cer").or_else(|| path.strip_suffix(".crt"))?;
    let plain = |s: &str| {
        !s.is_empty()
            && s.len() <= 32
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    (plain(host) && plain(name)).then_some(text)
}

#[cfg(test)]
mod tests;
