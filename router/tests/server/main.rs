//! The server on real sockets: its limits, its policies, its end.

mod auth;
mod hostile;
mod limits;
mod observed;
mod routes;
mod shutdown;
mod support;
