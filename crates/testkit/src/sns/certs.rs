//! Authorities and certificates, the right ones and the wrong ones.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, date_time_ymd,
};

use super::{ISSUER, KEY};

/// An authority that signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A root.
    pub fn root(name: &str) -> Self {
        let certified = CertifiedIssuer::self_signed(params(name), new_key());
        Self(certified.expect("an authority's parameters"))
    }

    /// An authority below this one.
    pub fn issuer(&self, name: &str) -> Self {
        Self(CertifiedIssuer::signed_by(params(name), new_key(), &self.0).expect("an authority's parameters"))
    }

    /// Its certificate.
    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// The same as text.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's certificate and its key.
    pub(super) fn server(&self, names: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = new_key();
        let params = CertificateParams::new(names).expect("host names");
        let certificate = params.signed_by(&key, &self.0).expect("a server's parameters");
        (certificate.der().to_vec(), key.serialize_der())
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key on a curve")
}

/// A signing certificate to be.
pub struct Leaf {
    params: CertificateParams,
    key: KeyPair,
}

impl Leaf {
    /// For a name, with the key that signs messages, and with the address of its issuer.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![name.to_string()]).expect("a host name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.custom_extensions = vec![issuer_entry(ISSUER)];
        Self { params, key: KeyPair::from_pem(KEY).expect("the key is a file of ours") }
    }

    /// It ended years ago.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.params.not_before = date_time_ymd(2020, 1, 1);
        self.params.not_after = date_time_ymd(2021, 1, 1);
        self
    }

    /// It ends on this day.
    #[must_use]
    pub fn until(mut self, year: i32, month: u8, day: u8) -> Self {
        self.params.not_after = date_time_ymd(year, month, day);
        self
    }

    /// Its issuer's address is another one.
    #[must_use]
    pub fn issued_at(mut self, url: &str) -> Self {
        self.params.custom_extensions = vec![issuer_entry(url)];
        self
    }

    /// Its key is on a curve.
    #[must_use]
    pub fn on_a_curve(mut self) -> Self {
        self.key = new_key();
        self
    }

    /// Signed by an authority, as text.
    pub fn signed_by(self, authority: &Authority) -> String {
        self.params.signed_by(&self.key, &authority.0).expect("a certificate's parameters").pem()
    }

    /// Signed by itself, as text.
    pub fn self_signed(self) -> String {
        self.params.self_signed(&self.key).expect("a certificate's parameters").pem()
    }
}

/// `AuthorityInfoAccess` with one entry, `caIssuers`.
fn issuer_entry(url: &str) -> CustomExtension {
    let length = u8::try_from(url.len()).expect("a short address");
    let mut entry = vec![0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02, 0x86, length];
    entry.extend(url.as_bytes());
    for _ in 0..2 {
        let length = u8::try_from(entry.len()).expect("a short address");
        entry.splice(0..0, [0x30, length]);
    }
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], entry)
}
