//! What router and worker must agree on: the types and services generated from `worker.proto`, and
//! the bytes that a token stands for.

pub mod token_table;

/// Version of the protocol that [`worker::Hello`] names.
pub const PROTOCOL: u32 = 1;

/// The most bytes that one message of a session may have, in either direction.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Generated from `worker.proto`, which documents every message.
#[expect(missing_docs, reason = "the generator does not write them on every item")]
#[expect(clippy::all, clippy::allow_attributes, reason = "generated")]
pub mod worker {
    tonic::include_proto!("sconce.worker.v1");
}
