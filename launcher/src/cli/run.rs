//! `sconce run MODEL [PROMPT]`: a chat in the terminal, or one answer for a pipe.

mod answer;
mod command;
mod conversation;
mod prompt;
mod server;

use std::io::{IsTerminal, Read};

use anyhow::{Context, bail};
use clap::Args;
use sconce_client::Client;
use tokio::signal::unix::{SignalKind, signal};

use super::Fault;
use super::output::Output;
use crate::name::ModelName;
use crate::settings::{Network, Settings};

use answer::{Ended, Printer};
use command::{Command, HELP};
use conversation::Conversation;
use prompt::{Input, Lines};
use server::Server;

/// Bytes of standard input that are taken into a prompt.
const MAX_PIPED_BYTES: u64 = 16 << 20;

/// Chats with a model in the terminal, or answers one prompt
///
/// Uses the server in the background that serves the model (`sconce ps`), or --url; without one,
/// starts a server of its own, as `sconce up` does, and ends it in the end. Ctrl-C stops an answer,
/// /bye or Ctrl-D ends the chat, /? lists what can be typed.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce run smollm2:135m
  sconce run smollm2:135m \"Why is the sky blue?\"
  cat notes.txt | sconce run smollm2:135m \"Summarize this.\"
  sconce run smollm2:135m \"Name a color.\" --output json
  sconce run --url http://10.0.0.5:8000 smollm2:prod --system \"Answer in French.\" --verbose")]
pub struct Run {
    /// The model: as for `sconce up`, or as a server at --url calls it
    model: String,

    /// What to answer; without it, and with a terminal, a chat begins
    #[arg(num_args = 0..)]
    prompt: Vec<String>,

    /// A server to use
    #[arg(long, env = "SCONCE_URL")]
    url: Option<String>,

    /// The API key of a server that runs already
    #[arg(long, env = "SCONCE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,

    /// What the model is told before everything else
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f32>,

    /// Most tokens of an answer
    #[arg(long, value_name = "COUNT")]
    max_tokens: Option<u32>,

    /// Say after each answer how long it took
    #[arg(long)]
    verbose: bool,

    /// Use what is on this machine; never the hub
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    output: Output,
}

impl Run {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut settings = Settings::from_env()?;
        let key = self.api_key.clone().filter(|key| !key.is_empty());
        if self.offline {
            settings.hub.network = Network::Offline;
        }
        // Before anything is started for nothing.
        let prompt = self.whole_prompt()?;
        if prompt.is_none() && self.output.is_json() {
            return Err(Fault::JsonChat.into());
        }
        let server = match &self.url {
            Some(url) => Server::remote(url, key),
            None => {
                let name: ModelName = self.model.parse()?;
                Server::find_or_start(&settings, &name, key).await?
            }
        };
        // A server of our own is ended whatever becomes of the chat, a signal's end included.
        let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
        let mode = prompt::Mode::of_terminal();
        let ended = tokio::select! {
            ended = self.talk(&server, &settings, prompt) => ended,
            _ = terminate.recv() => {
                server.stop().await;
                mode.restore();
                return leave();
            }
        };
        server.stop().await;
        ended
    }

    async fn talk(
        &self,
        server: &Server,
        settings: &Settings,
        prompt: Option<String>,
    ) -> anyhow::Result<()> {
        let client = server.client()?;
        let model = self.model_of(&client, server).await?;
        let mut conversation = Conversation::new(model);
        conversation.set_system(self.system.clone());
        conversation.request.temperature = self.temperature;
        conversation.request.max_completion_tokens = self.max_tokens;
        let printer = Printer { is_verbose: self.verbose, output: self.output };
        match prompt {
            Some(prompt) => {
                match answer::answer(&client, &mut conversation, prompt, printer).await? {
                    Ended::Whole => Ok(()),
                    Ended::Interrupted => bail!("interrupted"),
                }
            }
            None => chat(&client, conversation, printer, Lines::open(settings)?).await,
        }
    }

    /// What is to be answered: standard input, if it is a pipe, and then the arguments. `None`: a
    /// chat is wanted.
    fn whole_prompt(&self) -> anyhow::Result<Option<String>> {
        let mut parts = Vec::new();
        if !std::io::stdin().is_terminal() {
            let mut piped = String::new();
            let mut limited = std::io::stdin().lock().take(MAX_PIPED_BYTES + 1);
            limited.read_to_string(&mut piped).context("reading standard input")?;
            if piped.len() as u64 > MAX_PIPED_BYTES {
                bail!("standard input has more than {MAX_PIPED_BYTES} bytes");
            }
            parts.push(piped.trim_end().to_owned());
        }
        parts.push(self.prompt.join(" "));
        let is_piped = parts.len() == 2;
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() && is_piped {
            bail!("there is nothing to answer: no prompt, and standard input is empty");
        }
        Ok((!parts.is_empty()).then(|| parts.join("\n\n")))
    }

    /// What the server calls the model.
    async fn model_of(&self, client: &Client, server: &Server) -> anyhow::Result<String> {
        let models = client.models().await.with_context(|| server.complaint())?;
        let wanted = server.model().unwrap_or(&self.model);
        if models.iter().any(|model| model.id == wanted) {
            return Ok(wanted.to_owned());
        }
        let known: Vec<_> = models.iter().map(|model| format!("`{}`", model.id)).collect();
        bail!("the server has no model `{wanted}`; it has {}", known.join(", "))
    }
}

/// A chat until it is left.
async fn chat(
    client: &Client,
    mut conversation: Conversation,
    mut printer: Printer,
    mut lines: Lines,
) -> anyhow::Result<()> {
    loop {
        let input;
        (lines, input) = lines.next().await?;
        let text = match input {
            Input::Text(text) => text,
            Input::Cancelled => {
                say("(/bye or Ctrl-D ends the chat)\n");
                continue;
            }
            Input::End => return Ok(()),
        };
        match text.parse() {
            Ok(Command::Say(text)) => {
                if let Err(error) = answer::answer(client, &mut conversation, text, printer).await {
                    // A chat outlives what one question did wrong.
                    say(&format!("error: {error:#}\n"));
                }
            }
            Ok(Command::Bye) => return Ok(()),
            Ok(Command::Help) => say(HELP),
            Ok(Command::Verbose(is_verbose)) => printer.is_verbose = is_verbose,
            Ok(Command::History(is_kept)) => lines.keep_history(is_kept),
            Ok(Command::Change(change)) => match conversation.change(change) {
                Ok(told) => say(&told),
                Err(error) => say(&format!("error: {error:#}\n")),
            },
            Err(error) => say(&format!("error: {error}\n")),
        }
    }
}

/// Tells the person at the terminal. One that is gone is not told.
fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Ends the process: a thread may be waiting for a line, which can't be told to stop.
#[expect(clippy::disallowed_methods, reason = "everything that drains has been stopped")]
fn leave() -> anyhow::Result<()> {
    // 128 and the number of SIGTERM, as shells have it.
    std::process::exit(143)
}
