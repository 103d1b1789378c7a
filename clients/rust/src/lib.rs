//! A client for servers that speak OpenAI's API: Sconce, and any other.
//!
//! Requests and replies are typed where everyone agrees on their fields; whatever else a server
//! takes or says goes through `extra`, and whole bodies through [`Client::post`] and
//! [`Client::events`]. A request is tried again when the server asks for patience or the connection
//! fails, as long as nothing of its answer was streamed; dropping a future or a stream hangs up,
//! which has a server stop generating.
//!
//! ```no_run
//! # async fn run() -> Result<(), sconce_client::Error> {
//! use sconce_client::{ChatRequest, Client};
//!
//! let client = Client::builder("http://127.0.0.1:8000").api_key("sk-sconce-…").build()?;
//! let request = ChatRequest::new("smollm2:135m").user("Why is the sky blue?");
//! let mut stream = client.chat_stream(&request).await?;
//! while let Some(chunk) = stream.next().await {
//!     print!("{}", chunk?.text());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It knows nothing of how Sconce is built: no type of the router or the launcher is in it.

mod batch;
mod chat;
mod client;
mod completion;
mod embedding;
mod error;
mod file;
mod model;
mod page;
mod retry;
pub mod sse;
mod stream;
mod usage;

pub use batch::{Batch, BatchError, BatchErrors, BatchRequest, BatchStatus, RequestCounts};
pub use chat::{
    Chat, ChatChoice, ChatChunk, ChatChunkChoice, ChatRequest, Delta, Function, Message, Role,
    ToolCall,
};
pub use client::{Builder, Client};
pub use completion::{Completion, CompletionChoice, CompletionRequest};
pub use embedding::{Embedding, EmbeddingRequest, Embeddings};
pub use error::{ApiError, Error};
pub use file::{DeletedFile, File, FileContent, FileUpload};
pub use model::Model;
pub use page::{ListQuery, Page};
pub use retry::Retries;
pub use stream::{Chunks, Events};
pub use usage::{CompletionDetails, PromptDetails, StreamOptions, Usage};

/// Fields that have no type here, by name.
pub type Extra = serde_json::Map<String, serde_json::Value>;
