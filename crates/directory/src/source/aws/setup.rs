//! The SDK's configuration and credentials, and where EC2 is.
//!
//! Invariant: whoever is set up here retries nothing by itself and asks for credentials once for all.

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use http::Uri;
use pikepole_fleet::Region;

use super::credentials::Kept;
use super::{AwsSettings, AwsSetupError, transport};

/// The session's name in CloudTrail of the account that owns the role.
const SESSION: &str = "pikepole";

/// The SDK's configuration, with credentials that are fetched once and kept for all that use it.
pub(crate) async fn sdk(settings: &AwsSettings) -> (SdkConfig, Kept) {
    let config = load_config(settings).await;
    let credentials = credentials(settings, &config).await;
    let kept = SharedCredentialsProvider::new(credentials.clone());
    (config.into_builder().credentials_provider(kept).build(), credentials)
}

async fn load_config(settings: &AwsSettings) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .operation_attempt_timeout(settings.call_timeout)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(aws_config::Region::new(settings.region.as_str().to_owned()))
        .http_client(transport::client())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .identity_cache(IdentityCache::no_cache());
    if let Some(url) = &settings.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    if let Some(credentials) = &settings.credentials {
        loader = loader.credentials_provider(credentials.clone());
    }
    loader.load().await
}

/// What the chain gives, or the role it may assume.
async fn credentials(settings: &AwsSettings, config: &SdkConfig) -> Kept {
    let from = match &settings.assume_role {
        Some(role) => {
            let role =
                AssumeRoleProvider::builder(role).session_name(SESSION).configure(config).build().await;
            Some(SharedCredentialsProvider::new(role))
        }
        None => config.credentials_provider(),
    };
    Kept::new(from, settings.clock.clone())
}

pub(super) fn ec2_endpoint(region: &Region, given: Option<&str>) -> Result<Uri, AwsSetupError> {
    let domain = if region.as_str().starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let url = given.map_or_else(|| format!("https://ec2.{region}.{domain}"), str::to_owned);
    let wrong = || AwsSetupError::Endpoint(url.clone());
    let uri: Uri = format!("{}/", url.trim_end_matches('/')).parse().map_err(|_| wrong())?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some() => Ok(uri),
        _ => Err(wrong()),
    }
}
