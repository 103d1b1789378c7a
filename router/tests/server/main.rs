//! The server on real sockets: its limits, its policies, its end.

#![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod auth;
mod hostile;
mod limits;
mod observed;
mod routes;
mod shutdown;
mod support;
