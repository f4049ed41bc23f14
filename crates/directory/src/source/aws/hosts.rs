//! Asks EC2 about single instances: one signed Query request, without EC2's own SDK.
//!
//! The `instance-id` filter is used rather than the list of ids, because an id that EC2 does not know
//! (yet, or any more) fails a whole call that lists it, and because only a filtered call may be paged.
//!
//! Invariant: a walk over pages ends with every page or with an error.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Uri};
use pikepole_fleet::InstanceId;

use super::calls::AwsCalls;
use super::credentials::Kept;
use super::errors::{self, Api};
use super::pace::Pace;
use super::xml::{self, Host, HostPage};
use crate::clock::Clock;
use crate::source::SourceError;

/// Values of one filter (AWS, EC2 API).
pub(super) const BATCH: usize = 200;

/// Pages of one walk. Two hundred instances are one page unless AWS chooses to split them.
const MAX_PAGES: usize = 100;

/// Results of one page (AWS, `MaxResults`).
const PAGE: &str = "1000";

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
const AGENT: &str = concat!("pikepole/", env!("CARGO_PKG_VERSION"));

/// `DescribeInstances`, within its budget.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) connector: SharedHttpConnector,
    pub(super) endpoint: Uri,
    pub(super) region: String,
    pub(super) credentials: Kept,
    pub(super) clock: Clock,
    pub(super) pace: Pace,
    pub(super) limit: Duration,
    pub(super) calls: Arc<AwsCalls>,
}

impl Hosts {
    /// Those of at most [`BATCH`] instances that EC2 knows.
    pub(super) async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Host>, SourceError> {
        let mut found = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(form(ids, token.as_deref())).await?;
            found.extend(page.hosts);
            token = page.next;
            if token.is_none() {
                return Ok(found);
            }
        }
        Err(errors::malformed(Api::Instances, &format!("the answer has more than {MAX_PAGES} pages")))
    }

    async fn page(&self, form: String) -> Result<HostPage, SourceError> {
        self.pace.turn().await;
        self.calls.count(Api::Instances);
        match tokio::time::timeout(self.limit, self.call(form)).await {
            Ok(answer) => answer,
            Err(_) => Err(errors::timed_out(Api::Instances, self.limit)),
        }
    }

    async fn call(&self, form: String) -> Result<HostPage, SourceError> {
        let credentials = self.credentials.provide_credentials().await;
        let identity = credentials.map_err(|e| errors::no_credentials(&e))?.into();
        let request = self.sign(form, &identity)?;
        let response = self.connector.call(request).await;
        let response = response.map_err(|e| errors::unanswered(Api::Instances, &e))?;
        let body = response.body().bytes().unwrap_or_default();
        if !response.status().is_success() {
            let code = xml::error_code(body);
            return Err(errors::refused(Api::Instances, response.status().as_u16(), code.as_deref()));
        }
        xml::host_page(body).map_err(|e| errors::malformed(Api::Instances, &e))
    }

    fn sign(&self, form: String, identity: &Identity) -> Result<HttpRequest, SourceError> {
        // None of these depends on an answer; a failure here is a wrong endpoint or region.
        let unusable =
            |e: &dyn std::error::Error| errors::malformed(Api::Instances, &format!("cannot sign: {e}"));
        let time = UNIX_EPOCH + Duration::from_millis(self.clock.now().as_millis());
        let params = v4::SigningParams::builder()
            .identity(identity)
            .region(&self.region)
            .name("ec2")
            .time(time)
            .settings(SigningSettings::default())
            .build()
            .map_err(|e| unusable(&e))?
            .into();
        let uri = self.endpoint.to_string();
        let headers = [(CONTENT_TYPE.as_str(), FORM)].into_iter();
        let signable =
            SignableRequest::new("POST", uri.as_str(), headers, SignableBody::Bytes(form.as_bytes()))
                .map_err(|e| unusable(&e))?;
        let (instructions, _) = sign(signable, &params).map_err(|e| unusable(&e))?.into_parts();
        let request = Request::builder().method(Method::POST).uri(self.endpoint.clone());
        let request = request.header(CONTENT_TYPE, FORM).header(USER_AGENT, AGENT);
        let mut request = request.body(form.into()).map_err(|e| unusable(&e))?;
        instructions.apply_to_request_http1x(&mut request);
        HttpRequest::try_from(request).map_err(|e| unusable(&e))
    }
}

fn form(ids: &[InstanceId], token: Option<&str>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", "DescribeInstances");
    form.append_pair("Version", "2016-11-15");
    form.append_pair("Filter.1.Name", "instance-id");
    for (number, id) in (1..).zip(ids) {
        form.append_pair(&format!("Filter.1.Value.{number}"), id.as_str());
    }
    form.append_pair("MaxResults", PAGE);
    if let Some(token) = token {
        form.append_pair("NextToken", token);
    }
    form.finish()
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use pikepole_fleet::Timestamp;

    use super::super::transport;
    use super::*;

    /// Both signatures were computed by botocore, AWS's own signer for Python, from the same parts.
    #[test]
    fn the_signature_is_the_one_awss_own_tools_compute() {
        let clock = Clock::from_fn(|| Timestamp::from_millis(1_795_341_600_000));
        let hosts = Hosts {
            connector: transport::connector(Duration::from_secs(1)),
            endpoint: "https://ec2.ap-south-1.amazonaws.com/".parse().unwrap(),
            region: "ap-south-1".to_owned(),
            credentials: Kept::new(None, clock.clone()),
            clock,
            pace: Pace::per_second(1.0),
            limit: Duration::from_secs(1),
            calls: Arc::default(),
        };
        let ids = ["i-1".parse().unwrap(), "i-2".parse().unwrap()];
        for (session, signature) in [
            (None, "8f3cf3393e0e6356211d08566328ab5bb5a340af0220bbcf99946641bfac1fed"),
            (
                Some("a/session+token=".to_owned()),
                "21d88bc50e4c0cba04201a29f12b7cdd73519b31be4cbf44ca1230c92f9f99dd",
            ),
        ] {
            let credentials = Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI", session, None, "test");
            let request = hosts.sign(form(&ids, Some("a+b=")), &credentials.into()).unwrap();
            assert_eq!(request.headers().get("content-type"), Some(FORM), "sent as it is signed");
            let authorization = request.headers().get("authorization").unwrap();
            assert!(authorization.ends_with(&format!("Signature={signature}")), "{authorization}");
        }
    }
}
