//! TLS from files, for both sides, read again when they have changed.
//!
//! Not a store of secrets: errors name the file and never show what is in it.
//!
//! Invariant: files that cannot be used replace nothing; somebody is writing them, and the last good ones stay.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;

/// Files of TLS cannot be used. The sentence names them and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TlsError(String);

/// How a client sees that a server is the right one, and shows who it is itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The authority that signs the servers' certificates, PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The certificate to show, PEM, with the chain that leads to its authority.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// The name that the certificates of all servers must have; `None`: the address that is connected to.
    pub server_name: Option<String>,
}

/// How a server shows who it is, and which clients it lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate to show, PEM, with the chain that leads to its authority.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authority that signs the certificates of clients, PEM; `None`: clients show none. Names in them are
    /// not looked at.
    pub client_ca: Option<PathBuf>,
}

/// What tells one version of the files from another without reading them.
type Stamps = Vec<Option<(SystemTime, u64)>>;

type Build<T> = Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>;

/// What was made of files, made anew when they change.
pub(crate) struct Renewed<T> {
    files: Vec<PathBuf>,
    build: Build<T>,
    current: Mutex<(Stamps, Arc<T>)>,
}

impl<T> Renewed<T> {
    fn new(files: Vec<PathBuf>, build: Build<T>) -> Result<Self, TlsError> {
        // The stamps are taken first: a change while the files are read is noticed then.
        let stamps = stamps(&files);
        let current = Mutex::new((stamps, Arc::new(build()?)));
        Ok(Self { files, build, current })
    }

    /// The newest that could be used. Three small files at most are looked at, in place.
    pub(crate) fn current(&self) -> Arc<T> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        if stamps != current.0 {
            current.0 = stamps;
            match (self.build)() {
                Ok(built) => {
                    tracing::info!(files = ?self.files, "changed certificates are used");
                    current.1 = Arc::new(built);
                }
                Err(error) => {
                    tracing::warn!(%error, "changed certificates are not used, the last good ones stay");
                }
            }
        }
        Arc::clone(&current.1)
    }
}

fn stamps(files: &[PathBuf]) -> Stamps {
    let stamp = |path| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
    files.iter().map(stamp).collect()
}

/// A client's side, with the name it asks for, if one was given.
pub(crate) fn client(
    files: &ClientTls,
) -> Result<(Renewed<ClientConfig>, Option<ServerName<'static>>), TlsError> {
    if files.cert.is_some() != files.key.is_some() {
        return Err(TlsError("a certificate and its key are given together".into()));
    }
    let name = files.server_name.as_ref().map(|name| {
        ServerName::try_from(name.clone()).map_err(|_| TlsError(format!("{name:?} is no name of a server")))
    });
    let watched = [&files.ca, &files.cert, &files.key].into_iter().flatten().cloned().collect();
    let files = files.clone();
    Ok((Renewed::new(watched, Box::new(move || client_config(&files)))?, name.transpose()?))
}

fn client_config(files: &ClientTls) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError(e.to_string()))?;
    let trusted = match &files.ca {
        Some(path) => authority(path)?,
        None => system()?,
    };
    let builder = builder.with_root_certificates(trusted);
    let (Some(cert), Some(key)) = (&files.cert, &files.key) else { return Ok(builder.with_no_client_auth()) };
    let (chain, private) = identity(cert, key)?;
    builder.with_client_auth_cert(chain, private).map_err(|e| unusable(cert, key, &e))
}

/// A server's side.
pub(crate) fn server(files: &ServerTls) -> Result<Renewed<ServerConfig>, TlsError> {
    let watched = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
    let watched = watched.into_iter().flatten().cloned().collect();
    let files = files.clone();
    Renewed::new(watched, Box::new(move || server_config(&files)))
}

fn server_config(files: &ServerTls) -> Result<ServerConfig, TlsError> {
    let (chain, private) = identity(&files.cert, &files.key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError(e.to_string()))?;
    let builder =
        match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authority(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| {
                    TlsError(format!("{} cannot be used to check clients: {e}", path.display()))
                })?)
            }
        };
    builder.with_single_cert(chain, private).map_err(|e| unusable(&files.cert, &files.key, &e))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(cert: &Path, key: &Path) -> Result<Identity, TlsError> {
    let shown = cert.display();
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| TlsError(format!("cannot read the certificate {shown}: {e}")))?;
    if chain.is_empty() {
        return Err(TlsError(format!("{shown} holds no certificate")));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| TlsError(format!("cannot read the key {}: {e}", key.display())))?;
    Ok((chain, private))
}

fn unusable(cert: &Path, key: &Path, error: &rustls::Error) -> TlsError {
    let (cert, key) = (cert.display(), key.display());
    TlsError(format!("the certificate {cert} and the key {key} cannot be used: {error}"))
}

fn authority(path: &Path) -> Result<RootCertStore, TlsError> {
    let shown = path.display();
    let unreadable = |e| TlsError(format!("cannot read the authority {shown}: {e}"));
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        roots
            .add(cert.map_err(unreadable)?)
            .map_err(|e| TlsError(format!("{shown} holds an unusable certificate: {e}")))?;
    }
    if roots.is_empty() { Err(TlsError(format!("{shown} holds no certificate"))) } else { Ok(roots) }
}

fn system() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(TlsError("the system has no certificates to trust".into())) } else { Ok(roots) }
}
