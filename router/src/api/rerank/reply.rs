//! The answer to a rerank request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::reply::VectorUsage;

/// The answer to a rerank request.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Reranking {
    /// Unique.
    pub id: String,
    /// The model that answers.
    pub model: String,
    /// The best documents first.
    pub results: Vec<RankedDocument>,
    /// What it cost.
    pub usage: VectorUsage,
}

/// A document and how much it has to do with the query.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RankedDocument {
    /// Which document of the request.
    pub index: u32,
    /// Of a cross-encoder, from 0 to 1; of an embedding model, from -1 to 1.
    pub relevance_score: f32,
    /// The document, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentText>,
}

/// A document.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DocumentText {
    /// Its text.
    pub text: String,
}

/// The best documents first; of equals, the earlier one.
pub(super) fn results(
    scores: &[f32],
    documents: Option<Vec<String>>,
    top_n: Option<u32>,
) -> Vec<RankedDocument> {
    let mut documents: Vec<Option<String>> = match documents {
        Some(documents) => documents.into_iter().map(Some).collect(),
        None => vec![None; scores.len()],
    };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let score = |index: &usize| scores.get(*index).copied().unwrap_or_default();
    order.sort_by(|a, b| score(b).total_cmp(&score(a)));
    order.truncate(top_n.map_or(usize::MAX, |top_n| top_n as usize));
    let ranked = order.into_iter().map(|index| RankedDocument {
        index: index as u32,
        relevance_score: score(&index),
        document: documents.get_mut(index).and_then(Option::take).map(|text| DocumentText { text }),
    });
    ranked.collect()
}
