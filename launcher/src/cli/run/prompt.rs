//! The lines that a person types, with a history that outlives the chat.

use std::path::PathBuf;

use anyhow::Context;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};

use crate::settings::Settings;

/// Lines that are kept.
const MAX_HISTORY: usize = 1000;

/// What begins and ends text of several lines.
const QUOTES: &str = "\"\"\"";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Text(String),
    /// Ctrl-C: the line is given up.
    Cancelled,
    /// Ctrl-D.
    End,
}

/// Where lines come from.
pub(super) struct Lines {
    editor: Editor<(), FileHistory>,
    history: PathBuf,
    is_kept: bool,
}

impl Lines {
    /// Lines of this terminal, with the history of the store.
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let config = Config::builder().max_history_size(MAX_HISTORY)?.auto_add_history(false);
        let mut editor = Editor::with_config(config.build()).context("opening the terminal")?;
        let history = settings.home.join("run_history");
        // There is none at first; one that can't be read is not worth a chat.
        let _ = editor.load_history(&history);
        Ok(Self { editor, history, is_kept: true })
    }

    /// Whether lines are kept from now on.
    pub(super) fn keep_history(&mut self, is_kept: bool) {
        self.is_kept = is_kept;
    }

    /// The next input. Lines are read on a thread that may wait.
    pub(super) async fn next(self) -> anyhow::Result<(Self, Input)> {
        tokio::task::spawn_blocking(move || self.read()).await.context("reading a line")?
    }

    fn read(mut self) -> anyhow::Result<(Self, Input)> {
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() { ">>> " } else { "... " };
            match self.editor.readline(prompt) {
                Ok(line) => text.push_str(&line),
                Err(ReadlineError::Interrupted) => return Ok((self, Input::Cancelled)),
                Err(ReadlineError::Eof) => return Ok((self, Input::End)),
                Err(error) => return Err(error).context("reading a line"),
            }
            match whole(&text) {
                Some("") => text.clear(),
                Some(said) => {
                    let said = said.to_owned();
                    self.remember(&text);
                    return Ok((self, Input::Text(said)));
                }
                None => text.push('\n'),
            }
        }
    }

    fn remember(&mut self, text: &str) {
        if self.is_kept {
            // A history that can't be written is missed next time, and no sooner.
            let _ = self.editor.add_history_entry(text);
            let _ = self.editor.save_history(&self.history);
        }
    }
}

/// The text, if it is whole: what quotes have begun, quotes must end. `/set system` may have quotes.
fn whole(text: &str) -> Option<&str> {
    let text = text.trim();
    match text.split_once(QUOTES) {
        None => Some(text),
        Some(("", rest)) => rest.strip_suffix(QUOTES).map(str::trim),
        Some(("/set system ", rest)) => rest.ends_with(QUOTES).then_some(text),
        Some(_) => Some(text),
    }
}

/// How the terminal was, for one that is left without a word.
pub(super) struct Mode(Option<Termios>);

impl Mode {
    pub(super) fn of_terminal() -> Self {
        Self(tcgetattr(rustix::stdio::stdin()).ok())
    }

    pub(super) fn restore(&self) {
        if let Some(mode) = &self.0 {
            // It may be gone.
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, mode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_lines_together() {
        assert_eq!(whole(" one line "), Some("one line"));
        assert_eq!(whole("\"\"\"one"), None);
        assert_eq!(whole("\"\"\""), None);
        assert_eq!(whole("\"\"\"one\ntwo\"\"\""), Some("one\ntwo"));
        assert_eq!(whole("\"\"\"\none\n\"\"\""), Some("one"));
        assert_eq!(whole("say \"\"\" now"), Some("say \"\"\" now"));
        assert_eq!(whole("/set system \"\"\"one"), None);
        assert_eq!(whole("/set system \"\"\"a\nb\"\"\""), Some("/set system \"\"\"a\nb\"\"\""));
    }
}
