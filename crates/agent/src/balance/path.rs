//! What the kernel knows of a TCP connection: whether the host at the other end still acknowledges.
//!
//! `TCP_USER_TIMEOUT` alone does not tell a host that is gone from a collector that is busy: it ends a
//! connection, too, whose receive window was closed for that long, though the host answers every probe; and it
//! says nothing when everything was acknowledged before the host vanished. The fields of `tcp_info` do tell.
//! They are asked for over netlink (`sock_diag(7)`), by the addresses of the connection.
//!
//! Not a decision: those are the planner's. Invariant: what cannot be asked or read is [`Path::Clear`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use rustix::net::{recv, send, socket_with};

use super::planner::Path;

/// Asks the kernel about one connection; never waits.
pub(crate) type PathProbe = Box<dyn Fn() -> Path + Send + Sync>;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`, without a dump: one socket.
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `INET_DIAG_INFO`: the attribute that holds `tcp_info`.
const INFO: u16 = 2;
/// Bytes of `nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `inet_diag_req_v2`.
const QUESTION: usize = 56;
/// Bytes of `inet_diag_msg`.
const ANSWER: usize = 72;
/// Where `tcp_info` has the number of probes nobody answered.
const PROBES: usize = 3;
/// Where it has the number of segments nobody acknowledged.
const UNACKED: usize = 24;
/// Where it has the milliseconds since the last acknowledgement.
const LAST_ACK: usize = 56;
/// One unanswered probe proves nothing: answers to probes that follow too fast are left out.
const PROBES_AT_LEAST: u8 = 2;

/// Asks about the connection between these two from now on. `None`: the kernel does not tell here, for
/// example because netlink is forbidden; then `TCP_USER_TIMEOUT` is the next best.
pub(crate) fn path_probe(local: SocketAddr, peer: SocketAddr) -> Option<PathProbe> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::RAW;
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(netlink::SOCK_DIAG)).ok()?;
    let question = question(local, peer)?;
    ask(&socket, &question).ok()??;
    Some(Box::new(move || ask(&socket, &question).ok().flatten().unwrap_or(Path::Clear)))
}

fn ask(socket: &OwnedFd, question: &[u8]) -> io::Result<Option<Path>> {
    send(socket, question, SendFlags::empty())?;
    // The kernel answers before `send` returns.
    let mut buffer = [0; 2048];
    let (length, _) = recv(socket, &mut buffer, RecvFlags::empty())?;
    Ok(buffer.get(..length).and_then(tcp_info).and_then(path))
}

fn question(local: SocketAddr, peer: SocketAddr) -> Option<Vec<u8>> {
    let family = match (local.ip(), peer.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => AddressFamily::INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => AddressFamily::INET6,
        _ => return None,
    };
    let length = u32::try_from(HEADER + QUESTION).ok()?;
    let mut bytes = Vec::with_capacity(HEADER + QUESTION);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend([0; 8]); // sequence and port: the kernel's answer is the only one
    bytes.extend([u8::try_from(family.as_raw()).ok()?, TCP, 1 << (INFO - 1), 0]);
    bytes.extend(u32::MAX.to_ne_bytes()); // in whatever state
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(peer.port().to_be_bytes());
    for ip in [local.ip(), peer.ip()] {
        let mut place = [0; 16];
        match ip {
            IpAddr::V4(ip) => place[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => place = ip.octets(),
        }
        bytes.extend(place);
    }
    bytes.extend([0; 4]); // on whatever interface
    bytes.extend([0xff; 8]); // with whatever cookie
    Some(bytes)
}

/// The `tcp_info` in an answer.
fn tcp_info(answer: &[u8]) -> Option<&[u8]> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != BY_FAMILY {
        return None; // an error: no such connection
    }
    let mut rest = answer.get(HEADER + ANSWER..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        if kind == INFO {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn path(info: &[u8]) -> Option<Path> {
    let number = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let heard = Duration::from_millis(number(LAST_ACK)?.into());
    let probes = *info.get(PROBES)?;
    Some(match number(UNACKED)? {
        0 if probes >= PROBES_AT_LEAST => Path::Probe(heard),
        0 => Path::Clear,
        _ => Path::Data(heard),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_of_a_connection_and_a_busy_peer_is_not_a_dead_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let probe = path_probe(local, remote).expect("netlink is there wherever tests run");
        stream.write_all(b"x").unwrap();
        peer.read_exact(&mut [0]).unwrap();
        assert_eq!(probe(), Path::Clear, "acknowledged");
        // The peer reads nothing more: its window closes, and everything it took is acknowledged.
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 65_536]).is_ok() {}
        assert!(!matches!(probe(), Path::Probe(_)), "no probe is unanswered");
        drop((stream, peer));
        assert!(path_probe(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()).is_none());
    }

    fn info(probes: u8, unacked: u32, last_ack: u32) -> Vec<u8> {
        let mut info = vec![0; 232];
        info[PROBES] = probes;
        info[UNACKED..UNACKED + 4].copy_from_slice(&unacked.to_ne_bytes());
        info[LAST_ACK..LAST_ACK + 4].copy_from_slice(&last_ack.to_ne_bytes());
        info
    }

    #[test]
    fn what_is_owed_is_read_and_a_lone_probe_is_not() {
        let second = Duration::from_secs(1);
        assert_eq!(path(&info(0, 3, 1_000)), Some(Path::Data(second)));
        assert_eq!(path(&info(2, 0, 1_000)), Some(Path::Probe(second)));
        assert_eq!(path(&info(1, 0, 1_000)), Some(Path::Clear));
        assert_eq!(path(&info(0, 0, 9_000)), Some(Path::Clear));
        for length in 0..60 {
            assert_eq!(path(&info(0, 3, 1_000)[..length]), None, "an old kernel says less");
        }
    }

    #[test]
    fn no_answer_however_short_or_wrong_is_a_panic() {
        let mut answer = vec![0; HEADER + ANSWER];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer.extend([8, 0, 9, 0, 1, 2, 3, 4]); // another attribute first
        answer.extend(236u16.to_ne_bytes());
        answer.extend(INFO.to_ne_bytes());
        answer.extend(info(0, 1, 5));
        assert_eq!(tcp_info(&answer).and_then(path), Some(Path::Data(Duration::from_millis(5))));
        for length in 0..answer.len() {
            assert_eq!(tcp_info(&answer[..length]), None);
        }
        answer[HEADER + ANSWER] = 0; // an attribute without length
        assert_eq!(tcp_info(&answer), None);
    }
}
