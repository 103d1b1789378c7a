//! The events of a streamed message, as Anthropic's clients expect them: `message_start`; for each
//! block of the content its start, deltas and stop; `message_delta` with the end; `message_stop`.

use serde::Serialize;

use super::frames::{escape, write};
use super::{Events, Merge};
use crate::api::blocks::{Block, Blocks, Step};
use crate::api::messages::reply::{BlockDelta, MessageEnd, MessageEvent, MessageObject};
use crate::error::{ApiError, anthropic};
use crate::generation::{Delta, TokenUsage};

/// Writes the events of one message.
pub(crate) struct MessageEvents {
    id: String,
    model: String,
    /// The request's stop texts.
    stop: Vec<String>,
    blocks: Blocks,
    text: TextEvent,
}

/// Whether the event of a text can take more of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TextEvent {
    Open,
    Closed,
}

impl MessageEvents {
    /// Events of a message to a request with these stop texts.
    pub(crate) fn new(id: String, model: String, stop: Vec<String>) -> Self {
        Self { id, model, stop, blocks: Blocks::default(), text: TextEvent::Closed }
    }
}

impl Events for MessageEvents {
    fn opening(&mut self, out: &mut Vec<u8>, _: u32, usage: TokenUsage) {
        let message = MessageObject::begin(self.id.clone(), self.model.clone(), usage);
        put(out, &MessageEvent::MessageStart { message });
    }

    fn delta(&mut self, out: &mut Vec<u8>, delta: &Delta, (usage, merge): (TokenUsage, Merge)) {
        let text = &mut self.text;
        self.blocks.take(delta, &mut |index, step| match step {
            Step::Text(more) if merge == Merge::IfOpen && *text == TextEvent::Open => {
                escape(out, more);
            }
            Step::Text(more) => {
                text.close(out);
                text.open(out, (index, more));
            }
            step => {
                text.close(out);
                take(out, (index, step));
            }
        });
        if let Some(finish) = delta.finish {
            let delta = MessageEnd::new(finish, &self.stop);
            put(out, &MessageEvent::MessageDelta { delta, usage: usage.into() });
        }
    }

    fn close(&mut self, out: &mut Vec<u8>, _: TokenUsage) {
        self.text.close(out);
    }

    fn done(&mut self, out: &mut Vec<u8>, _: TokenUsage) {
        put(out, &MessageEvent::MessageStop);
    }

    fn error(&mut self, out: &mut Vec<u8>, error: &ApiError, _: TokenUsage) {
        self.text.close(out);
        write_event(out, "error", &anthropic::body(error));
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        put(out, &MessageEvent::Ping);
    }
}

impl TextEvent {
    /// Begins an event, and leaves it open.
    fn open(&mut self, out: &mut Vec<u8>, (index, text): (usize, &str)) {
        out.extend_from_slice(
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":",
        );
        write(out, &index);
        out.extend_from_slice(b",\"delta\":{\"type\":\"text_delta\",\"text\":\"");
        escape(out, text);
        *self = Self::Open;
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if *self == Self::Open {
            out.extend_from_slice(b"\"}}\n\n");
            *self = Self::Closed;
        }
    }
}

/// Writes a step of the block of this number.
fn take(out: &mut Vec<u8>, (index, step): (usize, Step)) {
    let delta = match step {
        Step::Start(start) => {
            let content_block = start.into();
            return put(out, &MessageEvent::ContentBlockStart { index, content_block });
        }
        Step::Stop(block, _) => {
            if block == Block::Thinking {
                // There is no signature; clients wait for one.
                let delta = BlockDelta::SignatureDelta { signature: String::new() };
                put(out, &MessageEvent::ContentBlockDelta { index, delta });
            }
            return put(out, &MessageEvent::ContentBlockStop { index });
        }
        Step::Text(text) => BlockDelta::TextDelta { text: text.into() },
        Step::Thinking(text) => BlockDelta::ThinkingDelta { thinking: text.into() },
        Step::Input(json) => BlockDelta::InputJsonDelta { partial_json: json.into() },
    };
    put(out, &MessageEvent::ContentBlockDelta { index, delta });
}

fn put(out: &mut Vec<u8>, event: &MessageEvent) {
    write_event(out, event.name(), event);
}

fn write_event(out: &mut Vec<u8>, name: &str, data: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    write(out, data);
    out.extend_from_slice(b"\n\n");
}
