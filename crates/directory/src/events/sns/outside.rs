//! The few requests that SNS makes us send: a certificate, its issuer, the confirmation of a subscription.
//!
//! Which addresses may be asked is decided in `place.rs`; this only asks. No redirect is followed: the client knows
//! none.
//!
//! Invariant: a request ends within its time, and no more of an answer is kept than its limit.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

/// Bytes of an answer that are read at most: a certificate has two thousand, a confirmation's answer five hundred.
const MAX_ANSWER: usize = 16 * 1024;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutsideError {
    /// It could not be reached, or broke off.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it did not answer in time")]
    Slow,
    /// It answered with something else than 200.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// The answer is longer than any true one.
    #[error("its answer is longer than {MAX_ANSWER} bytes, or broke off")]
    TooLong,
}

/// Says where a host is, instead of DNS.
type Lookup = Arc<dyn Fn(&str) -> SocketAddr + Send + Sync>;

/// The outside world: whom to believe, and how to get there.
#[derive(Clone)]
pub struct Outside {
    roots: Arc<RootCertStore>,
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Empty<Bytes>>,
}

impl Outside {
    /// The real one: the system's roots, read once, and DNS.
    pub fn system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            // Not a reason to stop: all else works, and SNS is told to come again.
            tracing::error!(errors = ?found.errors, "the system has no root certificates: nothing of SNS can be verified");
        }
        Self::with(roots, None)
    }

    /// Another one, for tests and benchmarks: no configuration leads here. Only roots and addresses change; all rules
    /// about URLs and certificates stay.
    pub fn replaced(
        roots: RootCertStore,
        lookup: impl Fn(&str) -> SocketAddr + Send + Sync + 'static,
    ) -> Self {
        Self::with(roots, Some(Arc::new(lookup)))
    }

    fn with(roots: RootCertStore, lookup: Option<Lookup>) -> Self {
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions of TLS")
            .with_root_certificates(Arc::clone(&roots))
            .with_no_client_auth();
        let mut connector = HttpConnector::new_with_resolver(Resolver { lookup, system: GaiResolver::new() });
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { roots, client }
    }

    /// Whom to believe.
    pub(super) fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    /// The body of an answer 200.
    pub(super) async fn get(&self, url: &str, time: Duration) -> Result<Bytes, OutsideError> {
        tokio::time::timeout(time, self.get_patiently(url)).await.unwrap_or(Err(OutsideError::Slow))
    }

    async fn get_patiently(&self, url: &str) -> Result<Bytes, OutsideError> {
        let request = Request::get(url).body(Empty::new()).map_err(|_| unreachable("not a URL"))?;
        // The error's text is about the connection: it does not repeat the URL, which may hold a token.
        let answer = self.client.request(request).await.map_err(|e| unreachable(&cause(&e)))?;
        if answer.status() != StatusCode::OK {
            return Err(OutsideError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|_| OutsideError::TooLong)
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outside")
    }
}

fn unreachable(why: &str) -> OutsideError {
    OutsideError::Unreachable(why.into())
}

/// The innermost error: the outer ones only say that there was one.
fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// DNS, or what a test says.
#[derive(Clone)]
struct Resolver {
    lookup: Option<Lookup>,
    system: GaiResolver,
}

impl tower_service::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        if let Some(lookup) = &self.lookup {
            let address = lookup(name.as_str());
            return Box::pin(async move { Ok(vec![address].into_iter()) });
        }
        let mut system = self.system.clone();
        Box::pin(async move {
            let found = system.call(name).await?;
            Ok(found.collect::<Vec<_>>().into_iter())
        })
    }
}
