//! Turns everything that can go wrong between us and AWS into the four answers a source knows.
//!
//! Not a retry policy: the engine decides what to do.
//!
//! Invariant: the text names the API, says what to do where someone can do something, and holds nothing
//! that came from credentials or from a body, except an error code.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_autoscaling::error::SdkError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::ConnectorError;

use super::transport::TooLong;
use super::xml::{clean_code, error_code};
use crate::source::SourceError;

/// Characters of an error from below that are passed on.
const MAX_CAUSE: usize = 160;

/// How the services say "fewer calls, please". All of these have been seen in the wild.
const THROTTLED: [&str; 18] = [
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "KMS.ThrottlingException",
    "KmsThrottled",
    "LimitExceededException",
    "OverLimit",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
    "TransactionInProgressException",
];

/// Who we are was understood, and we may not.
const FORBIDDEN: [&str; 9] = [
    "AccessDenied",
    "AccessDeniedException",
    "Blocked",
    "KMS.AccessDeniedException",
    "KmsAccessDenied",
    "NotAuthorized",
    "OptInRequired",
    "UnauthorizedAccess",
    "UnauthorizedOperation",
];

/// Who we are was not accepted.
const BAD_CREDENTIALS: [&str; 12] = [
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
    "UnrecognizedClient",
];

/// One API of AWS, as people know it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Api {
    Groups,
    Instances,
    CompleteHook,
    Heartbeat,
    Hooks,
    Receive,
    Delete,
    Visibility,
    Attributes,
}

impl Api {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Groups => "DescribeAutoScalingGroups",
            Self::Instances => "DescribeInstances",
            Self::CompleteHook => "CompleteLifecycleAction",
            Self::Heartbeat => "RecordLifecycleActionHeartbeat",
            Self::Hooks => "DescribeLifecycleHooks",
            Self::Receive => "ReceiveMessage",
            Self::Delete => "DeleteMessageBatch",
            Self::Visibility => "ChangeMessageVisibilityBatch",
            Self::Attributes => "GetQueueAttributes",
        }
    }

    fn permission(self) -> &'static str {
        match self {
            Self::Groups => "autoscaling:DescribeAutoScalingGroups",
            Self::Instances => "ec2:DescribeInstances",
            Self::CompleteHook => "autoscaling:CompleteLifecycleAction",
            Self::Heartbeat => "autoscaling:RecordLifecycleActionHeartbeat",
            Self::Hooks => "autoscaling:DescribeLifecycleHooks",
            // A batch needs the permission of the single call.
            Self::Receive => "sqs:ReceiveMessage",
            Self::Delete => "sqs:DeleteMessage",
            Self::Visibility => "sqs:ChangeMessageVisibility",
            Self::Attributes => "sqs:GetQueueAttributes",
        }
    }
}

/// An HTTP answer that is no success.
pub(super) fn refused(api: Api, status: u16, code: Option<&str>) -> SourceError {
    let name = api.name();
    let said = match code {
        Some(code) => format!("HTTP {status} {code}"),
        None => format!("HTTP {status}"),
    };
    let is = |list: &[&str]| code.is_some_and(|code| list.contains(&code));
    if is(&THROTTLED) || status == 429 {
        SourceError::Throttled(format!("{name} answered {said}"))
    } else if is(&BAD_CREDENTIALS) || status == 401 {
        SourceError::Denied(format!(
            "{name} answered {said}: renew the AWS credentials, and check that this machine's clock is right"
        ))
    } else if is(&FORBIDDEN) || status == 403 {
        let permission = api.permission();
        SourceError::Denied(format!("{name} answered {said}: allow {permission} in the policy of the role"))
    } else if status >= 500 {
        SourceError::Unreachable(format!("{name} answered {said}"))
    } else {
        malformed(api, &said)
    }
}

/// An answer that makes no sense.
pub(crate) fn malformed(api: Api, what: &dyn std::fmt::Display) -> SourceError {
    SourceError::Malformed(format!("{}: {what}", api.name()))
}

/// Our own budget did not allow the call in time.
pub(super) fn no_turn(api: Api, limit: Duration) -> SourceError {
    SourceError::Unreachable(format!(
        "{} was not called: no turn within {limit:?} at our own pace",
        api.name()
    ))
}

/// Nothing came in time.
pub(crate) fn timed_out(api: Api, limit: Duration) -> SourceError {
    SourceError::Unreachable(format!("{} did not answer within {limit:?}", api.name()))
}

