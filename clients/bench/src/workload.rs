//! What is asked: conversations, made up or replayed.

mod synthetic;
mod trace;
mod words;

pub(crate) use synthetic::Synthetic;
pub(crate) use trace::{Format, Trace};

use std::time::Duration;

use serde_json::{Map, Value};

use crate::request::Kind;

/// A conversation: requests that follow upon each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Session {
    /// When it begins, where a trace says so.
    pub(crate) at: Duration,
    /// Messages before the first request.
    pub(crate) before: Vec<Value>,
    /// At least one.
    pub(crate) turns: Vec<Turn>,
}

/// One request of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Turn {
    /// What is asked. Empty where `fields` say it.
    pub(crate) text: String,
    /// Further texts of the same request, for embeddings.
    pub(crate) more: Vec<String>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) kind: Kind,
    /// Fields of the body that a trace gives.
    pub(crate) fields: Map<String, Value>,
}

impl Turn {
    /// All texts.
    pub(crate) fn texts(&self) -> Vec<&str> {
        std::iter::once(&self.text).chain(&self.more).map(String::as_str).collect()
    }
}

/// Where conversations come from. The same number always gives the same one.
#[derive(Debug)]
pub(crate) enum Workload {
    Synthetic(Synthetic),
    Trace(Trace),
}

impl Workload {
    /// Conversation number `index`. A trace that is at its end begins again.
    pub(crate) fn session(&self, index: usize) -> Session {
        match self {
            Self::Synthetic(synthetic) => synthetic.session(index),
            Self::Trace(trace) => trace.session(index),
        }
    }
}
