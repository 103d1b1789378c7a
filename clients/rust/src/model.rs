//! The models that a server has.

use serde::Deserialize;

use crate::Extra;

/// A model that a server has.
#[derive(Clone, Debug, Deserialize)]
pub struct Model {
    /// What requests call it.
    pub id: String,
    /// When it was made, or served first: seconds since 1970.
    #[serde(default)]
    pub created: i64,
    /// Whose it is.
    #[serde(default)]
    pub owned_by: String,
    /// What else the server says, such as `max_model_len`.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A page of models.
#[derive(Debug, Deserialize)]
pub(crate) struct Models {
    pub(crate) data: Vec<Model>,
}
