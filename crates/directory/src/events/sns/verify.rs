//! Whether a certificate may sign for a topic, and whether a signature is its. Pure: the time, the roots and the
//! certificates are handed in.
//!
//! What SNS serves is the leaf alone; its issuer has to be brought along. An issuer is believed only because it
//! leads to a root, so it may come from anywhere.
//!
//! Invariant: a [`SigningKey`] was, when it was made, the RSA key of a certificate that leads to a root, is in date, and
//! carries a name of its topic.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pikepole_fleet::Timestamp;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY as SHA1, RSA_PKCS1_2048_8192_SHA256 as SHA256,
    UnparsedPublicKey,
};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use super::message::Envelope;
use super::place::{TopicArn, issuer_url};
use crate::config::SnsSignature;

/// Certificates in one file, at most: leaf, issuers, and room.
const MAX_CHAIN: usize = 6;
/// Bytes of a signature by the largest key that is taken, 8192 bits.
const MAX_SIGNATURE: usize = 1024;

/// Why a certificate is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// There is no certificate in the file.
    #[error("it is not a certificate in PEM")]
    NotPem,
    /// No public root stands behind it, or it is out of date.
    #[error("it is not trusted: {0}")]
    Untrusted(String),
    /// It is somebody else's.
    #[error("it is not SNS's: it carries none of the names {0}")]
    WrongName(String),
    /// It signs with something that SNS does not use.
    #[error("its key is not RSA")]
    NotRsa,
}

/// Why a signature is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A version that does not exist.
    #[error("SignatureVersion is neither 1 nor 2")]
    UnknownVersion,
    /// Version 1 is switched off.
    #[error(
        "SignatureVersion 1 (SHA-1) is refused by the configuration; set the topic's SignatureVersion to 2"
    )]
    TooWeak,
    /// The text of the signature is no base64, or too long.
    #[error("Signature is not base64")]
    Malformed,
    /// It is not the signature of this message by this key.
    #[error("the signature is wrong")]
    Wrong,
}

/// A certificate and those that stand behind it, unverified. Never empty.
#[derive(Debug, Clone)]
pub struct Chain(Vec<CertificateDer<'static>>);

impl Chain {
    /// Reads what was served at a signing certificate's URL.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertError> {
        let certificates = CertificateDer::pem_slice_iter(pem).take(MAX_CHAIN).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => Ok(Self(certificates)),
            _ => Err(CertError::NotPem),
        }
    }

    /// Adds an issuer, as an authority serves it: bare, or in PEM.
    pub fn add_issuer(&mut self, bytes: &[u8]) {
        let certificate = CertificateDer::from_pem_slice(bytes).unwrap_or_else(|_| bytes.to_vec().into());
        if self.0.len() < MAX_CHAIN {
            self.0.push(certificate);
        }
    }

    /// Where the leaf's issuer can be had, if the leaf says so and it is an address that may be asked.
    ///
    /// Of the extension only the entry is looked for, by its identifier: what is found is compared with a pattern,
    /// and what is fetched must lead to a root, so that nothing depends on where in the certificate it stood.
    pub fn issuer_url(&self) -> Option<&str> {
        /// `id-ad-caIssuers` (1.3.6.1.5.5.7.48.2), and the tag of a URI.
        const ISSUER: [u8; 11] = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02, 0x86];
        let leaf = self.0.first()?.as_ref();
        let at = leaf.windows(ISSUER.len()).position(|window| window == ISSUER)?;
        let (length, rest) = leaf.get(at + ISSUER.len()..)?.split_first()?;
        let url = rest.get(..usize::from(*length)).filter(|_| *length < 0x80)?;
        issuer_url(std::str::from_utf8(url).ok()?)
    }

    /// The key, if this certificate may sign for `topic` at `now`.
    pub fn believe(
        &self,
        topic: &TopicArn,
        roots: &RootCertStore,
        now: Timestamp,
    ) -> Result<SigningKey, CertError> {
        let untrusted = |e: rustls::Error| CertError::Untrusted(e.to_string());
        let (leaf, issuers) = self.0.split_first().ok_or(CertError::NotPem)?;
        let parsed = ParsedCertificate::try_from(leaf).map_err(untrusted)?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.as_millis()));
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, issuers, now, algorithms)
            .map_err(untrusted)?;
        let names = topic.certificate_names();
        let carries = |name: &String| {
            ServerName::try_from(name.as_str()).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
        };
        if !names.iter().any(carries) {
            return Err(CertError::WrongName(names.join(", ")));
        }
        let spki = parsed.subject_public_key_info();
        rsa_key(spki.as_ref()).map(|key| SigningKey(key.into())).ok_or(CertError::NotRsa)
    }
}

