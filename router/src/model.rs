//! A served model as the router knows it: its limits, tokenizer and chat template.

use std::sync::Arc;

use sconce_proto::worker::{ModelInfo, Task};

use crate::detokenizer::{self, TokenTable};
use crate::metrics::Totals;
use crate::parse::{Formats, ToolFormat, UnknownFormat};
use crate::prompt::added::AddedTokens;
use crate::prompt::infill::Infill;
use crate::prompt::template::Template;

/// A model that at least one worker serves. Immutable; a new version is a new `Model`.
pub struct Model {
    /// What its workers say of it.
    pub info: ModelInfo,
    /// What the routing table calls this version, such as `smollm2@2`; none of workers that the
    /// command line names.
    pub version: Option<Arc<str>>,
    /// What this router counts of the version.
    pub(crate) totals: Arc<Totals>,
    /// Its tokenizer. It neither truncates nor pads.
    pub tokenizer: tokenizers::Tokenizer,
    /// The bytes that each token stands for.
    pub(crate) tokens: TokenTable,
    /// The tokens that text can't stand for unless the template wrote it.
    pub(crate) added: AddedTokens,
    /// How a conversation becomes a prompt.
    pub(crate) chat: ChatFormat,
    /// How it fills in the middle of a text, if it does.
    pub(crate) infill: Option<Infill>,
    /// What it writes besides text.
    pub(crate) formats: Formats,
    /// Tokens that are no text, and that show what it writes.
    pub(crate) markers: Arc<[u32]>,
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
    /// The worker names a parser that does not exist.
    #[error(transparent)]
    Parser(#[from] UnknownFormat),
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
        let formats = formats(&info)?;
        let markers = formats.markers().chain(ToolFormat::Hermes.markers().iter().copied());
        let markers = markers.filter_map(|text| tokenizer.token_to_id(text));
        let markers = markers.filter(|token| tokens.is_special(*token)).collect();
        let infill = Infill::of(&tokenizer);
        Ok(Self {
            info,
            version: None,
            totals: Arc::default(),
            tokenizer,
            tokens,
            added,
            chat,
            infill,
            formats,
            markers,
        })
    }

    /// The version, as the routing table calls it or as its workers do.
    pub(crate) fn version_name(&self) -> &str {
        self.version.as_deref().unwrap_or(&self.info.version)
    }

    /// Names all that its answers depend on beside the request.
    pub(crate) fn fingerprint(&self) -> Option<&str> {
        (!self.info.fingerprint.is_empty()).then_some(&*self.info.fingerprint)
    }

    /// The id of a text that is a special token.
    pub(crate) fn special(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_to_id(text).filter(|token| self.tokens.is_special(*token))
    }
}

/// What a model writes besides text: as its worker says, or as its chat template shows.
fn formats(info: &ModelInfo) -> Result<Formats, UnknownFormat> {
    let mut formats = Formats::detect(&info.chat_template);
    match info.tool_parser.as_str() {
        "" => {}
        name => formats.tools = Some(name.parse()?),
    }
    match info.reasoning_parser.as_str() {
        "" => {}
        "none" => formats.reasoning = None,
        name => formats.reasoning = Some(name.parse()?),
    }
    Ok(formats)
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
