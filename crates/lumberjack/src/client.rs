//! Connections to servers, on tokio, plain or with TLS.
//!
//! Not a client that retries or balances: it connects, writes whole windows and reads what comes. What acks mean,
//! [`Sender`](crate::Sender) knows; when to give up, its times say.
//!
//! Invariant: a connection that TCP cannot keep alive ends with an error within `Options::user_timeout`.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Buf;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::encode::{EncodedWindow, frames};
use crate::tls::{self, Renewed};
pub use crate::tls::{ClientTls as TlsConfig, TlsError};

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// For TCP to connect: a collector in the next rack answers in a millisecond, one far away in 300.
    pub connect_timeout: Duration,
    /// For TLS to agree, after that: a busy Logstash takes its time.
    pub handshake_timeout: Duration,
    /// How long TCP may wait for the peer to acknowledge bytes: a host that vanished is left after it.
    pub user_timeout: Duration,
    /// Silence after which TCP looks whether the peer is there, and between two looks.
    pub keep_alive: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            user_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody answered.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// It was refused, or the network has no way there.
    #[error("no connection: {0}")]
    Io(#[source] io::Error),
    /// TLS was not agreed on in time; a server that does not speak it is silent.
    #[error("no TLS handshake within {0:?}; does the server speak TLS?")]
    HandshakeTimeout(Duration),
    /// TLS could not be agreed on: a wrong name, an unknown authority, or no TLS at all.
    #[error("TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
}

/// Makes connections.
pub struct Connector {
    options: Options,
    tls: Option<Tls>,
}

struct Tls {
    config: Renewed<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("options", &self.options)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the files of TLS, if it is asked for. They are read again when they have changed.
    pub fn new(options: Options, tls: Option<&TlsConfig>) -> Result<Self, TlsError> {
        let tls = tls.map(tls::client).transpose()?.map(|(config, name)| Tls { config, name });
        Ok(Self { options, tls })
    }

    /// Connects to a server.
    pub async fn connect(&self, address: SocketAddr) -> Result<(Writer, Reader), ConnectError> {
        self.connect_with(address, |_| self.options.user_timeout).await
    }

    /// Connects to a server; `user_timeout` is asked instead of the option, with our end of the connection: with
    /// the server's address that names it to the kernel.
    pub async fn connect_with(
        &self,
        address: SocketAddr,
        user_timeout: impl FnOnce(SocketAddr) -> Duration,
    ) -> Result<(Writer, Reader), ConnectError> {
        let time = self.options.connect_timeout;
        let connected = timeout(time, TcpStream::connect(address)).await;
        let stream = connected.map_err(|_| ConnectError::Timeout(time))?.map_err(ConnectError::Io)?;
        let local = stream.local_addr().map_err(ConnectError::Io)?;
        set_options(&stream, user_timeout(local), self.options.keep_alive).map_err(ConnectError::Io)?;
        let Some(tls) = &self.tls else {
            let (reading, writing) = stream.into_split();
            return Ok((Writer::new(writing), Reader::new(reading)));
        };
        let name = tls.name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        let time = self.options.handshake_timeout;
        let shaken = timeout(time, TlsConnector::from(tls.config.current()).connect(name, stream)).await;
        let stream =
            shaken.map_err(|_| ConnectError::HandshakeTimeout(time))?.map_err(ConnectError::Handshake)?;
        let (reading, writing) = tokio::io::split(stream);
        Ok((Writer::new(writing), Reader::new(reading)))
    }
}

/// Small frames leave at once, and a host that vanished is noticed.
pub(crate) fn set_options(
    stream: &TcpStream,
    user_timeout: Duration,
    keep_alive: Duration,
) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, keep_alive)?;
    sockopt::set_tcp_keepintvl(stream, keep_alive)?;
    let millis = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

/// Writes windows.
pub struct Writer {
    stream: Box<dyn AsyncWrite + Send + Sync + Unpin>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    fn new(stream: impl AsyncWrite + Send + Sync + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream) }
    }

    /// Writes a whole window; its body is not copied. It waits as long as the server reads nothing: whoever calls
    /// watches [`Sender::last_heard`](crate::Sender::last_heard). Dropped half-way, the connection is of no use.
    pub async fn write(&mut self, window: &EncodedWindow) -> io::Result<()> {
        let (header, body) = frames(window);
        let mut both = Buf::chain(header.as_ref(), body);
        while both.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 2];
            let count = both.chunks_vectored(&mut slices);
            let written = self.stream.write_vectored(&slices[..count]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            both.advance(written);
        }
        self.stream.flush().await
    }

    /// Says that no more windows come. Acks can still be read.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

/// Reads acks.
pub struct Reader {
    stream: Box<dyn AsyncRead + Send + Sync + Unpin>,
    buffer: Box<[u8]>,
}

/// Hundreds of acks.
const READ_BUFFER: usize = 2048;

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    fn new(stream: impl AsyncRead + Send + Sync + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: vec![0; READ_BUFFER].into() }
    }

    /// What came next, for [`Sender::input`](crate::Sender::input); empty at the end. May be dropped at any time
    /// without losing a byte.
    pub async fn read(&mut self) -> io::Result<&[u8]> {
        let count = self.stream.read(&mut self.buffer).await?;
        Ok(&self.buffer[..count])
    }
}
