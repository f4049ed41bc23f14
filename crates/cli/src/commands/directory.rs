//! `pikepole directory`.

use pikepole_directory::assemble;
use pikepole_directory::clock::Clock;
use pikepole_directory::config::Config;
use tokio::net::{TcpListener, TcpSocket};

use super::print;
use crate::Failure;
use crate::args::DirectoryArgs;
use crate::stop;

pub(crate) async fn run(args: DirectoryArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(|e| Failure::WrongUse(e.to_string()))?;
    if args.check {
        let fleets = config.fleets.len();
        return print(&format!("{}: good, {fleets} fleets\n", args.config.display()));
    }
    raise_file_limit();
    let stop = stop::requested();
    let listener = bind(config.server.listen)?;
    let listen = listener.local_addr()?;
    tracing::info!(%listen, tls = config.server.tls.is_some(), fleets = config.fleets.len(), "directory listens");
    assemble::serve(config, listener, Clock::system(), stop).await?;
    tracing::info!("directory stopped");
    Ok(())
}

/// Connections that wait to be accepted: after a restart all agents come at once, and a SYN that finds
/// no place is tried again only after a second. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

pub(crate) fn bind(listen: std::net::SocketAddr) -> Result<TcpListener, Failure> {
    let bound = || {
        let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; another process listens there",
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
            std::io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
            _ => "",
        };
        Failure::Failed(anyhow::anyhow!("cannot listen on {listen}: {error}{hint}"))
    })
}

/// Each watcher holds a file descriptor, and the usual soft limit is 1,024.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files; fewer watchers can connect");
    }
}
