//! For tests only: a fake AWS whose faults a test switches, and real servers on free ports.
//!
//! Not a mocking library: what is here speaks the real protocol over a real socket, and a conformance
//! suite keeps the fake honest against the real part.
//!
//! Invariant: whatever is started here ends with the value that stands for it, also when a test panics.

pub mod aws;
pub mod process;
pub mod sns;
