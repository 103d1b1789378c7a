//! The answer to an embeddings request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::request::{Format, Shape};
use crate::api::reply::VectorUsage;

/// The answer to an embeddings request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingList {
    /// `list`.
    pub object: String,
    /// One for each input, in their order.
    pub data: Vec<EmbeddingObject>,
    /// The model that answers.
    pub model: String,
    /// What they cost.
    pub usage: VectorUsage,
}

/// The embedding of one input.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingObject {
    /// `embedding`.
    pub object: String,
    /// Which input's.
    pub index: u32,
    /// The vector.
    pub embedding: Embedding,
}

/// A vector.
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Embedding {
    /// Its elements.
    Floats(Vec<f32>),
    /// The bytes of its elements, little-endian floats of 32 bits, in base64.
    Base64(String),
}

impl EmbeddingList {
    pub(crate) fn new(
        model: String,
        vectors: Vec<Vec<f32>>,
        shape: Shape,
        usage: VectorUsage,
    ) -> Self {
        let data = vectors.into_iter().enumerate().map(|(index, vector)| EmbeddingObject {
            object: "embedding".into(),
            index: index as u32,
            embedding: Embedding::new(vector, shape),
        });
        Self { object: "list".into(), data: data.collect(), model, usage }
    }
}

impl Embedding {
    fn new(mut vector: Vec<f32>, shape: Shape) -> Self {
        if let Some(dimensions) = shape.dimensions {
            vector.truncate(dimensions);
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            if norm > 0.0 {
                vector.iter_mut().for_each(|x| *x /= norm);
            }
        }
        match shape.format {
            Format::Float => Self::Floats(vector),
            Format::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_vector_has_length_1_again() {
        let shape = Shape { format: Format::Float, dimensions: Some(2) };
        assert_eq!(Embedding::new(vec![3.0, 4.0, 9.0], shape), Embedding::Floats(vec![0.6, 0.8]));
        assert_eq!(Embedding::new(vec![0.0; 3], shape), Embedding::Floats(vec![0.0; 2]));
    }

    #[test]
    fn base64_is_of_little_endian_floats() {
        let shape = Shape { format: Format::Base64, dimensions: None };
        // The bytes 00 00 80 3f 00 00 00 c0.
        let expected = Embedding::Base64("AACAPwAAAMA=".into());
        assert_eq!(Embedding::new(vec![1.0, -2.0], shape), expected);
    }
}
