//! What the spool promises, on a file system that fails on demand.
