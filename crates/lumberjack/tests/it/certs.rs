//! An authority and certificates for 127.0.0.1, in files of a folder that goes with the value.

use std::path::PathBuf;

use pikepole_lumberjack::{client, server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use tempfile::TempDir;

pub(crate) struct Certs {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certs {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = name("authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certs = Self { dir: tempfile::tempdir().unwrap(), authority };
        std::fs::write(certs.path("ca.pem"), certs.authority.pem()).unwrap();
        certs.issue("server", "127.0.0.1");
        certs
    }

    /// Writes a certificate for `host` and its key to `NAME.pem` and `NAME.key`.
    pub(crate) fn issue(&self, name: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name = self::name(name);
        let cert = params.signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn server(&self) -> server::TlsConfig {
        server::TlsConfig { cert: self.path("server.pem"), key: self.path("server.key"), client_ca: None }
    }

    pub(crate) fn client(&self) -> client::TlsConfig {
        client::TlsConfig { ca: Some(self.path("ca.pem")), ..client::TlsConfig::default() }
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}
