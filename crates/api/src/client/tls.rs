//! The client's side of TLS: whom it trusts, and how it shows who it is.
//!
//! Errors name the file; they never show what is in it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Files for TLS with an authority of one's own, and for mTLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that signs the directory's certificate, PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The certificate to show and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Reads the files. Whoever talks `plain` HTTP needs no authority, and the system's are megabytes.
pub(super) fn config(files: &TlsFiles, plain: bool) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let trusted = if plain && files.ca.is_none() { RootCertStore::empty() } else { roots(files)? };
    let builder = builder.with_root_certificates(trusted);
    let Some((cert, key)) = &files.identity else { return Ok(builder.with_no_client_auth()) };
    let (cert_shown, key_shown) = (cert.display(), key.display());
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| format!("cannot read the certificate {cert_shown}: {e}"))?;
    if chain.is_empty() {
        return Err(format!("{cert_shown} holds no certificate"));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|e| format!("cannot read the key {key_shown}: {e}"))?;
    builder
        .with_client_auth_cert(chain, private)
        .map_err(|e| format!("the certificate {cert_shown} and the key {key_shown} cannot be used: {e}"))
}

fn roots(files: &TlsFiles) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &files.ca else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        return if added == 0 { Err("the system has no certificates to trust".into()) } else { Ok(roots) };
    };
    let shown = path.display();
    let certs =
        CertificateDer::pem_file_iter(path).map_err(|e| format!("cannot read the authority {shown}: {e}"))?;
    for cert in certs {
        let cert = cert.map_err(|e| format!("cannot read the authority {shown}: {e}"))?;
        roots.add(cert).map_err(|e| format!("{shown} holds an unusable certificate: {e}"))?;
    }
    if roots.is_empty() { Err(format!("{shown} holds no certificate")) } else { Ok(roots) }
}
