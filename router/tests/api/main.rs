//! The API from a client's side: the real server on a real port, a scripted worker behind it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod background;
mod bad_requests;
mod batch_ends;
mod batches;
mod chat;
mod compatibility;
mod completions;
mod embeddings;
mod files;
#[path = "../support/tokenizers.rs"]
mod json;
mod messages;
mod observed;
#[path = "../support/postgres.rs"]
mod postgres;
mod replay;
mod reports;
mod responses;
mod service;
mod streaming;
mod structured;
mod tokenize;
mod tools;
#[path = "../support/worker.rs"]
mod worker;
