//! Embeddings.

use serde::{Deserialize, Serialize};

use crate::{Extra, Usage};

/// Texts to embed.
#[derive(Clone, Debug, Serialize)]
pub struct EmbeddingRequest {
    /// The model.
    pub model: String,
    /// The texts.
    pub input: Vec<String>,
    /// Numbers of a vector, for models that can shorten theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// What else the server takes.
    #[serde(flatten)]
    pub extra: Extra,
}

impl EmbeddingRequest {
    /// Asks `model` to embed `input`.
    pub fn new(
        model: impl Into<String>,
        input: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let input = input.into_iter().map(Into::into).collect();
        Self { model: model.into(), input, dimensions: None, extra: Extra::new() }
    }
}

/// The vectors of several texts.
#[derive(Clone, Debug, Deserialize)]
pub struct Embeddings {
    /// The model that made them.
    pub model: String,
    /// One for each text, in the texts' order.
    pub data: Vec<Embedding>,
    /// Tokens of the texts.
    #[serde(default)]
    pub usage: Usage,
    /// What else the server says.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The vector of one text.
#[derive(Clone, Debug, Deserialize)]
pub struct Embedding {
    /// Which text it is of.
    pub index: usize,
    /// `[dimensions]`, f32.
    pub embedding: Vec<f32>,
}
