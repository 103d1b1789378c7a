//! The stream of one request's outputs.

use std::sync::Arc;
use std::time::Instant;

use sconce_proto::worker::{Finish, Submit, TokenOutput};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::session::Command;
use super::worker::Link;
use super::{Dispatcher, Error};
use crate::metrics;
use crate::model::Model;

/// The outputs of one generation. Dropping it before every completion has ended cancels it.
pub struct Outputs {
    pub(super) id: u64,
    pub(super) receiver: mpsc::UnboundedReceiver<Result<TokenOutput, Error>>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    /// Completions that have not ended; 0 after an error.
    pub(super) num_unfinished: u32,
    /// How to begin again, until there is an output.
    pub(super) resend: Option<Box<Resend>>,
}

/// A request that another worker could compute instead.
pub(super) struct Resend {
    pub(super) dispatcher: Dispatcher,
    pub(super) model: Arc<Model>,
    pub(super) submit: Box<Submit>,
    /// Workers' sessions that had it.
    pub(super) tried: Vec<Arc<Link>>,
    /// Whether one of them was lost with it: it may be why.
    pub(super) has_lost: bool,
}

impl Resend {
    /// Sends it to another worker after an error that says nothing about the request.
    fn after(mut self, error: &Error) -> Option<Outputs> {
        match error {
            Error::NoWorker { .. } | Error::QueueFull { .. } => {}
            Error::WorkerLost if !self.has_lost => self.has_lost = true,
            Error::WorkerLost
            | Error::Deadline
            | Error::Grammar(_)
            | Error::GrammarLimit
            | Error::BadWord
            | Error::Refused(_) => return None,
        }
        let Self { dispatcher, model, submit, tried, has_lost } = self;
        let outputs = dispatcher.send(&model, submit, (tried, has_lost)).ok()?;
        metrics::of(&model.info.model, model.version_name()).resent();
        Some(outputs)
    }
}

impl Outputs {
    /// The next token or end of one of the completions. After an error, or when every completion
    /// has ended, nothing follows. What a worker refused or was lost with before it said anything
    /// is sent to another one, if there is one.
    pub async fn next(&mut self) -> Option<Result<TokenOutput, Error>> {
        while self.num_unfinished > 0 {
            // Nothing between this and the end awaits: a poll that is dropped loses nothing.
            let output = self.receiver.recv().await;
            if let Some(output) = self.count(output) {
                return Some(output);
            }
        }
        None
    }

    /// The next output, when it is here already.
    pub fn try_next(&mut self) -> Option<Result<TokenOutput, Error>> {
        while self.num_unfinished > 0 {
            let output = match self.receiver.try_recv() {
                Ok(output) => Some(output),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => None,
            };
            if let Some(output) = self.count(output) {
                return Some(output);
            }
        }
        None
    }

    /// What is told of an output; nothing when the request begins again instead.
    fn count(
        &mut self,
        output: Option<Result<TokenOutput, Error>>,
    ) -> Option<Result<TokenOutput, Error>> {
        // Without an output, the session ended and dropped the senders of all its requests.
        match output.unwrap_or(Err(Error::WorkerLost)) {
            Ok(output) => {
                self.resend = None;
                if output.finish != Finish::NotFinished as i32 {
                    self.num_unfinished -= 1;
                }
                Some(Ok(output))
            }
            Err(error) => {
                self.num_unfinished = 0;
                match self.resend.take().and_then(|resend| (*resend).after(&error)) {
                    Some(outputs) => *self = outputs,
                    None => return Some(Err(error)),
                }
                None
            }
        }
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        if self.num_unfinished > 0 {
            // A closed channel means that the session has ended, and the request with it.
            let _ = self.commands.send(Command::Cancel { id: self.id, at: Instant::now() });
        }
    }
}
