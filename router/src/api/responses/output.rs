//! The output of a response as it grows. Streamed or whole, a response is the same steps.

use std::sync::Arc;

use super::item::{Item, ItemPart, new_id};
use crate::api::blocks::{Block, Blocks, Start, Step};
use crate::api::chat::reply::{ChatLogprobs, ChatTokenLogprob};
use crate::generation::{Delta, FinishReason};
use crate::model::Model;

/// The items so far.
#[derive(Default)]
pub(crate) struct Output {
    items: Vec<Item>,
    blocks: Blocks,
    /// Set where log-probabilities are sent, whose tokens' texts it has.
    logprobs_of: Option<Arc<Model>>,
    /// Tokens whose text has not come yet.
    logprobs: Vec<ChatTokenLogprob>,
}

/// What happens to an item.
#[derive(Clone, Copy)]
pub(crate) enum ItemStep<'a> {
    /// It begins.
    Added,
    /// Its text goes on.
    Text(&'a str, &'a [ChatTokenLogprob]),
    /// Its thoughts go on.
    Reasoning(&'a str),
    /// Its arguments go on.
    Arguments(&'a str),
    /// It is complete.
    Done,
}

impl Output {
    /// Output that has log-probabilities if there is a model that tells their texts.
    pub(crate) fn new(logprobs_of: Option<Arc<Model>>) -> Self {
        Self { logprobs_of, ..Self::default() }
    }

    /// Adds a delta, and tells `put` what it does, with the number of the item and the item as it
    /// is then.
    pub(crate) fn take(&mut self, delta: &Delta, put: &mut dyn FnMut(usize, &Item, ItemStep)) {
        let Self { items, blocks, logprobs_of, logprobs } = self;
        if let Some(model) = logprobs_of {
            logprobs.extend(ChatLogprobs::new(&delta.logprobs, &model.tokens).content);
        }
        blocks.take(delta, &mut |index, step| {
            if let Step::Start(start) = step {
                let mut item = begin(start);
                put(index, &item, ItemStep::Added);
                match &mut item {
                    Item::Message { content, .. } => content.push(ItemPart::output(String::new())),
                    Item::Reasoning { content, .. } => {
                        content.push(ItemPart::ReasoningText { text: String::new() });
                    }
                    Item::FunctionCall { .. } | Item::FunctionCallOutput { .. } => {}
                }
                items.push(item);
                return;
            }
            let Some(item) = items.last_mut() else { return };
            let new = match step {
                Step::Text(_) => std::mem::take(logprobs),
                Step::Start(_) | Step::Thinking(_) | Step::Input(_) | Step::Stop(..) => Vec::new(),
            };
            grow(item, step, &new);
            match step {
                Step::Start(_) => {}
                Step::Text(text) => put(index, item, ItemStep::Text(text, &new)),
                Step::Thinking(text) => put(index, item, ItemStep::Reasoning(text)),
                Step::Input(json) => put(index, item, ItemStep::Arguments(json)),
                Step::Stop(block, end) => {
                    if block == Block::Text {
                        rest(item, std::mem::take(logprobs));
                    }
                    let is_cut = end == Some(FinishReason::Length);
                    let status = if is_cut { "incomplete" } else { "completed" };
                    status.clone_into(item.status());
                    put(index, item, ItemStep::Done);
                }
            }
        });
    }

    /// The items, as far as they have come.
    pub(crate) fn into_items(self) -> Vec<Item> {
        self.items
    }
}

fn begin(start: Start) -> Item {
    let status = "in_progress".to_owned();
    match start {
        Start::Thinking => {
            Item::Reasoning { id: new_id("rs"), status, summary: Vec::new(), content: Vec::new() }
        }
        Start::Text => Item::Message {
            id: new_id("msg"),
            status,
            role: "assistant".into(),
            content: Vec::new(),
        },
        Start::ToolUse { id, name } => Item::FunctionCall {
            id: new_id("fc"),
            status,
            call_id: id.into(),
            name: name.into(),
            arguments: String::new(),
        },
    }
}

fn grow(item: &mut Item, step: Step, new: &[ChatTokenLogprob]) {
    match (item, step) {
        (Item::Message { content, .. }, Step::Text(more)) => {
            if let Some(ItemPart::OutputText { text, logprobs, .. }) = content.last_mut() {
                text.push_str(more);
                logprobs.extend_from_slice(new);
            }
        }
        (Item::Reasoning { content, .. }, Step::Thinking(more)) => {
            if let Some(ItemPart::ReasoningText { text }) = content.last_mut() {
                text.push_str(more);
            }
        }
        (Item::FunctionCall { arguments, .. }, Step::Input(more)) => arguments.push_str(more),
        (
            _,
            Step::Start(_) | Step::Text(_) | Step::Thinking(_) | Step::Input(_) | Step::Stop(..),
        ) => {}
    }
}

/// Adds tokens that had no text, such as the one that ended it.
fn rest(item: &mut Item, rest: Vec<ChatTokenLogprob>) {
    if let Item::Message { content, .. } = item
        && let Some(ItemPart::OutputText { logprobs, .. }) = content.last_mut()
    {
        logprobs.extend(rest);
    }
}
