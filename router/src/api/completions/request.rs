//! A text-completion request as OpenAI defines it.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::api::fields::{Door, Fields, request_schema};
use crate::api::format::{NamedSchema, ResponseFormat, StructuredOutputs};
use crate::api::options::{BadWords, LogitBias, Options, Stop, StreamOptions, TokenIds};
use crate::error::ApiError;
use crate::validate::number::Wide;

/// The body of `POST /v1/completions`.
pub(crate) struct CompletionRequest {
    pub(crate) prompt: Prompt,
    pub(crate) logprobs: Option<u32>,
    pub(crate) echo: bool,
    pub(crate) best_of: Option<u32>,
    pub(crate) suffix: Option<String>,
    pub(crate) options: Options,
}

/// What is to be completed.
#[derive(Debug)]
pub(crate) enum Prompt {
    /// One text.
    Text(String),
    /// A list, of whatever its elements are.
    List(Vec<Item>),
}

/// An element of a prompt that is a list.
#[derive(Debug)]
pub(crate) enum Item {
    /// One prompt's text.
    Text(String),
    /// A token of the one prompt.
    Token(Wide),
    /// One prompt's tokens.
    Tokens(Vec<Wide>),
}

impl CompletionRequest {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(Door::Completions, body)?;
        Ok(Self {
            options: Options::read(&fields)?,
            prompt: Fields::required("prompt", fields.parse("prompt")?)?,
            logprobs: fields.count("logprobs")?,
            echo: fields.boolean("echo")?.unwrap_or(false),
            best_of: fields.count("best_of")?,
            suffix: fields.text("suffix")?,
        })
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;

        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string, a list of token ids, or a list of either")
            }

            fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Prompt::List(items))
            }
        }

        deserializer.deserialize_any(PromptVisitor)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string, a token id or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.to_owned()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Item, E> {
                Ok(Item::Token(Wide::from(value)))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Item, E> {
                let value = i64::try_from(value);
                let value = value.map_err(|_| E::custom("the number is no token id"))?;
                Ok(Item::Token(Wide::from(value)))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Item, E> {
                Err(E::invalid_type(Unexpected::Float(value), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = seq.next_element()? {
                    tokens.push(token);
                }
                Ok(Item::Tokens(tokens))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

impl PartialSchema for Prompt {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let ids = || {
            let id = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
            ArrayBuilder::new().items(id)
        };
        let kinds = AnyOfBuilder::new()
            .item(text())
            .item(ArrayBuilder::new().items(text()))
            .item(ids())
            .item(ArrayBuilder::new().items(ids()));
        Schema::AnyOf(kinds.build()).into()
    }
}

impl ToSchema for Prompt {}

impl PartialSchema for CompletionRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::Completions)
    }
}

impl ToSchema for CompletionRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Prompt::name().into(), Prompt::schema()));
        schemas.push((Stop::name().into(), Stop::schema()));
        schemas.push((LogitBias::name().into(), LogitBias::schema()));
        schemas.push((TokenIds::name().into(), TokenIds::schema()));
        schemas.push((BadWords::name().into(), BadWords::schema()));
        schemas.push((StreamOptions::name().into(), StreamOptions::schema()));
        schemas.push((ResponseFormat::name().into(), ResponseFormat::schema()));
        schemas.push((NamedSchema::name().into(), NamedSchema::schema()));
        schemas.push((StructuredOutputs::name().into(), StructuredOutputs::schema()));
    }
}
