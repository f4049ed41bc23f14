//! The directory's HTTP: from a request to an answer. Serving connections is in `connection.rs`.
//!
//! Invariant: AWS is never called on behalf of a read, and a read never waits for a writer. What can be
//! answered at once is answered without a heap-allocated future: there are ten thousand readers.

mod agents;
mod auth;
mod body;
mod connection;
mod events;
mod extra;
mod fleets;
mod limits;
mod metrics;
mod page;
mod query;
mod reply;
mod roster;
mod route;
mod seed;
pub(crate) mod tls;
mod watch;

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::CONNECTION;
use http::{HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;

use crate::config::ServerConfig;
use crate::engine::{Engine, Fleet};
use crate::events::Feed;
use crate::shutdown::Shutdown;
use agents::Presence;
use auth::Auth;
pub use connection::run;
use events::Turns;
pub use extra::{Extra, Pressed};
pub use limits::Limits;
use metrics::Counters;
use reply::{ApiError, Reply};
use route::Route;

/// What every request needs.
pub struct App {
    engine: Arc<Engine>,
    auth: Auth,
    limits: Limits,
    counters: Counters,
    feed: Arc<Feed>,
    turns: Turns,
    extra: Option<Arc<dyn Extra>>,
}

impl App {
    /// Puts it together.
    pub fn new(engine: Arc<Engine>, config: &ServerConfig) -> Arc<Self> {
        Self::with_limits(engine, config, Limits::default())
    }

    /// The same, with something more to serve and to show.
    pub fn with_extra(engine: Arc<Engine>, config: &ServerConfig, extra: Arc<dyn Extra>) -> Arc<Self> {
        let plain = Self::assemble(engine, config, Limits::default(), Arc::default());
        Arc::new(Self { extra: Some(extra), ..plain })
    }

    /// The same, with other limits than those that suit production: for tests.
    pub fn with_limits(engine: Arc<Engine>, config: &ServerConfig, limits: Limits) -> Arc<Self> {
        Self::with_feed(engine, config, limits, Arc::default())
    }

    /// The same, with the ways in that others use too.
    pub fn with_feed(
        engine: Arc<Engine>,
        config: &ServerConfig,
        limits: Limits,
        feed: Arc<Feed>,
    ) -> Arc<Self> {
        Arc::new(Self::assemble(engine, config, limits, feed))
    }

    fn assemble(engine: Arc<Engine>, config: &ServerConfig, limits: Limits, feed: Arc<Feed>) -> Self {
        let auth = Auth { tokens: config.tokens.clone(), compat_anonymous: config.compat_anonymous };
        let (counters, turns) = (Counters::default(), Turns::default());
        Self { engine, auth, limits, counters, feed, turns, extra: None }
    }

    fn fleet(&self, name: &str) -> Result<&Arc<Fleet>, ApiError> {
        self.engine.fleet(name).ok_or_else(|| ApiError::unknown_fleet(name))
    }
}

/// Answers the requests of one connection.
#[derive(Clone)]
struct Desk {
    app: Arc<App>,
    shutdown: Shutdown,
    /// Whose connection it is.
    peer: IpAddr,
}

/// An answer that is there, or one that has to be waited for.
enum Answer {
    /// It is there.
    Now(Option<Reply>),
    /// It comes later; counted under this label when it does.
    Later(Arc<App>, usize, Pin<Box<dyn Future<Output = Reply> + Send>>),
}

impl Future for Answer {
    type Output = Result<Reply, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(reply) => {
                Poll::Ready(Ok(reply.take().expect("an answer is polled once after it is ready")))
            }
            Self::Later(app, label, future) => future.as_mut().poll(cx).map(|reply| {
                app.counters.count(*label, reply.status());
                Ok(reply)
            }),
        }
    }
}

impl Service<Request<Incoming>> for Desk {
    type Response = Reply;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        // Only the head is kept while an answer is waited for, and of it only what is needed. The body goes to the two
        // routes that read one.
        let (head, body) = request.into_parts();
        self.answer(&head, body)
    }
}

