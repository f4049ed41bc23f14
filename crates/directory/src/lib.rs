//! The directory: the service that always knows which collectors are in service.
//!
//! `source` asks, `events` listens, `engine` decides (with the pure domain of `pikepole-fleet`), `store` remembers,
//! `http` answers, `alerts` tells people. `assemble` puts them together from a `config`.

pub mod alerts;
pub mod assemble;
pub mod clock;
pub mod config;
pub mod engine;
pub mod events;
pub mod http;
pub mod shutdown;
pub mod source;
pub mod store;
