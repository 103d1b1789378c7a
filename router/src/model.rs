//! A served model as the router knows it: its limits, tokenizer and chat template.

use sconce_proto::worker::ModelInfo;

/// A model that at least one worker serves. Immutable; a new version is a new `Model`.
pub struct Model {
    /// What its workers say of it.
    pub info: ModelInfo,
    /// Its tokenizer.
    pub tokenizer: tokenizers::Tokenizer,
}

/// Why a model's files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tokenizer does not parse.
    #[error("the model's tokenizer can't be read")]
    Tokenizer(#[source] tokenizers::Error),
}

impl Model {
    /// Reads what a worker sent. Takes up to a second for large vocabularies: not for an async
    /// thread.
    pub fn load(info: ModelInfo, tokenizer_json: &[u8]) -> Result<Self, Error> {
        let tokenizer =
            tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(Error::Tokenizer)?;
        Ok(Self { info, tokenizer })
    }
}
