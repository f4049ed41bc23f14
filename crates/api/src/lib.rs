//! What goes over the wire between the parts of Pikepole: the types of the HTTP API's version 1, its
//! error codes and header names, and, with the feature `client`, a typed client.
//!
//! Invariant: domain types are not serialised; everything on the wire is a type of this crate.

pub mod headers;
pub mod time;
pub mod v1;

#[cfg(feature = "client")]
pub mod client;
