//! The configuration: the function's environment, read once at its start.
//!
//! Invariant: every mistake is reported at once, and no message quotes a token or what may hold one.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use http::{HeaderValue, Uri};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// All directories together. A Lambda's default patience is 3 s, which must also hold its own start.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Below, no TLS handshake across zones fits.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest life of an invocation.
const MAX_TIMEOUT: Duration = Duration::from_secs(900);
/// More replicas than anybody runs; each gets its share of the timeout.
const MAX_DIRECTORIES: usize = 16;
/// Largest PEM file that is read: a bundle of all public roots is below 300 KiB.
const MAX_CA_BYTES: u64 = 1024 * 1024;
/// Where the extension of Secrets Manager listens unless it was told otherwise.
const EXTENSION_PORT: &str = "2773";

/// What Lambda itself sets, and its runtime client cannot start without.
const OF_LAMBDA: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
];

/// What the function needs to know.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where events go; at least one.
    pub(crate) directories: Vec<Directory>,
    /// How it shows who it is; `None` for directories without tokens.
    pub(crate) token: Option<TokenSource>,
    /// The only authorities that are trusted; `None`: those of the system.
    pub(crate) roots: Option<RootCertStore>,
    /// For all directories together.
    pub(crate) timeout: Duration,
}

/// One directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    /// Its URL as it was given.
    pub(crate) url: String,
    /// Where events are posted.
    pub(crate) events: Uri,
}

/// Where the token comes from.
#[derive(Debug)]
pub(crate) enum TokenSource {
    /// `Authorization`, complete. Marked sensitive.
    Given(HeaderValue),
    /// The extension of Secrets Manager.
    Secret {
        /// What is asked for.
        secret: Uri,
        /// What the extension wants to see. Marked sensitive.
        session: HeaderValue,
    },
}

/// Every mistake in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError(pub(crate) Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Config {
    /// Reads the environment through `variable`; an empty variable counts as absent.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let variable = |name: &str| variable(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let mut mistakes = Vec::new();
        for name in OF_LAMBDA {
            if variable(name).is_none() {
                mistakes.push(format!("{name}: absent; this program is started by AWS Lambda"));
            }
        }
        if variable("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").is_some_and(|size| size.parse::<i32>().is_err()) {
            mistakes.push("AWS_LAMBDA_FUNCTION_MEMORY_SIZE: not a number".into());
        }
        // Lambda's client would panic over it.
        if variable("AWS_LAMBDA_RUNTIME_API").is_some_and(|api| api.parse::<Uri>().is_err()) {
            mistakes.push("AWS_LAMBDA_RUNTIME_API: not a host and port".into());
        }
        let directories = directories(variable("PIKEPOLE_DIRECTORY").as_deref(), &mut mistakes);
        let token = token(&variable, &mut mistakes);
        let timeout = timeout(variable("PIKEPOLE_TIMEOUT").as_deref(), &mut mistakes);
        let roots = match variable("PIKEPOLE_CA") {
            Some(ca) => given_roots(&ca).map(Some),
            None if directories.iter().any(|d| d.events.scheme_str() == Some("https")) => {
                system_roots().map(Some)
            }
            None => Ok(None),
        };
        let roots = roots.unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        });
        if mistakes.is_empty() {
            Ok(Self { directories, token, roots, timeout })
        } else {
            Err(ConfigError(mistakes))
        }
    }
}

fn directories(list: Option<&str>, mistakes: &mut Vec<String>) -> Vec<Directory> {
    let list: Vec<&str> =
        list.unwrap_or_default().split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
    if list.is_empty() {
        mistakes
            .push("PIKEPOLE_DIRECTORY: absent; give the URLs of the directories, separated by commas".into());
    }
    if list.len() > MAX_DIRECTORIES {
        mistakes.push(format!("PIKEPOLE_DIRECTORY: {} URLs; {MAX_DIRECTORIES} at most", list.len()));
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (n, url) in list.into_iter().take(MAX_DIRECTORIES).enumerate() {
        match directory(url) {
            Ok(_) if !seen.insert(url) => mistakes.push(format!("PIKEPOLE_DIRECTORY: {url} twice")),
            Ok(directory) => found.push(directory),
            // What was written is not quoted: it may hold a password.
            Err(why) => mistakes.push(format!("PIKEPOLE_DIRECTORY: URL {}: {why}", n + 1)),
        }
    }
    found
}

fn directory(url: &str) -> Result<Directory, &'static str> {
    const FORM: &str = "write it like http://pikepole.internal:8044";
    let base = url.trim_end_matches('/');
    let uri: Uri = base.parse().map_err(|_| FORM)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(FORM);
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err("it holds a password; give the token as PIKEPOLE_TOKEN or PIKEPOLE_TOKEN_SECRET");
    }
    if uri.query().is_some() {
        return Err("it has a query; give only the directory's own URL");
    }
    let events = format!("{base}/v1/events").parse().map_err(|_| FORM)?;
    Ok(Directory { url: base.into(), events })
}

