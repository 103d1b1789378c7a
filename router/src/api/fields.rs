//! Every field of a request, and what is done with it.
//!
//! One table for each API decides how a body is read, what the OpenAPI document says, and what
//! `docs/openai-compatibility.md`, `docs/responses.md` and `docs/anthropic-compatibility.md` must say
//! (a test compares them). A field that is not in it is
//! unknown and ignored, as OpenAI's own clients and servers do.

mod body;
mod messages;
mod responses;
mod schema;
mod strict;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use body::{Fields, missing, mistyped};
pub(crate) use messages::MESSAGE_FIELDS;
pub(crate) use responses::RESPONSE_FIELDS;
pub(crate) use schema::request_schema;
pub(crate) use strict::Strict;
pub(crate) use table::{EFFORTS, FIELDS};

/// An endpoint with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/embeddings`.
    Embeddings,
    /// `/v1/rerank` and `/rerank`.
    Rerank,
    /// `/v1/score` and `/score`.
    Score,
    /// `/v1/messages`.
    Messages,
    /// `/v1/messages/count_tokens`.
    CountTokens,
    /// `/v1/responses`.
    Responses,
    /// `/v1/responses/input_tokens`.
    InputTokens,
}

/// One field of a request body.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) doors: &'static [Door],
    pub(crate) kind: Kind,
    pub(crate) treatment: Treatment,
    /// What the documentation says of it.
    pub(crate) note: &'static str,
}

/// What a field may hold. `null` is always the same as leaving it out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Boolean,
    Integer {
        min: i64,
        max: i64,
    },
    Number {
        min: f64,
        max: f64,
    },
    /// Text of at most so many characters.
    Text {
        max: usize,
    },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// At most 16 pairs of texts of at most 64 and 512 characters.
    Metadata,
    /// Read by code of its own; documented by the schema of this name, or in the note.
    Own(Option<&'static str>),
}

/// What is done with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It does what it says.
    Used,
    /// Its type is checked, then it is ignored.
    Ignored,
    /// Not supported: anything but `null` and these JSON values is an error.
    Refused(&'static [&'static str]),
}

/// Every field of every endpoint.
fn all() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().chain(MESSAGE_FIELDS).chain(RESPONSE_FIELDS)
}

/// The row of a field, if that endpoint knows it.
pub(crate) fn find(door: Door, name: &str) -> Option<&'static Field> {
    all().find(|field| field.name == name && field.doors.contains(&door))
}
