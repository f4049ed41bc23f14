//! Where a queue is: its region and endpoint, from its URL.
//!
//! Invariant: a URL that is refused is not shown if it may hold a password.

use http::Uri;
use pikepole_fleet::Region;

/// The region of the oldest form of queue URLs.
const FIRST_REGION: &str = "us-east-1";

/// Why a text is not the URL of a queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueUrlError {
    /// It is no such URL.
    #[error(
        "{0:?} is not the URL of a queue, like https://sqs.ap-south-1.amazonaws.com/123456789012/pikepole"
    )]
    NotAUrl(String),
    /// It has a user name or a password, which a queue's URL never has.
    #[error("the URL of a queue has no user and no password in it")]
    HasUser,
}

/// Where to call, and for which region to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: Region,
    /// `None`: the SDK knows the endpoint of the region.
    pub(super) endpoint: Option<String>,
}

/// Finds the place of a queue. `fallback` is the region where the URL names none: a test's server.
pub(super) fn find(url: &str, fallback: &Region) -> Result<Place, QueueUrlError> {
    let wrong = || QueueUrlError::NotAUrl(url.to_owned());
    if url.contains('@') {
        return Err(QueueUrlError::HasUser);
    }
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    if uri.path().trim_matches('/').is_empty() || uri.query().is_some() {
        return Err(wrong());
    }
    let host = authority.host().to_ascii_lowercase();
    let origin = || Some(format!("{scheme}://{authority}"));
    let region = |name: &str| name.parse().map_err(|_| wrong());
    let domains = [".amazonaws.com.cn", ".amazonaws.com", ".api.aws"];
    let labels: Vec<&str> =
        domains.iter().find_map(|d| host.strip_suffix(d)).unwrap_or_default().split('.').collect();
    Ok(match labels.as_slice() {
        ["queue"] => Place { region: region(FIRST_REGION)?, endpoint: None },
        [name, "queue"] => Place { region: region(name)?, endpoint: None },
        ["sqs", name] if !host.ends_with(".api.aws") => Place { region: region(name)?, endpoint: None },
        // Dual stack, FIPS, and endpoints of a VPC are called where the URL says.
        ["sqs" | "sqs-fips", name] | [_, "sqs", name, "vpce"] => {
            Place { region: region(name)?, endpoint: origin() }
        }
        _ => Place { region: fallback.clone(), endpoint: origin() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_url_in_every_form_aws_has_given_out() {
        let fallback: Region = "fall-back-1".parse().unwrap();
        for (url, region, endpoint) in [
            ("https://sqs.ap-south-1.amazonaws.com/123456789012/q", "ap-south-1", None),
            ("https://SQS.ap-south-1.amazonaws.com/123456789012/q", "ap-south-1", None),
            ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q", "cn-north-1", None),
            ("https://queue.amazonaws.com/123456789012/q", "us-east-1", None),
            ("https://eu-west-1.queue.amazonaws.com/123456789012/q", "eu-west-1", None),
            (
                "https://vpce-0a-1b.sqs.ap-south-1.vpce.amazonaws.com/123456789012/q",
                "ap-south-1",
                Some("https://vpce-0a-1b.sqs.ap-south-1.vpce.amazonaws.com"),
            ),
            (
                "https://sqs-fips.us-gov-west-1.amazonaws.com/1/q",
                "us-gov-west-1",
                Some("https://sqs-fips.us-gov-west-1.amazonaws.com"),
            ),
            ("https://sqs.ap-south-1.api.aws/1/q", "ap-south-1", Some("https://sqs.ap-south-1.api.aws")),
            ("http://127.0.0.1:5555/123456789012/q", "fall-back-1", Some("http://127.0.0.1:5555")),
        ] {
            let place = Place { region: region.parse().unwrap(), endpoint: endpoint.map(str::to_owned) };
            assert_eq!(find(url, &fallback), Ok(place), "{url}");
        }
    }

    #[test]
    fn what_is_no_queue_is_refused_and_a_password_is_not_shown() {
        let fallback: Region = "fall-back-1".parse().unwrap();
        for url in
            ["", "pikepole", "arn:aws:sqs:ap-south-1:1:q", "ftp://x/1/q", "https://sqs.a.amazonaws.com/"]
        {
            assert_eq!(find(url, &fallback), Err(QueueUrlError::NotAUrl(url.to_owned())));
        }
        let error = find("https://me:secret@sqs.ap-south-1.amazonaws.com/1/q", &fallback).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}
