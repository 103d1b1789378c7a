//! What a completion's text must be: a JSON schema, a regular expression or a grammar, made into an
//! automaton over the model's tokens by llguidance.
//!
//! A grammar is compiled once, by a thread that the engine does not wait for; each completion then
//! walks it on its own. This module knows tokens and their bytes, no tensor, no queue and no client.

mod ahead;
mod bounds;
mod compiler;
mod regular;
#[cfg(test)]
pub(crate) mod tests;
mod walk;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;

pub use ahead::{Ahead, SharedWalk};
pub use compiler::Compiler;
pub use walk::{Exhausted, Standing, Walk};

/// What a client wrote.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The text is JSON that this schema accepts.
    JsonSchema(String),
    /// The whole text matches it.
    Regex(String),
    /// In llguidance's dialect of Lark.
    Lark(String),
}

/// Why there is no grammar: for the client who wrote it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// A compiled grammar. Cheap to clone.
#[derive(Clone)]
pub struct Grammar(Arc<Mutex<Matcher>>);

impl Invalid {
    /// With a reason that goes on after the name of what is wrong.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl Source {
    fn text(&self) -> &str {
        match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text,
        }
    }
}

/// Only its kind: what a client writes is not for the log.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::JsonSchema(_) => "JsonSchema",
            Self::Regex(_) => "Regex",
            Self::Lark(_) => "Lark",
        })
    }
}

impl Grammar {
    fn new(matcher: Matcher) -> Self {
        Self(Arc::new(Mutex::new(matcher)))
    }

    /// Begins a completion.
    pub fn walk(&self) -> Walk {
        // Nothing is changed under the lock, so a panic leaves nothing half done.
        let matcher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Deep: the completions' threads shall not wait for each other's lexers.
        Walk::new(matcher.deep_clone())
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Grammar")
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
