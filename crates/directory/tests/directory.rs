//! The directory as its callers see it: a real server on a real socket, in this process.

#[path = "directory/harness.rs"]
mod harness;
#[path = "directory/hostile.rs"]
mod hostile;
#[path = "directory/hosts.rs"]
mod hosts;
#[path = "directory/metrics.rs"]
mod metrics;
#[path = "directory/poll.rs"]
mod poll;
#[path = "directory/roster.rs"]
mod roster;
#[path = "directory/stop.rs"]
mod stop;
#[path = "directory/surface.rs"]
mod surface;
#[path = "directory/tls.rs"]
mod tls;
#[path = "directory/tokens.rs"]
mod tokens;
#[path = "directory/update.rs"]
mod update;
#[path = "directory/watch.rs"]
mod watch;
