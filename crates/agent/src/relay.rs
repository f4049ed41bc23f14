//! Lumberjack in, on a fixed local address.
mod check;
