//! Where the simulated collectors can listen: on which port, and whether at all.
//!
//! Each has a loopback address of its own. Linux takes all of 127.0.0.0/8; other systems only 127.0.0.1,
//! and then nobody listens and nobody probes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

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

/// Where nobody listens for lines. Whoever has a port here has it on every address: two demos that begin at the
/// same moment would else take each other's lines.
const CLAIM: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 255, 255, 254));

/// Looks for a port that is free on all of these addresses. It is ours as long as the claim is kept.
pub(super) fn find(addresses: &[IpAddr]) -> (Ground, Option<TcpListener>) {
    search(addresses, TcpListener::bind::<SocketAddr>)
}

fn search<T>(addresses: &[IpAddr], bind: impl Fn(SocketAddr) -> io::Result<T>) -> (Ground, Option<T>) {
    for port in PORTS {
        let tried = bind(SocketAddr::new(CLAIM, port)).and_then(|claim| {
            addresses.iter().try_for_each(|ip| bind(SocketAddr::new(*ip, port)).map(drop))?;
            Ok(claim)
        });
        match tried {
            Ok(claim) => return (Ground { port, can_listen: true }, Some(claim)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(_) => break, // no other port will do better
        }
    }
    (Ground { port: *PORTS.start(), can_listen: false }, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_anywhere_is_not_used_and_one_address_alone_is_not_enough() {
        let own: Vec<IpAddr> = ["127.1.0.1", "127.2.0.1"].map(|ip| ip.parse().unwrap()).into();
        let free = |_: SocketAddr| Ok(());
        assert_eq!(search(&own, free).0, Ground { port: 5044, can_listen: true });
        let taken = |at: SocketAddr| match at.to_string().as_str() {
            "127.2.0.1:5044" | "127.255.255.254:5045" => Err(io::ErrorKind::AddrInUse.into()),
            _ => Ok(()),
        };
        assert_eq!(search(&own, taken).0, Ground { port: 5046, can_listen: true });
        let only_one = |_: SocketAddr| io::Result::<()>::Err(io::ErrorKind::AddrNotAvailable.into());
        assert_eq!(search(&own, only_one).0, Ground { port: 5044, can_listen: false });
        let full = |_: SocketAddr| io::Result::<()>::Err(io::ErrorKind::AddrInUse.into());
        assert!(!search(&own, full).0.can_listen);
    }
}