fn token(variable: &impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> Option<TokenSource> {
    match (variable("PIKEPOLE_TOKEN"), variable("PIKEPOLE_TOKEN_SECRET")) {
        (Some(_), Some(_)) => {
            mistakes.push("PIKEPOLE_TOKEN: give either it or PIKEPOLE_TOKEN_SECRET, not both".into());
            None
        }
        (Some(token), None) => match bearer(&token) {
            Some(header) => Some(TokenSource::Given(header)),
            None => {
                mistakes.push("PIKEPOLE_TOKEN: has characters that no token has".into());
                None
            }
        },
        (None, Some(secret)) => {
            secret_source(&secret, variable).map_err(|mistake| mistakes.push(mistake)).ok()
        }
        (None, None) => {
            tracing::warn!("no token is given: only a directory without tokens will take events");
            None
        }
    }
}

/// `Authorization` with this token; `None` if no header can carry it.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let plain = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| plain)?;
    header.set_sensitive(true);
    Some(header)
}

fn secret_source(secret: &str, variable: impl Fn(&str) -> Option<String>) -> Result<TokenSource, String> {
    let port = variable("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT").unwrap_or_else(|| EXTENSION_PORT.into());
    let port: u16 =
        port.parse().map_err(|_| "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT: not a port".to_string())?;
    // Names and ARNs of secrets hold letters, digits and /_+=.@-: and nothing else.
    let usual = |b: u8| b.is_ascii_alphanumeric() || b"/_+=.@-:!".contains(&b);
    if secret.len() > 2_048 || !secret.bytes().all(usual) {
        return Err("PIKEPOLE_TOKEN_SECRET: not the name or ARN of a secret".into());
    }
    let id = secret.replace('+', "%2B").replace('=', "%3D");
    let secret = format!("http://localhost:{port}/secretsmanager/get?secretId={id}");
    let secret = secret.parse().map_err(|_| "PIKEPOLE_TOKEN_SECRET: not the name or ARN of a secret")?;
    let session = variable("AWS_SESSION_TOKEN")
        .ok_or("AWS_SESSION_TOKEN: absent; Lambda sets it, and the secret cannot be read without it")?;
    let mut session =
        HeaderValue::from_str(&session).map_err(|_| "AWS_SESSION_TOKEN: not a header's text")?;
    session.set_sensitive(true);
    Ok(TokenSource::Secret { secret, session })
}

fn timeout(text: Option<&str>, mistakes: &mut Vec<String>) -> Duration {
    let Some(text) = text else { return DEFAULT_TIMEOUT };
    match humantime::parse_duration(text) {
        Ok(timeout) if (MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) => timeout,
        _ => {
            mistakes
                .push(format!("PIKEPOLE_TIMEOUT: {text:?} is not a time from 100ms to 15m, such as 2500ms"));
            DEFAULT_TIMEOUT
        }
    }
}

/// From PEM text, or from the file of that name.
fn given_roots(ca: &str) -> Result<RootCertStore, String> {
    let inline = ca.contains("-----BEGIN");
    let pem = if inline {
        // A console or a template may have made one line of it.
        ca.replace("\\n", "\n").into_bytes()
    } else {
        read_bounded(Path::new(ca)).map_err(|e| format!("PIKEPOLE_CA: {ca}: {e}"))?
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| "PIKEPOLE_CA: not PEM".to_string())?;
        roots.add(certificate).map_err(|e| format!("PIKEPOLE_CA: {e}"))?;
    }
    if roots.is_empty() { Err("PIKEPOLE_CA: holds no certificate".into()) } else { Ok(roots) }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_CA_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CA_BYTES {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(bytes)
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err("the system has no certificates; give the authority as PIKEPOLE_CA".into());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
