//! What both doors take beside the prompt: typed, in the ranges of the table, not yet compared with
//! the model.

use std::fmt;

use sconce_proto::worker::SamplingDefaults;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::fields::Fields;
use super::format::{ResponseFormat, StructuredOutputs};
use super::text_or::{TextOr, text_or_list};
use crate::error::ApiError;
use crate::validate::number::Wide;

/// How to generate and how to answer.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) model: String,
    /// Whom the request is for.
    pub(crate) user: Option<String>,
    pub(crate) n: Option<u32>,
    pub(crate) priority: i32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) response_format: Option<ResponseFormat>,
    pub(crate) structured_outputs: Option<StructuredOutputs>,
    pub(crate) stop: Vec<String>,
    pub(crate) bad_words: Vec<String>,
    pub(crate) include_stop: bool,
    pub(crate) skip_special_tokens: Option<bool>,
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) stream: bool,
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) include_timings: bool,
}

/// How to pick tokens.
#[derive(Default)]
pub(crate) struct Sampling {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) typical_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) logit_bias: Vec<(String, f64)>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop_token_ids: Vec<Wide>,
    pub(crate) min_tokens: Option<u32>,
    pub(crate) ignore_eos: bool,
    pub(crate) allowed_token_ids: Option<Vec<Wide>>,
}

/// Options of a streamed answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Send one more chunk at the end, with the usage of the whole request and no choices.
    pub include_usage: Option<bool>,
    /// Send the usage so far with every chunk. Not of OpenAI.
    pub continuous_usage_stats: Option<bool>,
    /// Send chunks without choices that say how much of the prompts is computed. Not of OpenAI.
    pub include_progress: Option<bool>,
    /// Accepted; nothing is obfuscated.
    pub include_obfuscation: Option<bool>,
}

impl Options {
    /// What completions and chats take.
    pub(crate) fn read(fields: &Fields) -> Result<Self, ApiError> {
        Ok(Self {
            n: fields.count("n")?,
            max_tokens: fields.count("max_tokens")?,
            response_format: fields.parse("response_format")?,
            prompt_logprobs: fields.count("prompt_logprobs")?,
            stream_options: fields.parse("stream_options")?,
            include_timings: fields.boolean("include_timings")?.unwrap_or(false),
            ..Self::read_shared(fields)?
        })
    }

    /// What responses take, too.
    pub(crate) fn read_shared(fields: &Fields) -> Result<Self, ApiError> {
        let priority = fields.integer("priority")?.and_then(|it| i32::try_from(it).ok());
        Ok(Self {
            model: Fields::required("model", fields.text("model")?)?,
            user: fields.user()?,
            priority: priority.unwrap_or(0),
            sampling: Sampling::read(fields)?,
            structured_outputs: fields.parse("structured_outputs")?,
            stop: fields.parse::<Stop>("stop")?.map(|stop| stop.0).unwrap_or_default(),
            bad_words: fields.parse::<BadWords>("bad_words")?.unwrap_or_default().0,
            include_stop: fields.boolean("include_stop_str_in_output")?.unwrap_or(false),
            skip_special_tokens: fields.boolean("skip_special_tokens")?,
            stream: fields.boolean("stream")?.unwrap_or(false),
            ..Self::default()
        })
    }
}

impl Sampling {
    /// Says as `defaults` do what the request doesn't say.
    pub(crate) fn fill(&mut self, defaults: &SamplingDefaults) {
        self.temperature = self.temperature.or(defaults.temperature);
        self.top_k = self.top_k.or(defaults.top_k);
        self.top_p = self.top_p.or(defaults.top_p);
        self.min_p = self.min_p.or(defaults.min_p);
        self.repetition_penalty = self.repetition_penalty.or(defaults.repetition_penalty);
        self.frequency_penalty = self.frequency_penalty.or(defaults.frequency_penalty);
        self.presence_penalty = self.presence_penalty.or(defaults.presence_penalty);
    }

    fn read(fields: &Fields) -> Result<Self, ApiError> {
        // -1 is vLLM's older way of saying "all".
        let top_k = fields.integer("top_k")?.map(|k| u32::try_from(k).unwrap_or(0));
        let logit_bias = fields.parse::<LogitBias>("logit_bias")?;
        let stop_token_ids = fields.parse::<TokenIds>("stop_token_ids")?;
        Ok(Self {
            temperature: fields.number("temperature")?,
            top_k,
            top_p: fields.fraction("top_p")?,
            min_p: fields.number("min_p")?,
            typical_p: fields.fraction("typical_p")?,
            repetition_penalty: fields.number("repetition_penalty")?,
            frequency_penalty: fields.number("frequency_penalty")?,
            presence_penalty: fields.number("presence_penalty")?,
            logit_bias: logit_bias.map(|bias| bias.0).unwrap_or_default(),
            seed: fields.integer("seed")?,
            stop_token_ids: stop_token_ids.map(|ids| ids.0).unwrap_or_default(),
            min_tokens: fields.count("min_tokens")?,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            allowed_token_ids: fields.parse::<TokenIds>("allowed_token_ids")?.map(|ids| ids.0),
        })
    }
}

/// Texts that end a completion: one, or a list.
pub(crate) struct Stop(Vec<String>);

/// Token ids, as decimal texts, to what is added to their logits.
pub(crate) struct LogitBias(Vec<(String, f64)>);

/// Texts that must not be generated.
#[derive(Default, Deserialize)]
pub(crate) struct BadWords(Vec<String>);

/// A list of token ids.
#[derive(Deserialize)]
pub(crate) struct TokenIds(pub(crate) Vec<Wide>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or_list(deserializer, "a string or a list of strings")? {
            TextOr::Text(text) => Self(vec![text]),
            TextOr::Other(other) => Self(other),
        })
    }
}

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BiasVisitor;

        impl<'de> Visitor<'de> for BiasVisitor {
            type Value = LogitBias;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of token ids and numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
                let mut biases = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    biases.push(entry);
                }
                Ok(LogitBias(biases))
            }
        }

        deserializer.deserialize_map(BiasVisitor)
    }
}

impl PartialSchema for Stop {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let list = ArrayBuilder::new().items(text()).max_items(Some(4));
        Schema::AnyOf(AnyOfBuilder::new().item(text()).item(list).build()).into()
    }
}

impl PartialSchema for LogitBias {
    fn schema() -> RefOr<Schema> {
        let bias = ObjectBuilder::new().schema_type(Type::Number);
        let bias = bias.minimum(Some(-100)).maximum(Some(100));
        let object = ObjectBuilder::new().schema_type(Type::Object);
        Schema::Object(object.additional_properties(Some(bias)).build()).into()
    }
}

impl PartialSchema for TokenIds {
    fn schema() -> RefOr<Schema> {
        let id = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        Schema::Array(ArrayBuilder::new().items(id).build()).into()
    }
}

impl PartialSchema for BadWords {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        Schema::Array(ArrayBuilder::new().items(text).max_items(Some(128)).build()).into()
    }
}

impl ToSchema for BadWords {}
impl ToSchema for Stop {}
impl ToSchema for LogitBias {}
impl ToSchema for TokenIds {}
