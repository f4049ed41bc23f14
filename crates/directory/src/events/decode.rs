//! From a body to events.
