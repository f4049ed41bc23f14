//! Lumberjack between two ends: simulated, over sockets, and with clients and servers of others.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod it {
    mod certs;
    mod ferro;
    mod pair;
    mod python;
    mod sockets;
}
