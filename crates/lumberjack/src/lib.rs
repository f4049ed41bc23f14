//! Lumberjack v2, the protocol of Beats: sender and receiver as state machines without I/O.
//!
//! Bytes and the time go in, events and acks come out. There is no runtime here, no clock and no JSON: `now` is
//! the time since any fixed moment, and a payload is bytes. The adapters for tokio (feature `tokio`) are thin.
//!
//! [`Receiver`] reads windows and acks them; [`encode`] writes windows, and [`Sender`] reads their acks.
//!
//! Invariant: nothing is acked before whoever receives has said that it is safe, and never out of order.

#[cfg(feature = "tokio")]
pub mod client;
pub mod encode;
mod frame;
mod limits;
mod receiver;
mod refused;
mod sender;
#[cfg(feature = "tokio")]
pub mod server;
#[cfg(feature = "tokio")]
mod tls;

pub use frame::{Event, Pairs, Payload, Version};
pub use limits::Limits;
pub use receiver::{Receiver, Sink, WindowEnd};
pub use refused::Refused;
pub use sender::{Acked, Sender};
