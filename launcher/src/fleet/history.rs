//! What was ordered and what became of it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::time::Time;

/// Who wants something, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A user of the system, a key's public id, or [`Reason::LAUNCHER`].
    pub who: String,
    /// In words.
    pub why: String,
}

impl Reason {
    /// Who does what the launcher does by itself.
    pub const LAUNCHER: &'static str = "launcher";

    /// Of what the launcher does by itself.
    pub fn own(why: impl Into<String>) -> Self {
        Self { who: Self::LAUNCHER.to_owned(), why: why.into() }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// Replicas of a version were started.
    Start,
    /// A name's traffic was moved to a version.
    Promote,
    /// Some of it.
    Canary,
    /// A copy of it.
    Shadow,
    /// It was moved back.
    Rollback,
    /// The number of replicas was set.
    Scale,
    /// A version's replicas were ended.
    Unload,
    /// A version's outdated replicas were exchanged for others.
    Exchange,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Grows from entry to entry.
    pub id: u64,
    /// When it was ordered.
    pub time: Time,
    /// The name whose traffic it is about, or the version.
    pub name: String,
    /// What was done.
    pub deed: Deed,
    /// The version before.
    pub from: Option<String>,
    /// The version after.
    pub to: Option<String>,
    /// Who and why.
    pub reason: Reason,
    /// What became of it; `None` while that is open.
    pub result: Option<String>,
}

/// The last entries, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct History(VecDeque<Entry>);

impl History {
    pub(crate) fn push(&mut self, entry: Entry, max: usize) {
        self.0.push_back(entry);
        while self.0.len() > max {
            self.0.pop_front();
        }
    }

    /// Says what became of an entry, if it is still there and open.
    pub(crate) fn close(&mut self, id: u64, result: &str) {
        let open = self.0.iter_mut().rev().find(|entry| entry.id == id && entry.result.is_none());
        if let Some(entry) = open {
            entry.result = Some(result.to_owned());
        }
    }

    /// Newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().rev()
    }
}

impl Deed {
    /// As the protocol writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Promote => "promote",
            Self::Canary => "canary",
            Self::Shadow => "shadow",
            Self::Rollback => "rollback",
            Self::Scale => "scale",
            Self::Unload => "unload",
            Self::Exchange => "exchange",
        }
    }
}
