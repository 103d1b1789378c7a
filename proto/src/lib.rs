//! What processes must agree on: the types and services generated from `worker.proto` (router and
//! worker) and `fleet.proto` (launcher, router and commands), and the bytes that a token stands for.

pub mod token_table;

/// Version of the protocol that [`worker::Hello`] names.
pub const PROTOCOL: u32 = 1;

/// The most bytes that one message of a session may have, in either direction.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Upper ends, in milliseconds, of the ranges by which routers count times to the first token and
/// times in the queue ([`fleet::VersionReport`]). A last range, without an end, follows.
pub const BUCKETS_MS: [u32; 16] =
    [1, 2, 5, 10, 20, 50, 100, 200, 350, 500, 750, 1000, 2000, 5000, 10_000, 30_000];

/// Generated from `worker.proto`, which documents every message.
#[expect(missing_docs, reason = "the generator does not write them on every item")]
#[expect(clippy::all, clippy::allow_attributes, reason = "generated")]
pub mod worker {
    tonic::include_proto!("sconce.worker.v1");
}

/// Generated from `fleet.proto`, which documents every message.
#[expect(missing_docs, reason = "the generator does not write them on every item")]
#[expect(clippy::all, clippy::allow_attributes, reason = "generated")]
pub mod fleet {
    tonic::include_proto!("sconce.fleet.v1");
}
