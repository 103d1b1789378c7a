//! The events of a streamed response: `response.created` and `response.in_progress`; for each item
//! its beginning, deltas and end; `response.completed`, or how else it ended. They are numbered.

use futures::future::BoxFuture;
use serde::Serialize;

use super::frames::{escape, write};
use super::{Events, Merge};
use crate::api::chat::reply::ChatTokenLogprob;
use crate::api::responses::event::ResponseEvent;
use crate::api::responses::item::{Item, ItemPart};
use crate::api::responses::output::{ItemStep, Output};
use crate::api::responses::reply::ResponseObject;
use crate::error::ApiError;
use crate::generation::{Delta, FinishReason, TokenUsage};

/// Where a response is stored once it has ended, before anyone is told that it has.
pub(crate) type Save =
    Box<dyn FnOnce(ResponseObject) -> BoxFuture<'static, Result<(), ApiError>> + Send>;

/// Writes the events of one response.
pub(crate) struct ResponseEvents {
    response: Box<ResponseObject>,
    output: Output,
    finish: Option<FinishReason>,
    save: Option<Save>,
    writer: Writer,
}

/// Numbers events.
#[derive(Default)]
struct Writer {
    num_events: u64,
    text: TextEvent,
}

/// Whether the event of a text can take more of it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum TextEvent {
    #[default]
    Closed,
    Open,
}

/// An event with its number.
#[derive(Serialize)]
struct Numbered<'a> {
    #[serde(flatten)]
    event: &'a ResponseEvent,
    sequence_number: u64,
}

impl ResponseEvents {
    /// Events of a response that begins. `save` gets it when it has ended.
    pub(crate) fn new(response: ResponseObject, output: Output, save: Option<Save>) -> Self {
        let response = Box::new(response);
        Self { response, output, finish: None, save, writer: Writer::default() }
    }

    fn snapshot(&self) -> ResponseObject {
        (*self.response).clone()
    }
}

impl Events for ResponseEvents {
    fn opening(&mut self, out: &mut Vec<u8>, _: u32, _: TokenUsage) {
        let response = self.snapshot();
        self.writer.put(out, &ResponseEvent::Created { response });
        if self.response.background {
            let response = self.snapshot();
            self.writer.put(out, &ResponseEvent::Queued { response });
            self.response.status = "in_progress".into();
        }
        let response = self.snapshot();
        self.writer.put(out, &ResponseEvent::InProgress { response });
    }

    fn delta(&mut self, out: &mut Vec<u8>, delta: &Delta, (_, merge): (TokenUsage, Merge)) {
        let writer = &mut self.writer;
        self.output.take(delta, &mut |index, item, step| match step {
            ItemStep::Text(text, []) => writer.text(out, (index, item), (text, merge)),
            step => writer.step(out, (index, item), step),
        });
        self.finish = delta.finish.or(self.finish);
    }

    fn close(&mut self, out: &mut Vec<u8>, _: TokenUsage) {
        self.writer.close(out);
    }

    fn settle(
        &mut self,
        end: Result<(), &ApiError>,
        usage: TokenUsage,
    ) -> Option<BoxFuture<'static, Result<(), ApiError>>> {
        let output = std::mem::take(&mut self.output).into_items();
        match end {
            Ok(()) => {
                let finish = self.finish.unwrap_or(FinishReason::Stop);
                self.response.finish(finish, output, usage);
            }
            Err(error) => self.response.fail(error, output),
        }
        // Of what breaks off, only what nobody waits for is stored: it will be asked for.
        let is_stored = end.is_ok() || self.response.background;
        let save = self.save.take().filter(|_| is_stored)?;
        Some(save(self.snapshot()))
    }

    fn done(&mut self, out: &mut Vec<u8>, _: TokenUsage) {
        let response = self.snapshot();
        let event = match response.incomplete_details {
            None => ResponseEvent::Completed { response },
            Some(_) => ResponseEvent::Incomplete { response },
        };
        self.writer.put(out, &event);
    }

    fn error(&mut self, out: &mut Vec<u8>, error: &ApiError, _: TokenUsage) {
        // A response that nobody was told of can't fail.
        if self.writer.num_events > 0 {
            let output = std::mem::take(&mut self.response.output);
            self.response.fail(error, output);
            let response = self.snapshot();
            self.writer.put(out, &ResponseEvent::Failed { response });
        }
        self.writer.put(out, &ResponseEvent::error(error));
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b": \n\n");
    }
}

