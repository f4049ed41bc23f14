//! TLS for the server: certificates from files, read again when the files change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::sync::watch;

use crate::config::TlsConfig;
use crate::shutdown::Shutdown;

/// Builds the server's side of TLS from files. The error is a sentence without secrets.
pub(crate) fn server_config(config: &TlsConfig) -> Result<Arc<ServerConfig>, String> {
    let cert = config.cert.display();
    let key = config.key.display();
    let chain = CertificateDer::pem_file_iter(&config.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| format!("cannot read the certificate {cert}: {e}"))?;
    if chain.is_empty() {
        return Err(format!("{cert} holds no certificate"));
    }
    let private =
        PrivateKeyDer::from_pem_file(&config.key).map_err(|e| format!("cannot read the key {key}: {e}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = roots(path)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| format!("cannot use {} to check clients: {e}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder
        .with_single_cert(chain, private)
        .map_err(|e| format!("the certificate {cert} and the key {key} cannot be used: {e}"))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn roots(path: &std::path::Path) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    let certs = CertificateDer::pem_file_iter(path)
        .map_err(|e| format!("cannot read the authority {}: {e}", path.display()))?;
    for cert in certs {
        let cert = cert.map_err(|e| format!("cannot read the authority {}: {e}", path.display()))?;
        roots.add(cert).map_err(|e| format!("{} holds an unusable certificate: {e}", path.display()))?;
    }
    Ok(roots)
}

/// What tells one version of the files from another without reading them.
pub(super) type Stamp = Vec<Option<(SystemTime, u64)>>;

/// Taken before the files are read: a change in between is noticed then.
pub(super) fn stamp(config: &TlsConfig) -> Stamp {
    [Some(&config.cert), Some(&config.key), config.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len()))))
        .collect()
}

/// Follows the files until the shutdown. A pair that cannot be used is reported and the last good one
/// stays: rotation writes two files, and there is a moment between them.
pub(super) async fn follow(
    config: TlsConfig,
    mut seen: Stamp,
    current: watch::Sender<Arc<ServerConfig>>,
    look_every: Duration,
    mut shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(look_every) => {}
        }
        let now = stamp(&config);
        if now == seen {
            continue;
        }
        match server_config(&config) {
            Ok(server) => {
                current.send_replace(server);
                tracing::info!(cert = %config.cert.display(), "certificate reloaded");
            }
            Err(error) => tracing::warn!(%error, "changed certificate not used, the last good one stays"),
        }
        seen = now;
    }
}
