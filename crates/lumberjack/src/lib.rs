//! Lumberjack v2, the protocol of Beats: sender and receiver as state machines without I/O.
