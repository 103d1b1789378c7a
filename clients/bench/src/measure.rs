//! One request, and the times of its answer.
//!
//! Only what carries something of the answer counts as a token's arrival: a chunk that opens the
//! message or closes it does not, and so makes no first token appear earlier than it could be read.

use std::time::{Duration, Instant};

use sconce_client::{ApiError, Client, Error, Usage};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::live::Live;
use crate::request::{Endpoint, Kind};
use crate::tokens::Texts;

/// What became of one request. Times but `intended` and `sent` are since it was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Which conversation, and which of its requests.
    pub(crate) session: usize,
    pub(crate) turn: usize,
    pub(crate) kind: Kind,
    /// When it was to be sent, since the start.
    pub(crate) intended: Duration,
    /// When it was, since the start.
    pub(crate) sent: Duration,
    pub(crate) ttft: Option<Duration>,
    /// When the last of the answer came.
    pub(crate) last: Option<Duration>,
    pub(crate) e2e: Duration,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) cached_tokens: Option<u64>,
    /// The server did not tell usage: the completion's tokens are the chunks that came.
    pub(crate) is_counted_here: bool,
    /// Texts that it asked vectors of.
    pub(crate) num_texts: u64,
    /// What kind of error it ended with.
    pub(crate) error: Option<String>,
    /// What was answered, where it is to be told.
    pub(crate) text: String,
    /// What was asked and answered, where it is to be counted.
    pub(crate) texts: Option<Texts>,
}

/// The time between two arrivals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gap {
    /// In milliseconds.
    pub(crate) ms: f32,
    /// Tokens that came at its end.
    pub(crate) tokens: u32,
}

impl Record {
    /// By how much it was sent later than it was to be.
    pub(crate) fn lateness(&self) -> Duration {
        self.sent.saturating_sub(self.intended)
    }

    /// Time per token after the first. `None` of an answer without further tokens.
    pub(crate) fn tpot(&self) -> Option<Duration> {
        let further = self.completion_tokens.checked_sub(1).filter(|n| *n > 0)?;
        let (first, last) = (self.ttft?, self.last?);
        Some(last.saturating_sub(first).div_f64(further as f64))
    }

    /// When its answer had ended, since the start.
    pub(crate) fn ended(&self) -> Duration {
        self.sent + self.e2e
    }
}

/// What answers, and how it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) client: Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) is_streamed: bool,
}

/// How much of an answer is wanted besides its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Text,
    Nothing,
}

impl Target {
    /// Sends `body`, and takes the times of its answer into `record`. Returns the text, if wanted.
    pub(crate) async fn call(
        &self,
        body: &Value,
        record: &mut Record,
        keep: Keep,
        live: &Live,
    ) -> String {
        let sent = Instant::now();
        let mut text = String::new();
        let done = match self.is_streamed {
            true => self.stream(body, record, live, keep, &mut text).await,
            false => self.whole(body, record, &mut text).await,
        };
        record.e2e = sent.elapsed();
        record.error = done.err().map(|error| error.kind());
        live.ended(record);
        text
    }

    async fn whole(
        &self,
        body: &Value,
        record: &mut Record,
        text: &mut String,
    ) -> Result<(), Error> {
        let reply: Value = self.client.post(self.endpoint.path(), body).await?;
        if let Ok(usage) = Usage::deserialize(&reply["usage"]) {
            take_usage(record, usage);
        }
        let choice = &reply["choices"][0];
        let said = choice["message"]["content"].as_str().or_else(|| choice["text"].as_str());
        text.push_str(said.unwrap_or(""));
        if let Some(texts) = &mut record.texts {
            let message = &choice["message"];
            let is_text = message["tool_calls"].as_array().is_none_or(Vec::is_empty);
            let thought = message["reasoning_content"].as_str().unwrap_or("");
            texts.answer = is_text.then(|| format!("{thought}{text}"));
        }
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the pieces of one call, which are borrowed apart"
    )]
    async fn stream(
        &self,
        body: &Value,
        record: &mut Record,
        live: &Live,
        keep: Keep,
        text: &mut String,
    ) -> Result<(), Error> {
        let sent = Instant::now();
        let mut events = self.client.events(self.endpoint.path(), body).await?;
        let (mut is_done, mut num_arrivals, mut num_told) = (false, 0, 0);
        while let Some(event) = events.next().await {
            let event = event?;
            let now = sent.elapsed();
            if event.data == "[DONE]" {
                is_done = true;
                continue;
            }
            let chunk = Chunk::read(&event.data)?;
            let told = chunk.usage.map(|usage| usage.completion_tokens);
            if let Some(usage) = chunk.usage {
                take_usage(record, usage);
            }
            if !chunk.has_content() {
                continue;
            }
            if keep == Keep::Text {
                chunk.append_to(text);
            }
            if let Some(texts) = &mut record.texts {
                chunk.append_all(&mut texts.answer);
            }
            // With usage in every chunk, a chunk's tokens are known; otherwise it is taken for one.
            let tokens = told.map_or(1, |told| told.saturating_sub(num_told)).max(1);
            num_told = told.unwrap_or(num_told);
            num_arrivals += 1;
            live.arrived(tokens);
            arrive(record, now, u32::try_from(tokens).unwrap_or(u32::MAX));
        }
        if record.completion_tokens == 0 {
            record.completion_tokens = num_arrivals;
            record.is_counted_here = num_arrivals > 0;
        }
        is_done.then_some(()).ok_or(Error::Truncated)
    }
}

