//! The stream of one request's outputs.

use std::time::Instant;

use sconce_proto::worker::{Finish, TokenOutput};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::session::Command;
use super::{Error, Unanswered};

/// The outputs of one generation. Dropping it before every completion has ended cancels it.
pub struct Outputs {
    pub(super) id: u64,
    pub(super) receiver: mpsc::UnboundedReceiver<Result<TokenOutput, Error>>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    /// Completions that have not ended; 0 after an error.
    pub(super) num_unfinished: u32,
    /// How to begin again, until there is an output.
    pub(super) unanswered: Option<Box<Unanswered>>,
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

    /// After an error, the request, if it may wait for a worker and be sent again.
    pub(crate) fn take_unanswered(&mut self) -> Option<Box<Unanswered>> {
        self.unanswered.take_if(|_| self.num_unfinished == 0)
    }

    /// What is told of an output; nothing when the request begins again instead.
    fn count(
        &mut self,
        output: Option<Result<TokenOutput, Error>>,
    ) -> Option<Result<TokenOutput, Error>> {
        // Without an output, the session ended and dropped the senders of all its requests.
        match output.unwrap_or(Err(Error::WorkerLost)) {
            Ok(output) => {
                self.unanswered = None;
                if output.finish != Finish::NotFinished as i32 {
                    self.num_unfinished -= 1;
                }
                Some(Ok(output))
            }
            Err(error) => {
                self.num_unfinished = 0;
                let again = self.unanswered.take().map(|unanswered| unanswered.again(&error));
                match again {
                    Some(Ok(outputs)) => *self = outputs,
                    Some(Err(unanswered)) => {
                        self.unanswered = unanswered;
                        return Some(Err(error));
                    }
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
