//! A served model as the router knows it: its limits, tokenizer and chat template.

use sconce_proto::worker::{ModelInfo, Task};

use crate::detokenizer::{self, TokenTable};
use crate::prompt::added::AddedTokens;
use crate::prompt::template::Template;

/// A model that at least one worker serves. Immutable; a new version is a new `Model`.
pub struct Model {
    /// What its workers say of it.
    pub info: ModelInfo,
    /// Its tokenizer. It neither truncates nor pads.
    pub tokenizer: tokenizers::Tokenizer,
    /// The bytes that each token stands for.
    pub(crate) tokens: TokenTable,
    /// The tokens that text can't stand for unless the template wrote it.
    pub(crate) added: AddedTokens,
    /// How a conversation becomes a prompt.
    pub(crate) chat: ChatFormat,
}

/// How a conversation becomes a prompt.
pub(crate) enum ChatFormat {
    /// The model was not made for conversations.
    None,
    /// Its template does not compile.
    Broken,
    /// By this template.
    Template(Box<Template>),
}

/// Why a model's files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tokenizer does not parse, or contradicts itself.
    #[error("the model's tokenizer can't be read")]
    Tokenizer(#[source] tokenizers::Error),
    /// Tokens can't be turned into text.
    #[error(transparent)]
    Decoder(#[from] detokenizer::Error),
}

impl Model {
    /// Reads what a worker sent. Takes up to a second for large vocabularies: not for an async
    /// thread.
    pub fn load(info: ModelInfo, tokenizer_json: &[u8]) -> Result<Self, Error> {
        let mut tokenizer =
            tokenizers::Tokenizer::from_bytes(tokenizer_json).map_err(Error::Tokenizer)?;
        // Left over from training in some files. A prompt is never cut.
        tokenizer.with_truncation(None).map_err(Error::Tokenizer)?;
        tokenizer.with_padding(None);
        let tokens = if can(&info, Task::Generate) {
            TokenTable::new(&tokenizer, info.vocab_size)?
        } else {
            // Nothing is ever turned into text, and some vocabularies can't be.
            TokenTable::default()
        };
        let added = AddedTokens::new(&tokenizer).map_err(Error::Tokenizer)?;
        let chat = ChatFormat::load(&info);
        Ok(Self { info, tokenizer, tokens, added, chat })
    }
}

impl Model {
    /// Whether its workers do this.
    pub fn can(&self, task: Task) -> bool {
        can(&self.info, task)
    }
}

fn can(info: &ModelInfo, task: Task) -> bool {
    match info.tasks[..] {
        // A worker from before there were others.
        [] => task == Task::Generate,
        _ => info.tasks.contains(&task.into()),
    }
}

impl ChatFormat {
    fn load(info: &ModelInfo) -> Self {
        if info.chat_template.is_empty() {
            return Self::None;
        }
        match Template::compile(&info.chat_template, &info.special_tokens) {
            Ok(template) => Self::Template(Box::new(template)),
            Err(error) => {
                tracing::error!(model = info.model, %error, "the chat template does not compile");
                Self::Broken
            }
        }
    }
}
