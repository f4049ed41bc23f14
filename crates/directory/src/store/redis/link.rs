//! The connection that operations share: made when it is needed, thrown away when it fails.
//!
//! Does not repeat an operation: whether that is safe, its caller knows.
//!
//! Invariant: an operation ends within the limits for connecting and answering, taken together; while
//! Redis is away most end at once, because between two tries to connect nobody tries.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, ProtocolVersion, PushInfo, PushKind,
    RedisError, RedisResult, ScriptInvocation, ServerErrorKind, TlsCertificates,
};
use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use super::{RedisLimits, RedisOptions, RedisUrl, StoreError};

/// The first pause between two tries to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Link {
    client: Client,
    url: RedisUrl,
    limits: RedisLimits,
    state: Mutex<State>,
}

/// A connection, and whether it has ended or is not trusted any more.
#[derive(Clone)]
struct Live {
    connection: MultiplexedConnection,
    is_lost: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Tries to connect that failed in a row.
    failures: u32,
    /// No try before this, and why the last one failed.
    pause: Option<(Instant, String)>,
}

impl Link {
    pub(super) fn new(options: &RedisOptions) -> Result<Self, StoreError> {
        if options.url.is_tls() {
            // An error means that the process has chosen a provider already, which then holds.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        let client = client(&options.url, options.ca.as_ref())?;
        Ok(Self { client, url: options.url.clone(), limits: options.limits, state: Mutex::default() })
    }

    pub(super) fn url(&self) -> &RedisUrl {
        &self.url
    }

    pub(super) fn limits(&self) -> &RedisLimits {
        &self.limits
    }

    /// Makes a connection of its own. What Redis sends unasked, and the end, go to `push`.
    pub(super) async fn connect(
        &self,
        push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limits.connect))
            .set_response_timeout(Some(self.limits.response))
            .set_push_sender(move |info| {
                push(info);
                Ok::<_, Infallible>(())
            });
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        match timeout(self.limits.connect, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(e)) => Err(format!("cannot connect: {}", self.url.redact(&e.to_string()))),
            Err(_) => Err(format!("no connection within {:?}", self.limits.connect)),
        }
    }

    /// Runs one command.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut live = self.live().await?;
        let answer = timeout(self.limits.response, command.query_async(&mut live.connection)).await;
        self.settle(&live, answer)
    }

    /// Runs one script.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let mut live = self.live().await?;
        let answer = timeout(self.limits.response, script.invoke_async(&mut live.connection)).await;
        self.settle(&live, answer)
    }

    /// Redis was away and has been seen again: nobody need wait to connect, and a connection of before
    /// is not worth a try. Operations under way keep theirs.
    pub(super) async fn renew(&self) {
        *self.state.lock().await = State::default();
    }

    /// An error of this store, without its password.
    pub(super) fn unavailable(&self, why: &str) -> StoreError {
        StoreError::Unavailable(format!("redis at {}: {}", self.url, self.url.redact(why)))
    }

    async fn live(&self) -> Result<Live, StoreError> {
        // Held while connecting: one tries, the others wait for its outcome, which its limit bounds.
        let mut state = self.state.lock().await;
        if let Some(live) = state.live.as_ref().filter(|live| !live.is_lost.load(Ordering::SeqCst)) {
            return Ok(live.clone());
        }
        if let Some((until, why)) = &state.pause
            && Instant::now() < *until
        {
            return Err(self.unavailable(why));
        }
        let is_lost = Arc::new(AtomicBool::new(false));
        let sees_end = Arc::clone(&is_lost);
        let connected = self.connect(move |push| {
            if push.kind == PushKind::Disconnection {
                sees_end.store(true, Ordering::SeqCst);
            }
        });
        let why = match connected.await {
            Ok(connection) => {
                let live = Live { connection, is_lost };
                *state = State { live: Some(live.clone()), ..State::default() };
                return Ok(live);
            }
            Err(why) => why,
        };
        let pause = back_off(state.failures, self.limits.back_off);
        state.failures = state.failures.saturating_add(1);
        state.pause = Some((Instant::now() + pause, why.clone()));
        Err(self.unavailable(&why))
    }

    /// Gives the connection up if the answer leaves a doubt about it.
    fn settle<T>(&self, live: &Live, answer: Result<RedisResult<T>, Elapsed>) -> Result<T, StoreError> {
        let (why, is_broken) = match answer {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(e)) => (e.to_string(), is_broken(&e)),
            Err(_) => (format!("no answer within {:?}", self.limits.response), true),
        };
        if is_broken {
            live.is_lost.store(true, Ordering::SeqCst);
        }
        Err(self.unavailable(&why))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("url", &self.url).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Half of the pause is certain, half is chance, so that replicas do not come back in step.
pub(super) fn back_off(failures: u32, longest: Duration) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(longest);
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// An error that the server sent leaves the connection good, unless it says that this is the wrong
/// server: after a failover the same address leads to another one.
fn is_broken(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => matches!(kind, ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown),
        ErrorKind::Extension | ErrorKind::UnexpectedReturnType => false,
        _ => true,
    }
}

/// In RESP3 messages and answers share a connection, and its end is told without being asked for.
fn client(url: &RedisUrl, ca: Option<&Vec<u8>>) -> Result<Client, StoreError> {
    let settings = url.info().redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = url.info().clone().set_redis_settings(settings);
    let client = match ca {
        Some(ca) if url.is_tls() => {
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) })
        }
        _ => Client::open(info),
    };
    client.map_err(|e| {
        StoreError::Unavailable(format!("redis at {url} cannot be used: {}", url.redact(&e.to_string())))
    })
}
