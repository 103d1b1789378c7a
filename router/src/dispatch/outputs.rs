//! The stream of one request's outputs.

use std::time::Instant;

use sconce_proto::worker::{Finish, TokenOutput};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::Error;
use super::session::Command;

/// The outputs of one generation. Dropping it before every completion has ended cancels it.
pub struct Outputs {
    pub(super) id: u64,
    pub(super) receiver: mpsc::UnboundedReceiver<Result<TokenOutput, Error>>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    /// Completions that have not ended; 0 after an error.
    pub(super) num_unfinished: u32,
}

impl Outputs {
    /// The next token or end of one of the completions. After an error, or when every completion
    /// has ended, nothing follows.
    pub async fn next(&mut self) -> Option<Result<TokenOutput, Error>> {
        if self.num_unfinished == 0 {
            return None;
        }
        let output = self.receiver.recv().await;
        self.count(output)
    }

    /// The next output, when it is here already.
    pub fn try_next(&mut self) -> Option<Result<TokenOutput, Error>> {
        match self.receiver.try_recv() {
            Ok(output) => self.count(Some(output)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => self.count(None),
        }
    }

    fn count(
        &mut self,
        output: Option<Result<TokenOutput, Error>>,
    ) -> Option<Result<TokenOutput, Error>> {
        if self.num_unfinished == 0 {
            return None;
        }
        match output {
            Some(Ok(output)) => {
                if output.finish != Finish::NotFinished as i32 {
                    self.num_unfinished -= 1;
                }
                Some(Ok(output))
            }
            Some(Err(error)) => {
                self.num_unfinished = 0;
                Some(Err(error))
            }
            // The session ended, and dropped the senders of all its requests.
            None => {
                self.num_unfinished = 0;
                Some(Err(Error::WorkerLost))
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
