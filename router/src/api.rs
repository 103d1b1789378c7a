//! The endpoints of the OpenAI API, and Anthropic's. Their types never leave this folder.

pub mod batches;
pub(crate) mod blocks;
pub mod chat;
pub mod completions;
pub mod embeddings;
pub(crate) mod fields;
pub mod files;
pub(crate) mod format;
pub mod management;
pub mod messages;
pub mod models;
pub(crate) mod options;
pub(crate) mod query;
pub mod reply;
pub mod rerank;
pub mod responses;
pub mod score;
pub mod streams;
pub(crate) mod text_or;
pub mod tokenize;
