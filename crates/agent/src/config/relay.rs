//! `[relay]`: the fixed address that shippers on this host send to.
//!
//! Not how it is served: that is in `relay.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;

use pikepole_config::Section;

/// Most connections that may be allowed at a time. A host has a few shippers, and each may use some memory.
const MOST_CONNECTIONS: i64 = 16_384;

/// What shippers send to.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS; `None`: in the clear.
    pub tls: Option<RelayTls>,
    /// Connections at a time; more wait in the kernel's backlog.
    pub max_connections: usize,
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayTls {
    /// The certificate, and those that lead to its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates that shippers have to show; `None`: they show none.
    pub client_ca: Option<PathBuf>,
}

pub(super) fn relay(mut s: Section<'_>) -> Option<RelayConfig> {
    let listen = s.text("listen").unwrap_or_else(|| "127.0.0.1:5044".into());
    let address = listen.parse().ok();
    if address.is_none() {
        s.not("listen", "an address like 127.0.0.1:5044");
    }
    let tls = s.optional_section("tls").map(|mut t| {
        let (cert, key) = (t.required_text("cert").into(), t.required_text("key").into());
        let client_ca = t.text("client_ca").map(PathBuf::from);
        t.finish();
        RelayTls { cert, key, client_ca }
    });
    let max_connections = s.integer("max_connections", 1..=MOST_CONNECTIONS).unwrap_or(64);
    s.finish();
    let max_connections = usize::try_from(max_connections).unwrap_or(usize::MAX);
    Some(RelayConfig { listen: address?, tls, max_connections })
}
