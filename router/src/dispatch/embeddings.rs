//! The vectors of one request, as a worker computes them.

use std::time::Instant;

use sconce_proto::worker::Embedded;
use sconce_proto::worker::embedded::End;
use tokio::sync::mpsc;

use super::Error;
use super::session::Command;

/// The vectors of one request's inputs. Dropping it before all have come cancels it.
pub struct Embeddings {
    pub(super) id: u64,
    pub(super) receiver: mpsc::UnboundedReceiver<Result<Embedded, Error>>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) num_inputs: usize,
    pub(super) num_outputs: usize,
    pub(super) is_over: bool,
}

impl Embeddings {
    /// Waits for all vectors, in the order of the inputs.
    pub async fn collect(mut self) -> Result<Vec<Vec<f32>>, Error> {
        let mut vectors = Vec::with_capacity(self.num_inputs);
        loop {
            // The session ended, and dropped the senders of all its requests.
            let received = self.receiver.recv().await.unwrap_or(Err(Error::WorkerLost));
            let part = received.inspect_err(|_| self.is_over = true)?;
            vectors.extend(part.values.chunks_exact(self.num_outputs.max(1)).map(<[f32]>::to_vec));
            if part.end() == End::Complete {
                self.is_over = true;
                return Ok(vectors);
            }
        }
    }
}

impl Drop for Embeddings {
    fn drop(&mut self) {
        if !self.is_over {
            // A closed channel means that the session has ended, and the request with it.
            let _ = self.commands.send(Command::Cancel { id: self.id, at: Instant::now() });
        }
    }
}
