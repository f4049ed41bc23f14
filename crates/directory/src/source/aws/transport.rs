//! The HTTP client for AWS: TLS by ring, time limits, and no body beyond a limit.
//!
//! Not a retrying client, and not one that follows proxies of the environment, as the SDK does not
//! either.
//!
//! Invariant: a response that leaves here is in memory whole. What was cut off on the way is an error.

use std::time::Duration;

use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use http_body_util::{BodyExt, LengthLimitError, Limited};

/// Bytes of one answer. A page of a hundred large groups is about five million.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// An answer longer than what is taken.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the answer is longer than {MAX_BODY} bytes")]
pub(super) struct TooLong;

/// Adds the limit to a client or a connector.
#[derive(Debug)]
struct Bounded<T>(T);

/// The client that the SDK is given.
pub(super) fn client() -> SharedHttpClient {
    SharedHttpClient::new(Bounded(
        Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
    ))
}

/// The connector for the calls we make ourselves.
pub(super) fn connector(connect_timeout: Duration) -> SharedHttpConnector {
    let settings = HttpConnectorSettings::builder().connect_timeout(connect_timeout).build();
    let tls = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::Ring));
    SharedHttpConnector::new(Bounded(SharedHttpConnector::new(tls.connector_settings(settings).build())))
}

impl HttpClient for Bounded<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Bounded(self.0.http_connector(settings, components)))
    }
}

impl HttpConnector for Bounded<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut response = answer.await?;
            let body = Limited::new(response.take_body(), MAX_BODY).collect().await.map_err(|e| {
                if e.is::<LengthLimitError>() {
                    ConnectorError::other(TooLong.into(), None)
                } else {
                    ConnectorError::io(e)
                }
            })?;
            *response.body_mut() = body.to_bytes().into();
            Ok(response)
        })
    }
}