impl Desk {
    fn answer(&self, head: &http::request::Parts, body: Incoming) -> Answer {
        let Some(route) = Route::parse(head.uri.path()) else {
            if let Some(extra) = &self.app.extra
                && let Some(reply) = extra::answer(&**extra, &self.app.auth, self.peer, head)
            {
                return self.now(Route::OTHER, reply);
            }
            return self.now(Route::OTHER, reply::no_such_path());
        };
        let label = route.label();
        if !route.takes(&head.method) {
            return self.now(label, reply::wrong_method(route.allow()));
        }
        if let Err(error) = self.app.auth.check(route.right(), &head.headers) {
            return self.now(label, error.into_reply());
        }
        self.route(route, head, body).unwrap_or_else(|error| self.now(label, error.into_reply()))
    }

    fn route(
        &self,
        route: Route<'_>,
        head: &http::request::Parts,
        body: Incoming,
    ) -> Result<Answer, ApiError> {
        let app = &self.app;
        let query = head.uri.query();
        let label = route.label();
        let reply = match route {
            Route::SeedHosts => match seed::hosts_now(app, query, &head.headers) {
                Some(reply) => reply,
                None => {
                    let later =
                        seed::hosts_later(Arc::clone(app), query.map(Into::into), head.headers.clone());
                    return Ok(self.later(label, later));
                }
            },
            Route::SeedUpdate => {
                return Ok(self.later(label, seed::update(Arc::clone(app), query.map(Into::into))));
            }
            Route::Fleets => {
                query::strict(query, [])?;
                fleets::all(app)
            }
            Route::Fleet(name) => {
                query::strict(query, [])?;
                fleets::one(app, app.fleet(name)?)
            }
            Route::Roster(name) => {
                let fleet = app.fleet(name)?;
                let (poll, caller) = query::poll(query)?;
                // There until the answer is: an agent that is told something has heard it.
                let presence = caller.map(|caller| Presence::begin(app, fleet, caller, self.peer));
                match roster::now(app, fleet, poll, &head.headers) {
                    Some(reply) => reply,
                    None => {
                        let later = roster::later(Arc::clone(app), Arc::clone(fleet), poll, presence);
                        return Ok(self.later(label, later));
                    }
                }
            }
            Route::Refresh(name) => {
                let (fleet, wait) = (app.fleet(name)?, fleets::refresh_wait(query)?);
                return Ok(self.later(label, fleets::refresh(Arc::clone(app), Arc::clone(fleet), wait)));
            }
            Route::Agents => agents::list(app, query)?,
            Route::Events => {
                query::strict(query, [])?;
                return Ok(self.later(label, events::post(Arc::clone(app), body)));
            }
            Route::EventsSns => {
                query::strict(query, [])?;
                return Ok(self.later(label, events::post_sns(Arc::clone(app), head.headers.clone(), body)));
            }
            Route::Watch => watch::open(app, query)?,
            Route::PrometheusSd => fleets::prometheus_sd(app, query)?,
            Route::Metrics => metrics::reply(app, &head.headers),
            Route::Healthz => reply::text(StatusCode::OK, "alive\n"),
            Route::Readyz => self.readyz(),
            Route::OpenApi => page::openapi(),
            Route::Page if app.extra.is_some() => extra::page(),
            Route::Page => page::page(),
            Route::Script => page::script(),
            Route::Lives => page::lives(),
            Route::Style => page::style(),
            Route::Icon => page::icon(),
        };
        Ok(self.now(label, reply))
    }

    fn readyz(&self) -> Reply {
        if self.shutdown.is_stopping() {
            return reply::text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
        }
        if self.app.engine.is_ready() {
            return reply::text(StatusCode::OK, "ready\n");
        }
        let waiting: Vec<&str> = self
            .app
            .engine
            .fleets()
            .iter()
            .filter(|fleet| !fleet.state().is_answered())
            .map(|fleet| fleet.config().name.as_str())
            .collect();
        reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("no answer yet for: {}\n", waiting.join(", ")))
    }

    fn now(&self, label: usize, mut reply: Reply) -> Answer {
        self.app.counters.count(label, reply.status());
        if self.shutdown.is_stopping() {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Answer::Now(Some(reply))
    }

    fn later(&self, label: usize, future: impl Future<Output = Reply> + Send + 'static) -> Answer {
        Answer::Later(Arc::clone(&self.app), label, Box::pin(future))
    }
}