impl Writer {
    fn put(&mut self, out: &mut Vec<u8>, event: &ResponseEvent) {
        self.close(out);
        let sequence_number = self.num_events;
        self.num_events += 1;
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.name().as_bytes());
        out.extend_from_slice(b"\ndata: ");
        write(out, &Numbered { event, sequence_number });
        out.extend_from_slice(b"\n\n");
    }

    /// Writes more text, whose event stays open.
    fn text(
        &mut self,
        out: &mut Vec<u8>,
        (index, item): (usize, &Item),
        (text, merge): (&str, Merge),
    ) {
        if merge == Merge::Never || self.text == TextEvent::Closed {
            self.close(out);
            out.extend_from_slice(
                b"event: response.output_text.delta\n\
                  data: {\"type\":\"response.output_text.delta\",\"sequence_number\":",
            );
            write(out, &self.num_events);
            self.num_events += 1;
            out.extend_from_slice(b",\"item_id\":");
            write(out, &item.id());
            out.extend_from_slice(b",\"output_index\":");
            write(out, &index);
            out.extend_from_slice(b",\"content_index\":0,\"delta\":\"");
            self.text = TextEvent::Open;
        }
        escape(out, text);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.text == TextEvent::Open {
            out.extend_from_slice(b"\",\"logprobs\":[]}\n\n");
            self.text = TextEvent::Closed;
        }
    }

    fn step(&mut self, out: &mut Vec<u8>, (output_index, item): (usize, &Item), step: ItemStep) {
        let item_id = item.id().to_owned();
        let content_index = 0;
        match step {
            ItemStep::Added => {
                let item_of = item.clone();
                self.put(out, &ResponseEvent::ItemAdded { output_index, item: item_of });
                if let Some(part) = first_part(item) {
                    let event =
                        ResponseEvent::PartAdded { item_id, output_index, content_index, part };
                    self.put(out, &event);
                }
            }
            ItemStep::Text(delta, logprobs) => {
                let (delta, logprobs) = (delta.to_owned(), logprobs.to_vec());
                let event = ResponseEvent::TextDelta {
                    item_id,
                    output_index,
                    content_index,
                    delta,
                    logprobs,
                };
                self.put(out, &event);
            }
            ItemStep::Reasoning(delta) => {
                let delta = delta.to_owned();
                let event =
                    ResponseEvent::ReasoningDelta { item_id, output_index, content_index, delta };
                self.put(out, &event);
            }
            ItemStep::Arguments(delta) => {
                let delta = delta.to_owned();
                self.put(out, &ResponseEvent::ArgumentsDelta { item_id, output_index, delta });
            }
            ItemStep::Done => self.end(out, output_index, item),
        }
    }

    /// The events at the end of an item.
    fn end(&mut self, out: &mut Vec<u8>, output_index: usize, item: &Item) {
        let item_id = || item.id().to_owned();
        let content_index = 0;
        match item {
            Item::Message { content, .. } | Item::Reasoning { content, .. } => {
                for part in content {
                    self.put(out, &whole(item_id(), output_index, part));
                    let (item_id, part) = (item_id(), part.clone());
                    let event =
                        ResponseEvent::PartDone { item_id, output_index, content_index, part };
                    self.put(out, &event);
                }
            }
            Item::FunctionCall { name, arguments, .. } => {
                let (item_id, name, arguments) = (item_id(), name.clone(), arguments.clone());
                let event = ResponseEvent::ArgumentsDone { item_id, output_index, name, arguments };
                self.put(out, &event);
            }
            Item::FunctionCallOutput { .. } => {}
        }
        self.put(out, &ResponseEvent::ItemDone { output_index, item: item.clone() });
    }
}

/// The part that an item of this kind begins with.
fn first_part(item: &Item) -> Option<ItemPart> {
    match item {
        Item::Message { .. } => Some(ItemPart::output(String::new())),
        Item::Reasoning { .. } => Some(ItemPart::ReasoningText { text: String::new() }),
        Item::FunctionCall { .. } | Item::FunctionCallOutput { .. } => None,
    }
}

/// The event that has all of a part's text.
fn whole(item_id: String, output_index: usize, part: &ItemPart) -> ResponseEvent {
    let (text, content_index) = (part.text().to_owned(), 0);
    let logprobs: Vec<ChatTokenLogprob> = match part {
        ItemPart::OutputText { logprobs, .. } => logprobs.clone(),
        ItemPart::ReasoningText { .. } => {
            return ResponseEvent::ReasoningDone { item_id, output_index, content_index, text };
        }
        ItemPart::InputText { .. } | ItemPart::Refusal { .. } | ItemPart::SummaryText { .. } => {
            Vec::new()
        }
    };
    ResponseEvent::TextDone { item_id, output_index, content_index, text, logprobs }
}
