//! How much two texts have to do with each other.
//!
//! A cross-encoder reads both together and says so; of an embedding model, it is the cosine of the
//! angle between the two embeddings.

use std::sync::Arc;

use sconce_proto::worker::Task;

use crate::api::models::unable;
use crate::app::{App, Urgency};
use crate::embedding::{self, Vectors};
use crate::error::ApiError;
use crate::prompt::inputs::{Content, Input};
use crate::routing::Target;
use crate::validate::inputs::pair;

/// The scores of a request.
pub(crate) struct Scores {
    /// One for each second text, in their order.
    pub(crate) values: Vec<f32>,
    /// Tokens of everything that was read.
    pub(crate) num_tokens: u64,
}

/// Compares every second text with its first one, or all with the only one.
pub(crate) async fn scores(
    app: &App,
    target: &Target,
    firsts: Vec<Input>,
    seconds: Vec<Input>,
) -> Result<Scores, ApiError> {
    let model = &target.model;
    if model.can(Task::Classify) {
        of_pairs(app, target, firsts, seconds).await
    } else if model.can(Task::Embed) {
        of_embeddings(app, target, firsts, seconds).await
    } else {
        Err(unable(model))
    }
}

async fn of_pairs(
    app: &App,
    target: &Target,
    firsts: Vec<Input>,
    seconds: Vec<Input>,
) -> Result<Scores, ApiError> {
    let num_labels = target.model.info.num_outputs;
    if num_labels > 2 {
        let message = format!("this model sorts texts into {num_labels} classes and scores none");
        return Err(ApiError::invalid("model", "unsupported_model", message));
    }
    let firsts: Vec<Arc<str>> = firsts.into_iter().filter_map(text).collect();
    let pairs = seconds.into_iter().enumerate().filter_map(|(i, second)| {
        let first = if firsts.len() == 1 { firsts.first() } else { firsts.get(i) };
        first.map(|first| pair(first, second))
    });
    let Vectors { values, num_tokens } =
        embedding::run(app, target, pairs.collect(), Urgency::Interactive).await?;
    Ok(Scores { values: values.iter().map(|logits| relevance(logits)).collect(), num_tokens })
}

async fn of_embeddings(
    app: &App,
    target: &Target,
    firsts: Vec<Input>,
    seconds: Vec<Input>,
) -> Result<Scores, ApiError> {
    let num_firsts = firsts.len();
    let inputs = firsts.into_iter().chain(seconds).collect();
    let Vectors { values, num_tokens } =
        embedding::run(app, target, inputs, Urgency::Interactive).await?;
    let (firsts, seconds) = values.split_at_checked(num_firsts).ok_or(ApiError::Internal)?;
    let scores = seconds.iter().enumerate().filter_map(|(i, second)| {
        let first = if num_firsts == 1 { firsts.first() } else { firsts.get(i) };
        first.map(|first| cosine(first, second))
    });
    Ok(Scores { values: scores.collect(), num_tokens })
}

fn text(input: Input) -> Option<Arc<str>> {
    match input.content {
        Content::Text(text) => Some(text.into()),
        Content::Pair(..) | Content::Tokens(_) => None,
    }
}

/// The probability that a pair is relevant: of one logit its sigmoid, of two that of the second.
fn relevance(logits: &[f32]) -> f32 {
    let logit = match logits {
        [logit] => *logit,
        [irrelevant, relevant] => relevant - irrelevant,
        _ => f32::NAN,
    };
    1.0 / (1.0 + (-logit).exp())
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    // Nothing points nowhere.
    if norms > 0.0 { (dot(a, b) / norms) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relevance_is_a_probability() {
        assert_eq!(relevance(&[0.0]), 0.5);
        assert!(relevance(&[8.0]) > 0.99 && relevance(&[-100.0]) < 0.01);
        assert_eq!(relevance(&[3.0, 3.0]), 0.5);
        assert!(relevance(&[0.0, 8.0]) > 0.99);
    }

    #[test]
    fn the_cosine_does_not_depend_on_lengths() {
        assert!((cosine(&[1.0, 1.0], &[5.0, 5.0]) - 1.0).abs() < 1e-6);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!(cosine(&[0.0, 0.0], &[0.0, 2.0]), 0.0);
    }
}
