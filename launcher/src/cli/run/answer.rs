//! One answer, printed as it comes.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use sconce_client::{ChatChunk, Chunks, Client, Message, Role, Usage};
use serde_json::{Value, json};

use super::conversation::Conversation;
use super::say;
use crate::cli::output::Output;

/// How an answer is printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer {
    /// With timings after it.
    pub(super) is_verbose: bool,
    /// As it comes, or as JSON once it is whole.
    pub(super) output: Output,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Whole,
    /// By SIGINT. What had come stays in the conversation.
    Interrupted,
}

/// Asks, prints what comes, and adds both to the conversation. A question that was refused is not
/// in it.
pub(super) async fn answer(
    client: &Client,
    conversation: &mut Conversation,
    text: String,
    printer: Printer,
) -> anyhow::Result<Ended> {
    let mut request = conversation.request.clone();
    request.messages.push(Message::new(Role::User, text));
    let started = Instant::now();
    let mut got = Got::default();
    let answered = tokio::select! {
        answered = async {
            let stream = client.chat_stream(&request).await?;
            take(stream, &mut got, printer.output).await
        } => answered.map(|()| Ended::Whole),
        // Dropping the stream hangs up, and the server stops.
        _ = tokio::signal::ctrl_c() => Ok(Ended::Interrupted),
    };
    if printer.output.is_json() {
        if answered.is_ok() {
            let value = got.value(&request.model, started);
            printer.output.print(&value, String::new)?;
        }
    } else if got.is_dim {
        write("\x1b[0m\n")?;
    } else if !got.text.is_empty() {
        write("\n")?;
    }
    if answered.is_ok() || !got.text.is_empty() {
        request.messages.push(Message::new(Role::Assistant, std::mem::take(&mut got.text)));
        conversation.request.messages = request.messages;
    }
    if printer.is_verbose {
        say(&got.timings(started));
    }
    answered
}

/// What came of an answer.
#[derive(Default)]
struct Got {
    text: String,
    first: Option<Instant>,
    usage: Option<Usage>,
    /// What it thought, where that is told apart.
    thoughts: String,
    finish_reason: Option<String>,
    /// What is printed now is what the model thinks.
    is_dim: bool,
}

async fn take(mut stream: Chunks<ChatChunk>, got: &mut Got, output: Output) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        got.usage = chunk.usage.or(got.usage);
        let (text, thought) = (chunk.text(), chunk.reasoning());
        if !text.is_empty() || !thought.is_empty() {
            got.first.get_or_insert_with(Instant::now);
        }
        let reason = chunk.choices.first().and_then(|choice| choice.finish_reason.clone());
        got.finish_reason = reason.or(got.finish_reason.take());
        got.thoughts.push_str(thought);
        if output.is_json() {
            got.text.push_str(text);
            continue;
        }
        // Only the answer is for a pipe.
        if is_terminal && !thought.is_empty() {
            let begin = if got.is_dim { "" } else { "\x1b[2m" };
            got.is_dim = true;
            write(&format!("{begin}{}", plain(thought)))?;
        }
        if !text.is_empty() {
            if std::mem::take(&mut got.is_dim) {
                write("\x1b[0m\n\n")?;
            }
            got.text.push_str(text);
            write(&if is_terminal { plain(text) } else { text.to_owned() })?;
        }
    }
    Ok(())
}

/// Text that can't move the cursor, or whatever else a terminal may be told to do.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("printing the answer")
}

impl Got {
    /// For programs. Times are milliseconds.
    fn value(&self, model: &str, started: Instant) -> Value {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let thoughts = Some(&self.thoughts).filter(|text| !text.is_empty());
        json!({
            "model": model, "content": self.text, "reasoning_content": thoughts,
            "finish_reason": self.finish_reason, "usage": self.usage,
            "first_token_ms": self.first.map(|first| ms(first.duration_since(started))),
            "total_ms": ms(started.elapsed()),
        })
    }

    fn timings(&self, started: Instant) -> String {
        let total = started.elapsed().as_secs_f64();
        let mut text = format!("\ntotal time    {total:.2} s\n");
        let Some(first) = self.first else { return text };
        let wait = first.duration_since(started).as_secs_f64();
        text += &format!("first token   {wait:.2} s\n");
        let Some(usage) = self.usage else { return text };
        let cached = usage.cached_tokens().unwrap_or(0);
        text += &format!("prompt        {} tokens, {cached} of them cached\n", usage.prompt_tokens);
        let tokens = usage.completion_tokens;
        let rate = tokens.saturating_sub(1) as f64 / (total - wait).max(1e-9);
        text + &format!("answer        {tokens} tokens, {rate:.1} tokens/s\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cannot_steer_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\n\tc\r\u{9b}"), "a[2Jb\n\tc");
    }
}
