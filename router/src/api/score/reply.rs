//! The answer to a score request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::reply::VectorUsage;

/// The answer to a score request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ScoreList {
    /// Unique.
    pub id: String,
    /// `list`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// One for each pair, in their order.
    pub data: Vec<ScoreObject>,
    /// What they cost.
    pub usage: VectorUsage,
}

/// How much the texts of a pair have to do with each other.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ScoreObject {
    /// Which pair.
    pub index: u32,
    /// `score`.
    pub object: String,
    /// Of a cross-encoder, from 0 to 1; of an embedding model, from -1 to 1.
    pub score: f32,
}

impl ScoreObject {
    pub(super) fn list(scores: &[f32]) -> Vec<Self> {
        let scores = scores.iter().enumerate();
        let object = |(index, score): (usize, &f32)| Self {
            index: index as u32,
            object: "score".into(),
            score: *score,
        };
        scores.map(object).collect()
    }
}