/// What the connector says when there is no HTTP answer.
pub(super) fn unanswered(api: Api, error: &(dyn Error + 'static)) -> SourceError {
    if let Some(error) = find::<CredentialsError>(error) {
        return no_credentials(error);
    }
    if find::<TooLong>(error).is_some() {
        return malformed(api, &TooLong);
    }
    SourceError::Unreachable(format!("{}: {}", api.name(), root_cause(error)))
}

/// What the SDK says.
pub(crate) fn from_sdk<E>(api: Api, error: &SdkError<E, HttpResponse>) -> SourceError
where
    E: Error + 'static,
{
    match error {
        SdkError::ServiceError(e) => refused_as(api, e.raw()),
        SdkError::ResponseError(e) if e.raw().status().is_success() => malformed(api, &root_cause(error)),
        SdkError::ResponseError(e) => refused_as(api, e.raw()),
        _ => unanswered(api, error),
    }
}

/// The code is read by us: the SDK knows only one of the forms that errors come in.
fn refused_as(api: Api, response: &HttpResponse) -> SourceError {
    let code = response.body().bytes().and_then(|body| error_code(body).or_else(|| json_error_code(body)));
    refused(api, response.status().as_u16(), code.as_deref())
}

/// The code of an error in the JSON protocol: `"__type": "com.amazonaws.sqs#QueueDoesNotExist"`.
fn json_error_code(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Told {
        __type: String,
    }
    let told: Told = serde_json::from_slice(body).ok()?;
    clean_code(told.__type.rsplit('#').next()?)
}

/// No credentials, which may be anyone's fault. What a provider says is not passed on: it may hold the
/// output of a program.
pub(super) fn no_credentials(error: &CredentialsError) -> SourceError {
    let said = chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let code = |list: &[&'static str]| list.iter().find(|code| said.contains(**code)).copied();
    if let Some(code) = code(&THROTTLED) {
        return SourceError::Throttled(format!("AWS credentials: STS answered {code}"));
    }
    if let Some(code) = code(&FORBIDDEN).or_else(|| code(&BAD_CREDENTIALS)) {
        return SourceError::Denied(format!(
            "AWS credentials: refused with {code}; allow sts:AssumeRole, and let the role trust this caller"
        ));
    }
    let connection = find::<ConnectorError>(error).is_some_and(|e| e.is_io() || e.is_timeout());
    if connection || matches!(error, CredentialsError::ProviderTimedOut(_)) {
        return SourceError::Unreachable("AWS credentials: their provider did not answer".to_owned());
    }
    SourceError::Denied(match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            "no AWS credentials found: give this machine an instance profile, or set AWS_PROFILE".to_owned()
        }
        _ => "AWS credentials cannot be loaded: check the profile, the instance profile or assume_role"
            .to_owned(),
    })
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.source();
        Some(this)
    })
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|e| e.downcast_ref())
}

/// The innermost error says it best: "connection refused", not "dispatch failure".
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let cause = chain(error).last().map(ToString::to_string).unwrap_or_default();
    let clean = cause.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MAX_CAUSE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_is_known_in_every_form() {
        for (status, code) in [
            (400, Some("Throttling")),
            (400, Some("ThrottlingException")),
            (503, Some("RequestLimitExceeded")),
            (503, Some("SlowDown")),
            (429, None),
            (200, Some("TooManyRequestsException")),
        ] {
            let error = refused(Api::Groups, status, code);
            assert!(matches!(error, SourceError::Throttled(_)), "{status} {code:?} is {error}");
        }
        let broken = refused(Api::Instances, 503, Some("Unavailable"));
        assert_eq!(
            broken,
            SourceError::Unreachable("DescribeInstances answered HTTP 503 Unavailable".to_owned())
        );
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let error = refused(Api::Instances, 403, Some("UnauthorizedOperation"));
        assert!(
            matches!(&error, SourceError::Denied(why) if why.contains("allow ec2:DescribeInstances")),
            "{error}"
        );
        let error = refused(Api::Groups, 400, Some("ExpiredToken"));
        assert!(matches!(&error, SourceError::Denied(why) if why.contains("renew")), "{error}");
        assert!(matches!(refused(Api::Groups, 400, Some("ValidationError")), SourceError::Malformed(_)));
    }

    #[test]
    fn the_code_of_a_json_error_is_found_only_if_it_is_one() {
        let code = |body: &str| json_error_code(body.as_bytes());
        let body = r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"x"}"#;
        assert_eq!(code(body).as_deref(), Some("QueueDoesNotExist"));
        assert_eq!(code(r#"{"__type":"AccessDenied"}"#).as_deref(), Some("AccessDenied"));
        for none in ["", "{}", "[]", r#"{"__type":7}"#, r#"{"__type":"a b\nc"}"#] {
            assert_eq!(code(none), None, "{none}");
        }
    }

    #[test]
    fn nothing_a_provider_says_is_passed_on() {
        for error in [
            CredentialsError::provider_error("the program wrote SECRET"),
            CredentialsError::unhandled("SECRET"),
            CredentialsError::invalid_configuration("SECRET"),
            CredentialsError::not_loaded("SECRET"),
        ] {
            let told = no_credentials(&error);
            assert!(matches!(&told, SourceError::Denied(why) if !why.contains("SECRET")), "{told}");
        }
        let refused = no_credentials(&CredentialsError::provider_error("unhandled error (AccessDenied)"));
        assert!(matches!(&refused, SourceError::Denied(why) if why.contains("sts:AssumeRole")), "{refused}");
        let slow = no_credentials(&CredentialsError::provider_timed_out(Duration::from_secs(5)));
        assert!(matches!(slow, SourceError::Unreachable(_)));
    }
}
