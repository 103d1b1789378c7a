//! What the text of one completion is: content, reasoning, and calls of tools.

use std::sync::Arc;

use crate::parse::{Event, Formats, Parser, Start, Tool};

use super::{CallDelta, Delta, FinishReason};

/// How the text of a request's completions is read.
#[derive(Clone)]
pub(crate) struct Reading {
    pub(crate) formats: Formats,
    /// Where the completions begin.
    pub(crate) start: Start,
    pub(crate) tools: Arc<[Tool]>,
    /// Tokens that are no text and that the parser must see.
    pub(crate) markers: Arc<[u32]>,
    /// Whether a completion goes on after a call.
    pub(crate) parallel: bool,
    /// How ids of calls look.
    pub(crate) ids: CallIds,
}

/// How ids of calls look: some chat templates take only their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallIds {
    /// As OpenAI's.
    OpenAi,
    /// As Anthropic's.
    Anthropic,
    /// Nine letters and digits, as Mistral's.
    Mistral,
}

/// One completion's parser.
pub(super) struct Calls {
    parser: Option<Parser>,
    markers: Arc<[u32]>,
    parallel: bool,
    ids: CallIds,
    num_calls: usize,
    events: Vec<Event>,
}

impl Calls {
    pub(super) fn new(reading: &Reading) -> Self {
        Self {
            parser: Some(Parser::new(reading.formats, reading.start, &reading.tools)),
            markers: Arc::clone(&reading.markers),
            parallel: reading.parallel,
            ids: reading.ids,
            num_calls: 0,
            events: Vec::new(),
        }
    }

    /// Whether the token is one that the parser must see.
    pub(super) fn is_marker(&self, token: u32) -> bool {
        self.markers.contains(&token)
    }

    /// Replaces the delta's text by what it is. Returns why the completion ends, if it does.
    pub(super) fn take_apart(
        &mut self,
        delta: &mut Delta,
        finish: Option<FinishReason>,
    ) -> Option<FinishReason> {
        let text = std::mem::take(&mut delta.text);
        if let Some(parser) = &mut self.parser {
            parser.push(&text, &mut self.events);
        }
        if finish.is_some()
            && let Some(parser) = self.parser.take()
        {
            parser.finish(&mut self.events);
        }
        let mut is_over = false;
        for event in std::mem::take(&mut self.events) {
            is_over = is_over || self.put(event, delta);
        }
        match finish {
            _ if is_over => Some(FinishReason::ToolCalls),
            Some(FinishReason::Stop | FinishReason::StopText(_)) if self.num_calls > 0 => {
                Some(FinishReason::ToolCalls)
            }
            finish => finish,
        }
    }

    /// Puts an event into the delta. Whether the completion ends before it instead.
    fn put(&mut self, event: Event, delta: &mut Delta) -> bool {
        match event {
            Event::Content(text) => delta.text.push_str(&text),
            Event::Reasoning(text) => delta.reasoning.push_str(&text),
            Event::ToolCallStart { .. } if self.num_calls > 0 && !self.parallel => return true,
            Event::ToolCallStart { index, name } => {
                self.num_calls += 1;
                delta.calls.push(CallDelta::Start { index, id: self.ids.next(), name });
            }
            Event::ToolCallArguments { index, fragment } => match delta.calls.last_mut() {
                Some(CallDelta::Arguments { index: last, fragment: before }) if *last == index => {
                    before.push_str(&fragment);
                }
                _ => delta.calls.push(CallDelta::Arguments { index, fragment }),
            },
        }
        false
    }
}

impl CallIds {
    fn next(self) -> String {
        let id = uuid::Uuid::now_v7().simple().to_string();
        match self {
            Self::OpenAi => format!("call_{id}"),
            Self::Anthropic => format!("toolu_{id}"),
            // The last ones are random.
            Self::Mistral => id.chars().rev().take(9).collect(),
        }
    }
}