fn arrive(record: &mut Record, now: Duration, tokens: u32) {
    match record.last.replace(now) {
        None => record.ttft = Some(now),
        Some(last) => {
            let ms = ((now - last).as_secs_f64() * 1e3) as f32;
            record.gaps.push(Gap { ms, tokens });
        }
    }
}

fn take_usage(record: &mut Record, usage: Usage) {
    record.prompt_tokens = usage.prompt_tokens;
    record.completion_tokens = usage.completion_tokens;
    record.cached_tokens = usage.cached_tokens().or(record.cached_tokens);
}

/// The parts of a chunk that are looked at, without copying any text.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    /// Of a completion.
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

fn is_something(value: &RawValue) -> bool {
    !matches!(value.get(), "\"\"" | "null" | "[]")
}

/// The text that a piece of JSON is.
fn plain(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

impl<'a> Chunk<'a> {
    fn read(data: &'a str) -> Result<Self, Error> {
        let chunk: Self = serde_json::from_str(data).map_err(|error| Error::Unexpected {
            expected: "a chunk",
            line: error.line(),
            column: error.column(),
        })?;
        match chunk.error.filter(|error| is_something(error)) {
            Some(error) => {
                let error: ApiError = serde_json::from_str(error.get()).unwrap_or_default();
                Err(Error::Stream(Box::new(error)))
            }
            None => Ok(chunk),
        }
    }

    fn has_content(&self) -> bool {
        self.choices.iter().any(|choice| {
            let delta = choice.delta.as_ref();
            let of_delta = delta.map_or([None; 4], |delta| {
                [delta.content, delta.reasoning_content, delta.reasoning, delta.tool_calls]
            });
            of_delta.into_iter().chain([choice.text]).flatten().any(is_something)
        })
    }

    fn append_to(&self, text: &mut String) {
        let Some(choice) = self.choices.first() else { return };
        let said = choice.delta.as_ref().and_then(|delta| delta.content).or(choice.text);
        text.push_str(&said.and_then(plain).unwrap_or_default());
    }

    /// Appends what tokens were computed for. Of calls there is no text as the model wrote it.
    fn append_all(&self, answer: &mut Option<String>) {
        for choice in &self.choices {
            let delta = choice.delta.as_ref();
            if delta.and_then(|delta| delta.tool_calls).is_some_and(is_something) {
                *answer = None;
            }
            let Some(answer) = answer.as_mut() else { return };
            let thought = delta.and_then(|delta| delta.reasoning_content.or(delta.reasoning));
            let said = delta.and_then(|delta| delta.content).or(choice.text);
            for text in [thought, said].into_iter().flatten().filter_map(plain) {
                answer.push_str(&text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_content(data: &str) -> bool {
        Chunk::read(data).unwrap().has_content()
    }

    #[test]
    fn only_what_carries_an_answer_counts() {
        assert!(has_content(r#"{"choices": [{"delta": {"content": "a"}}]}"#));
        assert!(has_content(r#"{"choices": [{"text": "a"}]}"#));
        assert!(has_content(r#"{"choices": [{"delta": {"reasoning_content": "a"}}]}"#));
        assert!(has_content(r#"{"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}"#));
        assert!(!has_content(r#"{"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#));
        assert!(!has_content(r#"{"choices": [{"delta": {}, "finish_reason": "stop"}]}"#));
        assert!(!has_content(r#"{"choices": [{"delta": {"content": null}}]}"#));
        assert!(!has_content(r#"{"choices": [], "usage": {"prompt_tokens": 1}}"#));
    }

    #[test]
    fn errors_in_a_stream_are_errors() {
        let error =
            Chunk::read(r#"{"error": {"message": "m", "code": "worker_lost"}}"#).err().unwrap();
        assert_eq!(error.kind(), "stream_worker_lost");
        assert_eq!(Chunk::read("{").err().unwrap().kind(), "unexpected");
    }

    #[test]
    fn times_per_token_are_after_the_first() {
        let ms = Duration::from_millis;
        let mut record = Record { completion_tokens: 5, ..Record::default() };
        [ms(100), ms(110), ms(140)].into_iter().for_each(|now| arrive(&mut record, now, 2));

        assert_eq!((record.ttft, record.tpot()), (Some(ms(100)), Some(ms(10))));
        assert_eq!(record.gaps, [Gap { ms: 10.0, tokens: 2 }, Gap { ms: 30.0, tokens: 2 }]);
        record.completion_tokens = 1;
        assert_eq!(record.tpot(), None);
    }
}
