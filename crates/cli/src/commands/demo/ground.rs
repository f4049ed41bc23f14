//! Where the simulated collectors can listen: on which port, and whether at all.
//!
//! Each has a loopback address of its own. Linux takes all of 127.0.0.0/8; other systems only 127.0.0.1,
//! and then nobody listens and nobody probes.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// Lumberjack's port, and those that are tried after it.
const PORTS: std::ops::RangeInclusive<u16> = 5044..=5093;

/// What there is to stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ground {
    /// The port of every collector.
    pub(super) port: u16,
    /// Whether collectors can listen, so that a probe makes sense.
    pub(super) can_listen: bool,
}

/// Looks for a port that is free on all of these addresses.
pub(super) fn find(addresses: &[IpAddr]) -> Ground {
    search(addresses, |address| std::net::TcpListener::bind(address).map(drop))
}

fn search(addresses: &[IpAddr], bind: impl Fn(SocketAddr) -> io::Result<()>) -> Ground {
    for port in PORTS {
        let tried = addresses.iter().try_for_each(|ip| bind(SocketAddr::new(*ip, port)));
        match tried {
            Ok(()) => return Ground { port, can_listen: true },
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(_) => break, // no other port will do better
        }
    }
    Ground { port: *PORTS.start(), can_listen: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_anywhere_is_not_used_and_one_address_alone_is_not_enough() {
        let own: Vec<IpAddr> = ["127.1.0.1", "127.2.0.1"].map(|ip| ip.parse().unwrap()).into();
        let free = |_: SocketAddr| Ok(());
        assert_eq!(search(&own, free), Ground { port: 5044, can_listen: true });
        let taken = |at: SocketAddr| match at.to_string().as_str() {
            "127.2.0.1:5044" | "127.1.0.1:5045" => Err(io::ErrorKind::AddrInUse.into()),
            _ => Ok(()),
        };
        assert_eq!(search(&own, taken), Ground { port: 5046, can_listen: true });
        let only_one = |_: SocketAddr| Err(io::ErrorKind::AddrNotAvailable.into());
        assert_eq!(search(&own, only_one), Ground { port: 5044, can_listen: false });
        let full = |_: SocketAddr| Err(io::ErrorKind::AddrInUse.into());
        assert!(!search(&own, full).can_listen);
    }
}
