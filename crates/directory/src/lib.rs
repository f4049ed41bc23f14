//! The directory: the service that always knows which collectors are in service.

pub mod clock;
pub mod source;
pub mod store;
