//! What goes over the wire between the parts of Pikepole: the types of the HTTP API's version 1, its
//! error codes and header names, what `Accept` asks for, the texts of metrics, and, with the feature `client`, a typed client.
//!
//! Invariant: domain types are not serialised; everything on the wire is a type of this crate.

pub mod accept;
pub mod exposition;
pub mod headers;
pub mod time;
pub mod v1;

#[cfg(feature = "client")]
pub mod client;