/// The public key of SNS.
#[derive(Debug, Clone)]
pub struct SigningKey(Box<[u8]>);

/// The `RSAPublicKey` in a `SubjectPublicKeyInfo` (RFC 3279, 2.3.1), if it is one.
fn rsa_key(spki: &[u8]) -> Option<&[u8]> {
    /// `AlgorithmIdentifier { rsaEncryption, NULL }`.
    const RSA: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let (content, end) = der(spki, 0x30)?;
    let (bits, inner_end) = der(content.strip_prefix(&RSA)?, 0x03)?;
    // No bit of the last byte is unused, and nothing follows.
    bits.strip_prefix(&[0]).filter(|_| end.is_empty() && inner_end.is_empty())
}

/// The content of a DER value with this tag, and what comes after it. Lengths of up to two bytes: no key is longer.
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes.strip_prefix(&[tag])? {
        [short @ ..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Whether the signature's version is one that is taken: what can be said before there is a key.
pub fn check_version(envelope: &Envelope, accepted: SnsSignature) -> Result<(), SignatureError> {
    match (envelope.signature_version.as_str(), accepted) {
        ("2", _) | ("1", SnsSignature::Any) => Ok(()),
        ("1", SnsSignature::V2) => Err(SignatureError::TooWeak),
        _ => Err(SignatureError::UnknownVersion),
    }
}

/// The signature's bytes.
pub(super) fn signature(envelope: &Envelope) -> Result<Vec<u8>, SignatureError> {
    // Four letters for three bytes.
    if envelope.signature.len() > MAX_SIGNATURE.div_ceil(3) * 4 {
        return Err(SignatureError::Malformed);
    }
    STANDARD.decode(&envelope.signature).map_err(|_| SignatureError::Malformed)
}

/// Whether this message was signed with this key. All that is left to do for a message once its key is known.
pub fn verify(envelope: &Envelope, key: &SigningKey, accepted: SnsSignature) -> Result<(), SignatureError> {
    check_version(envelope, accepted)?;
    let signature = signature(envelope)?;
    let algorithm = if envelope.signature_version == "1" { &SHA1 } else { &SHA256 };
    UnparsedPublicKey::new(algorithm, &key.0)
        .verify(envelope.canonical().as_bytes(), &signature)
        .map_err(|_| SignatureError::Wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_rsa_key_is_a_key() {
        let rsa = [
            &[0x30u8, 0x14][..],
            &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00],
            &[0x03, 0x03, 0x00, 0xab, 0xcd],
        ]
        .concat();
        assert_eq!(rsa_key(&rsa), Some(&[0xab, 0xcd][..]));
        for cut in 0..rsa.len() {
            assert_eq!(rsa_key(&rsa[..cut]), None, "{cut}");
        }
        assert_eq!(rsa_key(&[&rsa[..], &[0]].concat()), None);
        let mut curve = rsa.clone();
        curve[6] ^= 1;
        assert_eq!(rsa_key(&curve), None);
    }

    #[test]
    fn no_bytes_make_a_panic() {
        for bytes in [&b""[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", b"\xff\xfe"]
        {
            let Ok(mut chain) = Chain::from_pem(bytes) else { continue };
            chain.add_issuer(bytes);
            assert_eq!(chain.issuer_url(), None);
            let topic = "arn:aws:sns:ap-south-1:1:t".parse().unwrap();
            let believed = chain.believe(&topic, &RootCertStore::empty(), Timestamp::from_millis(0));
            assert!(matches!(believed, Err(CertError::Untrusted(_))));
        }
        // The entry is there, and ends before its address does.
        let entry = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02, 0x86, 0x7f, b'h'];
        assert_eq!(Chain(vec![entry.to_vec().into()]).issuer_url(), None);
        assert_eq!(Chain(vec![entry[..11].to_vec().into()]).issuer_url(), None);
    }
}
