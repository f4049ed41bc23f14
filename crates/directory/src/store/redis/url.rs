//! The address of a Redis, which may hold a password.
//!
//! Invariant: neither `Display` nor `Debug` nor an error shows more of it than scheme, host, port and
//! database number.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// A `redis://`, `rediss://` (TLS) or `unix://` address with all it takes to connect.
#[derive(Clone)]
pub struct RedisUrl {
    info: ConnectionInfo,
    /// The forms in which the password could come back in somebody's error text.
    secrets: Vec<String>,
}

/// Why a text is no address of a Redis. Does not repeat the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not an address like redis://HOST:6379/0 or rediss://USER:PASSWORD@HOST:6379/0")]
pub struct RedisUrlError;

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let info = text.into_connection_info().map_err(|_| RedisUrlError)?;
        // TLS that does not ask who is there (`#insecure`) is not built in.
        if !info.addr().is_supported() || matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. })
        {
            return Err(RedisUrlError);
        }
        let raw = text.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
        let raw = raw.and_then(|(login, _)| login.split_once(':')).map(|(_, password)| password);
        let decoded = info.redis_settings().password();
        let secrets =
            [raw, decoded].into_iter().flatten().filter(|s| !s.is_empty()).map(str::to_owned).collect();
        Ok(Self { info, secrets })
    }
}

impl RedisUrl {
    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Takes the password out of a text that came from elsewhere.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let db = self.info.redis_settings().db();
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{host}:{port}/{db}"),
            ConnectionAddr::TcpTls { host, port, .. } => write!(f, "rediss://{host}:{port}/{db}"),
            ConnectionAddr::Unix(path) => write!(f, "unix://{}?db={db}", path.display()),
            _ => f.write_str("redis://…"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_never_shows_its_password() {
        let url: RedisUrl = "rediss://app:s%40cret@db.example:6380/3".parse().unwrap();
        assert_eq!(url.to_string(), "rediss://db.example:6380/3");
        assert_eq!(format!("{url:?}"), "rediss://db.example:6380/3");
        assert_eq!(url.redact("bad s@cret or s%40cret!"), "bad *** or ***!");
        assert!(url.is_tls());
        for wrong in ["", "db.example", "http://:s3cret@x", "redis://:s3cret@x/y", "rediss://x/#insecure"] {
            let error = wrong.parse::<RedisUrl>().unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{wrong}");
        }
    }
}
